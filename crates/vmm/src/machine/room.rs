//! Whether the host has memory for what is still to come.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

/// How much memory this process may still get. The files are opened before the process confines itself, and read each time.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// /proc/meminfo.
    host: Option<File>,
    /// /proc/self/statm.
    own: Option<File>,
    groups: Vec<Group>,
}

/// A control group that the process is in: its own, or one around that.
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
        Self { host: read("/proc/meminfo"), own: read("/proc/self/statm"), groups: Group::of_this_process() }
    }

    /// Whether there is memory for so many bytes that are missing of a machine of `total` bytes, whose memory is not reserved. Pages that
    /// this process has already need none: it does not come to have more than all of the machine.
    ///
    /// # Errors
    /// There is not.
    pub(super) fn is_enough(&self, missing: u64, total: u64) -> Result<(), NoRoom> {
        let own = self.own.as_ref().and_then(resident).unwrap_or(0);
        let needed = missing.min(total.saturating_sub(own));
        let host = self.host.as_ref().and_then(available).map(|free| (free, "this host"));
        let groups = self.groups.iter().filter_map(Group::free).map(|free| (free, "its control group"));
        let short = host.into_iter().chain(groups).find(|(free, _)| *free < needed);
        short.map_or(Ok(()), |(free, whose)| {
            Err(NoRoom { needed_mib: needed.div_ceil(1 << 20), free_mib: free >> 20, whose })
        })
    }
}

impl Group {
    fn of_this_process() -> Vec<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        groups.lines().flat_map(Self::of_line).collect()
    }

    /// Of a line of /proc/self/cgroup (number, controllers, path): that group, and those around it, whose limits hold too. Of the second
    /// version there are no controllers.
    fn of_line(line: &str) -> Vec<Self> {
        let mut parts = line.splitn(3, ':').skip(1);
        let Some((controllers, path)) = parts.next().zip(parts.next()) else { return Vec::new() };
        let (root, limit, usage) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => return Vec::new(),
        };
        let group = |path: &Path| {
            let open = |name| File::open(Path::new(root).join(path).join(name)).ok();
            Some(Self { limit: open(limit)?, usage: open(usage)?, statistics: open("memory.stat")? })
        };
        Path::new(path.trim_start_matches('/')).ancestors().filter_map(group).collect()
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
        room.is_enough(PAGE, u64::MAX).unwrap();
        let error = room.is_enough(u64::MAX / 2, u64::MAX).unwrap_err().to_string();
        assert!(error.contains("the kernel would kill this process"), "{error}");
    }

    #[test]
    fn the_least_of_host_and_group_counts_and_what_the_process_has_is_counted_once() {
        let room = |limit: &str| Room {
            host: Some(file("MemTotal: 9 kB\nMemAvailable:     200000 kB\n")),
            own: Some(file("9000 1000 500 1 0 1 0\n")),
            groups: vec![group(limit, "anon 5\ninactive_file 10000000\n")],
        };
        let total = 1 << 40;
        room("max\n").is_enough(204_000_000, total).unwrap();
        assert_eq!(room("max\n").is_enough(205_000_000, total).unwrap_err().whose, "this host");
        room("100000000\n").is_enough(50_000_000, total).unwrap();
        assert_eq!(room("100000000\n").is_enough(51_000_000, total).unwrap_err().whose, "its control group");
        // It has 4 MiB: of a machine of 54 it does not come to have more.
        room("100000000\n").is_enough(54_000_000, 54_000_000).unwrap();
        // What it has of another part of the machine is none of what is missing.
        room("100000000\n").is_enough(54_000_000, 60_000_000).unwrap_err();
        Room::default().is_enough(u64::MAX, u64::MAX).unwrap();
    }

    #[test]
    fn the_group_is_found_by_both_versions_of_their_lines() {
        let first = group("1", "cache 1\ntotal_inactive_file 7\ninactive_file 1\n");
        assert_eq!(first.free(), Some(7));
        for line in ["", "1:cpu:/", "0:", "nonsense"] {
            assert!(Group::of_line(line).is_empty(), "{line}");
        }
    }
}
