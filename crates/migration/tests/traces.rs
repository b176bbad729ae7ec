//! What is decided for machines that write as they were seen to: each trace by each way to its end, with what came of it as a file.
//!
//! A decision that changes shows here, and why it is better is for whoever changes it to say:
//! `NEW_OUTCOMES=1 cargo test -p whimbrel-migration --test traces` writes what comes of them now.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{fmt::Write, fs, path::PathBuf, time::Duration};

use state::DeviceState;
use whimbrel_migration::{
    ByWhen, FixedCosts, Means, Params, Postcopy, Source, Steps, Throttling,
    source::{Action, Event, State},
};
use wire::{
    Accept, Agreed, BlockInfo, DeviceInfo, Features, Greeted, Hello, Message, PageCounts, SessionId,
    StateVersions,
};

/// Pages of the machine.
const PAGES: usize = 65_536;
/// Pages that the wire takes in a second.
const WIRE: f64 = 12_000.0;
/// Bytes that a page takes on it.
const PAGE_BYTES: u64 = 4116;
const STEP: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(500);
/// Longer than any of them is to take.
const LONGEST: Duration = Duration::from_secs(60);
const TRACES: [&str; 4] = ["steady", "bursty", "phases", "speeds-up"];

/// What a machine does until some time.
struct Stretch {
    until: f64,
    working_set: usize,
    /// Pages a second that it wants to write; what it could not write waits.
    wants: f64,
    /// Pages a second that it can write where nothing is taken from it.
    can: f64,
}

/// A machine that writes as a trace says, to pages that it draws.
struct Guest {
    trace: Vec<Stretch>,
    waiting: f64,
    state: u64,
    dirty: Vec<bool>,
}

impl Guest {
    fn of(name: &str) -> Self {
        let text = fs::read_to_string(file(&format!("{name}.trace"))).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let trace = lines.map(|line| {
            let numbers: Vec<f64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
            Stretch {
                until: numbers[0],
                working_set: numbers[1] as usize,
                wants: numbers[2],
                can: numbers[3],
            }
        });
        Self { trace: trace.collect(), waiting: 0.0, state: 1, dirty: vec![true; PAGES] }
    }

    /// Runs for a step from `now` on, for the share `run` of the time.
    fn run(&mut self, now: Duration, run: f64) {
        let now = now.as_secs_f64();
        let stretch = self.trace.iter().find(|stretch| now < stretch.until).unwrap();
        let working_set = stretch.working_set;
        self.waiting += stretch.wants * STEP.as_secs_f64();
        let writes = self.waiting.min(stretch.can * run * STEP.as_secs_f64()).floor();
        self.waiting -= writes;
        for _ in 0..writes as u64 {
            self.state =
                self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.dirty[(self.state >> 33) as usize % working_set] = true;
        }
    }

    fn dirty(&self) -> Vec<usize> {
        (0..PAGES).filter(|page| self.dirty[*page]).collect()
    }
}

/// A migration up to the moment in which the machine is stopped for its end.
struct Migration {
    source: Source,
    guest: Guest,
    now: Duration,
    /// Pages of the round under way, and how many are sent.
    round: Option<(Vec<usize>, f64)>,
    /// What the log had last.
    fetched: Vec<usize>,
    run: f64,
    /// Seconds that were taken from the machine.
    taken: f64,
    is_stopped: bool,
}

