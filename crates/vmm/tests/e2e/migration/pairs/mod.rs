//! Whatever a migration can be goes together with whatever else it can be: every pair of settings moves a machine, which is compared
//! and compares itself.

mod covering;

use authority::{Authority, Request};
use monitor::types::{MigrationStatus, RunState};
use serde_json::{Value, json};

use self::covering::covering;
use crate::harness::{HugePages, Lab, PAUSE_BEFORE_SWITCHOVER, Spec, Story, Vmm, until};

/// What a migration can be, and in which ways. The values of each go from what is the default.
const PROPERTIES: [(&str, &[&str]); 16] = [
    ("protection", &["clear", "tls"]),
    ("channels", &["4", "1", "16"]),
    ("packing", &["none", "lz4", "zstd", "auto"]),
    ("xbzrle", &["off", "on"]),
    ("zero-copy", &["off", "on"]),
    ("throttle", &["off", "computed", "steps", "limit"]),
    ("deadline", &["none", "60"]),
    ("postcopy", &["off", "request", "auto", "immediate"]),
    ("digest", &["off", "transfer", "full"]),
    ("bandwidth", &["unlimited", "limited"]),
    ("memory", &["anonymous", "memfd", "hugetlb"]),
    ("machine", &["running", "paused"]),
    ("pause-before-switchover", &["off", "on"]),
    ("way", &["tcp", "unix"]),
    ("vcpus", &["1", "2"]),
    ("dirty-log", &["bitmap", "ring"]),
];

/// Bytes per second of a limit: slow enough for some rounds.
const LIMIT: u64 = 40_000_000;
/// So slow that a machine is in its first round when it is told to run at the destination.
const CRAWL: u64 = 2_000_000;

/// One of the ways.
struct Case(Vec<&'static str>);

impl Case {
    fn is(&self, property: &str, value: &str) -> bool {
        let index = PROPERTIES.iter().position(|(name, _)| *name == property).expect("a property");
        assert!(PROPERTIES[index].1.contains(&value), "{property} is never {value}");
        self.0[index] == value
    }

    fn of(&self, property: &str) -> &'static str {
        let index = PROPERTIES.iter().position(|(name, _)| *name == property).expect("a property");
        self.0[index]
    }

    /// A machine that is busier than a limited wire, so that what ends a migration is needed.
    fn spec(&self) -> Spec {
        let guest = "work=12M rate=100M order=random touch=word fill=text";
        let spec = Spec::new(guest).memory_mib(64).cpus(self.of("vcpus").parse().unwrap());
        spec.flag("--memory-backing", self.of("memory")).flag("--dirty-log", self.of("dirty-log"))
    }

    fn parameters(&self) -> Value {
        let limited = if self.is("bandwidth", "limited") { LIMIT } else { 0 };
        let crawls = self.is("postcopy", "request");
        let auto = self.is("packing", "auto");
        let mut parameters = json!({
            "multifd-channels": self.of("channels").parse::<u8>().unwrap(),
            "multifd-compression": if auto { "none" } else { self.of("packing") },
            "whimbrel-compression": if auto { "auto" } else { "off" },
            "whimbrel-digest": self.of("digest"),
            "max-bandwidth": if crawls { CRAWL } else { limited },
            "max-postcopy-bandwidth": limited,
            "whimbrel-deadline": self.of("deadline").parse::<u64>().unwrap_or(0),
        });
        let more = parameters.as_object_mut().unwrap();
        if self.throttles() {
            more.insert("whimbrel-throttle".into(), self.of("throttle").into());
        }
        if !self.is("postcopy", "off") {
            more.insert("whimbrel-postcopy".into(), self.of("postcopy").into());
        }
        if self.is("protection", "tls") && self.is("way", "unix") {
            // A path has no name that a certificate could be for.
            more.insert("tls-hostname".into(), "host-b".into());
        }
        parameters
    }

    fn throttles(&self) -> bool {
        self.is("throttle", "computed") || self.is("throttle", "steps")
    }

    fn capabilities(&self) -> impl Iterator<Item = &'static str> {
        [
            ("xbzrle", self.is("xbzrle", "on")),
            ("zero-copy-send", self.is("zero-copy", "on")),
            ("auto-converge", self.throttles()),
            ("dirty-limit", self.is("throttle", "limit")),
            ("postcopy-ram", !self.is("postcopy", "off")),
            (PAUSE_BEFORE_SWITCHOVER, self.is("pause-before-switchover", "on")),
        ]
        .into_iter()
        .filter_map(|(name, is_on)| is_on.then_some(name))
    }
}

