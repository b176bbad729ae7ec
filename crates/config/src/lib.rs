//! The description of one machine: what `whimbrel-vmm` was asked to be, from flags, a YAML file, or both.
//!
//! A description is read in two steps. [`RawConfig`] is what was typed: any field may be missing, but each value that is
//! there was checked where it stood, so that a mistake is reported with its flag or its line. [`Config`] is what it
//! means: complete, consistent, and never checked again. Its only constructor is [`Config::new`].
//!
//! The way of a command line: [`from_args`] → [`RawConfig`] of the flags, laid over the [`RawConfig`] of the file
//! ([`RawConfig::over`]) → [`Config`] → the VMM.
//!
//! This crate knows nothing of KVM or devices, and opens nothing but the `--config` file: whether a kernel or a disk
//! exists is found out by the VMM when it opens it.

mod cli;
mod convert;
mod cpu;
mod dirty_log;
mod disk;
mod error;
mod incoming;
mod mac;
mod machine;
mod net;
mod number;
mod options;
mod path;
mod raw;
mod text;
mod userfault;

pub use self::cpu::Cpu;
pub use cli::{Invocation, command, from_args, from_args_with};
pub use dirty_log::{DirtyLogKind, RingEntries};
pub use disk::{Disk, DiskLocking, ImageFormat, OnReadError, OnWriteError, RawDisk};
pub use error::{ConfigError, ValueError};
pub use incoming::Incoming;
pub use mac::MacAddress;
pub use machine::{Boot, Config, MAX_DISKS, MAX_NETS};
pub use net::{Net, NetBackend, RawNet, TapFd, TapName};
pub use number::{CpuCount, MemorySize};
pub use path::{DirectoryPath, FilePath, MonitorSocket, SerialPort, SocketPath};
pub use raw::{Backing, Identity, LogFormat, LogLevel, RawConfig, Seccomp};
pub use text::{CommandLine, DiskSerial, VmName};
pub use userfault::UserfaultDevice;
pub use uuid::Uuid;
