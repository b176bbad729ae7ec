//! A monitor with a machine behind it that exists in memory only: to try clients on.
//!
//! usage: cargo run --example toy_machine -- SOCKET

#[path = "../tests/machine/mod.rs"]
mod machine;

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use whimbrel_monitor::{Events, Server};

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: toy_machine SOCKET");
        return ExitCode::from(2);
    };
    let events = Events::new();
    let machine = machine::Machine::new(events.clone());
    let server = match Server::bind(Path::new(&path), Arc::new(machine.clone()), events) {
        Ok(server) => server,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    // Ends by itself, so that a test that dies leaves nothing behind.
    machine.wait_for_quit(Duration::from_secs(600));
    server.shutdown();
    ExitCode::SUCCESS
}
