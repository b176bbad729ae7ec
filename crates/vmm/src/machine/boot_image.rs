//! What a machine boots: kernel, initrd and command line, now and after each reset, here and where it moves.
//!
//! They do not travel. A kernel and an initrd are tens of megabytes; with the device states they would go out while the
//! machine is stopped, and would make the downtime several times as long. So the destination has the same files already, and
//! shows it by their digests before a page moves. After the move the machine reboots as it did at the source.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use config::Config;
use devices::GuestMemory;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::look::{Blind, Look, OPENING, PATIENCE, Sight};
use crate::{
    arch::{BootFile, BootFiles, Entry, KernelError, layout, write_acpi_tables},
    launcher::Launcher,
};

/// What a machine boots, now and after each reset.
#[derive(Debug)]
pub(crate) struct BootImage {
    files: Mutex<BootFiles>,
    /// What was in the files when they were opened.
    description: BootDescription,
    sight: Sight,
    /// Which of the files is being looked at, or was last.
    looks_at: AtomicUsize,
}

/// How long it may take to read it once more, which the page cache has as a rule.
const LOADING: Duration = Duration::from_secs(300);

/// A look at it that goes on.
pub(super) type Verifying = Result<Look<Result<(), KernelError>>, Blind>;

/// What a machine boots, as both sides of a migration compare it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootDescription {
    /// The kernel.
    pub kernel: FileDescription,
    /// The initrd, if there is one.
    pub initrd: Option<FileDescription>,
    /// The command line as the user gave it.
    pub command_line: String,
}

/// The contents of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDescription {
    /// Where it is on its host. For messages: what counts is what is in it.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// XXH3 of its contents, 128 bits, in hexadecimal.
    pub digest: String,
}

impl BootImage {
    /// Opens what `config` boots, if it does, and reads it once.
    pub(super) fn open(config: &Config) -> Result<Option<Self>, KernelError> {
        let Some(boot) = config.boot() else { return Ok(None) };
        let kernel = boot.kernel().as_path().to_owned();
        let initrd = boot.initrd().map(|initrd| initrd.as_path().to_owned());
        let (sight, opens) = (Sight::default(), kernel.clone());
        // Of an initrd that does not open it is not known that the kernel did: both are named then.
        let both = initrd.as_ref().map_or_else(
            || kernel.clone(),
            |initrd| format!("{}' or initrd '{}", kernel.display(), initrd.display()).into(),
        );
        let opened =
            sight.open(OPENING, move |pulse| BootFiles::open(&opens, initrd.as_deref(), &|| pulse.beat()));
        let files = opened.unwrap_or_else(|shut| {
            Err(KernelError::Unreadable { what: "kernel", path: both, source: shut.into() })
        })?;
        let description = BootDescription {
            kernel: FileDescription::from(&files.kernel),
            initrd: files.initrd.as_ref().map(FileDescription::from),
            command_line: boot.cmdline().as_str().to_owned(),
        };
        Ok(Some(Self { files: Mutex::new(files), description, sight, looks_at: AtomicUsize::new(0) }))
    }

    /// For the other side of a migration.
    pub(super) fn describe(&self) -> BootDescription {
        self.description.clone()
    }

    /// Whether it can be loaded, and is what it was. The machine is not touched. Takes five seconds at most.
    pub(super) fn verify(self: &Arc<Self>, launcher: &Launcher) -> Result<(), KernelError> {
        self.seen(self.begin(launcher), Instant::now() + PATIENCE)
    }

    /// Begins to find that out.
    pub(super) fn begin(self: &Arc<Self>, launcher: &Launcher) -> Verifying {
        let own = self.clone();
        self.sight.look(launcher, "boot", move || own.look())
    }

    /// Waits until that is found out, but no longer than until `deadline`.
    pub(super) fn seen(&self, look: Verifying, deadline: Instant) -> Result<(), KernelError> {
        let seen = look.and_then(|look| look.until(deadline));
        seen.unwrap_or_else(|blind| Err(self.unseen(blind)))
    }

    fn look(&self) -> Result<(), KernelError> {
        let files = self.files.lock();
        files.all().enumerate().try_for_each(|(index, file)| {
            self.looks_at.store(index, Ordering::SeqCst);
            file.verify()
        })
    }

    fn unseen(&self, blind: Blind) -> KernelError {
        let initrd = self.description.initrd.as_ref().filter(|_| self.looks_at.load(Ordering::SeqCst) > 0);
        let (what, file) = initrd.map_or(("kernel", &self.description.kernel), |initrd| ("initrd", initrd));
        KernelError::Unseen { what, path: file.path.clone().into(), why: blind.why() }
    }

    /// Puts kernel, initrd, command line and ACPI tables into memory that is all zero.
    ///
    /// # Errors
    /// Its files cannot be read, or take too long. What hangs writes that memory when it comes back, and nothing else is loaded before.
    pub(super) fn load(
        self: &Arc<Self>,
        memory: &GuestMemory,
        cpus: u8,
        virtio_slots: usize,
    ) -> Result<Entry, KernelError> {
        let command_line = with_virtio_devices(&self.description.command_line, virtio_slots);
        let (own, into) = (self.clone(), memory.clone());
        let loaded = self.sight.open(LOADING, move |_| own.files.lock().load(&into, &command_line));
        let entry = loaded.unwrap_or_else(|shut| {
            let path = self.description.kernel.path.clone().into();
            Err(KernelError::Unreadable { what: "kernel", path, source: shut.into() })
        })?;
        write_acpi_tables(memory, cpus, virtio_slots).map_err(KernelError::BootData)?;
        Ok(entry)
    }
}

