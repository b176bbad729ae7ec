use std::{
    io,
    path::{Path, PathBuf},
};

use authority::{Authority, Request};

/// The name under which machines on this host reach each other.
pub(crate) const HOST: &str = "127.0.0.1";

/// Issues certificates to this host, by an authority of that name that is gone with the folder.
pub(crate) fn certificates(folder: &Path, authority: &str) -> io::Result<PathBuf> {
    let directory = folder.join("tls");
    Authority::init(&folder.join("ca"), authority)
        .and_then(|authority| authority.issue(&directory, &Request::new([HOST])))
        .map_err(io::Error::other)?;
    Ok(directory)
}
