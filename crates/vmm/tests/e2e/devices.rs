//! Devices in the middle of their work arrive in the middle of their work.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use monitor::types::{BalloonInfo, BlockStats, MigrationStatus, RunState};
use serde_json::{Value, json};

use crate::harness::{Lab, Network, PATIENCE, PAUSE_BEFORE_SWITCHOVER, Spec, Story, Vmm, holds, until};

const NONE: Value = Value::Null;

/// Moves a machine that runs, and returns where it is now.
fn hop(lab: &Lab, spec: &Spec, here: &Vmm, story: &mut Story) -> Vmm {
    let there = lab.vacancy(spec);
    here.moves_to(&there, &there.listen());
    story.goes_on_at(&there);
    there
}

#[test]
fn what_waits_in_the_serial_fifo_is_read_where_the_machine_goes() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm().typed();
    let mut here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    for hop_number in 0..3 {
        // The guest looks for input every 20 ms and takes a byte each 50 µs or more: it has not read all of this when it
        // is stopped.
        let line = format!("{hop_number}-what-is-typed-here-is-echoed-there-0123456789");
        here.types(&format!("{line}\n"));
        here.command("stop", NONE);
        here = hop(&lab, &spec, &here, &mut story);
        here.command("cont", NONE);
        story.says(&format!("whimbrel echo {line}"));
    }
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_serial_socket_serves_its_next_client_where_the_machine_goes() {
    let Some(lab) = Lab::new() else { return };
    let at = |name: &str| Spec::calm().serial_socket(&lab.path(name));
    let (source, destination) = (lab.boot(&at("one")), lab.vacancy(&at("two")));
    let uri = destination.listen();
    for (vmm, name) in [(&source, "one"), (&destination, "two")] {
        if vmm.run_state() == RunState::Inmigrate {
            source.moves_to(&destination, &uri);
        }
        let mut client = UnixStream::connect(lab.path(name)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"good-morning\n").unwrap();
        let (mut heard, mut bytes) = (String::new(), [0; 4096]);
        until("the guest echoes", || {
            let count = client.read(&mut bytes).unwrap();
            heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
            heard.contains("whimbrel echo good-morning").then_some(())
        });
    }
}

#[test]
fn disk_requests_are_done_once_wherever_the_machine_is() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.disk("disk.img", 20);
    let spec = Spec::new("work=4M rate=4M disk=2000").disk(&image).cpus(2);
    let mut here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    for _ in 0..5 {
        let before = story.goes_on(2).count("disk_ops").unwrap();
        here = hop(&lab, &spec, &here, &mut story);
        story.wait_for("its disk is used", |report| report.count("disk_ops").unwrap() > before + 50);
    }
    let report = story.assert_intact();
    assert_eq!(report.count("disk_errors"), Some(0), "{report:?}");
    // The image has been written by every process that the machine was in.
    here.command("stop", NONE);
    let contents = std::fs::read(&image).unwrap();
    assert!(contents.iter().any(|byte| *byte != 0));
}

#[test]
fn a_disk_past_the_page_cache_moves() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.disk("disk.img", 20);
    let spec = Spec::new("work=4M rate=4M disk=500");
    let spec = spec.flag("--disk", &format!("path={},direct=on", image.display()));
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    let before = story.goes_on(2).count("disk_ops").unwrap();
    let _there = hop(&lab, &spec, &here, &mut story);
    story.wait_for("its disk is used", |report| report.count("disk_ops").unwrap() > before + 50);
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0));
}

/// What the monitor has counted of its disks.
fn counted(vmm: &Vmm) -> Vec<BlockStats> {
    vmm.client().query::<Vec<BlockStats>>("query-blockstats", NONE).unwrap()
}

#[test]
fn a_disk_is_counted_here_and_from_nothing_where_the_machine_goes() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.disk("disk.img", 20);
    let spec = Spec::new("work=4M rate=4M disk=500").disk(&image);
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    let both = |disk: &BlockStats| disk.stats.rd_operations > 50 && disk.stats.wr_operations > 50;
    holds("reads and writes are counted", || both(&counted(&here)[0]));
    let there = lab.vacancy(&spec);
    let [BlockStats { device, stats, .. }] = &counted(&there)[..] else { panic!("one disk") };
    assert_eq!((device.as_str(), *stats), ("disk0", Default::default()), "the machine has yet to come");
    here.moves_to(&there, &there.listen());
    story.goes_on_at(&there);
    here.command("query-blockstats", NONE);
    holds("it is counted there", || both(&counted(&there)[0]));
    let stats = counted(&there)[0].stats;
    let sector = 512;
    assert!(
        stats.rd_bytes >= stats.rd_operations * sector && stats.rd_bytes.is_multiple_of(sector),
        "{stats:?}"
    );
    assert!(stats.wr_highest_offset <= 20 << 20 && stats.rd_total_time_ns > 0, "{stats:?}");
    assert_eq!((stats.failed_rd_operations, stats.invalid_wr_operations), (0, 0));
    story.assert_intact();
}

