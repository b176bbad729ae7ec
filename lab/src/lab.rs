use std::{
    fs::{self, File},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use crate::{
    Host, Images, LabError, Network, Pace, Programs,
    host::Plugs,
    image::ROOT_MIB,
    packages::Packages,
    programs::{check_this_machine, target_directory},
};

/// More than packages (500 MiB), images, disks and logs (250 MiB) take, in MiB. That cargo lacks space, it says
/// itself.
const NEEDED_MIB: u64 = 1024;
/// What a kernel says that has found a mistake of its own.
const TROUBLE: [&str; 6] =
    ["BUG:", "WARNING: CPU", "Oops", "soft lockup", "blocked for more than", "rcu_sched self-detected"];
/// Size of the disk beside the root file system.
pub const DATA_MIB: u64 = 64;

/// Hosts, the network between them, and the disks that they share. All ends when this is dropped.
///
/// Hosts see the disks as `/dev/vda`, with a root file system for a guest, and `/dev/vdb`, which is empty.
#[derive(Debug)]
pub struct Lab {
    // Hosts end before the network and the folder of sockets go.
    hosts: Vec<Host>,
    network: Network,
    images: Images,
    disks: [PathBuf; 2],
    logs: PathBuf,
    /// The folder of logs. No other lab may use it while this is open.
    folder: OwnedFd,
    machines: AtomicU32,
    pace: Arc<Pace>,
}

/// How long a host may take to say how fast it is, which takes a second.
const MEASURING: Duration = Duration::from_secs(60);

impl Lab {
    /// Builds what is missing, and boots two hosts, `a` and `b`. Logs go to `target/lab/NAME`.
    ///
    /// # Errors
    /// Something of this machine is missing, or a host does not come up.
    pub fn two_hosts(name: &str) -> Result<Self, LabError> {
        Self::new(name, &["a", "b"])
    }

    /// As [`Lab::two_hosts`], with hosts of these names.
    ///
    /// # Errors
    /// Likewise.
    pub fn new(name: &str, hosts: &[&str]) -> Result<Self, LabError> {
        check_this_machine()?;
        let folder = target_directory().join("lab");
        check_space(&folder)?;
        check_space(&crate::packages::cache_directory())?;
        let logs = folder.join(name);
        let folder = fresh(&logs)?;
        // First what takes seconds and may fail, then what takes minutes.
        let packages = progress("packages", Packages::get)?;
        let programs = progress("programs", Programs::build)?;
        let images = progress("images", || Images::build(&logs, packages, programs))?;
        let disks = [("root", ROOT_MIB), ("data", DATA_MIB)]
            .map(|(name, mib)| (logs.join(format!("{name}.img")), mib));
        for (disk, mib) in &disks {
            File::create(disk)
                .and_then(|file| file.set_len(mib << 20))
                .map_err(LabError::file("create", disk))?;
        }
        let disks = disks.map(|(disk, _)| disk);
        let (network, pace) = (Network::default(), Arc::new(Pace::default()));
        let hosts = (1..).zip(hosts).map(|(number, name)| {
            let card = network.port(&short_path(&folder), name)?;
            Host::new(name, number, Plugs { card, disks: &disks, logs: &logs, pace: &pace })
        });
        let hosts = hosts.collect::<Result<_, _>>()?;
        let lab = Self { hosts, network, images, disks, logs, folder, machines: AtomicU32::new(0), pace };
        progress("hosts", || {
            lab.hosts.iter().try_for_each(|host| host.switch_on(&lab.images))?;
            lab.hosts.iter().try_for_each(|host| host.wait(&lab.images))
        })?;
        lab.measure()?;
        Ok(lab)
    }

    /// Finds out how fast the hosts are while all of them work.
    fn measure(&self) -> Result<(), LabError> {
        let measure = |host: &Host| host.remote().spawn(&["whimbrel-lab-agent", "speed"]);
        let measuring: Vec<_> = self.hosts.iter().map(measure).collect::<Result<_, _>>()?;
        let speeds = measuring.iter().map(|host| host.number("pages_per_second", MEASURING, |_| true));
        let speeds: Vec<_> = speeds.collect::<Result<_, _>>()?;
        let slowest = speeds.into_iter().min().unwrap_or(0);
        self.pace.measured(slowest.unsigned_abs());
        output::say!(
            "a host writes and checks {slowest} pages a second: limits are {:.1} times the usual",
            self.pace.slowness()
        );
        Ok(())
    }

    /// How long things may take.
    #[must_use]
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// A host by its name.
    ///
    /// # Panics
    /// There is none: names are in the source of whoever asks.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .unwrap_or_else(|| panic!("there is no host '{name}'"))
    }

    /// All hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Switches a host on that was killed, and waits until it is up.
    ///
    /// # Errors
    /// It does not come up.
    pub fn revive(&self, host: &Host) -> Result<(), LabError> {
        host.switch_on(&self.images)?;
        host.wait(&self.images)
    }

    /// The network between the hosts.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What hosts and guests boot.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The disk with the root file system, as this machine sees it.
    #[must_use]
    pub fn root_disk(&self) -> &Path {
        &self.disks[0]
    }

    /// The other disk, as this machine sees it.
    #[must_use]
    pub fn data_disk(&self) -> &Path {
        &self.disks[1]
    }

    /// Where logs are.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// A path for a socket of this lab.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        short_path(&self.folder).join(name)
    }

    /// Machines are numbered, so that each has logs of its own.
    pub(crate) fn next_number(&self) -> u32 {
        self.machines.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Checks that the kernels of all hosts that are up have found nothing wrong with themselves, their KVM above all.
    ///
    /// # Errors
    /// One has.
    pub fn kernels_are_well(&self) -> Result<(), LabError> {
        for host in self.hosts.iter().filter(|host| host.is_on()) {
            let log = host.remote().run("dmesg")?;
            let trouble: Vec<_> =
                log.lines().filter(|line| TROUBLE.iter().any(|word| line.contains(word))).collect();
            if !trouble.is_empty() {
                return Err(LabError::Wrong(format!(
                    "The kernel of host '{}' says:\n{}",
                    host.name(),
                    trouble.join("\n")
                )));
            }
        }
        Ok(())
    }

    /// What a scenario may count on: all hosts are up and run no machine, and the network is well.
    ///
    /// # Errors
    /// A host does not come up again.
    pub fn reset(&self) -> Result<(), LabError> {
        self.network.heal();
        for host in self.hosts.iter().filter(|host| !host.is_on()) {
            host.switch_on(&self.images)?;
        }
        for host in &self.hosts {
            host.wait(&self.images)?;
            host.remote().run("killall -q -9 whimbrel-vmm; rm -f /run/*; true")?;
        }
        Ok(())
    }

    /// Writes a fresh root file system on its disk. No guest may be using it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn fresh_root(&self) -> Result<(), LabError> {
        self.images.write_root(self.root_disk(), false)
    }

    /// The same with the kernel and its initial file system in it, as disks of distributions have them.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn fresh_root_with_kernel(&self) -> Result<(), LabError> {
        self.images.write_root(self.root_disk(), true)
    }
}

