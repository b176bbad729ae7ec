//! Files in storage that does not answer: nobody waits for them without a bound, and whoever waits says for what.

use std::{fs, thread};

use monitor::types::{MigrationStatus, RunState};
use serde_json::{Value, json};

use crate::harness::{Dead, Freezer, Lab, PATIENCE, Spec, Vmm, run_to_end, until};

const NONE: Value = Value::Null;

#[test]
fn a_process_whose_files_do_not_open_ends_and_says_which() {
    let Some(lab) = Lab::new() else { return };
    let directory = lab.path("dead");
    fs::create_dir(&directory).unwrap();
    let Some(dead) = Dead::over(directory.clone()) else { return };
    let file = |name: &str| directory.join(name).display().to_string();
    let (kernel, own) = (lab.kernel().display().to_string(), lab.disk("disk.img", 4).display().to_string());
    let machine = ["--memory", "64M", "--kernel", &kernel];
    let cases: Vec<(Vec<String>, &str)> = [
        (vec!["--disk".into(), format!("path={}", file("disk.img"))], "disk.img"),
        (vec!["--disk".into(), format!("path={own}"), "--initrd".into(), file("initrd")], "initrd"),
        (
            vec!["--incoming".into(), "defer".into(), "--disk".into(), format!("path={}", file("b.img"))],
            "b.img",
        ),
        (vec!["--serial".into(), format!("file:{}", file("console"))], "console"),
        (vec!["--serial".into(), format!("unix:{}", file("port"))], "port"),
        (vec!["--report-dir".into(), file("reports")], "reports"),
        (vec!["--monitor".into(), format!("unix:{}", file("qmp"))], "qmp"),
    ]
    .into();
    thread::scope(|scope| {
        let begun: Vec<_> = cases
            .iter()
            .map(|(more, name)| {
                let flags: Vec<&str> = machine.into_iter().chain(more.iter().map(String::as_str)).collect();
                (scope.spawn(move || run_to_end(&flags)), *name)
            })
            .collect();
        for (ended, name) in begun {
            let output = ended.join().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{name}: {said}");
            assert!(said.contains(&file(name)) && said.contains("has not answered"), "{name}: {said}");
        }
    });
    drop(dead);
}

#[test]
fn a_destination_whose_image_does_not_open_again_answers_and_takes_the_machine_when_it_does() {
    let Some(lab) = Lab::new() else { return };
    let directory = lab.path("storage");
    fs::create_dir(&directory).unwrap();
    let spec = Spec::calm().disk(&lab.disk("storage/disk.img", 16));
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let uri = destination.listen();
    source.set(json!({ "max-bandwidth": 1_000_000 }));
    let Some(dead) = Dead::over(directory) else { return };
    source.migrate(&uri);
    until("pages have come", || {
        destination.query_migrate().whimbrel?.arrived.filter(|arrived| arrived.bytes > 0)
    });
    source.command("migrate_cancel", NONE);
    source.migration_is(MigrationStatus::Cancelled);
    // Meanwhile it opens its image, for ten seconds.
    for question in ["query-status", "query-migrate", "query-whimbrel-threads"] {
        destination.another_client().execute(question, NONE).unwrap();
    }
    until("it is said why there is no place", || {
        destination.log().contains("has not answered within").then_some(())
    });
    source.migrate(&uri);
    let refused = source.migration_fails();
    assert!(refused.contains("could not be made ready again"), "{refused}");
    drop(dead);
    source.set(json!({ "max-bandwidth": 0 }));
    until("the destination takes it", || {
        source.migrate(&uri);
        let ended =
            until("the attempt is over", || source.query_migrate().status.filter(|status| status.is_final()));
        (ended == MigrationStatus::Completed).then_some(())
    });
    until("it runs there", || (destination.run_state() == RunState::Running).then_some(()));
}

#[test]
fn a_machine_does_not_stand_still_for_a_core_file_that_does_not_open() {
    let Some(lab) = Lab::new() else { return };
    let directory = lab.path("dead");
    fs::create_dir(&directory).unwrap();
    let Some(dead) = Dead::over(directory.clone()) else { return };
    let vmm = lab.boot(&Spec::calm());
    let events = vmm.events();
    let core = json!({ "paging": false, "protocol": format!("file:{}", directory.join("core").display()) });
    for said in ["there is no answer within", "there is no answer yet"] {
        let why = vmm.refused("dump-guest-memory", core.clone());
        assert!(why.contains(said) && why.contains(directory.to_str().unwrap()), "{why}");
        assert_eq!(vmm.command("query-dump", NONE)["status"], "failed");
        assert_eq!(vmm.run_state(), RunState::Running);
    }
    while let Some(event) = events.next(std::time::Duration::ZERO) {
        assert_ne!(event.event, "STOP", "the machine was not stopped for it");
    }
    drop(dead);
}

/// Whether the thread that writes the output of the serial port waits for its storage.
fn writer_waits(vmm: &Vmm) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", vmm.pid())).unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .any(|stat| stat.contains("(serial) D"))
}

#[test]
fn a_console_on_storage_that_hangs_stops_neither_the_guest_nor_who_commands_it() {
    let Some(lab) = Lab::new() else { return };
    let Some(freezer) = Freezer::new(&lab) else { return };
    let console = freezer.directory.join("console");
    let vmm = lab.boot(&Spec::calm().serial_file(&console));
    let printed = || fs::metadata(&console).map_or(0, |metadata| metadata.len());
    until("the guest prints", || (printed() > 0).then_some(()));
    let frozen = freezer.freeze();
    until("what it prints is not taken", || writer_waits(&vmm).then_some(()));
    vmm.command("stop", NONE);
    assert_eq!(vmm.run_state(), RunState::Paused);
    vmm.command("cont", NONE);
    assert_eq!(vmm.run_state(), RunState::Running);
    let before = printed();
    drop(frozen);
    until("it is taken again", || (printed() > before).then_some(()));

    let (frozen, events) = (freezer.freeze(), vmm.events());
    until("what it prints is not taken", || writer_waits(&vmm).then_some(()));
    vmm.command("quit", NONE);
    events.wait_for("SHUTDOWN", PATIENCE).expect("the machine ends");
    until("nothing is left but the thread that waits", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", vmm.pid())).unwrap();
        let states = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        states.into_iter().all(|stat| stat.contains(") Z") || stat.contains("(serial) D")).then_some(())
    });
    drop(frozen);
    assert_eq!(vmm.end().code(), Some(0));
}
