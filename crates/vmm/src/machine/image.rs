//! Which image is behind each disk of a machine, as both sides of a migration find out before a page moves.
//!
//! Device and inode tell nothing on another host, and paths tell nothing anywhere. So there are two ways:
//!
//! * The source has locked its image and says which [mark](DiskLock::mark) that lock has. Who sees the mark on the image here
//!   has the same image. Nothing is read for that, and the guest may write what it likes.
//! * Where it is not seen, locks may not reach from host to host, or it is another image. On one host locks of files do
//!   reach. Else [samples](devices::blk::is_another_image) of the contents decide.
//!
//! Looking waits for the storage, and storage can be gone. So each image is a [`Sight`], which stays the same from attempt to
//! attempt.

use std::{
    fs, io,
    sync::Arc,
    time::{Duration, Instant},
};

use devices::blk::{ImageReader, MAX_SAMPLES, Sample, TELLING, is_another_image};
use serde::{Deserialize, Serialize};

use super::{
    look::{Blind, Look, PATIENCE, Sight},
    resources::{HostResources, OpenDisk},
};
use crate::{disk_lock::DiskLock, launcher::Launcher};

/// How long either side reads an image: storage that is slow shows fewer blocks.
const READING: Duration = Duration::from_secs(1);

/// What a source tells of the images of its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageClues {
    /// Names its host, or rather the run of its kernel: locks of files are seen by everyone on it. `None`: not known.
    host: Option<String>,
    /// The images, in the order of the disks.
    images: Vec<ImageClue>,
}

/// What a source tells of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageClue {
    /// The mark of its lock, if it is locked.
    mark: Option<i64>,
    /// Blocks of it; `None` where the storage did not answer in time.
    samples: Option<Vec<Sample>>,
}

/// The images of a machine's disks, in their order. Looking at them disturbs nothing.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    host: Option<String>,
    images: Vec<Image>,
}

#[derive(Clone, Debug)]
struct Image {
    lock: Arc<DiskLock>,
    reader: Arc<ImageReader>,
    read_only: bool,
    /// A file, not a device: its locks are its own, whatever path leads to it.
    is_file: bool,
    sight: Sight,
}

/// A look at an image that goes on.
pub(super) type Comparing = Result<Look<Found>, Blind>;

/// What this side finds out about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Same,
    AnotherFile,
    OtherContents,
    NotTold,
    Unreadable,
}

impl Images {
    /// Those that were opened; `sights` are the same for each disk whenever its image is opened.
    pub(crate) fn of(resources: &HostResources, sights: &[Sight]) -> Self {
        let sights = sights.iter().cloned().chain(std::iter::repeat_with(Sight::default));
        let image = |(open, sight): (&OpenDisk, Sight)| Image {
            lock: open.lock.clone(),
            reader: open.disk.reader(),
            read_only: open.disk.is_read_only(),
            is_file: open.disk.file().metadata().is_ok_and(|metadata| metadata.is_file()),
            sight,
        };
        let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        Self {
            host: host.map(|host| host.trim().to_owned()),
            images: resources.disks.iter().zip(sights).map(image).collect(),
        }
    }

    /// What a destination needs to know of them. Takes five seconds at most.
    pub(crate) fn clues(&self, launcher: &Launcher) -> ImageClues {
        let looks = self.ask(launcher, |_| |image: &Image| image.reader.samples(READING));
        let deadline = Instant::now() + PATIENCE;
        let samples = looks.into_iter().map(|look| look?.until(deadline));
        let clue = |(image, samples): (&Image, Result<io::Result<_>, Blind>)| {
            let path = image.lock.path().display();
            let samples = match samples {
                Ok(Ok(samples)) => Some(samples),
                Ok(Err(error)) => {
                    tracing::warn!(image = %path, %error, "a disk image cannot be read");
                    None
                }
                Err(blind) => {
                    tracing::warn!(image = %path, "a disk image cannot be read: {}", blind.why());
                    None
                }
            };
            ImageClue { mark: image.lock.mark(), samples }
        };
        ImageClues { host: self.host.clone(), images: self.images.iter().zip(samples).map(clue).collect() }
    }

