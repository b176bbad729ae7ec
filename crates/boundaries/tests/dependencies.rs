//! Which crate may depend on which. Arrows go only downward.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// What one crate may know of the others, and must not know of the outside.
struct Rule {
    /// Folder in `crates/`.
    name: &'static str,
    /// Crates of the workspace it may depend on.
    may_use: &'static [&'static str],
    /// Crates from outside that neither it nor anything it may use depends on.
    must_not_use: &'static [&'static [&'static str]],
    /// What the crate is, in the words of the message.
    because: &'static str,
}

const KVM: &[&str] = &["kvm-ioctls", "kvm-bindings"];
const SYSTEM: &[&str] = &["libc", "rustix", "nix", "signal-hook", "event-manager", "vmm-sys-util"];
const THREADS: &[&str] = &["crossbeam-channel", "parking_lot", "tokio", "rayon"];
const MEMORY: &[&str] = &["vm-memory", "vm-superio", "virtio-queue"];
const SOCKETS: &[&str] = &["rustls", "socket2", "mio", "tokio"];
const STORAGE: &[&str] = &["redb"];
const HTTP: &[&str] = &["hyper", "hyper-util", "http-body-util"];
const KUBERNETES: &[&str] = &["kube", "kube-client"];

const RULES: &[Rule] = &[
    Rule {
        name: "release",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it is the name of a release",
    },
    Rule {
        name: "address",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it says where a migration goes, and does not go there",
    },
    Rule {
        name: "authority",
        may_use: &[],
        must_not_use: &[KVM, THREADS, MEMORY, SOCKETS],
        because: "it makes certificates, and does not use them",
    },
    Rule {
        name: "state",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it is the envelope of device states, and turns values into bytes and back",
    },
    Rule {
        name: "wire",
        may_use: &["state"],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it is the bytes of the protocol, without sockets, clocks or guest memory",
    },
    Rule {
        name: "encodings",
        may_use: &["wire"],
        must_not_use: &[KVM, SYSTEM, MEMORY, SOCKETS],
        because: "it turns bytes of pages into fewer bytes and back, without sockets or guest memory",
    },
    Rule {
        name: "migration",
        may_use: &["state", "wire"],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it is pure: events and the time go in, actions come out, so that both peers can be driven without I/O",
    },
    Rule {
        name: "ram",
        may_use: &[],
        must_not_use: &[KVM, SOCKETS],
        because: "it knows guest memory, not the protocol, sockets or KVM (whose dirty log comes in through a trait)",
    },
    Rule {
        name: "transport",
        may_use: &["address"],
        must_not_use: &[KVM, MEMORY],
        because: "it moves bytes and does not know what they mean",
    },
    Rule {
        name: "engine",
        may_use: &["encodings", "migration", "ram", "state", "transport", "wire"],
        must_not_use: &[KVM],
        because: "it runs a migration for any machine, so that other machines than ours can embed it",
    },
    Rule {
        name: "faults",
        may_use: &["address", "state", "wire"],
        must_not_use: &[KVM, MEMORY],
        because: "it harms the bytes of a migration from outside, and must not know what the harm leads to",
    },
    Rule {
        name: "devices",
        may_use: &["ram", "state"],
        must_not_use: &[KVM, SOCKETS],
        because: "a device knows guest memory and its own registers, not how it is migrated or who emulates the CPU",
    },
    Rule {
        name: "cpu",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it knows features by name, and reads no processor",
    },
    Rule {
        name: "config",
        may_use: &["address", "cpu", "release"],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it describes a machine and opens nothing of it",
    },
    Rule {
        name: "monitor",
        may_use: &["address", "release"],
        must_not_use: &[KVM, MEMORY],
        because: "it speaks QMP for whoever implements its handler, and does not know how a machine or a migration works",
    },
    Rule {
        name: "report",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it is the shape of a report and how it looks; whoever ran the migration fills it in",
    },
    Rule {
        name: "comparison",
        may_use: &["report"],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it plans a comparison and shows what came of it; whoever moved the machines fills it in",
    },
    Rule {
        name: "output",
        may_use: &[],
        must_not_use: &[KVM, THREADS, MEMORY, SOCKETS],
        because: "it prints lines for people, for every program alike",
    },
    Rule {
        name: "guests",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, SOCKETS],
        because: "it is a guest as bytes",
    },
    Rule {
        name: "vmm",
        may_use: &[
            "address",
            "config",
            "cpu",
            "devices",
            "engine",
            "migration",
            "monitor",
            "output",
            "ram",
            "release",
            "report",
            "state",
            "transport",
            "wire",
        ],
        must_not_use: &[],
        because: "it puts everything together, but is no place for the operator's tool or for test guests",
    },
    Rule {
        name: "objects",
        may_use: &["cpu"],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, STORAGE],
        because: "it is the kinds of the fleet, names features of processors as VMMs do, and does not know who stores or acts on them",
    },
    Rule {
        name: "fleet",
        may_use: &["objects"],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, STORAGE, HTTP],
        because: "it decides: objects and the time go in, intents come out",
    },
    Rule {
        name: "metrics",
        may_use: &["fleet", "objects"],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS, STORAGE, HTTP],
        because: "it is figures of objects as text, and does not know who asks for them",
    },
    Rule {
        name: "scrape",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, MEMORY, STORAGE, KUBERNETES],
        because: "it serves a page for Prometheus, and does not know what is on it",
    },
    Rule {
        name: "store",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, MEMORY, HTTP, KUBERNETES],
        because: "it keeps bytes by key, and knows neither kinds nor who asks",
    },
    Rule {
        name: "apiserver",
        may_use: &["objects", "store"],
        must_not_use: &[KVM, SYSTEM, MEMORY],
        because: "it serves kinds that it is told, and knows neither machines nor migrations",
    },
    Rule {
        name: "pages",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, THREADS, MEMORY, SOCKETS],
        because: "it is the console as bytes",
    },
    Rule {
        name: "mirror",
        may_use: &[],
        must_not_use: &[KVM, SYSTEM, MEMORY, STORAGE],
        because: "it copies objects of whatever kind",
    },
    Rule {
        name: "controllers",
        may_use: &["fleet", "mirror", "objects"],
        must_not_use: &[KVM, SYSTEM, MEMORY, STORAGE],
        because: "it carries decisions out through the API alone, and knows neither processes nor sockets of machines",
    },
    Rule {
        name: "node",
        may_use: &["config", "cpu", "mirror", "monitor", "objects", "release", "scrape"],
        must_not_use: &[KVM, MEMORY, STORAGE],
        because: "it knows the machines of its own host, by their monitors, and neither other nodes nor placement",
    },
    Rule {
        name: "whimbrel",
        may_use: &[
            "apiserver",
            "authority",
            "comparison",
            "config",
            "cpu",
            "controllers",
            "faults",
            "fleet",
            "guests",
            "metrics",
            "mirror",
            "monitor",
            "node",
            "objects",
            "output",
            "pages",
            "release",
            "report",
            "scrape",
            "store",
            "transport",
        ],
        must_not_use: &[KVM, MEMORY],
        because: "the operator's tool sees a machine only through its command line and its monitor; certificates it reads as a \
                  machine does",
    },
    Rule {
        name: "fuzzing",
        may_use: &["authority", "config", "encodings", "monitor", "report", "state", "transport", "wire"],
        must_not_use: &[KVM],
        because: "it feeds bytes to the crates that parse what comes from outside, and has certificates made for those that want some",
    },
    Rule {
        name: "agent",
        may_use: &["output"],
        must_not_use: &[MEMORY, SOCKETS],
        because: "it is the lab's hands in hosts and guests, and knows as little of Whimbrel as any other program there; of KVM \
                  only how a host keeps it switched on",
    },
    Rule {
        name: "lab",
        may_use: &["agent", "guests", "monitor", "output"],
        must_not_use: &[MEMORY],
        because: "it drives machines as a user does, from the outside; KVM is its agent's",
    },
    Rule { name: "boundaries", may_use: &[], must_not_use: &[KVM], because: "it reads the others as text" },
];

