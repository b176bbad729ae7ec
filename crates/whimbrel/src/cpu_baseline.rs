//! `whimbrel cpu-baseline`: what the processors of several hosts have in common.

use std::{
    error::Error,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use cpu::{HostCpu, baseline};

/// Find the processor that machines can have on all of some hosts.
///
/// Each FILE is what `whimbrel-vmm --print-cpu` printed on one of the hosts. Prints what to start machines with (--cpu), and which host
/// keeps the others from showing what.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What `whimbrel-vmm --print-cpu` printed, one file for each host
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
enum FileError {
    /// It cannot be read.
    #[error("Cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// It is something else.
    #[error("{} is not what `whimbrel-vmm --print-cpu` prints", path.display())]
    Form { path: PathBuf, source: serde_json::Error },
}

/// Longest file that is read, in bytes: a list of features has three thousand.
const MAX_BYTES: u64 = 1 << 20;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut hosts = arguments.files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    tell_apart(&mut hosts, &arguments.files);
    let found = baseline(&hosts)?;
    output::say!("--cpu {}", found.cpu);
    for limit in found.limits {
        output::say!("Host '{}' lacks: {}", limit.host, limit.lacks.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Of hosts that are all called `localhost` it is said which file is theirs.
fn tell_apart(hosts: &mut [HostCpu], files: &[PathBuf]) {
    let names: Vec<_> = hosts.iter().map(|host| host.host.clone()).collect();
    for (host, path) in hosts.iter_mut().zip(files) {
        if names.iter().filter(|name| **name == host.host).count() > 1 {
            host.host = format!("{} ({})", host.host, path.display());
        }
    }
}

fn read(path: &Path) -> Result<HostCpu, FileError> {
    let failed = |source| FileError::Read { path: path.into(), source };
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|source| FileError::Form { path: path.into(), source })
}
