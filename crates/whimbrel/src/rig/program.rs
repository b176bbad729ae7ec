use std::{
    env, io,
    path::{Path, PathBuf},
};

/// Why there is no `whimbrel-vmm` to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// This process does not know where its own file is.
    #[error(
        "Cannot find whimbrel-vmm, because the path of this program is not known: say where it is with --vmm"
    )]
    Unknown(#[source] io::Error),
    /// There is no such file.
    #[error(
        "There is no whimbrel-vmm at {}: build it with 'cargo build --release -p whimbrel-vmm', or say where it is with --vmm",
        path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// The `whimbrel-vmm` that the user named, or else the one beside this program.
pub(crate) fn find_vmm(named: Option<&Path>) -> Result<PathBuf, ProgramError> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => env::current_exe().map_err(ProgramError::Unknown)?.with_file_name("whimbrel-vmm"),
    };
    if path.is_file() { Ok(path) } else { Err(ProgramError::Missing { path }) }
}
