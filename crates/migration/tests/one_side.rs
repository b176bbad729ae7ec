//! What one side does in situations that are rare, one by one.

use std::time::Duration;

use state::DeviceState;
use whimbrel_migration::{
    Advice, Destination, FixedCosts, Outcome, Params, Source, Status, Time,
    destination::{self, Action as Done},
    source::{Action, Event, Verdict},
};
use wire::{
    Accept, Ack, Agreed, BlockInfo, Complete, DeviceInfo, Features, Greeted, Hello, Message, PageCounts,
    SessionId, StateVersions,
};

const SECOND: Duration = Duration::from_secs(1);
/// When a first round is over.
const EARLY: Duration = Duration::from_millis(100);

fn device(id: &str, bytes: usize) -> DeviceState {
    DeviceState { id: id.into(), kind: "thing".into(), version: 1, body: vec![0; bytes] }
}

fn hello(devices: usize) -> Hello {
    let info = |index| DeviceInfo::new(format!("thing{index}"), "thing", 1..=1);
    Hello {
        session: SessionId([7; 16]),
        channels: 1,
        page_bytes: 4096,
        digest: wire::Digest::Off,
        blocks: vec![BlockInfo { name: "ram".into(), guest_address: 0, bytes: 1 << 40 }],
        devices: (0..devices).map(info).collect(),
        machine: device("machine", 0),
        postcopy: false,
    }
}

/// What a destination of this release answers to a greeting.
fn greeted() -> Greeted {
    Greeted { agreed: Agreed { version: 1, features: Features::OURS }, release: "test".into() }
}

fn reads() -> Vec<StateVersions> {
    vec![StateVersions { kind: "thing".into(), oldest: 1, newest: 1 }]
}

/// A source that sends its first round, which began at `now`.
fn source_that_sends(params: Params, fixed: FixedCosts, now: Duration) -> Source {
    source_that_was_accepted(params, fixed, now, now)
}

/// The same, where the answer to *hello*, which was said at `hello_at`, came just then.
fn source_that_was_accepted(params: Params, fixed: FixedCosts, hello_at: Duration, now: Duration) -> Source {
    let (mut source, _) = Source::start(params, hello(1), fixed);
    let accept = Accept { channels: 1, reads: reads() };
    source.handle(hello_at, Event::Connected(greeted()));
    for event in
        [Event::Message(Message::Accept(accept)), Event::Prepared, Event::Message(Message::ChannelsOpen)]
    {
        source.handle(now, event);
    }
    source
}

/// A source whose machine is stopped and sent, waiting for *ready*; switchover began at 1 s.
fn source_that_awaits_ready(params: Params) -> Source {
    let mut source = source_that_sends(params, FixedCosts::default(), SECOND);
    let sent = || Event::RoundSent {
        bytes: 4096,
        pages: PageCounts { raw: 1, zero: 0, ..PageCounts::default() },
        digest: None,
    };
    for event in [
        sent(),
        Event::DirtyFetched { pages: 0, running: true },
        Event::Stopped { was_running: true },
        Event::DirtyFetched { pages: 1, running: true },
        Event::Saved { devices: 1 },
    ] {
        source.handle(SECOND, event);
    }
    let actions = source.handle(SECOND, sent());
    assert!(matches!(actions[..], [Action::Send(Message::Complete(_)), ..]), "{actions:?}");
    source
}

fn resumes(actions: &[Action]) -> bool {
    actions.contains(&Action::Resume { run: true })
}

#[test]
fn no_page_moves_before_the_destination_has_all_channels() {
    let (mut source, _) = Source::start(Params::default(), hello(1), FixedCosts::default());
    let accept = Accept { channels: 1, reads: reads() };
    source.handle(SECOND, Event::Connected(greeted()));
    source.handle(SECOND, Event::Message(Message::Accept(accept)));
    assert_eq!(source.handle(SECOND, Event::Prepared), []);
    let actions = source.handle(SECOND, Event::Message(Message::ChannelsOpen));
    assert!(actions.contains(&Action::SendRound { round: 0, last: false }), "{actions:?}");
}

