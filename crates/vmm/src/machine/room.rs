//! Whether the host has memory for what is still to come.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

/// How much memory this process may still get. The files are opened before the process confines itself, and read each time.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// /proc/meminfo.
    host: Option<File>,
    /// /proc/self/statm.
    own: Option<File>,
    group: Option<Group>,
}

/// The control group that the process is in, if it limits memory.
#[derive(Debug)]
struct Group {
    limit: File,
    usage: File,
    statistics: File,
}

/// There is too little memory.
#[derive(Debug, thiserror::Error)]
#[error(
    "{needed_mib} MiB of memory are still to come, and {whose} has {free_mib} MiB left: the kernel would kill this process, and the \
     machine with it. Free some, or move it by rounds alone (postcopy-ram off)"
)]
pub(crate) struct NoRoom {
    needed_mib: u64,
    free_mib: u64,
    whose: &'static str,
}

/// Bytes of a page, as the kernel counts what a process has.
const PAGE: u64 = 4096;
/// Nothing that is read here is longer.
const MOST: usize = 8 << 10;

impl Room {
    /// Looks for what tells how much memory there is. Where something does not, nothing is said by it.
    #[must_use]
    pub(super) fn open() -> Self {
        let read = |path: &str| File::open(path).ok();
        Self { host: read("/proc/meminfo"), own: read("/proc/self/statm"), group: Group::of_this_process() }
    }

    /// Whether there is memory for so many bytes of a machine whose memory is not reserved. What of it was touched already, this
    /// process has.
    ///
    /// # Errors
    /// There is not.
    pub(super) fn is_enough(&self, bytes: u64) -> Result<(), NoRoom> {
        let own = self.own.as_ref().and_then(resident).unwrap_or(0);
        let host = self.host.as_ref().and_then(available).map(|free| (free, "this host"));
        let group = self.group.as_ref().and_then(Group::free).map(|free| (free, "its control group"));
        for (free, whose) in host.into_iter().chain(group) {
            if free.saturating_add(own) < bytes {
                return Err(NoRoom {
                    needed_mib: bytes.div_ceil(1 << 20),
                    free_mib: (free + own) >> 20,
                    whose,
                });
            }
        }
        Ok(())
    }
}

impl Group {
    fn of_this_process() -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        groups.lines().find_map(Self::of_line)
    }

    /// Of a line of /proc/self/cgroup: number, controllers, path. Of the second version there are no controllers.
    fn of_line(line: &str) -> Option<Self> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (root, limit, usage) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => return None,
        };
        let open = |name| File::open(Path::new(root).join(path).join(name)).ok();
        Some(Self { limit: open(limit)?, usage: open(usage)?, statistics: open("memory.stat")? })
    }

    /// Bytes that may still be had; `None` without a limit.
    fn free(&self) -> Option<u64> {
        let number = |file| text(file).ok()?.trim().parse::<u64>().ok();
        // "max" is no number.
        let (limit, usage) = (number(&self.limit)?, number(&self.usage)?);
        // What is cached of files is given up when it is needed.
        let statistics = text(&self.statistics).ok()?;
        let cached =
            ["total_inactive_file ", "inactive_file "].into_iter().find_map(|name| field(&statistics, name));
        Some(limit.saturating_sub(usage).saturating_add(cached.unwrap_or(0)))
    }
}

/// What the host has for those who ask.
fn available(meminfo: &File) -> Option<u64> {
    field(&text(meminfo).ok()?, "MemAvailable:")?.checked_mul(1 << 10)
}

/// What this process has.
fn resident(statm: &File) -> Option<u64> {
    text(statm).ok()?.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(PAGE)
}

/// The first number behind `name`, which begins a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn text(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; MOST];
    let mut length = 0;
    while length < MOST {
        match file.read_at(&mut bytes[length..], length as u64)? {
            0 => break,
            count => length += count,
        }
    }
    bytes.truncate(length);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> File {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        File::open(&path).unwrap()
    }

    fn group(limit: &str, statistics: &str) -> Group {
        Group { limit: file(limit), usage: file("60000000\n"), statistics: file(statistics) }
    }

    #[test]
    fn this_host_has_room_for_a_page_and_none_for_all_memory_there_could_be() {
        let room = Room::open();
        room.is_enough(PAGE).unwrap();
        let error = room.is_enough(u64::MAX / 2).unwrap_err().to_string();
        assert!(error.contains("the kernel would kill this process"), "{error}");
    }

    #[test]
    fn the_least_of_host_and_group_counts_and_what_the_process_has_is_counted_once() {
        let room = |limit: &str| Room {
            host: Some(file("MemTotal: 9 kB\nMemAvailable:     200000 kB\n")),
            own: Some(file("9000 1000 500 1 0 1 0\n")),
            group: Some(group(limit, "anon 5\ninactive_file 10000000\n")),
        };
        room("max\n").is_enough(208_000_000).unwrap();
        assert_eq!(room("max\n").is_enough(210_000_000).unwrap_err().whose, "this host");
        room("100000000\n").is_enough(54_000_000).unwrap();
        assert_eq!(room("100000000\n").is_enough(55_000_000).unwrap_err().whose, "its control group");
        Room::default().is_enough(u64::MAX).unwrap();
    }

    #[test]
    fn the_group_is_found_by_both_versions_of_their_lines() {
        let first = group("1", "cache 1\ntotal_inactive_file 7\ninactive_file 1\n");
        assert_eq!(first.free(), Some(7));
        for line in ["", "1:cpu:/", "0:", "nonsense", "4:memory:/no/such/group", "0::/no/such/group"] {
            assert!(Group::of_line(line).is_none(), "{line}");
        }
    }
}
