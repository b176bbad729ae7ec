//! What is shown of a comparison, also of one that somebody else has written.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use comparison::{
    Comparison, Contender, Mode, Outcome, Run, Scenario, Trace, bars, html, published,
    scale::{Found, Plan},
    tables, timeline,
};

/// A move that takes `end_ms` and stands still for `downtime_ms` before its end, and a guest that sends 60 frames a second.
fn run(contender: Contender, repetition: u32, end_ms: f64, downtime_ms: f64) -> Run {
    let stop = end_ms - downtime_ms;
    let frames = (-60..200).map(|n| [f64::from(n) * 1000.0 / 60.0, f64::from(n + 60)]);
    let count = |rate: f64| (-100..400).map(move |n| [f64::from(n) * 10.0, rate * (f64::from(n) + 100.0)]);
    Run {
        stop_ms: Some(stop),
        resume_ms: Some(end_ms),
        end_ms,
        trace: Trace {
            wire: count(1e6).collect(),
            work: count(1e5).collect(),
            pings_1s: (-1..3).map(|n| (f64::from(n) * 1000.0, Some(0.4))).collect(),
            pings_10ms: (-100..300).map(|n| (f64::from(n) * 10.0, (n != 50).then_some(0.4))).collect(),
            frames_60: frames.filter(|frame| !(stop..end_ms).contains(&frame[0])).collect(),
            ..Trace::default()
        },
        ..Run::new(Scenario::S3, Mode::Multifd, contender, repetition)
    }
}

fn comparison(runs: Vec<Run>) -> Comparison {
    let found = Found { link: 1.3e9, memory: 20 << 30, cores: 2 };
    let mut plan = Plan::new("1/16".parse().unwrap(), found, "2 MiB pages", 300, 3).unwrap();
    plan.gives.push((Scenario::S3, 300e6));
    Comparison {
        version: Comparison::VERSION,
        host: "2 cores".into(),
        qemu: Some("QEMU 7".into()),
        link: "a link".into(),
        plan,
        notes: vec!["<script>alert(1)</script>".into()],
        took_s: None,
        runs,
    }
}

fn usual() -> Comparison {
    let ours =
        [900.0, 800.0, 1000.0].into_iter().zip(1..).map(|(ms, n)| run(Contender::Whimbrel, n, ms, 50.0));
    let theirs =
        [1500.0, 1600.0, 1700.0].into_iter().zip(1..).map(|(ms, n)| run(Contender::Qemu, n, ms, 300.0));
    comparison(ours.chain(theirs).collect())
}

fn cell(comparison: &Comparison, title: &str, row: usize) -> String {
    let all = tables::all(comparison);
    all.into_iter().find(|table| table.title == title).unwrap().rows[row][1].clone()
}

#[test]
fn tables_have_medians_with_their_ranges() {
    let comparison = usual();
    assert_eq!(cell(&comparison, "total time, s", 0), "0.90 (0.80–1.00)");
    assert_eq!(cell(&comparison, "downtime, ms", 1), "300 (300–300)");
    assert_eq!(cell(&comparison, "video stuck", 0), "no");
    assert_eq!(cell(&comparison, "video stuck", 1), "300 ms");
    assert_eq!(cell(&comparison, "ping, sent/received", 0), "9/9");
    assert_eq!(cell(&comparison, "pings every 10 ms: lost", 0), "1 (1–1)");
    assert_eq!(cell(&comparison, "TCP stream: longest stall, ms", 0), "-", "nobody has sent one");
}

#[test]
fn a_mode_that_ends_only_at_times_is_not_suitable_and_the_reason_is_told() {
    let mut comparison = usual();
    comparison.runs[1].outcome = Outcome::NotSuitable("not over within 30 s".into());
    assert_eq!(cell(&comparison, "total time, s", 0), "-");
    assert!(tables::remarks(&comparison).iter().any(|remark| remark.contains("not over within 30 s")));
    assert!(comparison.is_intact());
    comparison.runs[1].outcome = Outcome::Failed("it died".into());
    assert!(!comparison.is_intact(), "one of ours broke");
}

