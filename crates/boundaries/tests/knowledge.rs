//! What of the standard library a crate must not name. No dependency shows these, so the source is read.

use boundaries::{named_paths, sources};

/// Modules and types that `crates` must not name, and why.
struct Rule {
    crates: &'static [&'static str],
    forbidden: &'static [&'static str],
    because: &'static str,
}

const CLOCKS: &[&str] = &["std::time::Instant", "std::time::SystemTime"];
const OUTSIDE: &[&str] = &["std::fs", "std::net", "std::os", "std::process", "std::env"];
const THREADS: &[&str] = &["std::thread", "std::sync::mpsc", "std::sync::Mutex", "std::sync::Condvar"];

const RULES: &[Rule] = &[
    Rule {
        crates: &["state", "wire", "migration", "objects", "fleet"],
        forbidden: CLOCKS,
        because: "the time is told to it: what it does must depend on nothing but what goes in",
    },
    Rule {
        crates: &["state", "wire", "migration", "objects", "fleet"],
        forbidden: OUTSIDE,
        because: "it does no I/O: others carry its bytes and carry out its actions",
    },
    Rule {
        crates: &["state", "wire", "migration", "objects", "fleet"],
        forbidden: THREADS,
        because: "it is called, it never waits",
    },
    Rule {
        crates: &["report", "comparison"],
        forbidden: CLOCKS,
        because: "when a migration ran is told to it",
    },
    Rule { crates: &["report", "comparison"], forbidden: OUTSIDE, because: "others write it and read it" },
    Rule {
        crates: &["ram"],
        forbidden: &["std::net", "std::os::unix::net", "std::process"],
        because: "guest memory is moved by others",
    },
    Rule {
        crates: &["config"],
        forbidden: &[
            "std::thread",
            "std::process",
            "std::os::unix::net",
            "std::net::TcpStream",
            "std::net::ToSocketAddrs",
        ],
        because: "it describes a machine; names are resolved and sockets opened by those who use them",
    },
];

#[test]
fn crates_do_not_name_what_they_must_not_know() {
    let mut wrong = Vec::new();
    for rule in RULES {
        for file in rule.crates.iter().flat_map(|name| sources(&format!("crates/{name}/src"))) {
            for (line, path) in named_paths(&file) {
                if rule.forbidden.iter().any(|forbidden| is_within(&path, forbidden)) {
                    wrong.push(format!("{}:{line} names {path}, but {}", file.path, rule.because));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rules_are_about_source_that_exists() {
    for name in RULES.iter().flat_map(|rule| rule.crates) {
        assert!(!sources(&format!("crates/{name}/src")).is_empty(), "crates/{name}/src has no source");
    }
}

/// `std::net::TcpStream` and a glob of `std` or `std::net` are within `std::net`; `std::network` is not.
fn is_within(path: &str, forbidden: &str) -> bool {
    let below = |path: &str, above: &str| {
        path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let glob_above = path.strip_suffix("::*").is_some_and(|above| below(forbidden, above));
    below(path, forbidden) || glob_above
}
