//! Each side alone against a peer that says anything at any time, and a machine that reports out of turn.

use std::time::Duration;

use state::DeviceState;
use whimbrel_migration::{
    ByWhen, Destination, DirtyLimit, FixedCosts, Means, Outcome, Params, Postcopy, Source, Steps, Throttling,
    Time,
    destination::{self, Action as Done},
    source::{self, Action, State},
};
use wire::{
    Accept, Ack, Agreed, BlockInfo, Complete, DeviceInfo, Features, Forward, Greeted, Hello, Message,
    PageBits, PageCounts, Probe, Probed, Refuse, SessionId, StateVersions,
};

/// Random numbers that are the same for the same seed (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 7
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn device(id: &str) -> DeviceState {
    DeviceState { id: id.into(), kind: "thing".into(), version: 1, body: vec![0; 8] }
}

fn hello(session: u8) -> Hello {
    let info = |id: &str| DeviceInfo::new(id, "thing", 1..=1);
    Hello {
        session: SessionId([session; 16]),
        channels: 2,
        page_bytes: 4096,
        digest: wire::Digest::Off,
        blocks: vec![BlockInfo { name: "ram".into(), guest_address: 0, bytes: 1 << 20 }],
        devices: vec![info("thing0"), info("thing1")],
        machine: device("machine"),
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

fn complete() -> Complete {
    Complete {
        rounds: 2,
        pages: PageCounts { raw: 5, zero: 6, ..PageCounts::default() },
        devices: 2,
        run: true,
        digest: None,
        to_come: None,
    }
}

fn message(rng: &mut Rng) -> Message {
    let session = 1 + rng.below(2) as u8;
    match rng.below(26) {
        0 => Message::Hello(Hello { channels: rng.below(70) as u16, ..hello(session) }),
        1 => Message::Accept(Accept { channels: rng.below(70) as u16, reads: reads() }),
        2 => Message::Refuse(Refuse { reasons: Vec::new() }),
        3 => Message::ChannelsOpen,
        4 => Message::Ping(rng.next()),
        5 => Message::Pong(rng.below(4)),
        6 => Message::Switchover,
        7 => Message::Device(device("thing0")),
        8 => Message::Device(device("thing1")),
        9 => Message::Device(device("stranger")),
        10 => Message::Complete(Complete {
            pages: PageCounts { raw: rng.below(7), zero: 6, ..PageCounts::default() },
            ..complete()
        }),
        11 => Message::Ready(Ack { nanoseconds: u64::MAX }),
        12 => Message::Go,
        13 => Message::Running(Ack { nanoseconds: u64::MAX }),
        14 => Message::NotRunning { reason: "no".into() },
        15 => Message::UnknownSession,
        16 => Message::Ask { session: SessionId([session; 16]) },
        17 => Message::Bye,
        18 => Message::Missing(PageBits { block: rng.below(2) as u16, first_page: 0, bits: vec![3] }),
        19 => Message::Whole,
        20 => Message::Recover,
        21 => Message::Recovering { pages: rng.below(3) },
        22 => Message::Forward(Forward::new("net0", [vec![0; rng.below(100) as usize]])),
        23 => Message::Probe(Probe::FULL),
        24 => Message::Probed(Probed::default()),
        _ => Message::Abort { reason: "no".into() },
    }
}

fn source(params: Params) -> (Source, Vec<Action>) {
    Source::start(params, hello(1), FixedCosts::default())
}

/// What a machine and a destination that do as they should answer to an action.
fn good_answers(action: &Action) -> Vec<source::Event> {
    use source::Event::*;
    let sent = || RoundSent {
        bytes: 1 << 16,
        pages: PageCounts { raw: 16, zero: 3, ..PageCounts::default() },
        digest: None,
    };
    let answer = match action {
        Action::Divide { .. } => return vec![Divided { to_come: 2 }, sent()],
        Action::Send(wire::Message::Recover) => {
            return vec![Message(missing()), Message(wire::Message::Recovering { pages: 2 })];
        }
        Action::Reopen { .. } => return vec![Prepared, Message(wire::Message::ChannelsOpen)],
        Action::Connect(_) => Connected(greeted()),
        Action::Send(wire::Message::Hello(hello)) => {
            Message(wire::Message::Accept(Accept { channels: hello.channels, reads: reads() }))
        }
        Action::Push => Message(wire::Message::Whole),
        Action::Send(wire::Message::Ping(number)) => Message(wire::Message::Pong(*number)),
        Action::Send(wire::Message::Complete(_)) => {
            Message(wire::Message::Ready(Ack { nanoseconds: 1_000_000 }))
        }
        Action::Send(wire::Message::Go) => Message(wire::Message::Running(Ack { nanoseconds: 1_000_000 })),
        Action::Send(wire::Message::Ask { .. }) => {
            Message(wire::Message::NotRunning { reason: "lost".into() })
        }
        Action::Prepare { .. } => Prepared,
        Action::SendRound { .. } => sent(),
        Action::FetchDirty => DirtyFetched { pages: 3, running: true },
        Action::Stop => Stopped { was_running: true },
        Action::SaveDevices => Saved { devices: 2 },
        Action::Resume { .. } => Resumed(Ok(())),
        Action::Send(_)
        | Action::CutRound
        | Action::Throttle { .. }
        | Action::Limit(_)
        | Action::Needed(_)
        | Action::Forward
        | Action::Disconnect
        | Action::End(_) => {
            return Vec::new();
        }
    };
    vec![answer]
}

fn missing() -> Message {
    Message::Missing(PageBits { block: 0, first_page: 0, bits: vec![3] })
}

fn any_source_event(rng: &mut Rng) -> source::Event {
    use source::Event::*;
    match rng.below(28) {
        0 => Connected(greeted()),
        1 => Prepared,
        2 => RoundSent {
            bytes: rng.next(),
            pages: PageCounts { raw: rng.next(), zero: rng.next(), ..PageCounts::default() },
            digest: None,
        },
        3 => DirtyFetched { pages: rng.below(1 << 30), running: rng.below(2) == 0 },
        4 => Stopped { was_running: rng.below(2) == 0 },
        5 => Saved { devices: rng.below(3) as u32 },
        6 => LinkLost("lost".into()),
        7 => MachineFailed("failed".into()),
        8 => Cancel,
        9 => Continue,
        10 => Tick,
        11 => Resumed(Err("in use".into())),
        12 => Resumed(Ok(())),
        13 => Divided { to_come: rng.below(3) },
        14 => StartPostcopy,
        15 => Pause,
        16 => Recover,
        _ => Message(message(rng)),
    }
}

/// What the source did over the whole of its life.
#[derive(Default)]
struct SourceLife {
    gone: bool,
    not_running: bool,
    ended: bool,
    /// Pages follow the machine.
    lacks: bool,
    /// The destination said that it has every page.
    whole: bool,
    /// Time is taken from vCPUs.
    slowed: bool,
    /// They may dirty no more than somebody says.
    limited: bool,
}

impl SourceLife {
    fn watch(&mut self, source: &Source, actions: &[Action]) {
        for action in actions {
            assert!(!self.ended, "{action:?} after the end");
            match action {
                Action::Send(Message::Go) => {
                    assert!(!self.gone, "go was said twice");
                    self.gone = true;
                }
                Action::Resume { .. } => {
                    assert!(!self.gone || self.not_running, "resumed after go");
                }
                Action::Throttle { share } => {
                    assert!((0.0..=0.99).contains(share), "{share}");
                    self.slowed = *share > 0.0;
                }
                Action::Limit(limit) => self.limited = limit.is_some(),
                Action::Stop => assert!(!self.slowed && !self.limited, "slowed down while it is stopped"),
                Action::Send(Message::Complete(complete)) => self.lacks = complete.to_come.is_some(),
                Action::End(Outcome::Completed) => {
                    assert!(self.gone && !source.side().may_run());
                    assert!(!self.lacks || self.whole, "pages were given up that the destination lacks");
                }
                Action::End(_) => assert!(source.side().may_run(), "an end without the machine"),
                _ => {}
            }
            self.ended |= matches!(action, Action::End(_));
            assert!(!self.ended || !self.slowed && !self.limited, "slowed down after the end");
        }
        assert!(self.not_running || !self.gone || !source.side().may_run(), "may run after go");
    }
}

/// What a look finds, which may be anything.
fn look(rng: &mut Rng) -> source::Event {
    let mut any = || {
        let limit = [1, 20, 1 << 20, u64::MAX][rng.below(4) as usize];
        rng.below(limit)
    };
    source::Event::Look { sent_bytes: any(), done_pages: any(), clean_pages: any(), dirty_pages: any() }
}

fn deadline(rng: &mut Rng) -> Option<ByWhen> {
    let means = [&[][..], &[Means::Throttle], &[Means::Downtime, Means::Throttle, Means::Postcopy]];
    let deadline = [None, Some(0), Some(2), Some(31_536_000)][rng.below(4) as usize];
    deadline.map(|seconds| ByWhen {
        deadline: Duration::from_secs(seconds),
        means: means[rng.below(3) as usize].to_vec(),
        longest_downtime: Duration::from_millis(rng.below(3000)),
    })
}

fn throttling(rng: &mut Rng) -> Throttling {
    let limit = DirtyLimit { bytes_per_second: rng.below(1 << 30), period: Duration::ZERO, trigger: 1 };
    [
        Throttling::Off,
        Throttling::Computed { max: 0.99 },
        Throttling::Steps(Steps::default()),
        Throttling::Limit(limit),
    ][rng.below(4) as usize]
}

#[test]
fn a_source_runs_the_machine_after_go_only_if_the_destination_says_that_it_does_not() {
    let (mut gone, mut taken_back, mut followed) = (0, 0, 0);
    for seed in 0..6_000 {
        let mut rng = Rng(seed);
        let postcopy = [Postcopy::Off, Postcopy::OnRequest, Postcopy::Immediate][rng.below(3) as usize];
        let params = Params::default().pause_before_switchover(rng.below(4) == 0).postcopy(postcopy);
        let (mut source, actions) =
            source(params.by_when(deadline(&mut rng)).throttling(throttling(&mut rng)));
        let mut answers: Vec<_> = actions.iter().flat_map(good_answers).collect();
        let (mut life, mut now) = (SourceLife::default(), Time::ZERO);
        for _ in 0..80 {
            now += Duration::from_millis(rng.below(30) * rng.below(30));
            // Mostly a migration that goes well, so that the late states are seen as often as the early ones.
            let event = match rng.below(60) {
                0 => any_source_event(&mut rng),
                1..15 if life.gone => source::Event::LinkLost("lost".into()),
                15..20 => source::Event::Tick,
                20..25 if answers.is_empty() => source::Event::Continue,
                25..27 => source::Event::StartPostcopy,
                27..32 => look(&mut rng),
                _ if answers.is_empty() => continue,
                _ => answers.remove(0),
            };
            let hears_not_running = match &event {
                source::Event::Message(Message::NotRunning { .. }) => true,
                // It gave up while *go* was on its way.
                source::Event::Message(Message::Abort { .. }) => {
                    matches!(source.state(), State::AwaitRunning(_))
                }
                _ => false,
            };
            life.not_running |= life.gone && hears_not_running;
            life.whole |=
                matches!(event, source::Event::Message(Message::Whole | Message::Recovering { pages: 0 }));
            let open = source::Event::Message(Message::ChannelsOpen);
            let prepared = event == source::Event::Prepared;
            let actions = source.handle(now, event);
            life.watch(&source, &actions);
            answers.extend(actions.iter().flat_map(good_answers));
            answers.extend(prepared.then_some(open));
            assert!(life.ended == (source.status() == source_end(&source)), "status and end differ");
        }
        gone += u32::from(life.gone);
        taken_back += u32::from(life.not_running);
        followed += u32::from(life.lacks && life.ended);
    }
    assert!(
        gone > 500 && taken_back > 20 && followed > 100,
        "only {gone} came to go, {taken_back} were told that it does not run, {followed} were followed by pages"
    );
}

/// The status that an attempt has when it is over; any other while it is not.
fn source_end(source: &Source) -> whimbrel_migration::Status {
    use whimbrel_migration::Status::*;
    match source.status() {
        ended @ (Cancelled | Failed | Completed) => ended,
        _ => None,
    }
}

#[test]
fn no_source_is_woken_again_and_again_for_nothing() {
    for seed in 0..3_000 {
        let mut rng = Rng(seed);
        let postcopy = if seed % 2 == 0 { Postcopy::Off } else { Postcopy::Immediate };
        let (mut source, _) = source(Params::default().postcopy(postcopy));
        let mut now = Time::ZERO;
        for _ in 0..60 {
            now += Duration::from_millis(rng.below(500));
            source.handle(now, any_source_event(&mut rng));
            let Some(deadline) = source.deadline() else { continue };
            now = now.max(deadline);
            source.handle(now, source::Event::Tick);
            assert!(source.deadline().is_none_or(|next| next > now), "a deadline that does not pass");
        }
    }
}

/// What the destination did for one session.
#[derive(Default)]
struct DestinationLife {
    loaded: bool,
    running: bool,
    started: bool,
    ready: bool,
    given_up: Vec<SessionId>,
}

impl DestinationLife {
    fn watch(&mut self, session: SessionId, heard_go: bool, actions: &[Done]) {
        for action in actions {
            match action {
                Done::Run { .. } => {
                    assert!(
                        heard_go && self.ready && self.loaded,
                        "it runs without go, or before it is ready"
                    );
                    assert!(!self.running, "it runs twice");
                    assert!(!self.given_up.contains(&session), "it runs what it gave up");
                    self.running = true;
                }
                Done::Deliver(_) => {
                    assert!(self.running, "what came for a machine that is not here is given to it");
                }
                Done::Send(Message::Ready(_)) => self.ready = true,
                Done::Discard { .. } => {
                    assert!(!self.running, "a machine that runs was thrown away");
                    self.given_up.push(session);
                    (self.loaded, self.ready) = (false, false);
                }
                _ => {}
            }
        }
    }
}

fn good_deed(action: &Done, to_come: Option<u64>) -> Vec<destination::Event> {
    use destination::Event::*;
    match action {
        Done::Check(_) => vec![Checked(Ok(reads()))],
        Done::OpenChannels { .. } => vec![
            ChannelsOpen,
            Message(wire::Message::Device(device("thing0"))),
            AllReceived(PageCounts { raw: 5, zero: 6, ..PageCounts::default() }),
            Message(wire::Message::Device(device("thing1"))),
            Message(wire::Message::Complete(Complete { to_come, ..complete() })),
        ],
        Done::Load { .. } => vec![Loaded],
        Done::Send(wire::Message::Ready(_)) => vec![Message(wire::Message::Go)],
        Done::Run { .. } => vec![Started, Message(wire::Message::Recover)],
        Done::List => vec![Listed { missing: 2 }, ChannelsOpen, Whole],
        Done::Send(_) | Done::Note(_) | Done::Deliver(_) | Done::Part | Done::Discard { .. } | Done::End => {
            Vec::new()
        }
    }
}

fn any_destination_event(rng: &mut Rng) -> destination::Event {
    use destination::Event::*;
    match rng.below(20) {
        0 => Checked(Ok(reads())),
        1 => Checked(Err(vec!["another machine".into()])),
        2 => ChannelsOpen,
        3 => AllReceived(PageCounts { raw: rng.below(7), zero: 6, ..PageCounts::default() }),
        4 => MachineFailed("failed".into()),
        5 => LinkLost("lost".into()),
        6 => Cancel,
        7 => Tick,
        8 => Whole,
        9 => Listed { missing: rng.below(2) },
        _ => Message(message(rng)),
    }
}

#[test]
fn a_destination_runs_the_machine_once_and_only_after_go() {
    let (mut ran, mut answered) = (0, 0);
    for seed in 0..6_000 {
        let mut rng = Rng(seed);
        let to_come = (seed % 2 == 0).then_some(2);
        let mut destination = Destination::default();
        let (mut life, mut now, mut todo) = (DestinationLife::default(), Time::ZERO, Vec::new());
        for session in 1..4 {
            todo.push(destination::Event::Message(Message::Hello(hello(session))));
            for _ in 0..25 {
                now += Duration::from_millis(rng.below(30) * rng.below(30));
                let event = match rng.below(20) {
                    0 => any_destination_event(&mut rng),
                    _ if todo.is_empty() => break,
                    _ => todo.remove(0),
                };
                if rng.below(20) == 0 {
                    answered += u32::from(ask(&mut destination, &mut life, now));
                }
                match &event {
                    destination::Event::Started if life.running => life.started = true,
                    destination::Event::MachineFailed(_) if !life.started => life.running = false,
                    _ => {}
                }
                life.loaded |= event == destination::Event::Loaded;
                let heard_go = event == destination::Event::Message(Message::Go);
                let session = destination.session();
                let actions = destination.handle(now, event);
                life.watch(session, heard_go, &actions);
                if actions.iter().any(|action| matches!(action, Done::Discard { .. })) {
                    todo.clear();
                }
                todo.extend(actions.iter().flat_map(|action| good_deed(action, to_come)));
            }
            todo.clear();
        }
        ran += u32::from(life.running);
    }
    assert!(ran > 500 && answered > 50, "only {ran} ran, {answered} were asked about a session");
}

/// Asks about the session at hand; the answer must be true, and stay true.
fn ask(destination: &mut Destination, life: &mut DestinationLife, now: Time) -> bool {
    let session = destination.session();
    let (answer, actions) = destination.asked(now, session);
    match answer {
        Message::Running(_) => assert!(life.running, "said to run what does not"),
        Message::NotRunning { .. } => {
            assert!(!life.running, "said not to run what does");
            life.given_up.push(session);
        }
        Message::UnknownSession => {}
        other => panic!("{other:?} is no answer"),
    }
    life.watch(session, false, &actions);
    !matches!(answer, Message::UnknownSession)
}