#[test]
fn a_destination_that_never_stops_talking_does_not_keep_the_machine_stopped() {
    let mut source = source_that_awaits_ready(Params::default());
    let mut now = SECOND;
    let resumed = (0..100_000).any(|number| {
        now += Duration::from_millis(1);
        resumes(&source.handle(now, Event::Message(Message::Ping(number))))
    });
    assert!(resumed && now < 12 * SECOND, "stopped until {now:?}");
}

#[test]
fn a_downtime_that_the_user_allowed_is_not_cut_short() {
    let params = Params::default().downtime_limit(60 * SECOND);
    let mut source = source_that_awaits_ready(params);
    assert!(!resumes(&source.handle(60 * SECOND, Event::Tick)));
    assert!(resumes(&source.handle(75 * SECOND, Event::Tick)));
}

#[test]
fn rounds_that_cannot_help_do_not_follow_each_other_without_a_pause() {
    let params = Params::default().channels(1).downtime_limit(Duration::from_millis(10));
    let mut fixed = FixedCosts::default();
    fixed.load = Duration::from_secs(1);
    let mut source = source_that_sends(params, fixed, Duration::ZERO);
    let (mut now, step, mut rounds) = (Duration::from_millis(100), Duration::from_micros(100), 1);
    let first = Event::RoundSent {
        bytes: 64 << 20,
        pages: PageCounts { raw: 16384, zero: 0, ..PageCounts::default() },
        digest: None,
    };
    source.handle(now, first);
    while now < Duration::from_secs(1) {
        let mut actions = source.handle(now, Event::DirtyFetched { pages: 0, running: true });
        while actions.is_empty() {
            now += step;
            actions = source.handle(now, Event::Tick);
        }
        rounds += actions.iter().filter(|action| matches!(action, Action::SendRound { .. })).count();
        now += step;
        source.handle(
            now,
            Event::RoundSent {
                bytes: 100,
                pages: PageCounts { raw: 0, zero: 0, ..PageCounts::default() },
                digest: None,
            },
        );
    }
    assert!((20..=60).contains(&rounds), "{rounds} rounds in a second");
    let cancelled = source.handle(now, Event::Cancel);
    assert!(cancelled.contains(&Action::End(Outcome::Cancelled)), "{cancelled:?}");
}

/// Rounds of an idle machine from `now` on until `until` or the order to stop. Returns whether that came.
fn idles(source: &mut Source, mut now: Duration, until: Duration, running: bool) -> bool {
    let step = Duration::from_micros(100);
    let first = Event::RoundSent {
        bytes: 64 << 20,
        pages: PageCounts { raw: 16384, zero: 0, ..PageCounts::default() },
        digest: None,
    };
    source.handle(now, first);
    while now < until {
        let mut actions = source.handle(now, Event::DirtyFetched { pages: 0, running });
        while actions.is_empty() && now < until {
            now += step;
            actions = source.handle(now, Event::Tick);
        }
        if actions.contains(&Action::Stop) {
            return true;
        }
        now += step;
        source.handle(
            now,
            Event::RoundSent {
                bytes: 0,
                pages: PageCounts { raw: 0, zero: 0, ..PageCounts::default() },
                digest: None,
            },
        );
    }
    false
}

/// A source that was given so little downtime, and that had to wait for the answer to *hello*.
fn greeted_after(way: Duration, limit: Duration) -> Source {
    let params = Params::default().channels(1).downtime_limit(limit);
    source_that_was_accepted(params, FixedCosts::default(), Duration::ZERO, way)
}

fn limited_to(limit: Duration) -> Source {
    let params = Params::default().channels(1).downtime_limit(limit);
    source_that_sends(params, FixedCosts::default(), Duration::ZERO)
}

