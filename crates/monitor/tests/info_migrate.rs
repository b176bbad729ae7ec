//! The text of `info migrate`, before, during and after.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use whimbrel_monitor::{
    info_migrate,
    types::{
        DowntimePhases, MigrationInfo, MigrationRamStats, MigrationStatus, RoundInfo, SocketAddress,
        WhimbrelInfo,
    },
};

fn round(round: u32, bytes: u64, pages: u64, dirty_rate: u64, duration_ms: u64) -> RoundInfo {
    RoundInfo {
        round,
        bytes,
        pages,
        zero_pages: pages / 3,
        dirty_pages: dirty_rate / 4096 * duration_ms / 1000,
        dirty_rate,
        wire_rate: bytes * 1000 / duration_ms,
        duration_ms,
        ..RoundInfo::default()
    }
}

/// The figures of an 8 GiB guest on 1 Gb/s.
fn active() -> MigrationInfo {
    MigrationInfo {
        status: Some(MigrationStatus::Active),
        total_time: Some(9412),
        expected_downtime: Some(300),
        setup_time: Some(7),
        ram: Some(MigrationRamStats {
            transferred: 1_148_231_680,
            remaining: 52_428_800,
            total: 8_590_458_880,
            duplicate: 1_812_300,
            normal: 279_001,
            normal_bytes: 1_142_788_096,
            dirty_pages_rate: 2441,
            mbps: 941.25,
            dirty_sync_count: 2,
            page_size: 4096,
            multifd_bytes: 1_147_000_000,
            pages_per_second: 28_721,
            precopy_bytes: 1_148_231_680,
            ..Default::default()
        }),
        whimbrel: Some(WhimbrelInfo {
            session: Some("6a1f0c1e-6c55-4a7e-a3d1-52a2f3b5cf10".to_owned()),
            channels: Some(4),
            rounds: vec![
                RoundInfo {
                    predicted_downtime_ms: Some(765.43),
                    decision: Some("another round: 765 ms are predicted, 300 ms are allowed".to_owned()),
                    ..round(1, 1_100_000_000, 2_097_280, 10_000_000, 9000)
                },
                round(2, 48_231_680, 11_775, 0, 412),
            ],
            downtime_limit_ms: Some(300),
            predicted_downtime_ms: Some(447.25),
            percentage: Some(97.42),
            eta_ms: Some(1480),
            eta_note: Some("the guest dirties memory faster than before".to_owned()),
            cpu_seconds: Some(1.25),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn completed() -> MigrationInfo {
    let mut info = active();
    info.status = Some(MigrationStatus::Completed);
    info.total_time = Some(16_700);
    info.expected_downtime = None;
    info.downtime = Some(51);
    let ram = info.ram.as_mut().unwrap();
    ram.remaining = 0;
    ram.downtime_bytes = 5_242_880;
    let own = info.whimbrel.as_mut().unwrap();
    own.percentage = Some(100.0);
    own.eta_note = None;
    own.downtime_phases = Some(DowntimePhases {
        stop_ms: Some(0.41),
        waiting_ms: None,
        last_pages_ms: Some(41.7),
        save_ms: Some(1.2),
        load_ms: Some(4.05),
        hand_over_ms: Some(0.9),
        start_ms: Some(2.14),
    });
    info
}

#[test]
fn before_any_migration_there_are_the_globals() {
    insta::assert_snapshot!(info_migrate(&MigrationInfo::default()));
}

#[test]
fn while_it_runs_there_are_rounds_a_prediction_and_the_time_to_go() {
    insta::assert_snapshot!(info_migrate(&active()));
}

#[test]
fn when_it_is_completed_the_downtime_is_told_by_phase() {
    insta::assert_snapshot!(info_migrate(&completed()));
}

#[test]
fn when_it_failed_the_reason_and_what_to_do_are_told() {
    insta::assert_snapshot!(info_migrate(&MigrationInfo {
        status: Some(MigrationStatus::Failed),
        error_desc: Some("Failed to connect to '127.0.0.1:1': Connection refused".to_owned()),
        blocked_reasons: Some(vec!["a disk is local".to_owned()]),
        whimbrel: Some(WhimbrelInfo {
            reason: Some("Nobody listens on 127.0.0.1:1".to_owned()),
            advice: Some("Start the destination with --incoming tcp:127.0.0.1:1".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }));
}

#[test]
fn on_the_destination_there_is_where_it_listens() {
    insta::assert_snapshot!(info_migrate(&MigrationInfo {
        status: Some(MigrationStatus::Setup),
        socket_address: Some(vec![
            SocketAddress::Inet { host: "127.0.0.1".to_owned(), port: "44441".to_owned() },
            SocketAddress::Unix { path: "/run/m".to_owned() },
        ]),
        ..Default::default()
    }));
}

#[test]
fn query_migrate_has_qemus_names_and_ours_apart() {
    insta::assert_json_snapshot!(completed());
}

#[test]
fn a_report_survives_its_way_through_json() {
    for info in [MigrationInfo::default(), active(), completed()] {
        let text = serde_json::to_string(&info).unwrap();
        assert_eq!(serde_json::from_str::<MigrationInfo>(&text).unwrap(), info);
    }
    assert_eq!(serde_json::to_string(&MigrationInfo::default()).unwrap(), "{}");
}

#[test]
fn why_it_failed_is_told_once() {
    let reason = "Nobody listens".to_owned();
    let info = MigrationInfo {
        status: Some(MigrationStatus::Failed),
        error_desc: Some(reason.clone()),
        whimbrel: Some(WhimbrelInfo { reason: Some(reason.clone()), ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(info_migrate(&info).matches(&reason).count(), 1);
}
