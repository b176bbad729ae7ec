use std::{fmt, fs, thread};

use serde::Serialize;

/// Where it was measured: figures of two hosts, or of a busy and a quiet one, do not compare.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Host {
    cpu: String,
    cpus: usize,
    kernel: String,
    /// Processes that wanted a CPU in the last minute, on average, when the benchmark began.
    load: f64,
}

/// Load from which on others take what is measured.
const BUSY: f64 = 0.5;

impl Host {
    /// This host, now. What the kernel does not say is left empty.
    pub(crate) fn now() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            cpu: model.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
            cpus: thread::available_parallelism().map_or(0, usize::from),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.cpus == 1 { "" } else { "s" };
        write!(f, "{} core{plural} ({}), Linux {}, load {}", self.cpus, self.cpu, self.kernel, self.load)?;
        if self.load > BUSY {
            write!(
                f,
                "\nTHIS HOST IS BUSY: others take CPU time from what is measured, and the figures say little"
            )?;
        }
        Ok(())
    }
}