#[test]
fn an_idle_machine_is_not_stopped_for_longer_than_allowed_however_long_it_takes() {
    let mut source = limited_to(Duration::from_millis(1));
    let now = Duration::from_secs(10);
    assert!(!idles(&mut source, EARLY, now, true), "{}", source.statistics().reason);
    assert!(source.statistics().reason.contains("downtime limit (1 ms)"), "{}", source.statistics().reason);
    assert!(matches!(source.statistics().advice, Some(Advice::RaiseDowntimeLimit { .. })));
    let progress = source.progress(now, 0, 0);
    assert_eq!(progress.eta, None);
    assert!(progress.note.unwrap().contains("below the fixed cost of a switchover"));
}

#[test]
fn a_limit_that_is_raised_takes_effect_at_the_end_of_the_round() {
    let mut source = limited_to(Duration::from_millis(1));
    assert!(!idles(&mut source, EARLY, SECOND, true));
    source.set_live(0, Duration::from_millis(20), 0);
    assert!(source.progress(SECOND, 0, 0).note.is_none());
    assert!(idles(&mut source, SECOND, 2 * SECOND, true), "{}", source.statistics().reason);
}

#[test]
fn a_paused_machine_is_switched_over_as_soon_as_nothing_is_left() {
    let mut source = limited_to(Duration::ZERO);
    assert!(idles(&mut source, EARLY, SECOND, false), "{}", source.statistics().reason);
}

#[test]
fn a_round_trip_that_took_long_once_is_forgotten_by_the_next() {
    let mut source = greeted_after(2 * SECOND, Duration::from_millis(10));
    for took in [1, 800, 1] {
        let pinged = source.deadline().unwrap();
        let actions = source.handle(pinged, Event::Tick);
        let [Action::Send(Message::Ping(number))] = actions[..] else { panic!("{actions:?}") };
        source.handle(pinged + Duration::from_millis(took), Event::Message(Message::Pong(number)));
    }
    assert_eq!(source.fixed_costs().round_trip, Duration::from_millis(1));
}

#[test]
fn a_way_that_seems_too_long_is_measured_again_at_once() {
    let ms = Duration::from_millis;
    let mut source = greeted_after(ms(50), ms(30));
    let pinged = |actions: Vec<Action>| {
        let number = actions.iter().find_map(|action| match action {
            Action::Send(Message::Ping(number)) => Some(*number),
            _ => None,
        });
        Event::Message(Message::Pong(number.unwrap_or_else(|| panic!("{actions:?}"))))
    };
    // The first ping goes out before the first page.
    source.handle(ms(90), Event::Message(Message::Pong(1)));
    let sent = |bytes| Event::RoundSent {
        bytes,
        pages: PageCounts { raw: bytes / 4096, zero: 0, ..PageCounts::default() },
        digest: None,
    };
    let idle = Event::DirtyFetched { pages: 0, running: true };
    source.handle(ms(100), sent(64 << 20));
    let pong = pinged(source.handle(ms(100), idle.clone()));
    source.handle(ms(101), pong);
    source.handle(ms(102), sent(0));
    assert_eq!(source.handle(ms(102), idle), [Action::Stop], "{}", source.statistics().reason);
}

#[test]
fn an_answer_that_comes_after_the_next_ping_is_measured_too() {
    let mut source = greeted_after(2 * SECOND, Duration::from_millis(300));
    let next = source.handle(3 * SECOND, Event::Tick);
    assert!(matches!(next[..], [Action::Send(Message::Ping(2))]), "{next:?}");
    let late = Duration::from_millis(1200);
    source.handle(2 * SECOND + late, Event::Message(Message::Pong(1)));
    assert_eq!(source.fixed_costs().round_trip, late);
}

