//! `whimbrel report`: what became of a migration, from the file that a machine left or from its monitor.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use ::monitor::{Client, ClientError};
use ::report::{MAX_BYTES, ReadError, Report, html, text};
use serde_json::Value;

/// Show the report of a migration.
///
/// A machine leaves one for every migration, completed or not, in the directory that it was given with --report-dir; its
/// monitor has the one of the migration under way or the last one.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The file, or the unix socket of a machine's monitor
    #[arg(value_name = "FILE|SOCKET")]
    from: PathBuf,

    /// Write it as one HTML page instead, which needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Print it as JSON instead
    #[arg(long, conflicts_with = "html")]
    json: bool,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    /// The file cannot be read.
    #[error("Cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// It is neither a file nor a socket.
    #[error("Cannot read {}: it is neither a file nor the socket of a monitor", path.display())]
    Kind { path: PathBuf },
    /// It is no report.
    #[error("Cannot show {}", path.display())]
    Unfit { path: PathBuf, source: ReadError },
    /// The monitor does not answer, or has no report.
    #[error(transparent)]
    Monitor(#[from] ClientError),
    /// The page cannot be written.
    #[error("Cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The monitor's command for it.
const COMMAND: &str = "query-whimbrel-report";
/// How long a monitor may take.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let report = read(&arguments.from)?;
    if let Some(path) = &arguments.html {
        fs::write(path, html::render(&report))
            .map_err(|source| ReportError::Write { path: path.clone(), source })?;
        output::say!("The page is {}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let shown = if arguments.json { report.to_json()? } else { text::render(&report) };
    output::show(&shown)?;
    Ok(ExitCode::SUCCESS)
}

fn read(from: &Path) -> Result<Report, ReportError> {
    let unreadable = |source| ReportError::Read { path: from.to_owned(), source };
    let metadata = fs::metadata(from).map_err(unreadable)?;
    let bytes = if metadata.file_type().is_socket() {
        let value = Client::connect(from, TIMEOUT)?.execute(COMMAND, Value::Null)?;
        value.to_string().into_bytes()
    } else if !metadata.is_file() {
        // A pipe may never say anything, a device may never end.
        return Err(ReportError::Kind { path: from.to_owned() });
    } else {
        let mut bytes = Vec::new();
        let file = File::open(from).map_err(unreadable)?;
        // One more than may be: a longer file is refused as such.
        file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        bytes
    };
    Report::read(&bytes).map_err(|source| ReportError::Unfit { path: from.to_owned(), source })
}
