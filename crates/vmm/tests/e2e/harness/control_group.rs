use std::{
    fs,
    path::{Path, PathBuf},
};

use super::skipped;

/// A control group whose processes get no more memory than this. Dropping it takes it away, once they have ended.
pub(crate) struct ControlGroup {
    folder: PathBuf,
    /// What was switched on for it, and is off again afterwards: a file, and what is written there.
    switched_on: Option<(PathBuf, &'static str)>,
}

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
            let group = Self { folder: group, switched_on: None };
            fs::write(group.folder.join(limit), bytes.to_string()).ok()?;
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
            let control = root.join("cgroup.subtree_control");
            let is_on = fs::read_to_string(&control).ok()?.split_whitespace().any(|on| on == "hugetlb");
            let folder = root.join(format!("whimbrel-{name}-{}", std::process::id()));
            let mut group = Self { folder, switched_on: None };
            if !is_on {
                fs::write(&control, "+hugetlb").ok()?;
                group.switched_on = Some((control, "-hugetlb"));
            }
            fs::create_dir(&group.folder).ok()?;
            fs::write(group.folder.join("hugetlb.2MB.max"), bytes.to_string()).ok()?;
            Some(group)
        });
        if made.is_none() {
            skipped("no control group with a limit of huge pages can be made here");
        }
        made
    }

    /// What a process is started with in front of the program, to be in it.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let enter =
            format!("echo $$ > '{}' && exec \"$0\" \"$@\"", self.folder.join("cgroup.procs").display());
        ["sh", "-c", &enter].map(str::to_owned).to_vec()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // What could not be taken away is empty, and in nobody's way.
        let _ = fs::remove_dir(&self.folder);
        if let Some((file, off)) = &self.switched_on {
            let _ = fs::write(file, off);
        }
    }
}
