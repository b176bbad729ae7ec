//! A busy guest that checks itself, moved from machine to machine in one process.

use guests::{Report, parse_report};

use super::tests::{Bench, wait_for};
use crate::testing;

/// The reports in `serial`, without a line that is still being written.
fn reports(serial: &[u8]) -> Vec<Report> {
    let text = String::from_utf8_lossy(serial);
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).filter_map(parse_report).collect()
}

#[test]
fn a_busy_guest_with_all_devices_finds_no_error_however_often_it_moves() {
    if !testing::kvm_is_usable("a_busy_guest_with_all_devices_finds_no_error_however_often_it_moves") {
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(16 << 20).unwrap();
    let command_line = "cpus=2 own=24M work=8M rate=50M report=100 disk=on rng=on balloon=on keys=on";
    let extra =
        format!("cpus: 2\nmemory: 96M\ndisks:\n - path: {}\ncmdline: {command_line}", image.path().display());
    let bench = Bench::with_kernel(guests::WORKLOAD, &extra);
    let (mut machine, _events) = bench.boot();
    let goes_on = |from: usize| {
        wait_for(&bench.serial(), |serial| {
            let reports = reports(serial);
            reports.len() >= from + 3 && reports.iter().any(|report| report.filled)
        })
    };
    machine.resume();
    let mut serial = goes_on(0);
    for _ in 0..4 {
        machine.pause().unwrap();
        let (next, _) = bench.moved(&machine);
        machine = next;
        machine.resume();
        serial = goes_on(reports(&serial).len());
    }

    let reports = reports(&serial);
    let (before, last) = (&reports[reports.len() - 3], &reports[reports.len() - 1]);
    assert_eq!((last.errors, last.tsc_back, last.clock_back, last.cpus), (0, 0, 0, 2), "{last:?}");
    assert_eq!((last.count("lost"), last.count("disk_errors")), (Some(0), Some(0)), "{last:?}");
    assert!(last.count("disk_ops") > before.count("disk_ops"), "the disk works on: {last:?}");
    assert!(last.dirtied > before.dirtied && last.verified > before.verified, "the guest works on: {last:?}");
    assert!(reports.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1), "no report is lost");
}