#[test]
fn pings_that_wait_behind_pages_do_not_make_a_short_way_long() {
    let ms = Duration::from_millis;
    let mut source = greeted_after(ms(1), ms(300));
    source.handle(
        ms(400),
        Event::RoundSent {
            bytes: 1 << 30,
            pages: PageCounts { raw: 262_144, zero: 0, ..PageCounts::default() },
            digest: None,
        },
    );
    source.handle(ms(400), Event::Message(Message::Pong(1)));
    let decided = source.handle(ms(400), Event::DirtyFetched { pages: 0, running: true });
    assert_eq!(decided, [Action::Stop]);
    let (foretold, ways) = (source.statistics().predicted.unwrap(), 2 * ms(1));
    let hosts = FixedCosts::default().total() - 2 * FixedCosts::default().round_trip;
    assert_eq!(foretold, hosts + ways);
}

#[test]
fn the_way_is_measured_after_each_round_when_nothing_is_being_sent() {
    let ms = Duration::from_millis;
    let mut source = greeted_after(ms(50), ms(300));
    let sent = |pages| Event::RoundSent {
        bytes: pages * 4096,
        pages: PageCounts { raw: pages, zero: 0, ..PageCounts::default() },
        digest: None,
    };
    source.handle(ms(90), Event::Message(Message::Pong(1)));
    for (number, at) in [(2, 1000), (3, 1500)] {
        source.handle(ms(at), sent(100_000));
        let actions = source.handle(ms(at), Event::DirtyFetched { pages: 100_000, running: true });
        assert!(actions.starts_with(&[Action::Send(Message::Ping(number))]), "{actions:?}");
        source.handle(ms(at + 2), Event::Message(Message::Pong(number)));
        assert_eq!(source.fixed_costs().round_trip, ms(2));
    }
}

#[test]
fn a_round_that_gained_nothing_is_followed_by_a_rest_and_one_that_did_is_not() {
    let ms = Duration::from_millis;
    let sent = |pages| Event::RoundSent {
        bytes: pages * 4096,
        pages: PageCounts { raw: pages, zero: 0, ..PageCounts::default() },
        digest: None,
    };
    let dirty = |pages| Event::DirtyFetched { pages, running: true };
    for (left, rests) in [(900, false), (1200, true)] {
        // Above what a switchover costs, so that there is something to gain, but with little room for pages.
        let mut source = limited_to(ms(4));
        source.handle(ms(100), sent(16_384));
        source.handle(ms(100), dirty(1000));
        source.handle(ms(103), sent(1000));
        let actions = source.handle(ms(103), dirty(left));
        let goes_on = actions.iter().any(|action| matches!(action, Action::SendRound { .. }));
        assert_eq!(goes_on, !rests, "{left} pages left: {}", source.statistics().reason);
        let begun = if rests { source.handle(source.deadline().unwrap(), Event::Tick) } else { actions };
        assert!(begun.contains(&Action::SendRound { round: 2, last: false }), "{begun:?}");
    }
}

#[test]
fn who_lets_go_of_a_machine_does_not_know_its_downtime() {
    let mut source = source_that_awaits_ready(Params::default());
    source.handle(2 * SECOND, Event::Message(Message::Ready(Ack { nanoseconds: 1 })));
    source.handle(3 * SECOND, Event::LinkLost("cut".into()));
    source.handle(3600 * SECOND, Event::Decided(Verdict::LetGo));
    assert_eq!(source.status(), Status::Completed);
    assert_eq!(source.statistics().downtime.total, None);
}

#[test]
fn what_a_destination_says_it_took_does_not_spoil_the_next_forecast() {
    let mut source = source_that_awaits_ready(Params::default());
    let ages = Ack { nanoseconds: u64::MAX };
    source.handle(2 * SECOND, Event::Message(Message::Ready(ages)));
    source.handle(3 * SECOND, Event::Message(Message::Running(ages)));
    assert_eq!(source.status(), Status::Completed);
    let costs = source.fixed_costs();
    assert_eq!((costs.load, costs.start), (SECOND, SECOND), "as long as the source waited");
}

