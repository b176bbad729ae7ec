//! What a machine uses of its host: files, taps, the terminal. Opened before anything runs, on either side of a migration.

use std::{
    io,
    os::fd::{BorrowedFd, RawFd},
    path::PathBuf,
    sync::Arc,
};

use config::{Config, NetBackend, SerialPort};
use devices::{
    blk::{Disk, DiskError, DiskOptions},
    net::{Tap, TapError},
    serial::{Backend, BackendError, Descriptors, OutputFile, Socket},
};

use crate::disk_lock::DiskLock;

/// The open host resources of a machine.
#[derive(Debug)]
pub(crate) struct HostResources {
    pub(crate) serial: Box<dyn Backend>,
    pub(crate) disks: Vec<OpenDisk>,
    pub(crate) nets: Vec<OpenNet>,
}

/// A disk image, and its serial number for the guest.
#[derive(Debug)]
pub(crate) struct OpenDisk {
    pub(crate) disk: Disk,
    pub(crate) serial: String,
    pub(crate) lock: Arc<DiskLock>,
}

/// A tap, and the hardware address for the guest.
#[derive(Debug)]
pub(crate) struct OpenNet {
    pub(crate) tap: Tap,
    pub(crate) mac: [u8; 6],
}

/// Why a host resource cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// Where the serial port leads.
    #[error(transparent)]
    Serial(#[from] BackendError),
    /// A disk image.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A descriptor that was to be inherited.
    #[error("Descriptor {fd} is not open: have the parent process pass it on")]
    Descriptor {
        /// The descriptor.
        fd: RawFd,
        /// What the system said.
        source: io::Error,
    },
    /// The process is out of descriptors.
    #[error("Cannot open another descriptor for '{}': raise the limit of open files (ulimit -n)", path.display())]
    Descriptors {
        /// What it was for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl HostResources {
    /// Opens everything that `config` names, and locks nothing.
    pub(crate) fn open(config: &Config) -> Result<Self, ResourceError> {
        Ok(Self {
            serial: open_serial(config.serial())?,
            disks: config.disks().iter().map(open_disk).collect::<Result<_, _>>()?,
            nets: config.nets().iter().map(open_net).collect::<Result<_, _>>()?,
        })
    }
}

fn open_serial(port: &SerialPort) -> Result<Box<dyn Backend>, BackendError> {
    Ok(match port {
        SerialPort::Stdio => Box::new(Descriptors::stdio()?),
        SerialPort::File(path) => Box::new(OutputFile::open(path.as_path())?),
        SerialPort::Unix(path) => Box::new(Socket::listen(path.as_path())?),
        SerialPort::None => Box::new(OutputFile::open("/dev/null".as_ref())?),
    })
}

fn open_disk(disk: &config::Disk) -> Result<OpenDisk, ResourceError> {
    let path = disk.path().as_path();
    let options = DiskOptions { read_only: disk.readonly(), direct: disk.direct() };
    let open = Disk::open(path, options)?;
    let lock = DiskLock::new(open.file(), path.to_owned(), disk.readonly())
        .map_err(|source| ResourceError::Descriptors { path: path.to_owned(), source })?;
    Ok(OpenDisk { disk: open, serial: disk.serial().as_str().to_owned(), lock: Arc::new(lock) })
}

fn open_net(net: &config::Net) -> Result<OpenNet, ResourceError> {
    let tap = match net.backend() {
        NetBackend::Tap(name) => Tap::open(name.as_str())?,
        NetBackend::Fd(fd) => Tap::from_fd(inherited(fd.raw())?)?,
    };
    Ok(OpenNet { tap, mac: net.mac().octets() })
}

/// A copy of a descriptor that the process was started with. The original stays, so that a machine that could not be
/// made can be tried again.
#[expect(unsafe_code, reason = "the descriptor is known by its number only")]
pub(super) fn inherited(fd: RawFd) -> Result<std::os::fd::OwnedFd, ResourceError> {
    // SAFETY: borrowed for one call, which fails if the number is not open. Configurations only name descriptors above
    // standard error, which were open before this process opened its own.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map_err(|source| ResourceError::Descriptor { fd, source })
}
