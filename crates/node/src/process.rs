//! Processes of VMMs: started so that they outlive whoever started them, and found again by what they were started with.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process, setsid};

use crate::folder::Folder;

/// Starts the VMM of a folder, which was prepared. It belongs to the host from then on: a session of its own, no descriptor of ours, and
/// nobody who ends it with us; a control group of the host's, where one is named.
pub(crate) fn start(program: &Path, folder: &Folder, cgroup: Option<&Path>) -> io::Result<()> {
    if let Some(cgroup) = cgroup {
        fs::create_dir_all(cgroup)?;
    }
    let log = File::create(folder.log())?;
    let again = log.try_clone()?;
    let mut command = Command::new(program);
    command.arg("--config").arg(folder.description()).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(log).stderr(again).current_dir("/");
    // SAFETY: between fork and exec only what is async-signal-safe may be called. `setsid` is a system call that takes and allocates
    // nothing; on failure the error is a number.
    unsafe {
        command.pre_exec(|| setsid().map(drop).map_err(io::Error::from));
    }
    // From here on it may run: a folder with this mark is never started again.
    File::create(folder.mark())?;
    let mut child = command.spawn()?;
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
    fn a_machine_is_put_into_the_control_group_that_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path(), "busy").unwrap();
        fs::create_dir_all(folder.path()).unwrap();
        let group = directory.path().join("group");
        start(Path::new("/bin/true"), &folder, Some(&group)).unwrap();
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
        assert!(start(Path::new("/bin/true"), &folder, Some(&file)).is_err());
        assert!(!folder.mark().exists());
    }
}
