use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{DiskSerial, FilePath, ValueError, options::Options};

/// One disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub(crate) path: FilePath,
    pub(crate) readonly: bool,
    pub(crate) direct: bool,
    pub(crate) serial: DiskSerial,
}

/// One disk as typed: `path=FILE[,readonly=on][,direct=on][,serial=TEXT]`, or a mapping with these keys in YAML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDisk {
    /// Raw image or block device.
    pub path: FilePath,
    /// The guest cannot write it.
    #[serde(default)]
    pub readonly: bool,
    /// Past the page cache of the host (O_DIRECT).
    #[serde(default)]
    pub direct: bool,
    /// What the guest reads as serial number; `diskN` where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<DiskSerial>,
}

impl Disk {
    /// Raw image or block device.
    #[must_use]
    pub fn path(&self) -> &FilePath {
        &self.path
    }

    /// Whether the guest cannot write it.
    #[must_use]
    pub fn readonly(&self) -> bool {
        self.readonly
    }

    /// Whether requests go past the page cache of the host (O_DIRECT).
    #[must_use]
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// What the guest reads as serial number. No two disks of a machine have the same.
    #[must_use]
    pub fn serial(&self) -> &DiskSerial {
        &self.serial
    }
}

impl FromStr for RawDisk {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let options = Options::parse(typed, "path readonly direct serial", Some("path"))?;
        Ok(Self {
            path: options.value("path")?.ok_or(ValueError::Missing { key: "path" })?,
            readonly: options.switch("readonly")?,
            direct: options.switch("direct")?,
            serial: options.value("serial")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_its_path_and_options() {
        let disk: RawDisk = "path=/a,,b,readonly=on,serial=root".parse().unwrap();
        assert_eq!(disk.path.to_string(), "/a,b");
        assert!(disk.readonly && !disk.direct);
        assert_eq!(disk.serial.unwrap().as_str(), "root");
    }

    #[test]
    fn a_bare_path_is_a_disk() {
        let disk: RawDisk = "/a.img,direct=on".parse().unwrap();
        assert_eq!((disk.path.to_string().as_str(), disk.direct), ("/a.img", true));
    }

    #[test]
    fn a_disk_that_is_not_understood_to_the_last_option_is_refused() {
        for typed in [
            "",
            "readonly=on",
            "path=",
            "path=/",
            "/a,readonly",
            "/a,readonly=maybe",
            "/a,cache=none",
            "/a,",
            "/a,serial=",
        ] {
            assert!(typed.parse::<RawDisk>().is_err(), "{typed:?}");
        }
    }
}