/// What the monitor says the balloon leaves the guest, in bytes.
fn balloon(vmm: &Vmm) -> u64 {
    vmm.client().query::<BalloonInfo>("query-balloon", NONE).unwrap().actual
}

#[test]
fn an_inflated_balloon_stays_inflated_and_can_be_deflated() {
    let Some(lab) = Lab::new() else { return };
    let (full, small) = (128 << 20, 80 << 20);
    let spec = Spec::new("work=8M rate=8M balloon=on").memory_mib(128);
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    assert_eq!(balloon(&here), full);
    here.command("balloon", json!({ "value": small }));
    holds("the balloon is inflated", || balloon(&here) == small);
    let there = hop(&lab, &spec, &here, &mut story);
    assert_eq!(balloon(&there), small);
    // What it said before is still on its way, where the machine is busy.
    let owned = story.wait_for("its memory is lent", |report| report.owned <= small).owned;
    there.command("balloon", json!({ "value": full }));
    holds("the balloon is deflated", || balloon(&there) == full);
    story.wait_for("its memory is back", |report| report.owned > owned);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_balloon_goes_on_to_its_target_where_the_machine_goes() {
    let Some(lab) = Lab::new() else { return };
    let (full, small) = (192 << 20, 96 << 20);
    let spec = Spec::new("work=8M rate=8M balloon=on").memory_mib(192);
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    here.command("balloon", json!({ "value": small }));
    here.command("stop", NONE);
    let part = balloon(&here);
    assert!(part > small, "the balloon was faster than the monitor");
    let there = hop(&lab, &spec, &here, &mut story);
    assert_eq!(balloon(&there), part);
    there.command("cont", NONE);
    holds("the balloon is inflated", || balloon(&there) == small);
    there.command("balloon", json!({ "value": full }));
    holds("the balloon is deflated", || balloon(&there) == full);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn memory_reported_free_stays_sound() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=8M rate=8M own=32M balloon=on").memory_mib(128);
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    let reported = |story: &Story, more: u64| {
        story.wait_for("it reports memory as free", |report| {
            report.count("reported").is_some_and(|n| n > more)
        })
    };
    reported(&story, 0);
    here.set(json!({ "whimbrel-digest": true }));
    let there = hop(&lab, &spec, &here, &mut story);
    let before = story.goes_on(1).count("reported").unwrap();
    reported(&story, before);
    there.set(json!({ "whimbrel-digest": true }));
    let _next = hop(&lab, &spec, &there, &mut story);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn the_network_finds_a_machine_that_has_moved() {
    let Some(lab) = Lab::new() else { return };
    let Some(network) = Network::new(&["one", "two"]) else { return };
    let (address, mac) = ("10.77.0.2", "02:00:00:00:77:02");
    let on = |tap: &str| {
        let spec = Spec::new(&format!("work=4M rate=4M ip={address}")).prefix(&network.prefix());
        spec.flag("--net", &format!("tap={tap},mac={mac}"))
    };
    let (source, destination) = (lab.boot(&on("one")), lab.vacancy(&on("two")));
    let mut story = Story::of(&source);
    story.filled();
    holds("it answers", || network.pings(address));
    assert_eq!(network.port_of(mac), Some("one"));
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    // Nobody asks for it here: the bridge learns where it is from its announcement.
    holds("the bridge knows where it is", || network.port_of(mac) == Some("two"));
    assert!((0..5).all(|_| network.pings(address)), "it does not answer everything");

    // Its tap is free when its process is gone.
    drop(source);
    let back = lab.vacancy(&on("one"));
    destination.moves_to(&back, &back.listen());
    story.goes_on_at(&back);
    holds("the bridge knows where it is", || network.port_of(mac) == Some("one"));
    assert!((0..5).all(|_| network.pings(address)), "it does not answer everything");
    let report = story.goes_on(2);
    assert_eq!(report.count("net_dropped"), Some(0), "{report:?}");
    story.assert_intact();
}

#[test]
fn what_comes_for_a_machine_that_is_on_its_way_reaches_it_where_it_goes() {
    for immediate in [false, true] {
        let Some(lab) = Lab::new() else { return };
        let Some(network) = Network::new(&["one", "two"]) else { return };
        let (address, mac) = ("10.77.0.2", "02:00:00:00:77:02");
        let on = |tap: &str| {
            let spec = Spec::new(&format!("work=4M rate=4M ip={address}")).prefix(&network.prefix());
            spec.flag("--net", &format!("tap={tap},mac={mac}"))
        };
        let (source, destination) = (lab.boot(&on("one")), lab.vacancy(&on("two")));
        let mut story = Story::of(&source);
        story.filled();
        holds("it answers", || network.pings(address));
        source.enable(PAUSE_BEFORE_SWITCHOVER);
        if immediate {
            source.enable("postcopy-ram");
            source.set(json!({ "whimbrel-postcopy": "immediate" }));
        }
        source.migrate(&destination.listen());
        source.migration_is(MigrationStatus::PreSwitchover);
        // It stands still. Three pings come for it, and wait in the tap that it is about to leave.
        let before = network.pings_sent();
        let answered = thread::scope(|scope| {
            let pings = scope.spawn(|| network.all_are_answered(address, 3));
            holds("they were sent", || network.pings_sent() == before + 3);
            source.command("migrate-continue", json!({ "state": "pre-switchover" }));
            pings.join().unwrap()
        });
        assert!(answered, "a ping was lost (postcopy: {immediate})");
        story.goes_on_at(&destination);
        story.goes_on(2);
        story.assert_intact();
    }
}

#[test]
fn random_numbers_come_on_both_sides() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=4M rate=4M rng=on");
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    let bytes = |story: &Story, more: u64| {
        let report =
            story.wait_for("it reads random numbers", |report| report.count("rng_bytes") > Some(more));
        report.count("rng_bytes").unwrap()
    };
    let before = bytes(&story, 0);
    let _there = hop(&lab, &spec, &here, &mut story);
    bytes(&story, before + 64);
    assert_eq!(story.assert_intact().count("rng_stale"), Some(0));
}

#[test]
fn keys_pressed_while_a_machine_is_paused_move_with_it() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=4M rate=4M keys=on").flag("--keyboard", "on");
    let press = |vmm: &Vmm, key: &str, hold: u64| {
        let keys = json!([{ "type": "qcode", "data": key }]);
        vmm.command("send-key", json!({ "keys": keys, "hold-time": hold }));
    };
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    // Codes of Linux, input-event-codes.h: a is 30, b is 48, c is 46.
    press(&here, "a", 1);
    story.says("whimbrel key code=30 value=1");
    story.says("whimbrel key code=30 value=0");
    here.command("stop", NONE);
    press(&here, "b", 60_000);
    let there = hop(&lab, &spec, &here, &mut story);
    there.command("cont", NONE);
    story.says("whimbrel key code=48 value=1");
    press(&there, "c", 1);
    story.says("whimbrel key code=46 value=1");
    story.says("whimbrel key code=46 value=0");
    story.assert_intact();
}

