//! What goes over the network, kept as a network card beside it would see it.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;

use crate::LabError;

/// The beginning of a file (IETF draft-ietf-opsawg-pcap, 4): microseconds, version 2.4, frames of any length, Ethernet.
const BEGIN: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 1 << 18, 1];
/// Bytes in front of each frame: seconds, microseconds, bytes that follow, bytes that the frame had.
const HEADER_BYTES: usize = 16;
/// A frame of a file that is longer was not written here.
const MAX_FRAME: usize = 1 << 18;

/// Frames of the network, in the order in which they were sent, in a file that Wireshark and tcpdump read. The file is removed when this
/// is dropped, unless it was [kept](Recording::keep).
#[derive(Debug)]
pub struct Recording {
    recorder: Arc<Recorder>,
    path: PathBuf,
    is_kept: bool,
}

/// The end at which frames come in.
#[derive(Debug)]
pub(crate) struct Recorder {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: BufWriter<File>,
    totals: Totals,
    failed: Option<io::Error>,
}

/// How much was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Recorder {
    /// Writes `frame` down. An error is told to who reads the recording.
    pub(crate) fn record(&self, frame: &[u8]) {
        let mut state = self.state.lock();
        if state.failed.is_none() {
            state.failed = state.write(frame).err();
        }
    }
}

impl State {
    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        // The clock may stand before 1970; when a frame passed is for people.
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let length = frame.len() as u32;
        for word in [time.as_secs() as u32, time.subsec_micros(), length, length] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(frame)?;
        self.totals.frames += 1;
        self.totals.bytes += frame.len() as u64;
        Ok(())
    }
}

impl Recording {
    pub(crate) fn begin(path: &Path) -> Result<(Self, Arc<Recorder>), LabError> {
        let failed = LabError::file("write", path);
        let begin = || {
            let mut file = BufWriter::new(File::create(path)?);
            BEGIN.iter().try_for_each(|word| file.write_all(&word.to_le_bytes()))?;
            Ok(file)
        };
        let state = State { file: begin().map_err(failed)?, totals: Totals::default(), failed: None };
        let recorder = Arc::new(Recorder { state: Mutex::new(state) });
        Ok((Self { recorder: recorder.clone(), path: path.into(), is_kept: false }, recorder))
    }

    /// How much was recorded so far.
    ///
    /// # Errors
    /// A frame could not be written down.
    pub fn totals(&self) -> Result<Totals, LabError> {
        let mut state = self.recorder.state.lock();
        if let Some(error) = state.failed.take() {
            return Err(LabError::file("write", &self.path)(error));
        }
        state.file.flush().map_err(LabError::file("write", &self.path))?;
        Ok(state.totals)
    }

    /// In how many of the frames so far `bytes` are.
    ///
    /// # Errors
    /// The file cannot be read, or not all frames be written.
    pub fn frames_with(&self, bytes: &[u8]) -> Result<u64, LabError> {
        let frames = self.totals()?.frames;
        let failed = || LabError::file("read", &self.path);
        let mut file = BufReader::new(File::open(&self.path).map_err(failed())?);
        file.read_exact(&mut [0; BEGIN.len() * 4]).map_err(failed())?;
        let mut found = 0;
        for _ in 0..frames {
            let frame = read_frame(&mut file).map_err(failed())?;
            found += u64::from(contains(&frame, bytes));
        }
        Ok(found)
    }

    /// The file stays. Returns where it is.
    pub fn keep(&mut self) -> &Path {
        self.is_kept = true;
        &self.path
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.is_kept {
            // Logs of the next lab begin with an empty folder.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn read_frame(file: &mut impl io::Read) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header)?;
    let [.., a, b, c, d] = header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("A frame of {length} bytes")));
    }
    let mut frame = vec![0; length];
    file.read_exact(&mut frame)?;
    Ok(frame)
}

fn contains(frame: &[u8], bytes: &[u8]) -> bool {
    let Some(first) = bytes.first() else { return true };
    let mut rest = frame;
    // Most places are ruled out by their first byte.
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(bytes) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_found_in_the_frames_that_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames.pcap");
        let (recording, recorder) = Recording::begin(&path).unwrap();
        for frame in [&b"a secret"[..], b"", b"sesecret!", b"secre", b"t"] {
            recorder.record(frame);
        }
        assert_eq!(recording.frames_with(b"secret").unwrap(), 2);
        recorder.record(b"secret");
        assert_eq!(recording.frames_with(b"secret").unwrap(), 3, "what came since is read too");
        assert_eq!(recording.totals().unwrap(), Totals { frames: 6, bytes: 29 });
        let file = fs::read(&path).unwrap();
        assert_eq!(file.len(), 24 + 6 * HEADER_BYTES + 29);
        assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1], "as tcpdump knows it");
        drop(recording);
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_written_down_is_not_taken_for_silence() {
        let (mut recording, recorder) = Recording::begin(Path::new("/dev/full")).unwrap();
        recording.keep();
        recorder.record(b"secret");
        assert!(recording.frames_with(b"secret").is_err());
    }
}