/// Certificates of both sides, as flags; none where it goes in clear.
fn certificates(lab: &Lab, case: &Case) -> (Vec<String>, Vec<String>) {
    if case.is("protection", "clear") {
        return Default::default();
    }
    let authority = Authority::init(&lab.path("ca"), "Example CA").unwrap();
    let (source, destination) = (lab.path("tls-source"), lab.path("tls-destination"));
    authority.issue(&source, &Request::new(["host-a"])).unwrap();
    authority.issue(&destination, &Request::new(["127.0.0.1", "host-b"])).unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let there = ["--tls".into(), text(&destination), "--tls-authz".into(), "dns:host-a".into()];
    (vec!["--tls".into(), text(&source)], there.into())
}

/// Sees the migration through to its end, with what it waits for on the way.
fn sees_through(source: &Vmm, case: &Case) {
    let (mut is_told, mut is_let_go, mut goes_on) = (false, false, false);
    until("it has moved", || {
        let info = source.query_migrate();
        let status = info.status.expect("a migration was asked for");
        assert!(status == MigrationStatus::Completed || !status.is_final(), "it ended as {status}: {info:?}");
        match status {
            MigrationStatus::PreSwitchover if !goes_on => {
                goes_on = true;
                source.command("migrate-continue", json!({ "state": "pre-switchover" }));
            }
            MigrationStatus::Active if case.is("postcopy", "request") && !is_told => {
                source.command("migrate-start-postcopy", Value::Null);
                is_told = true;
            }
            // Rounds of a machine that is busier than the limit do not end otherwise.
            MigrationStatus::Active
                if info.ram.is_some_and(|ram| ram.dirty_sync_count >= 4) && !is_let_go =>
            {
                source.set(json!({ "max-bandwidth": 0, "downtime-limit": 2000 }));
                is_let_go = true;
            }
            _ => {}
        }
        (status == MigrationStatus::Completed).then_some(())
    });
}

/// Moves a machine in this way, and has it find its memory as it was.
fn moves(lab: &Lab, case: &Case) {
    // For both sides, and no longer than they are needed: other tests need some too.
    let pages = case.is("memory", "hugetlb").then(|| HugePages::reserve(2 * 32));
    if matches!(pages, Some(None)) {
        return;
    }
    let (here, there) = certificates(lab, case);
    let with = |flags: &[String]| case.spec().with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let (source, destination) = (lab.boot(&with(&here)), lab.vacancy(&with(&there)));
    let mut story = Story::of(&source);
    story.filled();
    source.set(case.parameters());
    case.capabilities().for_each(|name| source.enable(name));
    if case.is("machine", "paused") {
        source.command("stop", Value::Null);
    }
    let unix = format!("unix:{}", lab.path(&format!("{}-moves", source.name())).display());
    let uri = destination.listen_at(if case.is("way", "unix") { &unix } else { "tcp:127.0.0.1:0" });
    source.migrate(&uri);
    sees_through(&source, case);
    story.goes_on_at(&destination);
    let arrived = if case.is("machine", "paused") { RunState::Paused } else { RunState::Running };
    assert_eq!(destination.run_state(), arrived);
    if arrived == RunState::Paused {
        destination.command("cont", Value::Null);
    }
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn every_two_settings_go_together() {
    let index = |name: &str, value: &str| {
        let property = PROPERTIES.iter().position(|(known, _)| *known == name).expect("a property");
        (property, PROPERTIES[property].1.iter().position(|known| *known == value).expect("a value"))
    };
    // All memory is compared before the machine runs, and with postcopy it runs before: refused when it is set, see below.
    let full = index("digest", "full");
    // A bitmap does not tell whom a limit is for: refused as well.
    let (limit, bitmap) = (index("throttle", "limit"), index("dirty-log", "bitmap"));
    let excludes = |(one, other): ((usize, usize), (usize, usize))| {
        let is_postcopy = |value: (usize, usize)| value.0 == index("postcopy", "off").0 && value.1 > 0;
        (one == full && is_postcopy(other))
            || (other == full && is_postcopy(one))
            || (one == limit && other == bitmap)
            || (other == limit && one == bitmap)
    };
    let values: Vec<usize> = PROPERTIES.iter().map(|(_, values)| values.len()).collect();
    for case in covering(&values, excludes) {
        let case = Case(case.iter().zip(PROPERTIES).map(|(value, (_, values))| values[*value]).collect());
        let Some(lab) = Lab::new() else { return };
        // A test that fails says in which case.
        eprintln!("{:?}", case.0);
        moves(&lab, &case);
    }
}
