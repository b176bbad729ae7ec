//! What services log: where to, and how a line is written.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use config::LogFormat;
use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How a service logs, and the machines that it starts.
#[derive(Clone, Copy, Debug, clap::Args)]
// A group would be called after the type, as that of the arguments which these are among is.
#[group(skip)]
pub(crate) struct Arguments {
    /// How lines of the log are written
    #[arg(long = "log-format", value_name = "FORMAT", env = "WHIMBREL_LOG_FORMAT", default_value = "text")]
    pub(crate) format: LogFormat,
}

impl Arguments {
    /// Logs to standard error, as services do whose output somebody keeps.
    pub(crate) fn to_stderr(self) {
        self.to(output::Log::default);
    }

    /// Logs to the end of a file, which nobody else can read.
    pub(crate) fn to_file(self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let file = Arc::new(Mutex::new(file));
        self.to(move || LogFile(file.clone()));
        Ok(())
    }

    fn to(self, writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
        let log = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).log_internal_errors(false);
        let log = log.with_max_level(LevelFilter::INFO);
        match self.format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).with_span_list(false).init(),
        }
    }
}

struct LogFile(Arc<Mutex<std::fs::File>>);

impl io::Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut *self.0.lock(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
