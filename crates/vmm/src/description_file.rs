use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::mpsc::channel,
    thread,
    time::Duration,
};

/// How long storage may take to open a machine description and to read it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first bytes of a file, up to `most`, whose storage may not answer. A pipe has all the time that its writer takes.
///
/// # Errors
/// It cannot be read, or not within ten seconds.
pub fn read_in_time(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    enum Said {
        IsNoFile,
        Read(io::Result<Vec<u8>>),
    }
    let (say, said) = channel();
    let (wanted, tell) = (path.to_owned(), say.clone());
    let read = move || {
        let file = File::open(wanted)?;
        if !file.metadata()?.is_file() {
            // Nobody waits any more only where it took too long.
            let _ = tell.send(Said::IsNoFile);
        }
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    thread::Builder::new().name("config".into()).spawn(move || {
        let _ = say.send(Said::Read(read()));
    })?;
    let why = || {
        let seconds = PATIENCE.as_secs();
        let why = format!(
            "its storage has not answered within {seconds} s. See whether its file system is frozen, or its file server gone"
        );
        io::Error::new(io::ErrorKind::TimedOut, why)
    };
    match said.recv_timeout(PATIENCE) {
        Ok(Said::Read(read)) => read,
        Ok(Said::IsNoFile) => match said.recv() {
            Ok(Said::Read(read)) => read,
            Ok(Said::IsNoFile) | Err(_) => Err(why()),
        },
        Err(_) => Err(why()),
    }
}
