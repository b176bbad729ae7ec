//! Writes the seeds of every target, each into a folder of its own: `whimbrel-fuzzing FOLDER`.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "Name the folder: whimbrel-fuzzing FOLDER");
    let folder = std::env::args_os().nth(1).ok_or_else(usage)?;
    for target in fuzzing::TARGETS {
        let folder = Path::new(&folder).join(target.name);
        fs::create_dir_all(&folder)?;
        for (index, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{index}")), seed)?;
        }
    }
    Ok(())
}