/// Says what is being made, which may take minutes the first time, and how long it took.
fn progress<T>(what: &str, make: impl FnOnce() -> Result<T, LabError>) -> Result<T, LabError> {
    output::say!("{what} …");
    let begun = Instant::now();
    let made = make()?;
    output::say!("{what}: {:.1} s", begun.elapsed().as_secs_f32());
    Ok(made)
}

/// An empty folder that is this lab's.
fn fresh(folder: &Path) -> Result<OwnedFd, LabError> {
    fs::create_dir_all(folder).map_err(LabError::file("create", folder))?;
    let lock = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| LabError::file("open", folder)(error.into()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(LabError::InUse { path: folder.into() });
    }
    for entry in fs::read_dir(folder).map_err(LabError::file("read", folder))?.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(LabError::file("remove", path))?;
    }
    Ok(lock)
}

/// The path of a folder that is open: the path of a socket has 107 bytes at most (unix(7)).
fn short_path(folder: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}", process::id(), folder.as_raw_fd()).into()
}

fn check_space(folder: &Path) -> Result<(), LabError> {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let system =
        rustix::fs::statvfs(there).map_err(|error| LabError::file("look at", there)(error.into()))?;
    let free_mib = system.f_bavail.saturating_mul(system.f_frsize) >> 20;
    if free_mib < NEEDED_MIB {
        return Err(LabError::DiskSpace { path: folder.into(), free_mib, needed_mib: NEEDED_MIB });
    }
    Ok(())
}
