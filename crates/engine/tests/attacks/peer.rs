//! A peer that is driven by hand: it says what a test wants it to say, true or not.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use transport::Address;
use whimbrel_engine::SourceMachine;
use wire::{
    Batch, BlockInfo, Complete, Encoding, FrameHeader, GREETING_BYTES, Greeting, HEADER_BYTES, Hello,
    Message, Offer, PageCounts, Role, RoundEnd, Run, SessionId,
};

use crate::machine::{Machine, description};

pub(crate) trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// One connection.
pub(crate) struct Peer {
    stream: Box<dyn Stream>,
    said: u32,
    /// Whether greetings were exchanged, which is done with the first message.
    greeted: bool,
}

impl Peer {
    pub(crate) fn connect(address: &Address) -> Self {
        match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                Self::over(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
                Self::over(stream)
            }
        }
    }

    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), said: 0, greeted: false }
    }

    /// Sends any bytes. Returns whether they could be sent.
    pub(crate) fn throw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a message. A source greets before its first.
    pub(crate) fn say(&mut self, message: &Message) -> bool {
        match message {
            Message::Hello(Hello { session, .. }) if !self.greeted => {
                self.greet(&Offer::of("test"), Role::Control, *session);
            }
            Message::Ask { session } if !self.greeted => self.greet(&Offer::of("test"), Role::Ask, *session),
            _ => {}
        }
        let frame = self.frame(message);
        self.throw(&frame)
    }

    /// Greets as a source, and returns what the destination answers.
    pub(crate) fn greet(&mut self, offer: &Offer, role: Role, session: SessionId) {
        self.greeted = true;
        let greeting = Greeting { offer: offer.clone(), role, index: 0, session };
        if self.throw(&greeting.encode()) {
            self.hear_greeting();
        }
    }

    /// The greeting of the other side; `None` when the connection is over.
    pub(crate) fn hear_greeting(&mut self) -> Option<Greeting> {
        let mut bytes = [0; GREETING_BYTES];
        self.stream.read_exact(&mut bytes).ok()?;
        Some(Greeting::decode(&bytes).unwrap())
    }

    /// Hears a source's greeting and answers it.
    fn welcome(&mut self) -> Option<()> {
        let Greeting { role, .. } = self.hear_greeting()?;
        self.greeted = true;
        let answer = Greeting { offer: Offer::of("test"), role, index: 0, session: SessionId::NONE };
        self.throw(&answer.encode()).then_some(())
    }

    /// The bytes of the next message.
    pub(crate) fn frame(&mut self, message: &Message) -> Vec<u8> {
        self.said += 1;
        message.encode(self.said - 1).unwrap()
    }

    /// The next message; `None` when the connection is over. A destination answers the greeting before its first.
    pub(crate) fn hear(&mut self) -> Option<Message> {
        if !self.greeted {
            self.welcome()?;
        }
        let mut raw = [0; HEADER_BYTES];
        match self.stream.read_exact(&mut raw) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing was said for too long"),
            Err(_) => return None,
        }
        let header = FrameHeader::decode(&raw).unwrap();
        let mut body = vec![0; header.length as usize];
        self.stream.read_exact(&mut body).ok()?;
        Some(Message::decode(&body).unwrap())
    }

    /// The next message that is no ping. Pings are answered.
    pub(crate) fn hear_news(&mut self) -> Option<Message> {
        loop {
            match self.hear()? {
                Message::Ping(number) => {
                    self.say(&Message::Pong(number));
                }
                Message::Pong(_) => {}
                news => return Some(news),
            }
        }
    }

    /// Waits until the other side closes the connection, whatever it says until then.
    pub(crate) fn wait_for_end(&mut self) {
        let mut bytes = [0; 4096];
        while self.stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
    }

    /// Opens a page channel.
    pub(crate) fn channel(address: &Address, session: SessionId, index: u16) -> Self {
        Self::channel_offering(&Offer::of("test"), address, session, index)
    }

    /// The same, of a release that offers this.
    fn channel_offering(offer: &Offer, address: &Address, session: SessionId, index: u16) -> Self {
        let mut channel = Self::connect(address);
        channel.throw(&channel_greeting(offer, session, index));
        channel.greeted = true;
        channel
    }

    /// Sends the first page of block 0, full of `byte`.
    pub(crate) fn send_page(&mut self, round: u32, byte: u8) -> bool {
        let frame = self.batch(round, &[Run { first_page: 0, pages: 1, encoding: Encoding::Raw }]);
        self.throw(&frame) && self.throw(&[byte; 4096])
    }

    pub(crate) fn batch(&mut self, round: u32, runs: &[Run]) -> Vec<u8> {
        let mut frame = Vec::new();
        Batch { round, block: 0, runs: runs.to_vec(), ..Batch::default() }.encode_into(self.said, &mut frame);
        self.said += 1;
        frame
    }

    /// Sends a batch that may be any, and what follows its table. The destination may have given up at that.
    pub(crate) fn send_batch(&mut self, batch: &Batch, data: &[u8]) {
        let mut frame = Vec::new();
        batch.encode_into(self.said, &mut frame);
        self.said += 1;
        let _ = self.throw(&frame) && self.throw(data);
    }

    pub(crate) fn end_round(&mut self, round: u32, last: bool, raw_pages: u64) -> bool {
        let frame =
            RoundEnd { round, last, pages: PageCounts { raw: raw_pages, zero: 0, ..PageCounts::default() } }
                .encode(self.said);
        self.said += 1;
        self.throw(&frame)
    }
}

