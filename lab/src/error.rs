use std::{io, path::PathBuf, time::Duration};

/// Why a lab, or something in it, does not work.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program of this machine is missing.
    #[error("'{program}' is missing: run 'apt-get install {package}', or install what your system calls it")]
    MissingProgram {
        /// Its name.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A Debian package is not to be had.
    #[error(
        "Debian package '{package}' cannot be downloaded: run 'apt-get update', and look at the network and at \
         /etc/apt/sources.list. apt said: {said}"
    )]
    MissingPackage {
        /// Its name.
        package: String,
        /// The last that apt said.
        said: String,
    },
    /// A package has not what it should have.
    #[error(
        "Package '{package}' has no {what}: the lab needs a Debian 12 kernel, with modules that are not compressed"
    )]
    PackageContents {
        /// Its name.
        package: String,
        /// What was looked for.
        what: String,
    },
    /// The file system is full.
    #[error("'{}' has {free_mib} MiB free, the lab needs {needed_mib}: make room, or set CARGO_TARGET_DIR or XDG_CACHE_HOME", path.display())]
    DiskSpace {
        /// Where.
        path: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What is needed.
        needed_mib: u64,
    },
    /// Another lab is at work.
    #[error("Another lab uses '{}': wait for its end, or set CARGO_TARGET_DIR", path.display())]
    InUse {
        /// Its folder.
        path: PathBuf,
    },
    /// A program of this machine failed.
    #[error("'{command}' failed ({status}): {said}")]
    Program {
        /// What was run.
        command: String,
        /// How it ended.
        status: String,
        /// The last it said.
        said: String,
    },
    /// A file of the lab cannot be read or written.
    #[error("Cannot {what} '{}'", path.display())]
    File {
        /// Read, write, create.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket or thread of the lab cannot be made.
    #[error("Cannot {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A host ended, or has never come up.
    #[error(
        "Host '{host}' {what}. If what it said last, which is below and in {}, does not explain it: run 'rm -r {}', which \
         has the lab download its kernel again, and try once more.\n{tail}",
        console.display(),
        crate::packages::cache_directory().display()
    )]
    Host {
        /// Its name.
        host: String,
        /// What happened.
        what: String,
        /// Its console.
        console: PathBuf,
        /// The last lines.
        tail: String,
    },
    /// The agent of a host or a guest does not do what it was asked for.
    #[error("{place}: {what}")]
    Agent {
        /// Name of the host or the guest.
        place: String,
        /// What happened.
        what: String,
    },
    /// A command in a host or a guest failed.
    #[error("{place}: '{command}' ended with {ending}: {said}")]
    Command {
        /// Name of the host or the guest.
        place: String,
        /// What was run.
        command: String,
        /// How it ended.
        ending: String,
        /// What it said.
        said: String,
    },
    /// The monitor of a machine refused, or is gone.
    #[error("{place}: monitor")]
    Monitor {
        /// The machine.
        place: String,
        /// Why.
        source: monitor::ClientError,
    },
    /// Something did not happen in time.
    #[error("Not within {} s: {what}", limit.as_secs())]
    Late {
        /// What.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Something is not as it must be.
    #[error("{0}")]
    Wrong(String),
}

impl LabError {
    /// For `map_err` on a file.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// For `map_err` on a socket or a thread.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
