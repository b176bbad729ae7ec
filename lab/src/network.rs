//! The network between the hosts: a switch in this process, whose weather is one call.
//!
//! QEMU sends and receives frames over a unix socket, each after its length. The switch learns where an address is from
//! what it sends, as a real one does: a guest that has moved and says nothing is not found.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{LabError, Recording, recording::Recorder};

/// Longest frame: what QEMU's network cards can send.
const MAX_FRAME: usize = 68 << 10;
/// Bytes that wait for one host. What comes beyond is dropped, as by any switch.
const QUEUE_BYTES: usize = 4 << 20;

/// How a card ends whose host ends.
const GONE: [ErrorKind; 3] = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];

/// Ethernet addresses at the beginning of a frame: destination, source.
type Mac = [u8; 6];

/// What the network does to each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Time on the way, in addition.
    pub delay: Duration,
    /// Frames of each thousand that are lost.
    pub lost_per_mille: u32,
    /// Bytes per second that go to one host; 0 for as many as can.
    pub bytes_per_second: u64,
    /// Whether nothing arrives at all.
    pub cut: bool,
}

/// The switch. A handle: clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    weather: Weather,
    ports: Vec<Arc<Port>>,
    /// The port behind which an address was seen last.
    places: HashMap<Mac, usize>,
    /// State of the dice for losses: the same each time.
    dice: u64,
    dropped: u64,
    /// Who writes down what is sent.
    recorder: Option<Arc<Recorder>>,
}

#[derive(Debug, Default)]
struct Port {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Frames and when they are due, in order.
    frames: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the last frame has gone through, at the rate in force.
    busy_until: Option<Instant>,
    closed: bool,
}

impl Network {
    /// Sets the weather, for all frames from now on.
    pub fn weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Nothing arrives any more. Nobody is told.
    pub fn cut(&self) {
        self.state().weather.cut = true;
    }

    /// All is well again.
    pub fn heal(&self) {
        self.state().weather = Weather::default();
    }