/// The first bytes of a page channel.
pub(crate) fn channel_greeting(offer: &Offer, session: SessionId, index: u16) -> Vec<u8> {
    Greeting { offer: offer.clone(), role: Role::Pages, index, session }.encode().to_vec()
}

/// What a source of this machine says first.
pub(crate) fn hello(machine: &Machine, session: SessionId, channels: u16) -> Hello {
    let blocks = machine.ram.blocks().iter().map(|block| BlockInfo {
        name: block.name().into(),
        guest_address: block.guest_address(),
        bytes: block.bytes(),
    });
    Hello {
        session,
        channels,
        page_bytes: 4096,
        digest: wire::Digest::Off,
        blocks: blocks.collect(),
        devices: machine.devices(),
        machine: description(),
        postcopy: false,
    }
}

/// A source up to the point where its channels are open.
pub(crate) struct GoodStart {
    pub(crate) control: Peer,
    pub(crate) channels: Vec<Peer>,
    pub(crate) session: SessionId,
}

impl GoodStart {
    pub(crate) fn new(address: &Address, machine: &Machine, channels: u16) -> Self {
        Self::offering(&Offer::of("test"), address, machine, channels)
    }

    /// The same, of a release that offers this.
    pub(crate) fn offering(offer: &Offer, address: &Address, machine: &Machine, channels: u16) -> Self {
        let session = crate::machine::travel::new_session();
        let mut control = Peer::connect(address);
        control.greet(offer, Role::Control, session);
        control.say(&Message::Hello(hello(machine, session, channels)));
        match control.hear() {
            Some(Message::Accept(accept)) => assert_eq!(accept.channels, channels),
            other => panic!("{other:?} instead of Accept"),
        }
        let open = |index| Peer::channel_offering(offer, address, session, index);
        let channels = (0..channels).map(open).collect();
        assert_eq!(control.hear(), Some(Message::ChannelsOpen));
        Self { control, channels, session }
    }

    /// Sends one page, the states and *complete*.
    pub(crate) fn send_all(&mut self, machine: &Machine) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            let pages = u64::from(index == 0);
            assert!(pages == 0 || channel.send_page(0, 7));
            assert!(channel.end_round(0, true, pages));
        }
        machine.release_disks().unwrap();
        for state in machine.save().unwrap() {
            self.control.say(&Message::Device(state));
        }
        let devices = machine.devices().len() as u32;
        self.control.say(&Message::Complete(Complete {
            rounds: 1,
            pages: PageCounts { raw: 1, zero: 0, ..PageCounts::default() },
            devices,
            run: true,
            digest: None,
            to_come: None,
        }));
    }

    /// Goes on until the destination is ready.
    pub(crate) fn until_ready(address: &Address, machine: &Machine) -> Self {
        let mut start = Self::new(address, machine, 2);
        start.send_all(machine);
        match start.control.hear() {
            Some(Message::Ready(_)) => start,
            other => panic!("{other:?} instead of Ready"),
        }
    }
}
