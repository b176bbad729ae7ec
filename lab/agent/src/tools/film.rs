//! A film over HTTP: one end plays a clip that it makes while it plays, the other watches it, and says which frames came late or never and
//! how long the picture stood still.

use std::{
    io::{self, BufRead, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{Every, ToolError, mix, say};

const USAGE: &str = "film serve ADDRESS FRAMES_PER_SECOND | film watch ADDRESS FRAMES_PER_SECOND";
/// Bytes of a frame.
const FRAME: usize = 2048;
/// Longer than any stall that is allowed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest line of a head, and most lines.
const MAX_LINE: u64 = 1024;
const MAX_LINES: usize = 32;

/// Runs until it is killed or the film breaks.
pub(crate) fn run(words: &[&str]) -> Result<(), ToolError> {
    let [what, address, rate] = words else { return Err(ToolError::Usage(USAGE)) };
    let rate: u32 =
        rate.parse().ok().filter(|rate| (1..=1000).contains(rate)).ok_or(ToolError::Usage(USAGE))?;
    match *what {
        "serve" => serve(address, Duration::from_secs(1) / rate),
        "watch" => watch(address, Duration::from_secs(1) / rate),
        _ => Err(ToolError::Usage(USAGE)),
    }
}

fn serve(address: &str, period: Duration) -> Result<(), ToolError> {
    for stream in TcpListener::bind(address)?.incoming() {
        let stream = stream?;
        // Who looks away is no business of the next.
        thread::spawn(move || play(stream, period));
    }
    Ok(())
}

/// Answers one request, and plays from the first frame on. A frame for whose time the player stood still is not sent later.
fn play(mut stream: TcpStream, period: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let request = head(&mut lines)?;
    if !request.first().is_some_and(|line| line.starts_with("GET /clip ")) {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")?;
    let (begun, mut number) = (Instant::now(), 0_u32);
    loop {
        let part = format!("--frame\r\nContent-Length: {FRAME}\r\nX-Frame: {number}\r\n\r\n");
        stream.write_all(&[part.as_bytes(), &frame(number), b"\r\n"].concat())?;
        let now = begun.elapsed();
        let due = u32::try_from(now.as_nanos() / period.as_nanos()).unwrap_or(u32::MAX);
        number = due.max(number).saturating_add(1);
        thread::sleep((period * number).saturating_sub(now));
    }
}

fn watch(address: &str, period: Duration) -> Result<(), ToolError> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /clip HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut film = BufReader::new(stream);
    let status = head(&mut film)?;
    if !status.first().is_some_and(|line| line.starts_with("HTTP/1.1 200 ")) {
        return Err(ToolError::Wrong(format!("The server says {status:?}")));
    }
    let (mut seen, mut report) = (Seen::new(period), Every::new(Duration::from_millis(200)));
    let mut picture = vec![0; FRAME + 2];
    loop {
        let part = head(&mut film)?;
        let number = part.iter().find_map(|line| line.strip_prefix("X-Frame: ")?.parse().ok());
        let number = number.ok_or_else(|| ToolError::Wrong(format!("This is no frame: {part:?}")))?;
        film.read_exact(&mut picture)?;
        if picture[..FRAME] != frame(number) {
            return Err(ToolError::Wrong(format!("Frame {number} is not what was sent")));
        }
        seen.frame(number, Instant::now());
        if report.is_due() {
            say(&seen.to_string())?;
        }
    }
}

/// Lines up to an empty one.
fn head(from: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.take(MAX_LINE).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if lines.len() == MAX_LINES || !line.ends_with('\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "This is no head of a message"));
        }
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

/// What a frame shows.
fn frame(number: u32) -> Vec<u8> {
    (0..FRAME as u64 / 8).flat_map(|word| mix(u64::from(number) << 16 | word).to_le_bytes()).collect()
}

/// What a watcher has seen.
struct Seen {
    period: Duration,
    /// The first frame, and when it came.
    first: Option<(u32, Instant)>,
    last: Option<(u32, Instant)>,
    frames: u64,
    /// Times of a frame at which the one before was still to be seen.
    late: u64,
    /// Numbers that never came.
    lost: u64,
    /// The longest time between two frames, less that of a frame.
    freeze: Duration,
}

impl Seen {
    fn new(period: Duration) -> Self {
        Self { period, first: None, last: None, frames: 0, late: 0, lost: 0, freeze: Duration::ZERO }
    }

    fn frame(&mut self, number: u32, now: Instant) {
        let (first, begun) = *self.first.get_or_insert((number, now));
        if let Some((before, at)) = self.last {
            self.lost += u64::from(number.saturating_sub(before).saturating_sub(1));
            self.freeze = self.freeze.max((now - at).saturating_sub(self.period));
        }
        // One that is not there for its own time and the next has the picture stand still.
        let due = begun + self.period * number.saturating_sub(first);
        self.late += u64::from(now > due + self.period);
        self.frames += 1;
        self.last = Some((number, now));
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "frames={} late={} lost={} longest_freeze_ms={}",
            self.frames,
            self.late,
            self.lost,
            self.freeze.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_come_late_or_never_are_counted_and_the_longest_freeze_is_kept() {
        let (period, begun) = (Duration::from_millis(40), Instant::now());
        let mut seen = Seen::new(period);
        for (number, ms) in [(7, 0), (8, 40), (9, 79), (10, 170), (13, 240), (14, 280)] {
            seen.frame(number, begun + Duration::from_millis(ms));
        }
        assert_eq!(seen.to_string(), "frames=6 late=1 lost=2 longest_freeze_ms=51");
    }

    #[test]
    fn a_film_is_watched_over_http_and_nothing_else_is_served() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let served = address.clone();
        thread::spawn(move || serve(&served, Duration::from_millis(5)));
        let connect = || loop {
            if let Ok(stream) = TcpStream::connect(&address) {
                return stream;
            }
        };
        let ask = |what: &str| {
            let mut stream = connect();
            stream.write_all(format!("GET {what} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
            BufReader::new(stream)
        };
        assert_eq!(head(&mut ask("/other")).unwrap()[0], "HTTP/1.1 404 Not Found");
        let mut film = ask("/clip");
        assert_eq!(head(&mut film).unwrap()[0], "HTTP/1.1 200 OK");
        let mut before = None;
        for _ in 0..3 {
            let part = head(&mut film).unwrap();
            let mut picture = vec![0; FRAME + 2];
            film.read_exact(&mut picture).unwrap();
            // One for which the player stood still is left out.
            let number: u32 = part[2].strip_prefix("X-Frame: ").unwrap().parse().unwrap();
            assert!(before.is_none_or(|before| before < number), "{before:?}, {number}");
            assert_eq!(picture[..FRAME], frame(number));
            before = Some(number);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for wrong in [&b""[..], b"no end", b"a: b\r\n", &[b'x'; 3000]] {
            assert!(head(&mut &*wrong).is_err());
        }
        let endless = b"a: b\r\n".repeat(100);
        assert!(head(&mut &endless[..]).is_err());
    }
}