#[test]
fn the_machine_is_taken_back_as_soon_as_its_disk_is_free() {
    let mut source = source_that_awaits_ready(Params::default());
    assert!(resumes(&source.handle(2 * SECOND, Event::Cancel)));
    let mut now = 2 * SECOND;
    for _ in 0..20 {
        source.handle(now, Event::Resumed(Err("in use".into())));
        assert_eq!(source.status(), Status::Cancelling);
        now = source.deadline().unwrap();
        assert_eq!(source.handle(now, Event::Tick), [Action::Resume { run: true }]);
    }
    assert!(now < 5 * SECOND, "20 tries took until {now:?}");
    let end = source.handle(now, Event::Resumed(Ok(())));
    assert_eq!(end, [Action::End(Outcome::Cancelled)]);
}

#[test]
fn a_machine_that_cannot_be_taken_back_ends_the_attempt_with_the_reason() {
    let mut source = source_that_awaits_ready(Params::default());
    source.handle(2 * SECOND, Event::LinkLost("cut".into()));
    let end = source.handle(600 * SECOND, Event::Resumed(Err("the disk is in use".into())));
    let [Action::End(Outcome::Failed(reason))] = &end[..] else { panic!("{end:?}") };
    assert!(reason.contains("cut") && reason.contains("the disk is in use"), "{reason}");
}

#[test]
fn what_happens_while_the_machine_is_taken_back_changes_nothing() {
    let mut source = source_that_awaits_ready(Params::default());
    source.handle(2 * SECOND, Event::Message(Message::Abort { reason: "full".into() }));
    for event in [
        Event::Message(Message::Ready(Ack { nanoseconds: 1 })),
        Event::LinkLost("cut".into()),
        Event::Cancel,
        Event::MachineFailed("broken".into()),
    ] {
        assert_eq!(source.handle(2 * SECOND, event), []);
    }
    let end = source.handle(2 * SECOND, Event::Resumed(Ok(())));
    assert!(matches!(&end[..], [Action::End(Outcome::Failed(reason))] if reason.contains("full")), "{end:?}");
}

/// A destination whose channels are open.
fn destination_that_receives(hello: Hello) -> Destination {
    let mut destination = Destination::default();
    for event in [
        destination::Event::Message(Message::Hello(hello)),
        destination::Event::Checked(Ok(reads())),
        destination::Event::ChannelsOpen,
    ] {
        destination.handle(SECOND, event);
    }
    destination
}

fn say(destination: &mut Destination, message: Message) -> Vec<Done> {
    destination.handle(SECOND, destination::Event::Message(message))
}

fn complete(raw_pages: u64) -> Message {
    Message::Complete(Complete {
        rounds: 1,
        pages: PageCounts { raw: raw_pages, zero: 0, ..PageCounts::default() },
        devices: 1,
        run: true,
        digest: None,
        to_come: None,
    })
}

/// Why the destination threw away what it had.
fn discarded(actions: &[Done]) -> Option<&str> {
    actions.iter().find_map(|action| match action {
        Done::Discard { reason, .. } => Some(reason.as_str()),
        _ => None,
    })
}

#[test]
fn a_page_that_did_not_arrive_is_missed() {
    let mut destination = destination_that_receives(hello(1));
    say(&mut destination, Message::Device(device("thing0", 8)));
    say(&mut destination, complete(2));
    let received = destination::Event::AllReceived(PageCounts { raw: 1, zero: 0, ..PageCounts::default() });
    let actions = destination.handle(SECOND, received);
    assert!(
        discarded(&actions).is_some_and(|reason| reason.contains("2 pages and 0 zero pages were sent")),
        "{actions:?}"
    );
}

#[test]
fn a_state_that_did_not_arrive_is_named() {
    let mut destination = destination_that_receives(hello(2));
    say(&mut destination, Message::Device(device("thing0", 8)));
    say(&mut destination, complete(1));
    let received = destination::Event::AllReceived(PageCounts { raw: 1, zero: 0, ..PageCounts::default() });
    let actions = destination.handle(SECOND, received);
    assert!(discarded(&actions).is_some_and(|reason| reason.contains("thing1")), "{actions:?}");
}

