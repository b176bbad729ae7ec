//! Streams that are damaged on their way: cut short and bit-flipped, at named points. The machine runs on where it was, the
//! destination says what it got, has its memory back, and takes the machine the next time.

use ::faults::{Address, Processes, Proxy};
use monitor::types::{MigrationStatus, RunState};
use serde_json::json;

use crate::harness::{Lab, Spec, Story, Vmm, holds, until};

fn spec() -> Spec {
    Spec::new("work=8M rate=20M order=random own=24M").memory_mib(48)
}

/// A proxy before the destination which does this harm. It has a TCP port.
fn harmed(there: &str, fault: &str) -> (Proxy, String) {
    let there = there.parse().unwrap();
    let here = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
    let proxy = Proxy::start(&here, there, &[fault.parse().unwrap()], Processes::default()).unwrap();
    let uri = proxy.address().to_string();
    (proxy, uri)
}

/// Bytes of memory that a process holds.
fn resident(vmm: &Vmm) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", vmm.pid())).unwrap();
    statm.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// What the destination says of the attempt that came to nothing.
fn reason(destination: &Vmm) -> String {
    until("the destination says what it got", || {
        let info = destination.query_migrate();
        info.whimbrel.and_then(|more| more.reason).or(info.error_desc)
    })
}

#[test]
fn a_damaged_stream_leaves_the_machine_where_it_is_and_the_destination_empty() {
    let Some(lab) = Lab::new() else { return };
    let source = lab.boot(&spec());
    let mut story = Story::of(&source);
    story.filled();
    source.set(json!({ "multifd-channels": 2 }));
    let damaged = "Checksum of a frame header or table is wrong";
    let closed = "The other side closed the connection";
    for (fault, expected) in [
        ("flip=0@control:in:hello+40", None),
        ("cut@control:in:hello+40", None),
        ("cut@channels:before:pages", Some(closed)),
        ("cut@channels:in:pages#2+20", Some(closed)),
        ("cut@channels:in:pages#2+70000", Some(closed)),
        ("flip=1@channels:in:pages#3+0", Some("not a Whimbrel migration stream")),
        ("flip=1@channels:in:pages#3+2", Some("damaged|does not belong|malformed|Checksum|over the limit")),
        ("flip=7@channels:in:pages#3+7", Some("over the limit")),
        ("flip=4@channels:in:pages#3+9", Some(damaged)),
        ("flip=3@channels:in:pages#3+14", Some(damaged)),
        ("flip=3@channels:in:pages#3+30", Some(damaged)),
        ("flip=5@channels:in:round-end+33", Some(damaged)),
        ("reset@channels:in:last-round-end+5", Some(closed)),
        ("flip=2@control:in:switchover+19", Some(damaged)),
        ("flip=2@control:in:device#3+99", Some(damaged)),
        ("cut@control:in:device#2+99", Some(closed)),
        ("flip=2@control:in:complete+30", Some(damaged)),
        ("cut@control:in:complete+30", Some(closed)),
    ] {
        let destination = lab.vacancy(&spec());
        let there = destination.listen();
        let empty = resident(&destination);
        let (proxy, uri) = harmed(&there, fault);
        source.migrate(&uri);
        let said = source.migration_fails();
        assert_eq!(proxy.struck().len(), 1, "{fault}: {said}");
        assert_eq!(source.run_state(), RunState::Running, "{fault}: {said}");
        drop(proxy);
        if let Some(expected) = expected {
            let got = reason(&destination);
            assert!(expected.split('|').any(|part| got.contains(part)), "{fault}: {got}");
        }
        // What a thread or two and the last buffers need is not the guest's.
        holds("memory is given back", || resident(&destination) < empty + (4 << 20));
        assert_eq!(destination.run_state(), RunState::Inmigrate, "{fault}");
        assert_eq!(std::fs::read(destination.serial()).unwrap(), b"", "{fault}: it ran");
        story.goes_on(2);
    }
    let destination = lab.vacancy(&spec());
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_flipped_bit_in_a_page_is_found_by_the_digest_and_by_nothing_else() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&spec()), lab.vacancy(&spec()));
    let mut story = Story::of(&source);
    story.filled();
    // A machine that stands still sends every page once: none is sent again and mended by that.
    source.command("stop", json!({}));
    let there = destination.listen();
    // On one channel frames come in the order of memory: this one is of the middle of what the guest checks.
    let fault = "flip=3@channels:in:pages#12+9000";

    source.set(json!({ "whimbrel-digest": true, "multifd-channels": 1 }));
    let (proxy, uri) = harmed(&there, fault);
    source.migrate(&uri);
    source.migration_fails();
    assert_eq!(proxy.struck().len(), 1);
    let got = reason(&destination);
    assert!(got.contains("ram.low 0x"), "it names the memory: {got}");

    source.set(json!({ "whimbrel-digest": false }));
    let (proxy, uri) = harmed(&there, fault);
    source.migrate(&uri);
    source.migration_is(MigrationStatus::Completed);
    assert_eq!(proxy.struck().len(), 1);
    destination.command("cont", json!({}));
    story.goes_on_at(&destination);
    story.wait_for("the guest finds the page", |report| report.errors == 1);
}
