//! Machines whose pages are encoded to take less on the wire, together with everything else that a migration can be.

use monitor::types::{MigrationInfo, MigrationStatus};
use serde_json::{Value, json};

use crate::harness::{HugePages, Lab, Spec, Story, Vmm, holds, until};

/// A guest that changes words all over a working set, again and again: what differences are for.
fn counters() -> Spec {
    Spec::new("work=16M rate=60M order=random touch=word fill=text")
}

/// Bytes per second: slow enough for some rounds.
const SLOW: u64 = 40_000_000;

/// Sets a migration up to last for some rounds.
fn begin(lab: &Lab, spec: &Spec, there: &Spec, parameters: &Value) -> (Vmm, Vmm, Story) {
    let (source, destination) = (lab.boot(spec), lab.vacancy(there));
    let story = Story::of(&source);
    story.filled();
    source.set(json!({ "max-bandwidth": SLOW, "downtime-limit": 1, "whimbrel-digest": "full" }));
    source.set(parameters.clone());
    (source, destination, story)
}

/// Has it come to its end after `rounds` rounds at least, and returns what is told of it.
fn end(source: &Vmm, destination: &Vmm, story: &mut Story, rounds: u64) -> MigrationInfo {
    source.round_is(rounds);
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 1000 }));
    let done = source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(destination);
    story.goes_on(4);
    story.assert_intact();
    done
}

#[test]
fn packed_pages_arrive_whole_and_take_less() {
    let Some(lab) = Lab::new() else { return };
    for (compression, channels) in [("lz4", 1), ("zstd", 4), ("zstd", 64)] {
        let parameters = json!({ "multifd-compression": compression, "multifd-channels": channels });
        let (source, destination, mut story) = begin(&lab, &counters(), &counters(), &parameters);
        source.migrate(&destination.listen());
        let done = end(&source, &destination, &mut story, 2);
        let (packed, ram) = (done.compression.unwrap(), done.ram.unwrap());
        assert!(packed.pages > 10_000 && packed.compression_rate > 2.0, "{compression}: {packed:?}");
        assert!(ram.transferred < ram.normal_bytes / 2, "{compression}: {ram:?}");
        assert!(done.xbzrle_cache.is_none());
        let text = source.command("human-monitor-command", json!({ "command-line": "info migrate" }));
        assert!(text.to_string().contains("compression pages: "), "{text}");
    }
}

#[test]
fn changed_words_go_as_differences_and_arrive_whole_over_any_number_of_channels() {
    let Some(lab) = Lab::new() else { return };
    for channels in [1, 4, 64] {
        let parameters = json!({ "multifd-channels": channels });
        let (source, destination, mut story) = begin(&lab, &counters(), &counters(), &parameters);
        source.enable("xbzrle");
        source.migrate(&destination.listen());
        let done = end(&source, &destination, &mut story, 8);
        let cache = done.xbzrle_cache.unwrap();
        assert!(cache.pages > 1000 && cache.encoding_rate > 5.0, "{channels}: {cache:?}");
        assert_eq!(cache.cache_size, 64 << 20);
        let moved = destination.query_migrate().whimbrel.unwrap().arrived.unwrap();
        assert!(moved.bytes > cache.bytes, "{moved:?}");
    }
}

#[test]
fn a_machine_that_would_not_converge_does_by_differences_alone() {
    let Some(lab) = Lab::new() else { return };
    // Four times as fast as pages could be sent whole.
    let spec = Spec::new("work=32M rate=160M order=random touch=word");
    let (source, destination, mut story) = begin(&lab, &spec, &spec, &json!({}));
    source.set(
        json!({ "downtime-limit": 100, "avail-switchover-bandwidth": SLOW, "whimbrel-digest": "transfer" }),
    );
    source.enable("xbzrle");
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(4);
    story.assert_intact();
}

