//! Where certificates and keys are: the directory that QEMU's users have, or libvirt's.

use std::{
    fs::{Metadata, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{FileError, Side};

/// Most that is read of a file; a thousand CAs are about 1.5 MB.
const MOST_BYTES: u64 = 8 << 20;
/// Most pairs with a number in their names.
const MOST_PAIRS: u32 = 16;

/// The files of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) ca: PathBuf,
    pub(super) crl: Option<PathBuf>,
    /// Certificates, each with its key.
    pub(super) pairs: Vec<(PathBuf, PathBuf)>,
}

/// What tells whether a file is still the one that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<[i64; 6]>);

impl Files {
    /// Finds them in `directory`: `ca-cert.pem`, `server-cert.pem` and so on as for QEMU, with `-0`, `-1` and so on where there are
    /// several pairs; or `cacert.pem`, `servercert.pem` and so on as for libvirt's `pkipath`.
    pub(super) fn find(directory: &Path, side: Side) -> Result<Self, FileError> {
        let missing =
            |wanted: &str| FileError::Missing { directory: directory.into(), wanted: wanted.into() };
        let one_of = |names: [&str; 2]| {
            // One that is there and cannot be used is an error, not as if it were not there.
            names.iter().map(|name| directory.join(name)).find(|path| is_there(path))
        };
        let ca = one_of(["ca-cert.pem", "cacert.pem"]).ok_or_else(|| missing("ca-cert.pem"))?;
        let crl = one_of(["ca-crl.pem", "cacrl.pem"]);
        let mut pairs = Vec::new();
        for (certificate, key) in names(side) {
            let paths = (directory.join(&certificate), directory.join(&key));
            match (is_there(&paths.0), is_there(&paths.1)) {
                (true, true) => pairs.push(paths),
                (true, false) => return Err(missing(&key)),
                (false, true) => return Err(missing(&certificate)),
                (false, false) => {}
            }
        }
        if pairs.is_empty() {
            return Err(missing(&format!("{}-cert.pem", side.in_tls())));
        }
        Ok(Self { ca, crl, pairs })
    }

    /// Whether `directory` has a certificate or a key for `side`, be it of use or not.
    pub(super) fn has_any(directory: &Path, side: Side) -> bool {
        let is_in = |name: &String| is_there(&directory.join(name));
        names(side).any(|(certificate, key)| is_in(&certificate) || is_in(&key))
    }

    /// As they are now.
    pub(super) fn stamp(&self) -> Result<Stamp, FileError> {
        let pairs = self.pairs.iter().flat_map(|(certificate, key)| [certificate, key]);
        let all = [&self.ca].into_iter().chain(&self.crl).chain(pairs);
        all.map(|path| {
            let data = path.metadata().map_err(|source| unreadable(path, source))?;
            let (inode, bytes) = (data.ino().cast_signed(), data.len().cast_signed());
            Ok([inode, bytes, data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()])
        })
        .collect::<Result<_, _>>()
        .map(Stamp)
    }
}

/// Names of certificates, each with that of its key.
fn names(side: Side) -> impl Iterator<Item = (String, String)> {
    let name = side.in_tls();
    let numbered = (0..MOST_PAIRS)
        .map(move |index| (format!("{name}-cert-{index}.pem"), format!("{name}-key-{index}.pem")));
    let plain = ["-", ""].map(|dash| (format!("{name}{dash}cert.pem"), format!("{name}{dash}key.pem")));
    plain.into_iter().chain(numbered)
}

/// Reads all of a file, and what the file system says of it.
pub(super) fn read(path: &Path) -> Result<(Vec<u8>, Metadata), FileError> {
    let failed = |source| unreadable(path, source);
    // A pipe that has no writer is not waited for.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(FileError::TooLong { path: path.into(), bytes: metadata.len(), most: MOST_BYTES });
    }
    Ok((bytes, metadata))
}

/// Whether there is something by that name, be it a link to nowhere.
fn is_there(path: &Path) -> bool {
    !path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn unreadable(path: &Path, source: std::io::Error) -> FileError {
    FileError::Unreadable { path: path.into(), source }
}