/// Every reason why a machine that boots `offered` would not reboot the same here.
pub(super) fn reasons(offered: Option<&BootDescription>, ours: Option<&BootDescription>) -> Vec<String> {
    let Some(offered) = offered else {
        return vec!["The source does not say what its machine boots".into()];
    };
    let Some(ours) = ours else {
        return vec![format!(
            "The machine boots {} and this side was started without a kernel, so that it could not reboot here: start this side \
             with the source's --kernel, --initrd and --cmdline",
            said(&offered.kernel)
        )];
    };
    let mut reasons = Vec::new();
    reasons.extend(file_reasons("kernel", Some(&offered.kernel), Some(&ours.kernel)));
    reasons.extend(file_reasons("initrd", offered.initrd.as_ref(), ours.initrd.as_ref()));
    if offered.command_line != ours.command_line {
        reasons.push(format!(
            "The kernel command line of the source is '{}', that of this side is '{}': start this side with the source's --cmdline",
            clipped(&offered.command_line),
            clipped(&ours.command_line)
        ));
    }
    reasons
}

fn file_reasons(
    what: &str,
    offered: Option<&FileDescription>,
    ours: Option<&FileDescription>,
) -> Option<String> {
    let contents = |file: &FileDescription| (file.bytes, file.digest.clone());
    if offered.map(contents) == ours.map(contents) {
        return None;
    }
    let (theirs, ours) = (offered.map_or("none".into(), said), ours.map_or("none".into(), said));
    Some(format!(
        "The {what} of the source is {theirs}, that of this side is {ours}: after the move a reboot would start something else. Start \
         this side with a copy of the source's file (--{what})"
    ))
}

fn said(file: &FileDescription) -> String {
    format!("'{}' ({} bytes, digest {})", clipped(&file.path), file.bytes, clipped(&file.digest))
}

/// A text that a peer chose, as much of it as a message has room for.
fn clipped(text: &str) -> String {
    const SHOWN: usize = 256;
    let printable = |letter: char| if letter.is_control() { '?' } else { letter };
    let mut shown: String = text.chars().take(SHOWN).map(printable).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

impl From<&BootFile> for FileDescription {
    fn from(file: &BootFile) -> Self {
        Self {
            path: file.path.display().to_string(),
            bytes: file.bytes,
            digest: format!("{:032x}", file.digest),
        }
    }
}

/// Names the virtio-mmio devices on the command line too, for guests that read no ACPI tables (Linux,
/// Documentation/admin-guide/kernel-parameters.txt, `virtio_mmio.device`). A user who names some himself has the say.
fn with_virtio_devices(command_line: &str, virtio_slots: usize) -> String {
    const PARAMETER: &str = "virtio_mmio.device=";
    let mut all = command_line.to_owned();
    if command_line.contains(PARAMETER) {
        return all;
    }
    for (address, gsi) in (0..virtio_slots).filter_map(layout::virtio_slot) {
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(&format!("{PARAMETER}{}@{address:#x}:{gsi}", layout::VIRTIO_BYTES));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtio_devices_are_named_unless_the_user_does() {
        assert_eq!(
            with_virtio_devices("quiet", 2),
            "quiet virtio_mmio.device=512@0xfeb00000:5 virtio_mmio.device=512@0xfeb00200:6"
        );
        assert_eq!(with_virtio_devices("", 1), "virtio_mmio.device=512@0xfeb00000:5");
        let own = "virtio_mmio.device=4K@0x1000:7";
        assert_eq!(with_virtio_devices(own, 2), own);
    }

    #[test]
    fn a_kernel_whose_storage_hangs_is_an_error_that_names_it_and_has_one_thread() {
        let kernel = crate::testing::guest(&[0xf4]);
        let yaml = format!("kernel: {}", kernel.path().display());
        let config = Config::new(config::RawConfig::from_yaml(&yaml, "test").unwrap()).unwrap();
        let image = Arc::new(BootImage::open(&config).unwrap().unwrap());
        let launcher = Launcher::start().unwrap();
        image.verify(&launcher).unwrap();
        // Whoever looks waits for this.
        let hangs = image.files.lock();
        for why in ["does not answer in time", "has not answered since"] {
            let error = image.verify(&launcher).unwrap_err().to_string();
            let path = kernel.path().display().to_string();
            assert!(error.contains(why) && error.contains(&path), "{error}");
        }
        assert_eq!(image.describe().kernel.bytes, kernel.as_file().metadata().unwrap().len());
        drop(hangs);
    }

    fn boots(kernel: &str, initrd: Option<&str>, command_line: &str) -> BootDescription {
        let file = |digest: &str| FileDescription { path: "k".into(), bytes: 1, digest: digest.into() };
        BootDescription { kernel: file(kernel), initrd: initrd.map(file), command_line: command_line.into() }
    }

    #[test]
    fn every_difference_is_named_and_the_paths_are_none() {
        let ours = boots("a", Some("b"), "quiet");
        let named = |offered: Option<&BootDescription>| reasons(offered, Some(&ours)).join("\n");
        let mut elsewhere = ours.clone();
        elsewhere.kernel.path = "/elsewhere".into();
        assert_eq!(named(Some(&elsewhere)), "");
        let other = named(Some(&boots("c", None, "loud")));
        for part in ["--kernel", "digest c", "initrd of the source is none", "'loud'", "'quiet'"] {
            assert!(other.contains(part), "{part}: {other}");
        }
        assert!(named(None).contains("does not say"));
        assert!(reasons(Some(&ours), None)[0].contains("--kernel"));
        assert_eq!(reasons(None, None).len(), 1);
    }
}
