//! Entry points for fuzzing: one for each place where bytes come from outside.
//!
//! An entry point takes any bytes. It panics where the crate behind it breaks a promise: by panicking itself, by taking
//! something that it then prints differently, or by answering differently when the same bytes come in other pieces.
//!
//! The same entry points are driven in two ways: by `make fuzz`, guided by coverage, and by the tests of this crate, with
//! [`Target::seeds`], changed seeds and random bytes.

mod description;
mod device_state;
mod encodings;
mod qmp;
mod report;
mod stream;
mod tls;

/// One place where bytes come from outside.
#[derive(Debug)]
pub struct Target {
    /// Name of the fuzz target.
    pub name: &'static str,
    /// Takes any bytes; panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that lead far into the code, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "config_yaml", run: description::yaml, seeds: description::yaml_seeds },
    Target { name: "config_flags", run: description::flags, seeds: description::flag_seeds },
    Target { name: "config_values", run: description::values, seeds: description::value_seeds },
    Target { name: "qmp_stream", run: qmp::stream, seeds: qmp::seeds },
    Target { name: "wire_greeting", run: stream::greeting, seeds: stream::greeting_seeds },
    Target { name: "wire_control", run: stream::control, seeds: stream::control_seeds },
    Target { name: "wire_pages", run: stream::pages, seeds: stream::pages_seeds },
    Target { name: "wire_probe", run: stream::probe, seeds: stream::probe_seeds },
    Target { name: "page_delta", run: encodings::delta, seeds: encodings::delta_seeds },
    Target { name: "page_packed", run: encodings::packed, seeds: encodings::packed_seeds },
    Target { name: "report_json", run: report::read, seeds: report::seeds },
    Target { name: "device_state", run: device_state::run, seeds: device_state::seeds },
    Target { name: "tls_stranger", run: tls::stranger, seeds: tls::stranger_seeds },
    Target { name: "tls_records", run: tls::records, seeds: tls::record_seeds },
    Target { name: "tls_message", run: tls::message, seeds: tls::message_seeds },
];

/// The target called `name`.
///
/// # Panics
/// There is none.
#[must_use]
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target of this name")
}
