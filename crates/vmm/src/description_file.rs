use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use crate::machine::{OPENING, Sight};

/// The first bytes of a file, up to `most`, whose storage may not answer. A pipe has all the time that its writer takes.
///
/// # Errors
/// It cannot be read, or its storage has not answered for ten seconds.
pub fn read_in_time(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (sight, looked_at, wanted) = (Sight::default(), path.to_owned(), path.to_owned());
    let is_file = sight.open(OPENING, move |_| fs::metadata(looked_at).map(|found| found.is_file()));
    if !is_file.unwrap_or_else(|shut| Err(shut.into()))? {
        return first_bytes(path, most);
    }
    sight.open(OPENING, move |_| first_bytes(&wanted, most)).unwrap_or_else(|shut| Err(shut.into()))
}

fn first_bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
