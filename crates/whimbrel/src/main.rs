//! `whimbrel`: the operator's tool.

mod bench;
mod ca;
mod compare;
mod completion;
mod console_server;
mod controllers;
mod controlplane;
mod cpu_baseline;
mod crds;
mod demo;
mod drain;
mod image;
mod log;
mod login;
mod machine;
mod migrate;
mod monitor;
mod node;
mod plan;
mod policy;
mod proxy;
mod reach;
mod report;
mod rig;
mod seconds;
mod serial_console;
mod soak;
mod support_bundle;
mod top;
mod up;

use std::{error::Error, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use machine::Action;

/// The operator's tool for Whimbrel virtual machines.
#[derive(Debug, Parser)]
#[command(name = "whimbrel", version = release::VERSION, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Arguments),
    Ca(ca::Arguments),
    /// Give up the migration of a machine, and say what came of that
    Cancel(machine::Arguments),
    Compare(compare::Arguments),
    Completion(completion::Completion),
    Console(login::Arguments),
    ConsoleServer(console_server::Arguments),
    Controllers(controllers::Arguments),
    Controlplane(controlplane::Arguments),
    /// Have nothing new placed on nodes
    Cordon(drain::CordonArguments),
    CpuBaseline(cpu_baseline::Arguments),
    Crds(crds::Arguments),
    Demo(demo::Arguments),
    Drain(drain::Arguments),
    Image(image::Arguments),
    #[command(hide = true)]
    Manual(completion::Manual),
    Migrate(migrate::Arguments),
    Monitor(monitor::Arguments),
    Node(node::Arguments),
    /// Let the guest of a machine stand still
    Pause(machine::Arguments),
    Plan(plan::Arguments),
    Policy(policy::Arguments),
    Proxy(proxy::Arguments),
    Report(report::Arguments),
    /// End the run of a machine, and begin another
    Restart(machine::Arguments),
    Soak(soak::Arguments),
    /// Have a machine of the fleet run
    Start(machine::Arguments),
    /// End the run of a machine
    Stop(machine::Arguments),
    SupportBundle(support_bundle::Arguments),
    Top(top::Arguments),
    /// Take nodes into use again
    Uncordon(drain::CordonArguments),
    /// Let the guest of a machine go on
    Unpause(machine::Arguments),
    Up(up::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Bench(arguments) => Ok(bench::run(&arguments)),
        Command::Ca(arguments) => ca::run(&arguments),
        Command::Cancel(arguments) => machine::run(&arguments, Action::Cancel),
        Command::Compare(arguments) => Ok(compare::run(&arguments)),
        Command::Completion(arguments) => completion::run(&arguments, &Arguments::command()),
        Command::Console(arguments) => login::run(&arguments),
        Command::ConsoleServer(arguments) => console_server::run(&arguments),
        Command::Controllers(arguments) => controllers::run(&arguments),
        Command::Controlplane(arguments) => controlplane::run(&arguments),
        Command::Cordon(arguments) => drain::run_cordon(&arguments, true),
        Command::CpuBaseline(arguments) => cpu_baseline::run(&arguments),
        Command::Crds(arguments) => crds::run(&arguments),
        Command::Demo(arguments) => Ok(demo::run(&arguments)),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Manual(arguments) => completion::write_manual(&arguments, &Arguments::command()),
        Command::Migrate(arguments) => migrate::run(&arguments),
        Command::Monitor(arguments) => monitor::run(&arguments),
        Command::Node(arguments) => node::run(&arguments),
        Command::Pause(arguments) => machine::run(&arguments, Action::Pause),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
        Command::Proxy(arguments) => proxy::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Restart(arguments) => machine::run(&arguments, Action::Restart),
        Command::Soak(arguments) => Ok(soak::run(&arguments)),
        Command::Start(arguments) => machine::run(&arguments, Action::Start),
        Command::Stop(arguments) => machine::run(&arguments, Action::Stop),
        Command::SupportBundle(arguments) => support_bundle::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Uncordon(arguments) => drain::run_cordon(&arguments, false),
        Command::Unpause(arguments) => machine::run(&arguments, Action::Unpause),
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