    /// Begins to look whether they are the source's.
    pub(super) fn begin(&self, launcher: &Launcher, clues: &ImageClues) -> Vec<Comparing> {
        let same_host = self.host.is_some() && self.host == clues.host;
        self.ask(launcher, |index| {
            let clue = clues.images.get(index).cloned();
            move |image: &Image| clue.map_or(Found::NotTold, |clue| image.compare(&clue, same_host))
        })
    }

    /// Has each image looked at on a thread of its own.
    fn ask<T, Q>(&self, launcher: &Launcher, question: impl Fn(usize) -> Q) -> Vec<Result<Look<T>, Blind>>
    where
        T: Send + 'static,
        Q: FnOnce(&Image) -> T + Send + 'static,
    {
        let ask = |(index, image): (usize, &Image)| {
            let (own, question) = (image.clone(), question(index));
            image.sight.look(launcher, &format!("image{index}"), move || question(&own))
        };
        self.images.iter().enumerate().map(ask).collect()
    }
}

/// For each image: why it seems not to be the source's, as the end of a sentence about it; what is not seen by `deadline` is
/// said so.
pub(super) fn differences(looks: Vec<Comparing>, deadline: Instant) -> Vec<Option<String>> {
    looks.into_iter().map(|look| why(look.and_then(|look| look.until(deadline)))).collect()
}

impl Image {
    fn compare(&self, clue: &ImageClue, same_host: bool) -> Found {
        // For when this side gets the image; if it cannot be set now, it is then.
        let _ = self.lock.set_mark();
        let shows = clue.mark.map(|mark| self.lock.shows(mark));
        // A copy of what nobody writes is as good.
        let is_told = same_host && self.is_file && !self.read_only;
        if let Some(found) = by_mark(shows.as_ref(), || is_told && self.lock.locks_are_seen()) {
            return found;
        }
        let Some(samples) = &clue.samples else { return Found::NotTold };
        match self.reader.sums_at(samples, READING) {
            _ if samples.len() > MAX_SAMPLES => Found::NotTold,
            Err(_) => Found::Unreadable,
            Ok(here) if is_another_image(samples, &here, self.read_only) => Found::OtherContents,
            Ok(here) => {
                if !self.read_only && here.len() < TELLING {
                    let path = self.lock.path().display();
                    tracing::warn!(image = %path, "too few blocks could be compared to tell this image from another");
                }
                Found::Same
            }
        }
    }
}

/// What the mark of the source's lock tells, if that `shows` here or does not; `is_told`: that it does not is because the image is another.
/// `None`: nothing, the contents have to.
fn by_mark(shows: Option<&io::Result<bool>>, is_told: impl FnOnce() -> bool) -> Option<Found> {
    match shows {
        Some(Ok(true)) => Some(Found::Same),
        Some(Ok(false)) if is_told() => Some(Found::AnotherFile),
        Some(Ok(false) | Err(_)) | None => None,
    }
}

