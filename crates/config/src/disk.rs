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
    pub(crate) werror: OnWriteError,
    pub(crate) rerror: OnReadError,
    pub(crate) lock: DiskLocking,
    pub(crate) format: ImageFormat,
}

/// What becomes of a request of the guest to write that the host cannot carry out. A list of choices, as QEMU has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnWriteError {
    /// The machine stops where there is no space for what is written; else the guest is told of an error.
    #[default]
    Enospc,
    /// The machine stops.
    Stop,
    /// The guest is told of an error.
    Report,
}

/// What becomes of a request of the guest to read that the host cannot carry out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReadError {
    /// The guest is told of an error.
    #[default]
    Report,
    /// The machine stops.
    Stop,
}

/// Whether an image is locked against other machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskLocking {
    /// Always: a machine whose image cannot be locked does not run.
    #[default]
    On,
    /// Where the storage has locks; where it has none, that is said.
    Warn,
    /// Never.
    Off,
}

/// What an image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// Raw, unless it begins like an image of another format.
    #[default]
    Probe,
    /// Raw, whatever it begins with.
    Raw,
}

/// One disk as typed: `path=FILE[,readonly=on][,direct=on][,serial=TEXT][,werror=…][,rerror=…][,lock=…][,format=raw]`, or a mapping with these keys in YAML.
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
    /// What becomes of writes that fail.
    #[serde(default)]
    pub werror: OnWriteError,
    /// What becomes of reads that fail.
    #[serde(default)]
    pub rerror: OnReadError,
    /// Whether the image is locked against other machines.
    #[serde(default)]
    pub lock: DiskLocking,
    /// Raw, or found out.
    #[serde(default)]
    pub format: ImageFormat,
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

    /// What becomes of writes that fail.
    #[must_use]
    pub fn werror(&self) -> OnWriteError {
        self.werror
    }

    /// What becomes of reads that fail.
    #[must_use]
    pub fn rerror(&self) -> OnReadError {
        self.rerror
    }

    /// Whether the image is locked against other machines.
    #[must_use]
    pub fn lock(&self) -> DiskLocking {
        self.lock
    }

    /// Raw, or found out.
    #[must_use]
    pub fn format(&self) -> ImageFormat {
        self.format
    }
}

/// A choice among words.
macro_rules! words {
    ($choice:ty, $choices:literal, $($word:literal => $variant:ident),*) => {
        impl FromStr for $choice {
            type Err = ValueError;

            fn from_str(typed: &str) -> Result<Self, ValueError> {
                match typed {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(ValueError::Choice { typed: typed.into(), choices: $choices }),
                }
            }
        }
    };
}

words!(OnWriteError, "what to do about a failed write: write enospc, stop or report",
    "enospc" => Enospc, "stop" => Stop, "report" => Report);
words!(OnReadError, "what to do about a failed read: write report or stop", "report" => Report, "stop" => Stop);
words!(DiskLocking, "a way to lock a disk: write on, warn or off", "on" => On, "warn" => Warn, "off" => Off);
words!(ImageFormat, "a format of disk images that can be used: write raw, or probe to have it found out",
    "raw" => Raw, "probe" => Probe);

impl FromStr for RawDisk {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let options =
            Options::parse(typed, "path readonly direct serial werror rerror lock format", Some("path"))?;
        Ok(Self {
            path: options.value("path")?.ok_or(ValueError::Missing { key: "path" })?,
            readonly: options.switch("readonly")?,
            direct: options.switch("direct")?,
            serial: options.value("serial")?,
            werror: options.value("werror")?.unwrap_or_default(),
            rerror: options.value("rerror")?.unwrap_or_default(),
            lock: options.value("lock")?.unwrap_or_default(),
            format: options.value("format")?.unwrap_or_default(),
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
    fn what_fails_stops_the_machine_or_is_reported_as_qemu_does_it() {
        let plain: RawDisk = "/a".parse().unwrap();
        assert_eq!((plain.werror, plain.rerror), (OnWriteError::Enospc, OnReadError::Report));
        assert_eq!((plain.lock, plain.format), (DiskLocking::On, ImageFormat::Probe));
        let disk: RawDisk = "/a,werror=stop,rerror=stop,lock=warn,format=raw".parse().unwrap();
        assert_eq!((disk.werror, disk.rerror), (OnWriteError::Stop, OnReadError::Stop));
        assert_eq!((disk.lock, disk.format), (DiskLocking::Warn, ImageFormat::Raw));
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
            "/a,werror=ignore",
            "/a,rerror=enospc",
            "/a,lock=yes",
            "/a,format=qcow2",
        ] {
            assert!(typed.parse::<RawDisk>().is_err(), "{typed:?}");
        }
    }
}
