use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use crate::AuthorityError;

pub(crate) const CA_CERTIFICATE: &str = "ca-cert.pem";
pub(crate) const CA_KEY: &str = "ca-key.pem";
/// Which certificate was issued to which key: a line for each, its number and the public key.
pub(crate) const ISSUED: &str = "issued.txt";
pub(crate) const CA_REVOKED: &str = "ca-crl.pem";

/// Most that is read of a file.
const MOST_BYTES: u64 = 8 << 20;

/// Held by who reads what was revoked, or issued, to write it anew.
const LOCK: &str = "lock";

/// Makes a directory that only its owner can use, unless it is there.
///
/// # Errors
/// It cannot be made, or is another user's: who owns a directory can put other files into it at any time.
pub(crate) fn make(directory: &Path) -> Result<(), AuthorityError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| failed(directory, "made", source))?;
    refuse_of_others(directory)
}

/// One that is not there is nobody's: what is missing in it is told by who looks for it.
///
/// # Errors
/// The directory is another user's.
pub(crate) fn refuse_of_others(directory: &Path) -> Result<(), AuthorityError> {
    let owner = match fs::metadata(directory) {
        Ok(metadata) => metadata.uid(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(directory, "read", source)),
    };
    let user = rustix::process::geteuid().as_raw();
    if owner == user {
        Ok(())
    } else {
        Err(AuthorityError::OfAnotherUser { path: directory.into(), owner, user })
    }
}

/// Waits until no other process holds the lock of `directory`, and holds it until what is returned is dropped.
pub(crate) fn lock(directory: &Path) -> Result<fs::File, AuthorityError> {
    let path = directory.join(LOCK);
    let held = || {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    held().map_err(|source| failed(&path, "locked", source))
}

pub(crate) fn read(path: &Path) -> Result<String, AuthorityError> {
    let read = || {
        let file = fs::File::open(path)?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, MOST_BYTES), &mut text)?;
        Ok(text)
    };
    read().map_err(|source| failed(path, "read", source))
}

/// Writes what everyone may read. Whoever reads it meanwhile sees all of the old or all of the new.
pub(crate) fn keep_public(path: &Path, text: &str) -> Result<(), AuthorityError> {
    keep(path, text, 0o644)
}

/// Writes what only its owner may read.
pub(crate) fn keep_private(path: &Path, text: &str) -> Result<(), AuthorityError> {
    keep(path, text, 0o600)
}

/// Adds a line to a file, which is made if it is missing.
pub(crate) fn append(path: &Path, line: &str) -> Result<(), AuthorityError> {
    let write = || {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| failed(path, "written", source))
}

fn keep(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let draft = path.with_extension("pem.new");
    let write = || {
        // One that was left behind may have other permissions.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| failed(path, "written", source))
}

pub(crate) fn failed(path: &Path, verb: &'static str, source: io::Error) -> AuthorityError {
    AuthorityError::File { path: path.into(), verb, source }
}
