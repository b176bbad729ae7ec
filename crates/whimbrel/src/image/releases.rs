//! The kernels in a file system.

use std::cmp::Reverse;

use ext4_view::{Ext4, Ext4Error};

/// A kernel with its initial RAM disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Release {
    /// Its release: `6.1.0-32-amd64`.
    pub(super) name: String,
    /// The path of its file.
    pub(super) kernel: String,
    /// The path of its initial RAM disk, if there is one.
    pub(super) initrd: Option<String>,
}

/// Where distributions put kernels; with a file system of its own for /boot they are at its root.
const FOLDERS: [&str; 2] = ["/boot", "/"];
const KERNEL: &str = "vmlinuz-";
/// Names looked at in each folder.
const MAX_NAMES: usize = 4096;

/// All kernels of a file system, the newest first.
pub(super) fn all(files: &Ext4) -> Result<Vec<Release>, Ext4Error> {
    let mut releases = Vec::new();
    for folder in FOLDERS {
        if !files.exists(folder)? || !files.metadata(folder)?.is_dir() {
            continue;
        }
        let mut names = Vec::new();
        for entry in files.read_dir(folder)?.take(MAX_NAMES) {
            // A name that is no text is no kernel's.
            names.extend(entry?.file_name().as_str().ok().map(str::to_owned));
        }
        releases.extend(of(folder, &names));
    }
    releases.sort_by_cached_key(|release| Reverse(order(&release.name)));
    Ok(releases)
}

fn of(folder: &str, names: &[String]) -> Vec<Release> {
    let path = |name: &str| format!("{}/{name}", folder.trim_end_matches('/'));
    let release = |name: &String| {
        let release = name.strip_prefix(KERNEL).filter(|release| !release.is_empty())?;
        // Debian's, Fedora's, and others'.
        let initrds = [
            format!("initrd.img-{release}"),
            format!("initramfs-{release}.img"),
            format!("initrd-{release}"),
        ];
        let initrd = initrds.iter().find(|initrd| names.contains(initrd));
        Some(Release {
            name: release.to_owned(),
            kernel: path(name),
            initrd: initrd.map(|initrd| path(initrd)),
        })
    };
    names.iter().filter_map(release).collect()
}

/// By which releases are compared: numbers as numbers, and all else as text. A kernel for rescue is older than all.
fn order(release: &str) -> (bool, Vec<(u64, String)>) {
    let mut parts = Vec::new();
    let mut rest = release;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let (number, behind) = rest.split_at(digits);
        let text = behind.find(|letter: char| letter.is_ascii_digit()).unwrap_or(behind.len());
        parts.push((number.parse().unwrap_or(0), behind[..text].to_owned()));
        rest = &behind[text..];
    }
    (!release.contains("rescue"), parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_comes_first_and_has_its_own_initial_disk() {
        let names = [
            "vmlinuz-6.1.0-9-amd64",
            "vmlinuz-6.1.0-32-amd64",
            "vmlinuz-6.12.3-1-amd64",
            "initrd.img-6.1.0-32-amd64",
            "vmlinuz-0-rescue-abc",
            "initramfs-6.1.0-9-amd64.img",
            "vmlinuz-",
            "vmlinuz",
            "config-6.1.0-32-amd64",
        ];
        let mut all = of("/boot", &names.map(str::to_owned));
        all.sort_by_cached_key(|release| Reverse(order(&release.name)));
        let found: Vec<_> = all.iter().map(|release| release.name.as_str()).collect();
        assert_eq!(found, ["6.12.3-1-amd64", "6.1.0-32-amd64", "6.1.0-9-amd64", "0-rescue-abc"]);
        assert_eq!(all[1].initrd.as_deref(), Some("/boot/initrd.img-6.1.0-32-amd64"));
        assert_eq!(all[2].initrd.as_deref(), Some("/boot/initramfs-6.1.0-9-amd64.img"));
        assert_eq!(
            (all[0].initrd.as_deref(), all[0].kernel.as_str()),
            (None, "/boot/vmlinuz-6.12.3-1-amd64")
        );
        assert_eq!(of("/", &["vmlinuz-6".to_owned()])[0].kernel, "/vmlinuz-6");
        assert_eq!(order("99999999999999999999999"), (true, vec![(0, String::new())]));
    }
}
