//! The network between the sides: passes bytes on, until it is told to cut or to swallow.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use transport::Address;

/// Passes connections on to one address.
#[derive(Clone)]
pub(crate) struct Between(Arc<Inner>);

struct Inner {
    to: (String, u16),
    /// Whether the next bytes to the destination that fill a buffer get one bit of another kind.
    damages: AtomicBool,
    passages: Mutex<Vec<Passage>>,
}

/// One connection, from the source to here and from here to the destination.
struct Passage {
    ends: [TcpStream; 2],
    swallows: Arc<Swallows>,
}

/// Which way nothing passes any more.
#[derive(Default)]
struct Swallows {
    to_destination: AtomicBool,
    to_source: AtomicBool,
}

impl Between {
    /// Returns where a source finds the destination at `to` now.
    pub(crate) fn start(to: &Address) -> (Self, Address) {
        let Address::Tcp { host, port } = to else { panic!("{to} is no TCP address") };
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened at");
        let address = listener.local_addr().expect("it has an address");
        let between = Self(Arc::new(Inner {
            to: (host.clone(), *port),
            damages: AtomicBool::new(false),
            passages: Mutex::default(),
        }));
        let theirs = between.clone();
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for source in listener.incoming().flatten() {
                // Nobody listens there any more: the source finds its connection closed.
                let _ = theirs.connect(source);
            }
        });
        (between, Address::Tcp { host: "127.0.0.1".into(), port: address.port() })
    }

    /// Breaks all connections that there are. New ones can be made.
    pub(crate) fn cut(&self) {
        for end in self.passages().drain(..).flat_map(|passage| passage.ends) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// From now on nothing arrives at the destination on the connections that there are.
    pub(crate) fn deafen_destination(&self) {
        self.passages()
            .iter()
            .for_each(|passage| passage.swallows.to_destination.store(true, Ordering::SeqCst));
    }

    /// From now on nothing arrives at the source on the connections that there are.
    pub(crate) fn deafen_source(&self) {
        self.passages().iter().for_each(|passage| passage.swallows.to_source.store(true, Ordering::SeqCst));
    }

    /// From now on nothing passes either way on the connection that was made last, and neither side is told.
    pub(crate) fn swallow_last(&self) {
        let passages = self.passages();
        let last = passages.last().expect("there are connections");
        last.swallows.to_destination.store(true, Ordering::SeqCst);
        last.swallows.to_source.store(true, Ordering::SeqCst);
    }

    /// Flips one bit of what goes to the destination next, where so much goes at once that it is page data.
    pub(crate) fn damage(&self) {
        self.0.damages.store(true, Ordering::SeqCst);
    }

    fn passages(&self) -> MutexGuard<'_, Vec<Passage>> {
        self.0.passages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, source: TcpStream) -> io::Result<()> {
        let destination = TcpStream::connect((self.0.to.0.as_str(), self.0.to.1))?;
        source.set_nodelay(true)?;
        destination.set_nodelay(true)?;
        let swallows = Arc::<Swallows>::default();
        let ends = [source.try_clone()?, destination.try_clone()?];
        self.passages().push(Passage { ends, swallows: swallows.clone() });
        let back = (destination.try_clone()?, source.try_clone()?, swallows.clone());
        let inner = self.0.clone();
        std::thread::spawn(move || pass(source, destination, &swallows.to_destination, &inner.damages));
        std::thread::spawn(move || pass(back.0, back.1, &back.2.to_source, &AtomicBool::new(false)));
        Ok(())
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, swallows: &AtomicBool, damages: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if count == bytes.len() && damages.swap(false, Ordering::SeqCst) {
            bytes[count / 2] ^= 1;
        }
        if !swallows.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