#[test]
fn states_are_not_kept_without_bound() {
    let mut destination = destination_that_receives(hello(1000));
    let kept = (0..1000)
        .take_while(|index| {
            let state = device(&format!("thing{index}"), 1 << 20);
            discarded(&say(&mut destination, Message::Device(state))).is_none()
        })
        .count();
    assert!(kept <= 256, "{kept} MiB were kept");
}

fn destination_that_starts() -> Destination {
    let mut destination = destination_that_receives(hello(1));
    say(&mut destination, Message::Device(device("thing0", 8)));
    say(&mut destination, complete(1));
    destination.handle(
        SECOND,
        destination::Event::AllReceived(PageCounts { raw: 1, zero: 0, ..PageCounts::default() }),
    );
    destination.handle(SECOND, destination::Event::Loaded);
    let actions = say(&mut destination, Message::Go);
    assert_eq!(actions, [Done::Run { run: true }]);
    destination
}

#[test]
fn while_the_machine_is_being_started_a_question_has_no_certain_answer() {
    let mut destination = destination_that_starts();
    assert_eq!(destination.asked(SECOND, SessionId([7; 16])), (Message::UnknownSession, Vec::new()));
    destination.handle(SECOND, destination::Event::Started);
    assert!(matches!(destination.asked(SECOND, SessionId([7; 16])), (Message::Running(_), _)));
}

#[test]
fn go_said_twice_runs_the_machine_once() {
    let mut destination = destination_that_starts();
    assert_eq!(say(&mut destination, Message::Go), []);
    destination.handle(SECOND, destination::Event::Started);
    assert_eq!(say(&mut destination, Message::Go), []);
    assert_eq!(say(&mut destination, Message::Abort { reason: "too late".into() }), []);
}

#[test]
fn a_session_that_is_over_cannot_come_back() {
    let mut destination = destination_that_receives(hello(1));
    destination.handle(SECOND, destination::Event::LinkLost("cut".into()));
    let actions = say(&mut destination, Message::Hello(hello(1)));
    assert!(matches!(actions[..], [Done::Send(Message::Refuse(_)), ..]), "{actions:?}");
    let again = Hello { session: SessionId([8; 16]), ..hello(1) };
    let actions = say(&mut destination, Message::Hello(again));
    assert!(matches!(actions[..], [Done::Check(_)]), "{actions:?}");
}

#[test]
fn only_what_was_accepted_can_have_touched_the_machine() {
    let touched = |actions: &[Done]| {
        actions.iter().find_map(|action| match action {
            Done::Discard { touched, .. } => Some(*touched),
            _ => None,
        })
    };
    let mut destination = Destination::default();
    say(&mut destination, Message::Hello(hello(1)));
    let refused =
        destination.handle(SECOND, destination::Event::Checked(Err(vec!["another machine".into()])));
    assert_eq!(touched(&refused), Some(false));
    let again = Hello { session: SessionId([8; 16]), ..hello(1) };
    let mut destination = destination_that_receives(again);
    let cut = destination.handle(SECOND, destination::Event::LinkLost("cut".into()));
    assert_eq!(touched(&cut), Some(true));
}

#[test]
fn a_source_that_makes_a_digest_may_be_silent_longer() {
    let gives_up_at = |digest| destination_that_receives(Hello { digest, ..hello(1) }).deadline().unwrap();
    let terabyte_at_200_mib_a_second = Time::from_secs(5000);
    let (full, transfer) = (gives_up_at(wire::Digest::Full), gives_up_at(wire::Digest::Transfer));
    assert_eq!(transfer, gives_up_at(wire::Digest::Off));
    assert!(full > transfer + terabyte_at_200_mib_a_second);
}
