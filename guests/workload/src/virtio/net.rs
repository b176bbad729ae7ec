//! The network: answers ARP and ICMP echo for our address, sends frames to who asks for some, and takes a TCP stream.

use core::fmt;

use workload::{
    content::mix,
    frames::Frames,
    packet::{MAX_FRAME, Station},
    sink::Sink,
};

use crate::{
    console::{Text, say},
    memory::Ram,
    report::field,
    virtio::{
        queue::{Buffer, Queue},
        transport::{Kind, Transport},
    },
};

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const FEATURE_MAC: u32 = 5;
const SLOTS: u16 = 32;
/// `struct virtio_net_hdr` as virtio 1 has it, always with the number of buffers.
const HEADER: usize = 12;
const BUFFER: usize = 2048;
/// No frame is handled after this many in one turn, so that a flood does not stop the rest of the loop.
const FRAMES_A_TURN: u32 = 8;

/// The network device.
#[derive(Debug)]
pub(crate) struct Net {
    station: Station,
    viewers: Frames,
    sink: Sink,
    tsc_khz: u64,
    receive: Queue,
    transmit: Queue,
    received: [Option<Buffer>; SLOTS as usize],
    sent: [Option<Buffer>; SLOTS as usize],
    frames: u64,
    answers: u64,
    dropped: u64,
}

impl Net {
    pub(crate) fn new(
        device: &Transport,
        ip: [u8; 4],
        seed: u64,
        ram: &mut Ram,
        tsc_khz: u64,
    ) -> Option<Self> {
        let features = device.begin(Kind::Net, 1 << FEATURE_MAC)?;
        let receive = device.queue(RECEIVE, 1, SLOTS, ram)?;
        let transmit = device.queue(TRANSMIT, 1, SLOTS, ram)?;
        let mac = if features.has(FEATURE_MAC) {
            let ([a, b, c, d], [e, f, ..]) = (device.config(0).to_le_bytes(), device.config(4).to_le_bytes());
            [a, b, c, d, e, f]
        } else {
            let [a, b, c, d, e, ..] = mix(seed).to_le_bytes();
            [0x02, a, b, c, d, e]
        };
        let mut buffers = |queue: &Queue| {
            let slots = queue.slots();
            core::array::from_fn(|slot| (slot < usize::from(slots)).then(|| Buffer::new(BUFFER, ram)))
        };
        let (received, sent) = (buffers(&receive), buffers(&transmit));
        let station = Station { mac, ip };
        let mut net = Self {
            station,
            viewers: Frames::default(),
            sink: Sink::default(),
            tsc_khz,
            receive,
            transmit,
            received,
            sent,
            frames: 0,
            answers: 0,
            dropped: 0,
        };
        device.ready();
        for slot in 0..net.receive.slots() {
            net.offer(slot);
        }
        net.receive.kick();
        net.send(|net, frame| Some(net.station.announce(frame)));
        net.transmit.kick();
        let [a, b, c, d, e, f] = mac;
        say!("whimbrel net mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        Some(net)
    }

    /// Takes what came in and answers it, and sends what is due.
    pub(crate) fn turn(&mut self, now: u64) {
        while self.transmit.take().is_some() {}
        for _ in 0..FRAMES_A_TURN {
            let Some((slot, length)) = self.receive.take() else { break };
            self.frames += 1;
            if let Some(mut buffer) = self.received[usize::from(slot)].take() {
                let bytes = buffer.bytes(length as usize);
                let frame = bytes.get(HEADER..).unwrap_or_default();
                let ticks_per_second = self.tsc_khz * 1000;
                self.viewers.hear(&self.station, frame, now, ticks_per_second);
                self.send(|net, out| {
                    net.station.answer(frame, out).or_else(|| net.sink.answer(&net.station, frame, out))
                });
                self.received[usize::from(slot)] = Some(buffer);
            }
            self.offer(slot);
        }
        self.receive.kick();
        for _ in 0..FRAMES_A_TURN {
            // One that is due waits for room.
            let has_room = self.transmit.free_slot().is_some();
            if !has_room || !self.send(|net, out| net.viewers.next(&net.station, now, out)) {
                break;
            }
        }
        self.transmit.kick();
    }

    pub(crate) fn report(&self, text: &mut Text) -> fmt::Result {
        field(text, "net_rx", self.frames)?;
        field(text, "net_tx", self.answers)?;
        field(text, "net_dropped", self.dropped)
    }

    fn offer(&mut self, slot: u16) {
        if let Some(buffer) = &self.received[usize::from(slot)] {
            self.receive.post(slot, &[buffer.to_write()]);
        }
    }

    /// Sends the frame that `write` makes, if it makes one. False if nothing was sent.
    fn send(&mut self, write: impl FnOnce(&mut Self, &mut [u8; MAX_FRAME]) -> Option<usize>) -> bool {
        let free = self.transmit.free_slot();
        let Some((slot, mut buffer)) =
            free.and_then(|slot| Some((slot, self.sent[usize::from(slot)].take()?)))
        else {
            self.dropped += 1;
            return false;
        };
        let bytes = buffer.bytes(HEADER + MAX_FRAME);
        bytes[..HEADER].fill(0);
        let written =
            <&mut [u8; MAX_FRAME]>::try_from(&mut bytes[HEADER..]).ok().and_then(|out| write(self, out));
        if let Some(length) = written {
            self.answers += 1;
            self.transmit.post(slot, &[buffer.to_read(HEADER + length)]);
        }
        self.sent[usize::from(slot)] = Some(buffer);
        written.is_some()
    }
}
