//! `whimbrel completion` and `whimbrel manual`: what shells and readers want to know of the programs, from what the programs know of
//! themselves.

use std::{error::Error, fs, path::PathBuf, process::ExitCode};

use clap::{Command, ValueEnum};
use clap_complete::{Shell, generate};

/// Print what a shell needs to complete command lines: `source <(whimbrel completion bash)`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
    /// The program whose lines are completed
    #[arg(long, value_enum, default_value_t = Program::Whimbrel)]
    program: Program,
}

/// Write manual pages of all programs and commands into a directory, for `man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Manual {
    /// The directory, which is made if it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// A program of ours.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Program {
    Whimbrel,
    WhimbrelVmm,
}

impl Program {
    /// What it takes; `own` is this program's.
    fn command(self, own: &Command) -> Command {
        match self {
            Self::Whimbrel => own.clone(),
            Self::WhimbrelVmm => config::command(),
        }
    }
}

pub(crate) fn run(arguments: &Completion, own: &Command) -> Result<ExitCode, Box<dyn Error>> {
    let mut command = arguments.program.command(own);
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    generate(arguments.shell, &mut command, name, &mut text);
    output::show(&String::from_utf8(text)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn write_manual(arguments: &Manual, own: &Command) -> Result<ExitCode, Box<dyn Error>> {
    fs::create_dir_all(&arguments.directory)?;
    for program in Program::value_variants() {
        // Commands of commands have pages of their own: whimbrel-ca-init.
        clap_mangen::generate_to(program.command(own), &arguments.directory)
            .map_err(|error| format!("Cannot write into {}: {error}", arguments.directory.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