    /// Writes every frame that a card sends from now on into `file`, whatever becomes of it; until another recording is begun, or none
    /// is wanted [any more](Self::stop_recording).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&self, file: &Path) -> Result<Recording, LabError> {
        let (recording, recorder) = Recording::begin(file)?;
        self.state().recorder = Some(recorder);
        Ok(recording)
    }

    /// Nothing is written down any more.
    pub fn stop_recording(&self) {
        self.state().recorder = None;
    }

    /// Frames that the weather has swallowed so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Makes a socket in `folder` for the network card of a host; one card at a time, any number one after the other.
    pub(crate) fn port(&self, folder: &Path, name: &str) -> Result<PathBuf, LabError> {
        let path = folder.join(format!("{name}.network"));
        let listener = UnixListener::bind(&path).map_err(LabError::file("create", &path))?;
        let (network, name) = (self.clone(), name.to_owned());
        let index = {
            let mut state = self.state();
            state.ports.push(Arc::default());
            state.ports.len() - 1
        };
        thread::spawn(move || {
            for card in listener.incoming().flatten() {
                let served = network.serve(index, &card);
                // It ends when the host does.
                let odd = served.err().filter(|error| !GONE.contains(&error.kind()));
                if let Some(error) = odd {
                    output::complain!("whimbrel-lab: the network card of host '{name}' is lost: {error}");
                }
            }
        });
        Ok(path)
    }

    /// Carries the frames of a card until it is gone.
    fn serve(&self, index: usize, card: &UnixStream) -> io::Result<()> {
        let port = Arc::new(Port::default());
        self.state().ports[index] = port.clone();
        let (mut from, to) = (card.try_clone()?, card.try_clone()?);
        let deliveries = port.clone();
        let delivering = thread::spawn(move || deliveries.deliver(to));
        let result = loop {
            match read_frame(&mut from) {
                Ok(frame) => self.forward(index, &frame),
                Err(error) => break Err(error),
            }
        };
        port.close();
        // Whoever delivers may wait for the card; and a host whose card is lost is to know.
        let _ = card.shutdown(Shutdown::Both);
        // A thread that panicked has said so.
        let _ = delivering.join();
        result
    }

    fn forward(&self, from: usize, frame: &[u8]) {
        let (Some(to), Some(source)) = (mac(frame, 0), mac(frame, 6)) else { return };
        let mut state = self.state();
        if let Some(recorder) = state.recorder.clone() {
            recorder.record(frame);
        }
        if state.weather.cut || state.is_lost() {
            state.dropped += 1;
            return;
        }
        state.places.insert(source, from);
        let known = state.places.get(&to).copied().filter(|_| to[0] & 1 == 0);
        let (weather, ports) = (state.weather, state.ports.clone());
        drop(state);
        for (index, port) in ports.iter().enumerate() {
            if index != from && known.is_none_or(|known| known == index) {
                port.send(frame, weather);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }
}

impl State {
    /// Throws the dice (Marsaglia, Xorshift RNGs).
    fn is_lost(&mut self) -> bool {
        self.dice = self.dice.max(1);
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % 1000 < u64::from(self.weather.lost_per_mille)
    }
}

impl Port {
    fn send(&self, frame: &[u8], weather: Weather) {
        let mut queue = self.queue();
        if queue.closed || queue.bytes + frame.len() > QUEUE_BYTES {
            return;
        }
        let now = Instant::now();
        let mut due = now;
        // No rate, no time.
        if let Some(ns) = (frame.len() as u64 * 1_000_000_000).checked_div(weather.bytes_per_second) {
            due = queue.busy_until.map_or(now, |busy| busy.max(now)) + Duration::from_nanos(ns);
            queue.busy_until = Some(due);
        }
        queue.bytes += frame.len();
        queue.frames.push_back((due + weather.delay, frame.to_vec()));
        self.changed.notify_one();
    }

    /// Writes frames to the card when they are due.
    fn deliver(&self, mut to: UnixStream) {
        while let Some(frame) = self.next() {
            let length = u32::try_from(frame.len()).unwrap_or(0).to_be_bytes();
            if to.write_all(&[&length, &frame[..]].concat()).is_err() {
                return self.close();
            }
        }
    }

    /// The next frame, once it is due; none when the port is closed.
    fn next(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            let Some((due, _)) = queue.frames.front() else {
                self.changed.wait(&mut queue);
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (_, frame) = queue.frames.pop_front()?;
                queue.bytes -= frame.len();
                return Some(frame);
            }
            self.changed.wait_for(&mut queue, left);
        }
    }

    fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

fn read_frame(from: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("A frame of {length} bytes")));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn mac(frame: &[u8], at: usize) -> Option<Mac> {
    frame.get(at..at + 6)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Card(UnixStream);

    impl Card {
        fn new(network: &Network, folder: &Path, name: &str) -> Self {
            let stream = UnixStream::connect(network.port(folder, name).unwrap()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Self(stream)
        }
        fn send(&mut self, to: u8, from: u8, text: &[u8]) {
            let frame = [&[to; 6], &[from; 6], text].concat();
            self.0.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
            self.0.write_all(&frame).unwrap();
        }
        fn receive(&mut self) -> Vec<u8> {
            read_frame(&mut self.0).unwrap()[12..].to_vec()
        }
    }

    /// Three cards that know each other.
    fn cards(network: &Network, folder: &Path) -> [Card; 3] {
        let mut cards = ["a", "b", "c"].map(|name| Card::new(network, folder, name));
        for (index, address) in [(0, 2), (1, 4), (2, 6)] {
            // A card is part of the network once one of its frames has come through.
            loop {
                let [a, b, c] = &mut cards;
                let (from, others) = match index {
                    0 => (a, [b, c]),
                    1 => (b, [a, c]),
                    _ => (c, [a, b]),
                };
                from.send(0xff, address, b"hello");
                let mut heard = others.into_iter().map(|card| {
                    card.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                    let heard = read_frame(&mut card.0).is_ok();
                    card.0.set_read_timeout(Some(PATIENCE)).unwrap();
                    heard
                });
                if heard.next().unwrap() & heard.next().unwrap() {
                    break;
                }
            }
        }
        cards
    }

    #[test]
    fn frames_go_where_their_address_was_seen_last() {
        let folder = tempfile::tempdir().unwrap();
        let network = Network::default();
        let [mut a, mut b, mut c] = cards(&network, folder.path());
        a.send(4, 2, b"to b");
        a.send(6, 2, b"to c");
        assert_eq!((b.receive(), c.receive()), (b"to b".to_vec(), b"to c".to_vec()));
        // The guest with address 4 says from behind c that it is there now.
        c.send(0xff, 4, b"moved");
        assert_eq!((a.receive(), b.receive()), (b"moved".to_vec(), b"moved".to_vec()));
        a.send(4, 2, b"to c");
        assert_eq!(c.receive(), b"to c");
    }

    #[test]
    fn a_cut_network_delivers_nothing_and_a_healed_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let network = Network::default();
        let [mut a, mut b, _c] = cards(&network, folder.path());
        network.cut();
        a.send(4, 2, b"lost");
        let dropped = || Ok((network.dropped() == 1).then_some(()));
        crate::Pace::default().until("the frame was dropped", PATIENCE, dropped).unwrap();
        network.heal();
        a.send(4, 2, b"here");
        assert_eq!(b.receive(), b"here");
    }

    #[test]
    fn a_recording_has_what_was_sent_while_it_was_made_though_nobody_got_it() {
        let folder = tempfile::tempdir().unwrap();
        let network = Network::default();
        let [mut a, mut b, _c] = cards(&network, folder.path());
        let recording = network.record(&folder.path().join("frames.pcap")).unwrap();
        a.send(4, 2, b"heard");
        assert_eq!(b.receive(), b"heard");
        network.cut();
        a.send(4, 2, b"lost");
        let all = || Ok((recording.frames_with(b"lost")? == 1).then_some(()));
        crate::Pace::default().until("the frame was written down", PATIENCE, all).unwrap();
        network.heal();
        network.stop_recording();
        a.send(4, 2, b"unseen");
        assert_eq!(b.receive(), b"unseen");
        assert_eq!(recording.frames_with(b"heard").unwrap(), 1);
        assert_eq!(recording.frames_with(b"unseen").unwrap(), 0);
    }

    #[test]
    fn delay_and_rate_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let network = Network::default();
        let [mut a, mut b, _c] = cards(&network, folder.path());
        network.weather(Weather {
            delay: Duration::from_millis(80),
            bytes_per_second: 100_000,
            ..Weather::default()
        });
        let start = Instant::now();
        for _ in 0..10 {
            a.send(4, 2, &[0; 1000]);
        }
        b.receive();
        let first = start.elapsed();
        (0..9).for_each(|_| drop(b.receive()));
        let last = start.elapsed();
        assert!(
            first >= Duration::from_millis(90) && last >= Duration::from_millis(180),
            "{first:?} {last:?}"
        );
    }

    #[test]
    fn losses_are_about_as_many_as_asked_for() {
        let mut state = State::default();
        state.weather.lost_per_mille = 10;
        let lost = (0..100_000).filter(|_| state.is_lost()).count();
        assert!((800..1200).contains(&lost), "{lost}");
    }
}