#[test]
fn goals_are_ratios_to_the_peer_and_what_was_not_seen_is_not_judged() {
    let verdicts = bars::verdicts(&usual());
    let met = |name: &str| verdicts.iter().find(|verdict| verdict.name.starts_with(name)).unwrap().met;
    assert_eq!((met("total time"), met("downtime"), met("video")), (Some(true), Some(true), Some(true)));
    let alone = comparison(vec![run(Contender::Whimbrel, 1, 900.0, 500.0)]);
    let verdicts = bars::verdicts(&alone);
    let met = |name: &str| verdicts.iter().find(|verdict| verdict.name.starts_with(name)).unwrap().met;
    assert_eq!((met("total time"), met("video"), met("bandwidth")), (None, Some(false), None));
}

#[test]
fn a_goal_names_the_modes_that_it_was_judged_without() {
    let mut comparison = usual();
    let mut unended = run(Contender::Qemu, 1, 900.0, 50.0);
    unended.mode = Mode::Generic;
    unended.outcome = Outcome::NotSuitable("not over within 30 s".into());
    let mut broken = run(Contender::Whimbrel, 1, 900.0, 50.0);
    broken.mode = Mode::PostcopyPreempt;
    broken.outcome = Outcome::Failed("it died".into());
    comparison.runs.extend([unended, broken]);
    let verdicts = bars::verdicts(&comparison);
    let found = |name: &str| &verdicts.iter().find(|verdict| verdict.name.starts_with(name)).unwrap().found;
    let both = "; without postcopy-preempt of Whimbrel, generic of QEMU";
    assert!(found("downtime").ends_with(both) && found("total time").contains(both), "{verdicts:?}");
    assert!(found("video").ends_with(" ms; without postcopy-preempt of Whimbrel"), "{verdicts:?}");
    // None of the modes that were tried has it.
    comparison.runs.retain(|run| !run.is_completed());
    let verdicts = bars::verdicts(&comparison);
    let video = verdicts.iter().find(|verdict| verdict.name.starts_with("video")).unwrap();
    assert_eq!((video.met, &*video.found), (None, "without postcopy-preempt of Whimbrel"));
}

#[test]
fn a_page_needs_nothing_else_and_runs_nothing() {
    let page = html::render(&usual(), Some(&usual()));
    assert!(!page.contains("<script") && page.contains("&lt;script"), "markup in a note");
    assert!(!page.contains("src=") && !page.contains("href="));
    assert_eq!(page.matches("<details").count(), 6, "a time line of each move");
    assert!(page.contains("switchover, 50 ms"));
    assert_eq!(published::tables().len(), 5);
}

#[test]
fn absurd_numbers_are_drawn_within_the_picture() {
    for absurd in [f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
        let mut strange = run(Contender::Whimbrel, 1, absurd, absurd);
        strange.trace.wire = vec![[absurd, absurd], [1.0, absurd], [absurd, 1.0], [2.0, 2.0]];
        strange.trace.pings_10ms = vec![(absurd, Some(absurd)), (1.0, None), (1.0, Some(absurd))];
        strange.trace.frames_25 = vec![[absurd, absurd], [1.0, absurd]];
        strange.trace.frames_60 = vec![[0.0, 0.0], [1000.0, absurd], [2000.0, 2.0 * absurd]];
        let comparison = comparison(vec![strange]);
        let picture = timeline::alone(&comparison.runs[0], &comparison.plan);
        let places = picture.split("points=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for place in places.flat_map(|points| points.split([',', ' '])).filter(|place| !place.is_empty()) {
            assert!((0.0..=900.0).contains(&place.parse::<f64>().unwrap()), "{absurd}: {picture}");
        }
        let _ = html::render(&comparison, Some(&comparison));
        tables::all(&comparison).iter().for_each(|table| assert!(!table.text().is_empty()));
    }
}

#[test]
fn what_is_written_is_read_again_and_anything_else_is_refused() {
    let comparison = usual();
    let written = serde_json::to_vec(&comparison).unwrap();
    let read = Comparison::read(&written).unwrap();
    assert_eq!(tables::all(&read), tables::all(&comparison));
    assert!(read.plan == comparison.plan && read.runs.len() == comparison.runs.len());
    for wrong in [&b""[..], b"{}", b"[]", b"{\"version\":2}", &written[..written.len() / 2]] {
        assert!(Comparison::read(wrong).is_err());
    }
}
