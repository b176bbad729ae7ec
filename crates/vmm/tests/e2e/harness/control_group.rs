use std::{
    fs,
    path::{Path, PathBuf},
};

use super::skipped;

/// A control group whose processes get no more memory than this. Dropping it takes it away, once they have ended.
pub(crate) struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Makes one beside others of this process; `None`, said, where that is not allowed.
    pub(crate) fn limited(name: &str, bytes: u64) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let made = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            let (root, limit) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max"),
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                _ => return None,
            };
            let group = Path::new(root).join(path).join(format!("whimbrel-{name}-{}", std::process::id()));
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        });
        if made.is_none() {
            skipped("no control group with a limit of memory can be made here");
        }
        made
    }

    /// Makes one whose processes get no more huge pages than this; `None`, said, where that is not possible.
    pub(crate) fn of_huge_pages(name: &str, bytes: u64) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let made = mounts.lines().find_map(|mount| {
            let mut words = mount.split(' ').skip(1);
            let (root, kind) = (Path::new(words.next()?), words.next()?);
            if kind != "cgroup2" {
                return None;
            }
            // It may be on already.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+hugetlb");
            let group = root.join(format!("whimbrel-{name}-{}", std::process::id()));
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            fs::write(group.0.join("hugetlb.2MB.max"), bytes.to_string()).ok()?;
            Some(group)
        });
        if made.is_none() {
            skipped("no control group with a limit of huge pages can be made here");
        }
        made
    }

    /// What a process is started with in front of the program, to be in it.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let enter = format!("echo $$ > '{}' && exec \"$0\" \"$@\"", self.0.join("cgroup.procs").display());
        ["sh", "-c", &enter].map(str::to_owned).to_vec()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // What could not be taken away is empty, and in nobody's way.
        let _ = fs::remove_dir(&self.0);
    }
}
