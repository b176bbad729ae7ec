//! After a move the machine reboots as it did before, or it does not move.

use monitor::types::RunState;
use serde_json::{Value, json};

use crate::harness::{Kernel, Lab, Spec, Story, Vmm, holds, until};

const NONE: Value = Value::Null;

/// Tries to move, and returns why that is not done. Nothing has moved.
fn refused(source: &Vmm, destination: &Vmm, uri: &str) -> String {
    source.migrate(uri);
    let why = source.migration_fails();
    assert_eq!(source.run_state(), RunState::Running);
    assert_eq!(destination.run_state(), RunState::Inmigrate);
    let sent = source.query_migrate().ram.map_or(0, |ram| ram.normal + ram.duplicate);
    assert_eq!(sent, 0, "pages have moved");
    why
}

#[test]
fn a_machine_does_not_move_where_a_reboot_would_not_start_it_anew() {
    let Some(lab) = Lab::new() else { return };
    let source = lab.boot(&Spec::calm());
    let mut story = Story::of(&source);
    story.filled();
    let mut other = std::fs::read(lab.kernel()).unwrap();
    other.push(0);
    let other = lab.file("other", &other);
    let initrd = lab.file("initrd", b"an initrd").display().to_string();
    let cases = [
        (Spec::calm().kernel(Kernel::None), vec!["without a kernel", "--kernel"]),
        (Spec::calm().kernel(Kernel::File(other)), vec!["kernel of the source", "other", "bytes, digest"]),
        (Spec::new("work=8M"), vec!["command line of the source", "work=8M", "work=4M"]),
        (
            Spec::calm().flag("--initrd", &initrd),
            vec!["initrd of the source is none", "an initrd", "--initrd"],
        ),
    ];
    for (spec, parts) in cases {
        let destination = lab.vacancy(&spec);
        let why = refused(&source, &destination, &destination.listen());
        let initrd_is_named = |part: &str| part == "an initrd" && why.contains("9 bytes");
        for part in parts {
            assert!(why.contains(part) || initrd_is_named(part), "'{part}' is not in: {why}");
        }
    }

    // Overwritten while the destination waits, too late for it to know other contents.
    let copy = lab.file("copy", &std::fs::read(lab.kernel()).unwrap());
    let destination = lab.vacancy(&Spec::calm().kernel(Kernel::File(copy)));
    lab.file("copy", b"something else");
    let why = refused(&source, &destination, &destination.listen());
    assert!(why.contains("overwritten"), "{why}");

    // The same contents under another name are the same.
    let copy = lab.file("copy", &std::fs::read(lab.kernel()).unwrap());
    let destination = lab.vacancy(&Spec::calm().kernel(Kernel::File(copy)));
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_machine_reboots_where_it_went_whatever_has_become_of_the_files() {
    let Some(lab) = Lab::new() else { return };
    let copy = lab.file("copy", &std::fs::read(lab.kernel()).unwrap());
    let spec = Spec::calm().kernel(Kernel::File(copy.clone()));
    let (source, destination) = (lab.boot(&Spec::calm()), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    // Between two attempts the file goes: what was opened counts.
    source.set(json!({ "max-bandwidth": 1_000_000 }));
    source.migrate(&uri);
    source.round_is(1);
    std::fs::remove_file(&copy).unwrap();
    source.command("migrate_cancel", NONE);
    until("the attempt is over", || destination.query_migrate().error_desc);
    holds("it is over here too", || {
        source.query_migrate().status.is_some_and(monitor::types::MigrationStatus::is_final)
    });
    source.set(json!({ "max-bandwidth": 0 }));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
    destination.command("system_reset", NONE);
    let after = Story::of(&destination);
    after.says("whimbrel boot");
    after.goes_on(3);
    assert_eq!(destination.run_state(), RunState::Running);
}