#[test]
fn a_guest_resets_itself_where_it_went() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm().typed();
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    let there = hop(&lab, &spec, &here, &mut story);
    story.goes_on(2);
    story.assert_intact();
    let events = there.events();
    there.types("reset\n");
    let event = events.wait_for("RESET", PATIENCE).expect("RESET");
    assert_eq!(event.data.unwrap(), json!({ "guest": true, "reason": "guest-reset" }));
    let after = Story::of(&there);
    after.says("whimbrel boot");
    after.goes_on(2);
    assert_eq!(there.run_state(), RunState::Running);
    // What was started anew moves as well.
    let last = lab.vacancy(&spec);
    there.set(json!({ "whimbrel-digest": true }));
    there.moves_to(&last, &last.listen());
    story.goes_on_at(&last);
    story.goes_on(3);
    story.assert_intact_after(2);
}

#[test]
fn a_guest_that_powers_off_where_it_went_ends_the_process() {
    let Some(lab) = Lab::new() else { return };
    // The sleep control register of the machine's ACPI tables: soft-off, and the bit that makes it so.
    let spec = Spec::new("work=4M rate=4M poweroff=0x604:0x34").typed();
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    let there = hop(&lab, &spec, &here, &mut story);
    story.goes_on(2);
    let events = there.events();
    there.types("poweroff\n");
    let event = events.wait_for("SHUTDOWN", PATIENCE).expect("SHUTDOWN");
    assert_eq!(event.data.unwrap(), json!({ "guest": true, "reason": "guest-shutdown" }));
    assert_eq!(there.end().code(), Some(0));
    assert!(!there.monitor_path().exists());
    assert!(here.is_alive(), "the source ends when it is told to");
}

#[test]
fn the_power_button_can_be_pressed_on_both_sides() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    here.command("system_powerdown", NONE);
    assert!(here.events().wait_for("POWERDOWN", PATIENCE).is_some());
    // The guest has not looked at it, so it is pending while the machine moves.
    let there = hop(&lab, &spec, &here, &mut story);
    there.command("system_powerdown", NONE);
    assert!(there.events().wait_for("POWERDOWN", PATIENCE).is_some());
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_machine_with_every_device_moves_often() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=8M rate=10M disk=500 balloon=on rng=on keys=on").cpus(2).memory_mib(128);
    let spec = spec.disk(&lab.disk("one.img", 20)).disk(&lab.disk("two.img", 1)).flag("--keyboard", "on");
    let mut here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    for target in [96_u64 << 20, 112 << 20, 128 << 20] {
        here.command("balloon", json!({ "value": target }));
        here.command("send-key", json!({ "keys": [{ "type": "qcode", "data": "x" }], "hold-time": 1 }));
        here = hop(&lab, &spec, &here, &mut story);
        holds("the balloon is there", || balloon(&here) == target);
        story.goes_on(2);
    }
    let report = story.assert_intact();
    assert_eq!((report.count("disk_errors"), report.count("rng_stale")), (Some(0), Some(0)), "{report:?}");
    assert!(here.events().next(Duration::ZERO).is_none_or(|event| event.event != "STOP"));
}