#[test]
fn every_crate_has_a_rule() {
    let crates: BTreeSet<_> = workspace().into_keys().collect();
    let rules: BTreeSet<_> = RULES.iter().map(|rule| rule.name.to_owned()).collect();
    assert_eq!(
        crates,
        rules,
        "each crate of the workspace needs a rule in {}, and each rule a crate",
        file!()
    );
}

#[test]
fn crates_use_only_the_crates_that_they_may_know() {
    let workspace = workspace();
    let mut wrong = Vec::new();
    for rule in RULES {
        for dependency in dependencies(&workspace, rule.name).filter(|name| workspace.contains_key(*name)) {
            if !rule.may_use.contains(&dependency) {
                wrong.push(format!("`{}` depends on `{dependency}`, but {}", rule.name, rule.because));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_keep_out_what_they_must_not_know() {
    let workspace = workspace();
    let mut wrong = Vec::new();
    for rule in RULES {
        let forbidden: BTreeSet<_> = rule.must_not_use.concat().into_iter().collect();
        for reached in std::iter::once(rule.name).chain(rule.may_use.iter().copied()) {
            for dependency in dependencies(&workspace, reached).filter(|name| forbidden.contains(name)) {
                let through =
                    if reached == rule.name { String::new() } else { format!(" through `{reached}`") };
                wrong.push(format!("`{}` depends on {dependency}{through}, but {}", rule.name, rule.because));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rules_name_only_crates_below_them() {
    let position = |name: &str| RULES.iter().position(|rule| rule.name == name);
    for rule in RULES {
        for below in rule.may_use {
            assert!(position(below).is_some(), "`{below}` in the rule of `{}` is no crate", rule.name);
            let circle = RULES.iter().any(|other| other.name == *below && other.may_use.contains(&rule.name));
            assert!(!circle, "`{}` and `{below}` may use each other", rule.name);
        }
    }
}

/// The crates of the workspace by the name of their folder.
fn workspace() -> BTreeMap<String, Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(boundaries::root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo can read the workspace");
    let folder = |package: &Package| package.manifest_path.parent()?.file_name().map(str::to_owned);
    metadata.packages.into_iter().filter_map(|package| Some((folder(&package)?, package))).collect()
}

/// What a crate is built from: dependencies of its tests are free to be anything. Crates of the workspace go by the name of
/// their folder, others by the name of their package.
fn dependencies<'a>(workspace: &'a BTreeMap<String, Package>, name: &str) -> impl Iterator<Item = &'a str> {
    let all = workspace.get(name).map(|package| package.dependencies.as_slice()).unwrap_or_default();
    all.iter().filter(|dependency| dependency.kind != DependencyKind::Development).map(|dependency| {
        let folder = dependency.path.as_ref().and_then(|path| path.file_name());
        folder.unwrap_or(&dependency.name)
    })
}
