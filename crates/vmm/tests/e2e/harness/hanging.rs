//! Storage that does not answer.

use std::{fs::File, path::PathBuf, process::Command};

use super::{Lab, skipped};

/// A file system that can be frozen: whoever writes to it then waits.
pub(crate) struct Freezer {
    pub(crate) directory: PathBuf,
    pub(crate) image: PathBuf,
}

impl Freezer {
    /// None where this process may not mount one.
    pub(crate) fn new(lab: &Lab) -> Option<Self> {
        let (directory, device) = (lab.path("frozen"), lab.path("frozen.ext4"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::File::create(&device).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&device).status();
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).args([&device, &directory]);
        let mounted =
            made.is_ok_and(|made| made.success()) && mount.status().is_ok_and(|status| status.success());
        if !mounted {
            skipped("a file system cannot be made and mounted");
            return None;
        }
        let image = directory.join("disk.img");
        std::fs::File::create(&image).unwrap().set_len(20 << 20).unwrap();
        Some(Self { directory, image })
    }

    pub(crate) fn freeze(&self) -> Frozen<'_> {
        assert!(Command::new("fsfreeze").arg("-f").arg(&self.directory).status().unwrap().success());
        Frozen(self)
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.directory).status();
    }
}

/// As long as it is there the file system is frozen: processes that write to it cannot even be killed.
pub(crate) struct Frozen<'a>(&'a Freezer);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0.directory).status();
    }
}

/// A directory in which every file has gone to a server that does not answer, as a dead file server's. Dropping it ends that: what waits
/// there fails, and what was in the directory before is there again.
pub(crate) struct Dead {
    directory: PathBuf,
    server: Option<File>,
}

impl Dead {
    /// None where this process may not mount one.
    pub(crate) fn over(directory: PathBuf) -> Option<Self> {
        let server = File::options().read(true).write(true).open("/dev/fuse").ok();
        // The server is standard input, and nobody ever reads what it is asked.
        let mounted = server.as_ref().and_then(|server| {
            let mut mount = Command::new("mount");
            mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "dead"]);
            mount.arg(&directory).stdin(server.try_clone().ok()?).status().ok()
        });
        if !mounted.is_some_and(|status| status.success()) {
            skipped("a file system that does not answer cannot be mounted");
            return None;
        }
        Some(Self { directory, server })
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        self.server.take();
        let _ = Command::new("umount").arg("-l").arg(&self.directory).status();
    }
}