fn why(found: Result<Found, Blind>) -> Option<String> {
    let why = match found {
        Ok(Found::Same) => return None,
        Ok(Found::AnotherFile) => "is another file than the one that the source has locked on this same host",
        Ok(Found::OtherContents) => {
            "has other contents than the source's (if its guest is just rewriting all of it, try again)"
        }
        Ok(Found::NotTold) => "cannot be compared, as the source could not read its own in time",
        Ok(Found::Unreadable) => "cannot be compared, as it cannot be read here",
        Err(blind) => return Some(format!("cannot be compared, as {} here", blind.why())),
    };
    Some(why.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use config::DiskLocking;
    use devices::blk::{Disk, DiskOptions};
    use tempfile::NamedTempFile;

    use super::*;

    const BYTES: u64 = 4 << 20;

    fn file(content: u8) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&vec![content; BYTES as usize], 0).unwrap();
        file
    }

    /// The disk of a machine on this host, or on one whose locks are not seen here.
    fn disk(file: &NamedTempFile, read_only: bool, host: &str) -> Images {
        let disk = Disk::open(file.path(), DiskOptions { read_only, ..DiskOptions::default() }).unwrap();
        let lock =
            Arc::new(DiskLock::new(disk.file(), file.path().to_owned(), read_only, DiskLocking::On).unwrap());
        let (reader, sight) = (disk.reader(), Sight::default());
        Images {
            host: Some(host.into()),
            images: vec![Image { lock, reader, read_only, is_file: true, sight }],
        }
    }

    /// What a destination says to clues of a source.
    fn said(destination: &Images, clues: &ImageClues) -> String {
        let launcher = Launcher::start().unwrap();
        let said = differences(destination.begin(&launcher, clues), Instant::now() + PATIENCE);
        assert_eq!(said.len(), 1);
        said[0].clone().unwrap_or_default()
    }

    fn clues(source: &Images) -> ImageClues {
        source.clues(&Launcher::start().unwrap())
    }

    #[test]
    fn the_image_that_the_source_has_locked_is_the_same_whatever_is_written() {
        for read_only in [false, true] {
            let image = file(1);
            let (source, destination) = (disk(&image, read_only, "one"), disk(&image, read_only, "two"));
            source.images[0].lock.lock().unwrap();
            let clues = clues(&source);
            image.as_file().write_all_at(&vec![9; BYTES as usize], 0).unwrap();
            assert_eq!(said(&destination, &clues), "");
            let unread = ImageClue { samples: None, ..clues.images[0].clone() };
            assert_eq!(said(&destination, &ImageClues { images: vec![unread], ..clues }), "");
        }
    }

    #[test]
    fn on_one_host_no_other_file_passes_for_an_image_that_is_written() {
        let (image, copy) = (file(1), file(1));
        let source = disk(&image, false, "one");
        source.images[0].lock.lock().unwrap();
        assert!(said(&disk(&copy, false, "one"), &clues(&source)).contains("another file"));
        // Its lock might not be seen from there.
        assert_eq!(said(&disk(&copy, false, "two"), &clues(&source)), "");
        let reads = disk(&image, true, "one");
        assert_eq!(said(&disk(&copy, true, "one"), &clues(&reads)), "");
    }

    #[test]
    fn storage_that_shows_no_locks_does_not_make_an_image_another_file() {
        let unsupported = || Some(Err(io::Error::from_raw_os_error(libc::EINVAL)));
        for shows in [unsupported(), Some(Ok(false)), None] {
            assert_eq!(by_mark(shows.as_ref(), || false), None);
        }
        assert_eq!(by_mark(Some(&Ok(true)), || false), Some(Found::Same));
        assert_eq!(by_mark(Some(&Ok(false)), || true), Some(Found::AnotherFile));
        assert_eq!(by_mark(unsupported().as_ref(), || true), None);
    }

    #[test]
    fn where_locks_are_not_seen_the_contents_tell() {
        let (image, other) = (file(1), file(2));
        // Not locked: as where locks do not reach from host to host.
        let source = disk(&image, false, "one");
        assert_eq!(said(&disk(&image, false, "two"), &clues(&source)), "");
        assert!(said(&disk(&other, false, "two"), &clues(&source)).contains("other contents"));
    }

    #[test]
    fn an_image_of_which_nothing_is_known_is_not_taken_for_the_same() {
        let image = file(1);
        let (source, destination) = (disk(&image, false, "one"), disk(&image, false, "two"));
        let none = ImageClues { host: None, images: Vec::new() };
        assert!(said(&destination, &none).contains("the source could not read"));
        let told = clues(&source);
        let many = told.images[0].samples.clone().unwrap().repeat(MAX_SAMPLES);
        let images = vec![ImageClue { mark: Some(7), samples: Some(many) }];
        assert!(said(&destination, &ImageClues { host: None, images }).contains("cannot be compared"));
        let nowhere = vec![Sample { offset: u64::MAX, sum: None }];
        let images = vec![ImageClue { mark: None, samples: Some(nowhere) }];
        assert!(said(&destination, &ImageClues { host: None, images }).contains("cannot be read here"));
    }

    #[test]
    fn storage_that_hangs_is_said_to_in_every_attempt_and_gets_one_thread() {
        let image = file(1);
        let source = disk(&image, false, "one");
        let clues = clues(&source);
        let (launcher, sight) = (Launcher::start().unwrap(), Sight::default());
        let (go, goes) = std::sync::mpsc::channel::<()>();
        let hangs = sight.look(&launcher, "hangs", move || goes.recv()).unwrap();
        for _ in 0..2 {
            // Each attempt opens the image anew.
            let mut destination = disk(&image, false, "two");
            destination.images[0].sight = sight.clone();
            assert!(said(&destination, &clues).contains("has not answered since it was looked at before"));
        }
        drop(go);
        let _ = hangs.until(Instant::now() + PATIENCE);
        assert_eq!(said(&disk(&image, false, "two"), &clues), "");
    }
}
