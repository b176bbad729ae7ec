//! Processes of VMMs: started so that they outlive whoever started them, found again by what they were started with, and what the kernel
//! says that they use.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Pid, Signal, kill_process, setsid},
};

use crate::{folder::Folder, tap::Tap};

/// Starts the VMM of a folder, which was prepared. It belongs to the host from then on: a session of its own, no descriptor of ours, and
/// nobody who ends it with us; a control group of the host's, where one is named. It alone has its taps, under the numbers that they have here.
pub(crate) fn start(
    program: &Path,
    folder: &Folder,
    cgroup: Option<&Path>,
    taps: Vec<Tap>,
) -> io::Result<()> {
    if let Some(cgroup) = cgroup {
        fs::create_dir_all(cgroup)?;
    }
    let log = File::create(folder.log())?;
    let again = log.try_clone()?;
    let mut command = Command::new(program);
    command.arg("--config").arg(folder.description()).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(log).stderr(again).current_dir("/");
    let detach = move || {
        setsid()?;
        for tap in &taps {
            fcntl_setfd(tap, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only what is async-signal-safe may be called. `setsid` and `fcntl` are system calls that allocate
    // nothing; on failure the error is a number. The taps are open: the closure has them.
    unsafe {
        command.pre_exec(detach);
    }
    // From here on it may run: a folder with this mark is never started again.
    File::create(folder.mark())?;
    let mut child = command.spawn()?;
    drop(command);
    if let Some(cgroup) = cgroup
        && let Err(error) = fs::write(cgroup.join("cgroup.procs"), child.id().to_string())
    {
        // Before there is anything in it to lose.
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    // While this process lives it is the parent, and has to take note of the end. Afterwards init does.
    let end = folder.end();
    let reaper = move || {
        if let Ok(status) = child.wait() {
            // A folder that is gone needs no note.
            let _ = fs::write(end, status.code().unwrap_or(-1).to_string());
        }
    };
    thread::Builder::new().name("vmm-end".to_owned()).spawn(reaper).map(drop)
}

/// The VMMs that run on this host, by the path of their description: whoever started them, and with whichever program.
pub fn running() -> BTreeMap<PathBuf, u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| Some((description_of(id)?, id))).collect()
}

/// The description that a process was started with; `None` unless it is a VMM.
pub(crate) fn description_of(id: u32) -> Option<PathBuf> {
    // A process that has ended and is not taken note of has an empty one.
    let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    let is_vmm = words.next()?.ends_with(b"whimbrel-vmm");
    if !is_vmm || words.next()? != b"--config" {
        return None;
    }
    Some(PathBuf::from(std::str::from_utf8(words.next()?).ok()?))
}

/// Where the kernel says what a process does.
pub(crate) fn folder_of(id: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{id}"))
}

/// CPU time of all threads of a process, also those that have ended, in seconds. `None` if it has ended.
pub(crate) fn cpu_seconds(process: &Path) -> Option<f64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name of the program is in parentheses and may have anything in it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system) as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
}

/// Memory of the host that a process has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    /// What may be shared, huge pages included: a guest's memory.
    pub(crate) shared: u64,
    /// All else: what the program needs, and files that are mapped.
    pub(crate) own: u64,
}

impl Resident {
    /// Of a process; `None` if it has ended.
    pub(crate) fn of(process: &Path) -> Option<Self> {
        let status = fs::read_to_string(process.join("status")).ok()?;
        let bytes = |name| field(&status, name).map(|kib| kib.saturating_mul(1 << 10));
        Some(Self {
            shared: bytes("RssShmem:")?.saturating_add(bytes("HugetlbPages:").unwrap_or(0)),
            own: bytes("RssAnon:")?.saturating_add(bytes("RssFile:")?),
        })
    }

    /// All of it.
    pub(crate) fn all(self) -> u64 {
        self.shared.saturating_add(self.own)
    }
}

/// The number after a name at the beginning of a line.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// Has a process end that does not listen.
pub(crate) fn end(id: u32) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(id, Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_called_anything_does_not_move_the_fields() {
        let directory = tempfile::tempdir().unwrap();
        let process = directory.path();
        assert_eq!((cpu_seconds(process), Resident::of(process)), (None, None));
        let stat = |text: &str| fs::write(process.join("stat"), text).unwrap();
        stat("7 (a) b 9 9) S 1 1 1 0 -1 0 0 0 0 0 300 200 0 0");
        assert_eq!(cpu_seconds(process), Some(500.0 / rustix::param::clock_ticks_per_second() as f64));
        for wrong in ["", "7 (a) S 1", "7 (a) S 1 1 1 0 -1 0 0 0 0 0 x 200"] {
            stat(wrong);
            assert_eq!(cpu_seconds(process), None, "{wrong}");
        }
        let status =
            "Name:\ta\nRssAnon:\t 4 kB\nRssFile:\t 2 kB\nRssShmem:\t 8 kB\nHugetlbPages:\t 2048 kB\n";
        fs::write(process.join("status"), status).unwrap();
        let resident = Resident::of(process).unwrap();
        assert_eq!((resident.shared, resident.own, resident.all()), (2056 << 10, 6 << 10, 2062 << 10));
    }

    #[test]
    fn a_machine_is_put_into_the_control_group_that_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path(), "busy").unwrap();
        fs::create_dir_all(folder.path()).unwrap();
        let group = directory.path().join("group");
        start(Path::new("/bin/true"), &folder, Some(&group), Vec::new()).unwrap();
        let process = fs::read_to_string(group.join("cgroup.procs")).unwrap().parse::<u32>();
        assert!(process.is_ok_and(|process| process > 1));
    }

    #[test]
    fn without_its_control_group_nothing_is_started() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path(), "busy").unwrap();
        fs::create_dir_all(folder.path()).unwrap();
        let file = directory.path().join("no-group");
        fs::write(&file, "").unwrap();
        assert!(start(Path::new("/bin/true"), &folder, Some(&file), Vec::new()).is_err());
        assert!(!folder.mark().exists());
    }
}
