use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::{Config, ConfigError, RawConfig, cpu};

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run this machine.
    Run(Box<Config>),
    /// Print this text on stdout and exit with success: help, version, the models of `--cpu help`, or the description (`--print-config`).
    Print(String),
    /// Print what this host can show a machine of its processor, and exit (`--print-cpu`).
    PrintCpu,
}

/// Longest file taken for a machine description, in bytes. The largest that makes sense has a few kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Runs one virtual machine on KVM.
///
/// The machine is described by flags, by a YAML file (--config), or by both. The keys of the file are the long names of
/// the flags; --disk and --net are the lists `disks` and `nets`, whose items have the options as keys. A flag overrides
/// the value in the file; disks and network cards of flags are added after those of the file. Relative paths are relative
/// to the working directory, in the file too.
#[derive(Parser, Debug)]
#[command(name = "whimbrel-vmm", bin_name = "whimbrel-vmm", version = release::VERSION, max_term_width = 120, after_long_help = EXAMPLE)]
struct CommandLine {
    #[command(flatten)]
    machine: RawConfig,

    /// Read the machine from a YAML file; flags override it and add to it
    ///
    /// Example: --config db-1.yaml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print the machine as YAML, with every default written out, and exit
    #[arg(long)]
    print_config: bool,

    /// Print what this host can show a machine of its processor, as JSON for `whimbrel cpu-baseline`, and exit
    #[arg(long)]
    print_cpu: bool,
}

const EXAMPLE: &str = "\
Example of a file for --config:
  name: db-1
  memory: 4G
  cpus: 4
  kernel: /boot/vmlinuz
  cmdline: console=ttyS0 root=/dev/vda
  disks:
    - path: root.img
    - path: data.img
      readonly: true
  nets:
    - tap: tap0
  monitor: unix:/run/db-1.sock";

/// All that `whimbrel-vmm` takes, for manual pages and the completion of shells.
#[must_use]
pub fn command() -> clap::Command {
    CommandLine::command()
}

/// Reads a command line, of which the first item is the name of the program, and the file that it names.
///
/// # Errors
/// Anything in either that is not understood or not possible.
pub fn from_args<I, T>(args: I) -> Result<Invocation, ConfigError>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let asks = |pair: &[OsString]| pair[0] == "--cpu" && (pair[1] == "help" || pair[1] == "?");
    if args.windows(2).any(asks) || args.iter().any(|arg| arg == "--cpu=help" || arg == "--cpu=?") {
        return Ok(Invocation::Print(cpu::help()));
    }
    let command_line = match CommandLine::try_parse_from(args) {
        Ok(command_line) => command_line,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Invocation::Print(error.to_string()));
        }
        Err(error) => return Err(ConfigError::Flags(without_prefix(&error.to_string()))),
    };
    if command_line.print_cpu {
        return Ok(Invocation::PrintCpu);
    }
    let raw = match &command_line.config {
        Some(path) => command_line.machine.over(read(path)?),
        None => command_line.machine,
    };
    let config = Config::new(raw)?;
    Ok(if command_line.print_config {
        Invocation::Print(config.to_yaml())
    } else {
        Invocation::Run(Box::new(config))
    })
}

fn read(path: &Path) -> Result<RawConfig, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.into(), source };
    let mut yaml = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut yaml)).map_err(failed)?;
    if yaml.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::FileTooLong { path: path.into(), limit: MAX_FILE_BYTES });
    }
    let origin = path.display().to_string();
    let yaml = String::from_utf8(yaml).map_err(|error| ConfigError::Yaml {
        origin: origin.clone(),
        detail: format!("byte {} is not UTF-8: save the file as UTF-8", error.utf8_error().valid_up_to()),
    })?;
    RawConfig::from_yaml(&yaml, &origin)
}

/// clap begins its messages with `error: `; whoever prints ours says so itself.
fn without_prefix(message: &str) -> String {
    message.strip_prefix("error: ").unwrap_or(message).trim_end().into()
}
