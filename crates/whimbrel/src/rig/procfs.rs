//! Figures that the kernel has as text.

use std::{fs, io};

/// Bytes of memory that a new process can have without pushing others out.
pub(crate) fn available_memory() -> io::Result<u64> {
    meminfo("MemAvailable:").map(|kib| kib << 10)
}

/// Huge pages of the default size that nobody has and nobody was promised.
pub(super) fn free_huge_pages() -> io::Result<u64> {
    Ok(meminfo("HugePages_Free:")?.saturating_sub(meminfo("HugePages_Rsvd:")?))
}

/// Bytes in a huge page of the default size: what `HugePages_Free` counts.
pub(super) fn huge_page_bytes() -> io::Result<u64> {
    meminfo("Hugepagesize:").map(|kib| kib << 10)
}

/// Bytes of memory that a process has touched, huge pages included. `None` once it is gone.
pub(crate) fn resident_bytes(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some((field(&text, "VmRSS:")? + field(&text, "HugetlbPages:").unwrap_or(0)) << 10)
}

/// The most memory that a process ever had at a time, in bytes, huge pages left out. `None` once it is gone.
pub(super) fn peak_bytes(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    field(&text, "VmHWM:").map(|kib| kib << 10)
}

fn meminfo(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    field(&text, name).ok_or_else(|| io::Error::other(format!("/proc/meminfo has no number after '{name}'")))
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "HugePages_Total:    3000\nHugePages_Free:     12\nHugepagesize:       2048 kB\n";
        assert_eq!(field(text, "HugePages_Free:"), Some(12));
        assert_eq!(field(text, "Hugepagesize:"), Some(2048));
        assert_eq!(field(text, "Huge:"), None);
    }

    #[test]
    fn this_process_has_touched_memory() {
        assert!(resident_bytes(std::process::id()).unwrap() > 0);
    }
}