impl Migration {
    fn begin(params: Params, guest: Guest) -> Self {
        let hello = Hello {
            session: SessionId([7; 16]),
            channels: 1,
            page_bytes: 4096,
            digest: wire::Digest::Off,
            blocks: vec![BlockInfo { name: "ram".into(), guest_address: 0, bytes: (PAGES * 4096) as u64 }],
            devices: vec![DeviceInfo::new("thing", "thing", 1..=1)],
            machine: DeviceState { id: "machine".into(), kind: "thing".into(), version: 1, body: vec![] },
            postcopy: params.postcopy.is_possible(),
        };
        let (source, _) = Source::start(params, hello, FixedCosts::guess(1));
        let fetched = guest.dirty();
        let mut this = Self {
            source,
            guest,
            now: Duration::ZERO,
            round: None,
            fetched,
            run: 1.0,
            taken: 0.0,
            is_stopped: false,
        };
        let greeted =
            Greeted { agreed: Agreed { version: 1, features: Features::OURS }, release: "test".into() };
        let reads = vec![StateVersions { kind: "thing".into(), oldest: 1, newest: 1 }];
        let accept = Message::Accept(Accept { channels: 1, reads });
        for event in [
            Event::Connected(greeted),
            Event::Message(accept),
            Event::Prepared,
            Event::Message(Message::ChannelsOpen),
        ] {
            this.take(event);
        }
        this
    }

    fn take(&mut self, event: Event) {
        for action in self.source.handle(self.now, event) {
            match action {
                Action::SendRound { .. } => self.round = Some((std::mem::take(&mut self.fetched), 0.0)),
                Action::FetchDirty => {
                    self.fetched = self.guest.dirty();
                    let pages = self.fetched.len() as u64;
                    self.take(Event::DirtyFetched { pages, running: true });
                }
                Action::Send(Message::Ping(number)) => self.take(Event::Message(Message::Pong(number))),
                Action::Throttle { share } => self.run = 1.0 - share,
                Action::Stop => self.is_stopped = true,
                Action::CutRound => {
                    if let Some((pages, sent)) = &mut self.round {
                        pages.truncate(sent.ceil() as usize);
                    }
                }
                _ => {}
            }
        }
    }

    fn step(&mut self) {
        self.guest.run(self.now, self.run);
        self.now += STEP;
        self.taken += (1.0 - self.run) * STEP.as_secs_f64();
        if let Some((pages, sent)) = &mut self.round {
            let from = *sent as usize;
            *sent = (*sent + WIRE * STEP.as_secs_f64()).min(pages.len() as f64);
            for page in &pages[from..*sent as usize] {
                self.guest.dirty[*page] = false;
            }
            if *sent as usize == pages.len() {
                let count = pages.len() as u64;
                self.round = None;
                let pages = PageCounts { raw: count, ..PageCounts::default() };
                self.take(Event::RoundSent { bytes: count * PAGE_BYTES, pages, digest: None });
            }
        }
        let looks = self.now.as_millis().is_multiple_of(LOOK.as_millis());
        if let (true, Some((pages, sent)), State::Sending(_)) = (looks, &self.round, self.source.state()) {
            let clean = pages.iter().filter(|page| !self.guest.dirty[**page]).count();
            let done = *sent as u64;
            let event = Event::Look {
                sent_bytes: done * PAGE_BYTES,
                done_pages: done,
                clean_pages: clean as u64,
                dirty_pages: self.guest.dirty().len() as u64,
            };
            self.take(event);
        }
        self.take(Event::Tick);
    }

    /// What came of it, in words.
    fn outcome(mut self) -> String {
        while !self.is_stopped && self.now < LONGEST {
            self.step();
        }
        let mut text = String::new();
        let statistics = self.source.statistics();
        for (at, decision) in &statistics.decisions {
            writeln!(text, "  {:5.1} s  {decision}", at.as_secs_f64()).unwrap();
        }
        let end = match () {
            () if !self.is_stopped => "does not end".to_owned(),
            () if self.source.wants_postcopy() => {
                format!("postcopy, {} pages follow", self.guest.dirty().len())
            }
            () => format!("stopped for {} pages", self.guest.dirty().len()),
        };
        let advice = if statistics.advice.is_some() { ", with advice" } else { "" };
        let rounds = statistics.rounds.len();
        let taken = self.taken;
        writeln!(
            text,
            "  {:5.1} s  {end}, after {rounds} rounds and {taken:.1} s taken{advice}",
            self.now.as_secs_f64()
        )
        .unwrap();
        text
    }
}

