//! `whimbrel`: the operator's tool.

mod bench;
mod ca;
mod demo;
mod migrate;
mod monitor;
mod proxy;
mod report;
mod rig;
mod soak;
mod up;

use std::{error::Error, process::ExitCode};

use clap::{Parser, Subcommand};

/// The operator's tool for Whimbrel virtual machines.
#[derive(Debug, Parser)]
#[command(name = "whimbrel", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Arguments),
    Ca(ca::Arguments),
    Demo(demo::Arguments),
    Migrate(migrate::Arguments),
    Monitor(monitor::Arguments),
    Proxy(proxy::Arguments),
    Report(report::Arguments),
    Soak(soak::Arguments),
    Up(up::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Bench(arguments) => Ok(bench::run(&arguments)),
        Command::Ca(arguments) => ca::run(&arguments),
        Command::Demo(arguments) => Ok(demo::run(&arguments)),
        Command::Migrate(arguments) => migrate::run(&arguments),
        Command::Monitor(arguments) => monitor::run(&arguments),
        Command::Proxy(arguments) => proxy::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Soak(arguments) => Ok(soak::run(&arguments)),
        Command::Up(arguments) => up::run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        output::complain!("whimbrel: {}", with_sources(&*error));
        ExitCode::FAILURE
    })
}

/// An error and all that caused it, on one line. Errors of other crates may repeat what caused them: that is told once.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
