//! What the report says of pages that followed a machine.

use std::time::Duration;

use engine::{destination, source};
use report::{Following, WaitStep, Waits};

/// Of a machine that left; `None` where it had all its pages when it ran at the destination.
pub(super) fn leaving(snapshot: &source::Snapshot) -> Option<Following> {
    let followed = snapshot.postcopy_bytes > 0 || snapshot.requests > 0 || snapshot.status.is_postcopy();
    followed.then(|| Following {
        missing_pages: if snapshot.status.is_postcopy() { snapshot.remaining_pages } else { 0 },
        bytes: Some(snapshot.postcopy_bytes),
        requests: Some(snapshot.requests),
        waits: None,
    })
}

/// Of a machine that came.
pub(super) fn arriving(snapshot: &destination::Snapshot) -> Option<Following> {
    let waits = snapshot.faults.as_ref()?;
    let (latencies, stages) = (&waits.latencies, waits.stages);
    let share = |per_mille| latencies.per_mille(per_mille).map(ms);
    let step = |step: &destination::Step| WaitStep { missing_pages: step.missing_pages, faults: step.faults };
    let waits = Waits {
        count: latencies.count(),
        mean_ms: latencies.mean().map(ms),
        p50_ms: share(500),
        p99_ms: share(990),
        p999_ms: share(999),
        worst_ms: share(1000),
        under_way_ms: ms(stages.under_way),
        receiving_ms: ms(stages.receiving),
        placing_ms: ms(stages.placing),
        pushed: stages.pushed,
        histogram: latencies.by_power_of_two(),
        vcpu_block_ms: waits.block_time.vcpus.iter().copied().map(ms).collect(),
        block_ms: ms(waits.block_time.all),
        step_ms: ms(waits.timeline.step),
        steps: waits.timeline.steps.iter().map(step).collect(),
    };
    Some(Following { missing_pages: snapshot.missing_pages, bytes: None, requests: None, waits: Some(waits) })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