/// The ways to an end that users choose between.
fn ways() -> [(&'static str, Params); 6] {
    let by = |means: &[Means]| {
        Some(ByWhen {
            deadline: Duration::from_secs(30),
            means: means.to_vec(),
            longest_downtime: Duration::from_secs(1),
        })
    };
    let (plain, computed) = (Params::default().channels(1), Throttling::Computed { max: 0.99 });
    [
        ("rounds alone", plain.clone()),
        ("auto-converge, computed", plain.clone().throttling(computed)),
        ("auto-converge, steps", plain.clone().throttling(Throttling::Steps(Steps::default()))),
        ("postcopy by itself", plain.clone().postcopy(Postcopy::Auto)),
        ("30 s, throttle", plain.clone().throttling(computed).by_when(by(&[Means::Throttle]))),
        (
            "30 s, downtime, throttle, postcopy",
            plain.throttling(computed).postcopy(Postcopy::OnRequest).by_when(by(&[
                Means::Downtime,
                Means::Throttle,
                Means::Postcopy,
            ])),
        ),
    ]
}

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "traces", name].iter().collect()
}

#[test]
fn what_comes_of_each_trace_by_each_way_is_what_came_of_it() {
    for name in TRACES {
        let mut found = String::new();
        for (way, params) in ways() {
            let outcome = Migration::begin(params, Guest::of(name)).outcome();
            write!(found, "{way}\n{outcome}\n").unwrap();
        }
        let path = file(&format!("{name}.outcome"));
        if std::env::var_os("NEW_OUTCOMES").is_some() {
            fs::write(&path, &found).unwrap();
        }
        let known = fs::read_to_string(&path).unwrap_or_default();
        assert!(known == found, "{} says\n{known}\nand it is now\n{found}", path.display());
    }
}

#[test]
fn a_deadline_is_met_on_every_trace_and_a_machine_that_ends_by_itself_loses_nothing() {
    for name in TRACES {
        let alone = Migration::begin(ways()[0].1.clone(), Guest::of(name));
        let (mut alone, mut by_deadline) = (alone, Migration::begin(ways()[5].1.clone(), Guest::of(name)));
        for migration in [&mut alone, &mut by_deadline] {
            while !migration.is_stopped && migration.now < LONGEST {
                migration.step();
            }
        }
        assert!(
            by_deadline.is_stopped && by_deadline.now <= Duration::from_secs(30),
            "{name}: {:?}",
            by_deadline.now
        );
        if alone.is_stopped && alone.now < Duration::from_secs(15) {
            assert!(by_deadline.taken < 0.5, "{name}: {} s were taken", by_deadline.taken);
        }
    }
}

/// A longer downtime was agreed to when the machine was stopped: it is not cut short by what is set after that.
#[test]
fn what_is_set_while_the_machine_is_stopped_does_not_make_its_downtime_in_vain() {
    let by_when = ByWhen {
        deadline: Duration::from_secs(30),
        means: vec![Means::Downtime],
        longest_downtime: Duration::from_secs(60),
    };
    let params = Params::default().channels(1).by_when(Some(by_when));
    let (allowed, patience) = (params.downtime_limit, params.switchover_timeout);
    let mut migration = Migration::begin(params, Guest::of("steady"));
    while !migration.is_stopped {
        migration.step();
    }
    let Migration { mut source, now, .. } = migration;
    source.handle(now, Event::Stopped { was_running: true });
    let limit = source.limit();
    assert!(limit > 2 * allowed, "{limit:?}");
    source.set_ending(Throttling::Off, None);
    assert_eq!(source.limit(), limit, "what is reported is what was decided by");
    source.set_live(0, Duration::ZERO, 0);
    let gives_up = |source: &mut Source, after: Duration| {
        source.handle(now + after, Event::Tick).contains(&Action::Resume { run: true })
    };
    assert!(!gives_up(&mut source, patience + limit - Duration::from_millis(1)));
    assert!(gives_up(&mut source, patience + limit));
}
