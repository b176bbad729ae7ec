//! What a machine uses of its host: files, taps, the terminal. Opened before anything runs, on either side of a migration.

use std::{
    io, iter,
    os::{
        fd::{BorrowedFd, RawFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use config::{Config, ImageFormat, NetBackend, OnReadError, OnWriteError, SerialPort};
use devices::{
    blk::{Disk, DiskError, DiskOptions, ErrorPolicy, OnError},
    net::{Tap, TapError},
    serial::{Backend, BackendError, Confine, Descriptors, Logged, OutputFile, Socket},
};

use super::{
    ids,
    look::{OPENING, Shut, Sight},
};
use crate::{
    disk_lock::DiskLock,
    seccomp::{self, Role},
};

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
    /// What would be opened is in storage that does not answer.
    #[error("The {what} '{}' cannot be opened: {why}", path.display())]
    NoAnswer {
        /// What the machine needs it for.
        what: String,
        /// Where it is.
        path: PathBuf,
        /// How long it was waited for, and what to do.
        why: String,
    },
    /// A descriptor that was to be inherited.
    #[error("Descriptor {fd} is not open: have the parent process pass it on")]
    Descriptor {
        /// The descriptor.
        fd: RawFd,
        /// What the system said.
        source: io::Error,
    },
    /// Two disks have one image, under different paths.
    #[error(
        "Disk images '{}' and '{}' are one and the same: two disks on one image destroy it. Give each disk its own",
        first.display(),
        second.display()
    )]
    SameImage {
        /// The image.
        first: PathBuf,
        /// The image again.
        second: PathBuf,
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
    /// Opens everything that `config` names, and locks nothing. Of the images by `images`, of the serial port by `serial` it is known that
    /// their storage still has not answered.
    pub(crate) fn open(config: &Config, images: &[Sight], serial: &Sight) -> Result<Self, ResourceError> {
        let sights = images.iter().cloned().chain(iter::repeat_with(Sight::default));
        let open = |((index, disk), sight): ((usize, &config::Disk), Sight)| {
            let wanted = disk.clone();
            sight.open(OPENING, move |_| open_disk(&wanted)).unwrap_or_else(|shut| {
                Err(no_answer(format!("image of disk '{}'", ids::disk(index)), disk.path().as_path(), shut))
            })
        };
        let disks: Vec<_> =
            config.disks().iter().enumerate().zip(sights).map(open).collect::<Result<_, _>>()?;
        check_images(&disks)?;
        Ok(Self {
            serial: open_serial_within(config.serial(), serial)?,
            disks,
            nets: config.nets().iter().map(open_net).collect::<Result<_, _>>()?,
        })
    }
}

/// That no two disks have one image. Links give it many paths, and locks tell of another machine only.
fn check_images(disks: &[OpenDisk]) -> Result<(), ResourceError> {
    let identity = |open: &OpenDisk| {
        let file = open.disk.file().metadata().ok()?;
        Some(if file.file_type().is_block_device() {
            (None, file.rdev())
        } else {
            (Some(file.dev()), file.ino())
        })
    };
    let identities: Vec<_> = disks.iter().map(identity).collect();
    for (second, identity) in identities.iter().enumerate() {
        if let Some(first) =
            identities[..second].iter().position(|other| identity.is_some() && other == identity)
        {
            let path = |index: usize| disks[index].lock.path().to_owned();
            return Err(ResourceError::SameImage { first: path(first), second: path(second) });
        }
    }
    Ok(())
}

fn no_answer(what: String, path: &Path, shut: Shut) -> ResourceError {
    ResourceError::NoAnswer { what, path: path.to_owned(), why: shut.why() }
}

fn open_serial_within(port: &SerialPort, sight: &Sight) -> Result<Box<dyn Backend>, ResourceError> {
    let path = match port {
        SerialPort::File(path) | SerialPort::Unix { log: Some(path), .. } => path.as_path(),
        SerialPort::Unix { socket, log: None } => socket.as_path(),
        SerialPort::Stdio | SerialPort::None => return Ok(open_serial(port)?),
    };
    let wanted = port.clone();
    let opened = sight.open(OPENING, move |_| open_serial(&wanted));
    Ok(opened.map_err(|shut| no_answer("file of the serial port".into(), path, shut))??)
}

fn open_serial(port: &SerialPort) -> Result<Box<dyn Backend>, BackendError> {
    // What is written is like a line of the log.
    let confine: Confine = || Ok(seccomp::enter(Role::Log)?);
    Ok(match port {
        SerialPort::Stdio => Box::new(Descriptors::stdio(confine)?),
        SerialPort::File(path) => Box::new(OutputFile::open(path.as_path(), confine)?),
        SerialPort::Unix { socket, log: None } => Box::new(Socket::listen(socket.as_path())?),
        SerialPort::Unix { socket, log: Some(log) } => Box::new(Logged::new(
            OutputFile::open(log.as_path(), confine)?,
            Socket::listen(socket.as_path())?,
        )),
        SerialPort::None => Box::new(OutputFile::open("/dev/null".as_ref(), confine)?),
    })
}

fn open_disk(disk: &config::Disk) -> Result<OpenDisk, ResourceError> {
    let path = disk.path().as_path();
    let options = DiskOptions {
        read_only: disk.readonly(),
        direct: disk.direct(),
        surely_raw: disk.format() == ImageFormat::Raw,
        errors: ErrorPolicy {
            write: match disk.werror() {
                OnWriteError::Enospc => OnError::StopAtNoSpace,
                OnWriteError::Stop => OnError::Stop,
                OnWriteError::Report => OnError::Report,
            },
            read: match disk.rerror() {
                OnReadError::Stop => OnError::Stop,
                OnReadError::Report => OnError::Report,
            },
        },
    };
    let open = Disk::open(path, options)?;
    let lock = DiskLock::new(open.file(), path.to_owned(), disk.readonly(), disk.lock())
        .map_err(|source| ResourceError::Descriptors { path: path.to_owned(), source })?;
    Ok(OpenDisk { disk: open, serial: disk.serial().as_str().to_owned(), lock: Arc::new(lock) })
}

fn open_net(net: &config::Net) -> Result<OpenNet, ResourceError> {
    let tap = match net.backend() {
        NetBackend::Tap(name) => {
            let tap = Tap::open(name.as_str())?;
            tell_of(&tap);
            tap
        }
        NetBackend::Fd(fd) => Tap::from_fd(inherited(fd.raw())?)?,
    };
    Ok(OpenNet { tap, mac: net.mac().octets() })
}

/// Says where a tap leads, as far as that can be seen: one that is down, or in no bridge, is what a silent network often comes from.
fn tell_of(tap: &Tap) {
    let name = tap.name();
    // What /sys shows is of the network namespace in which it was mounted.
    let master =
        std::fs::read_to_string(std::path::Path::new("/sys/class/net").join(name).join("master/uevent"));
    let master = master.unwrap_or_default();
    let bridge = master.lines().find_map(|line| line.strip_prefix("INTERFACE="));
    let bridge = bridge
        .map_or_else(|| "in no bridge that is seen here".into(), |bridge| format!("in bridge '{bridge}'"));
    match tap.is_up() {
        Some(false) => {
            tracing::warn!(
                "Tap '{name}' is down, so that the guest hears nothing (ip link set {name} up); it is {bridge}"
            );
        }
        Some(true) => tracing::info!("Tap '{name}' is up, and {bridge}"),
        None => {}
    }
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