#[test]
fn differences_and_packing_go_with_small_caches_unix_sockets_and_other_kinds_of_memory() {
    let Some(lab) = Lab::new() else { return };
    let Some(_pages) = HugePages::reserve(64) else { return };
    let spec = counters().memory_mib(64);
    let unix = format!("unix:{}", lab.path("migration").display());
    for (memory, uri) in [("memfd", unix.as_str()), ("hugetlb", "tcp:127.0.0.1:0")] {
        let there = spec.clone().flag("--memory-backing", memory);
        let parameters =
            json!({ "xbzrle-cache-size": 4 << 20, "multifd-compression": "zstd", "multifd-zstd-level": 3 });
        let (source, destination, mut story) = begin(&lab, &spec, &there, &parameters);
        source.enable("xbzrle");
        source.migrate(&destination.listen_at(uri));
        let done = end(&source, &destination, &mut story, 6);
        let (cache, packed) = (done.xbzrle_cache.unwrap(), done.compression.unwrap());
        assert!(cache.pages > 100 && cache.cache_miss > 100 && packed.pages > 1000, "{cache:?} {packed:?}");
    }
}

#[test]
fn channels_that_choose_encode_over_a_slow_network() {
    let Some(lab) = Lab::new() else { return };
    let parameters = json!({ "whimbrel-compression": "auto", "max-bandwidth": 20_000_000 });
    let (source, destination, mut story) = begin(&lab, &counters(), &counters(), &parameters);
    source.migrate(&destination.listen());
    let done = end(&source, &destination, &mut story, 8);
    let (cache, packed) = (done.xbzrle_cache.unwrap(), done.compression.unwrap());
    assert!(cache.pages > 100 && packed.pages > 1000, "{cache:?} {packed:?}");
}

#[test]
fn a_machine_follows_by_postcopy_packed_after_rounds_of_differences() {
    let Some(lab) = Lab::new() else { return };
    for digest in ["off", "transfer"] {
        let parameters =
            json!({ "whimbrel-digest": digest, "multifd-compression": "zstd", "multifd-channels": 3 });
        let (source, destination, mut story) = begin(&lab, &counters(), &counters(), &parameters);
        source.enable("xbzrle");
        source.enable("postcopy-ram");
        source.migrate(&destination.listen());
        until("pages went as differences", || {
            source.query_migrate().xbzrle_cache.filter(|cache| cache.pages > 100)
        });
        // Differences are so short that rounds are over at once: a round is to be under way that has much to send.
        source.set(json!({ "max-bandwidth": 5000 }));
        let rounds = source.query_migrate().whimbrel.unwrap().rounds.len() as u64;
        source.round_is(rounds + 2);
        source.command("migrate-start-postcopy", Value::Null);
        let done = source.migration_is(MigrationStatus::Completed);
        assert!(done.ram.unwrap().postcopy_bytes > 0);
        story.goes_on_at(&destination);
        story.goes_on(4);
        story.assert_intact();
    }
}

#[test]
fn after_a_cancelled_attempt_the_next_one_moves_it_whole() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, mut story) = begin(&lab, &counters(), &counters(), &json!({}));
    source.enable("xbzrle");
    let uri = destination.listen();
    source.migrate(&uri);
    source.round_is(5);
    source.command("migrate_cancel", Value::Null);
    source.migration_is(MigrationStatus::Cancelled);
    holds("the destination is free again", || {
        destination.query_migrate().status == Some(MigrationStatus::Setup)
    });
    source.migrate(&uri);
    end(&source, &destination, &mut story, 5);
}

#[test]
fn what_was_agreed_on_does_not_change_while_it_runs() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, mut story) =
        begin(&lab, &counters(), &counters(), &json!({ "max-bandwidth": 3_000_000 }));
    source.migrate(&destination.listen());
    for change in [json!({ "multifd-compression": "zstd" }), json!({ "xbzrle-cache-size": 1 << 20 })] {
        let refused = source.refused("migrate-set-parameters", change);
        assert!(refused.contains("cannot be changed now"), "{refused}");
    }
    end(&source, &destination, &mut story, 1);
}
