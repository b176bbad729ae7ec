use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use virtio_bindings::{virtio_ids::VIRTIO_ID_NET, virtio_net::*};

use super::{
    CONTROL, Mac, NetV2, RECEIVE, TRANSMIT, Tap,
    announce::rarp,
    control::{self, Command},
    forwarded::{Forwarded, waiting},
    receive::receive,
    tap::Offloads,
    transmit::transmit,
};
use crate::{
    Interest, Invalid, Watch,
    virtio::{Driver, GuestError, VirtioDevice, VirtioMmio, feature, read_from},
};

/// Commands served in one turn.
const CONTROL_BUDGET: usize = 16;

/// Which offloads of the tap stand for which features (spec, 5.1.3).
const GUEST_OFFLOADS: [(u32, u32); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
];

/// A virtio network interface.
#[derive(Debug)]
pub struct Net {
    pub(super) tap: Tap,
    /// The address that the machine was given when it was started first, and which a reset brings back.
    permanent_mac: Mac,
    mac: Mac,
    announce: bool,
    /// What the tap was told of the driver's features.
    offloads: Offloads,
    /// Sending waits for room in the tap.
    tap_full: bool,
    /// What came where the machine was before.
    forwarded: Forwarded,
}

impl Net {
    /// A network interface with this permanent hardware address.
    ///
    /// # Errors
    /// `mac` is a group address.
    pub fn new(tap: Tap, mac: Mac) -> Result<Self, Invalid> {
        check(mac)?;
        Ok(Self {
            tap,
            permanent_mac: mac,
            mac,
            announce: false,
            offloads: Offloads::NONE,
            tap_full: false,
            forwarded: Forwarded::default(),
        })
    }

    /// The network interface as it was saved, with both of its addresses.
    ///
    /// # Errors
    /// An address is a group address.
    pub fn restore(tap: Tap, state: &NetV2) -> Result<Self, Invalid> {
        check(state.mac)?;
        let mut net = Self::new(tap, state.permanent_mac)?;
        net.mac = state.mac;
        net.announce = state.announce;
        Ok(net)
    }

    /// The features of a network interface on this tap.
    #[must_use]
    pub fn features_on(tap: &Tap) -> u64 {
        let always = [
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_CTRL_VQ,
            VIRTIO_NET_F_CTRL_RX,
            VIRTIO_NET_F_CTRL_MAC_ADDR,
            VIRTIO_NET_F_GUEST_ANNOUNCE,
            // A tap takes these from the guest at any time.
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
        ];
        let offloads = GUEST_OFFLOADS.iter().map(|(number, _)| *number).filter(|_| tap.can_offload());
        always.into_iter().chain(offloads).fold(0, |features, number| features | feature(number))
    }

    /// Has the tap leave to the guest what the guest can do itself.
    fn settle_offloads(&mut self, features: u64) {
        let accepted = GUEST_OFFLOADS.iter().filter(|(number, _)| features & feature(*number) != 0);
        let wanted = Offloads(accepted.map(|(_, flag)| flag).sum());
        if wanted != self.offloads {
            self.set_offloads(wanted);
        }
    }

    fn set_offloads(&mut self, wanted: Offloads) {
        if let Err(error) = self.tap.set_offloads(wanted) {
            tracing::warn!(tap = self.tap.name(), %error, "the tap refuses the guest's offloads");
        }
        self.offloads = wanted;
    }

    fn transmit(&mut self, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        self.tap_full = transmit(&self.tap, driver)?;
        Ok(())
    }

    fn control(&mut self, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        driver.serve(CONTROL, CONTROL_BUDGET, |readable, writable| {
            let (command, written) = control::take(readable, &writable)?;
            match command {
                Some(Command::SetMac(mac)) => self.mac = mac,
                Some(Command::Announced) => self.announce = false,
                Some(Command::Filter) | None => {}
            }
            Ok(written)
        })
    }
}

impl VirtioMmio<Net> {
    /// Tells the network where this guest is: a frame of its own from the host, and a guest that can is asked to
    /// announce its addresses. Frames get lost: a machine that moved does this a few times.
    ///
    /// # Errors
    /// The frame could not be sent, for example because the interface is down. The guest is asked nevertheless.
    pub fn announce(&self) -> io::Result<()> {
        self.change_config(|net, features| {
            let asked = features & feature(VIRTIO_NET_F_GUEST_ANNOUNCE) != 0 && !net.announce;
            net.announce |= asked;
            asked
        });
        self.with(|net| net.tap.send(&rarp(net.mac)))
    }

    /// Takes the packets that wait for the driver, each with its virtio header, `most` bytes at most. For a device whose machine
    /// has left: the driver does not get them here.
    #[must_use]
    pub fn take_waiting(&self, most: usize) -> Vec<Vec<u8>> {
        self.with(|net| {
            let mut left = most;
            let fits = |packet: &Vec<u8>| {
                let fits = packet.len() <= left;
                left = left.saturating_sub(packet.len());
                fits
            };
            let mut packets: Vec<_> = std::iter::from_fn(|| net.forwarded.take()).take_while(fits).collect();
            packets.extend(waiting(&net.tap, left));
            packets
        })
    }

    /// Packets that [`Self::take_waiting`] takes where the machine was before are on their way: until [`Self::no_packets_follow`] the driver
    /// gets nothing from the tap, since what comes there came later.
    pub fn packets_follow(&self) {
        self.with(|net| net.forwarded.expect(true));
    }

    /// No more are on their way, or none are waited for.
    pub fn no_packets_follow(&self) {
        self.with(|net| net.forwarded.expect(false));
        self.again(RECEIVE);
    }

    /// Gives the driver packets that [`Self::take_waiting`] took where the machine was before, as soon as it has buffers. Returns how many
    /// were taken: of those that are no packets, and of too many, none are.
    pub fn forward(&self, packets: impl IntoIterator<Item = Vec<u8>>) -> usize {
        let add =
            |net: &mut Net| packets.into_iter().map(|packet| usize::from(net.forwarded.add(packet))).sum();
        let taken = self.with(add);
        self.again(RECEIVE);
        taken
    }

    /// The hardware address that a reset brings back.
    #[must_use]
    pub fn permanent_mac(&self) -> Mac {
        self.with(|net| net.permanent_mac)
    }

    /// The hardware address that the guest uses.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.with(|net| net.mac)
    }
}

impl VirtioDevice for Net {
    type State = NetV2;
    const DEVICE_ID: u32 = VIRTIO_ID_NET;
    const QUEUE_SIZES: &'static [u16] = &[256, 256, 64];

    fn features(&self) -> u64 {
        Self::features_on(&self.tap)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let status = VIRTIO_NET_S_LINK_UP | if self.announce { VIRTIO_NET_S_ANNOUNCE } else { 0 };
        let mut config = [0; 8];
        config[..6].copy_from_slice(&self.mac);
        config[6..].copy_from_slice(&(status as u16).to_le_bytes());
        read_from(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8], _features: u64) {}

    fn process(&mut self, queue: usize, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        self.settle_offloads(driver.features());
        match queue {
            RECEIVE => receive(&self.tap, &mut self.forwarded, driver),
            TRANSMIT => self.transmit(driver),
            CONTROL => self.control(driver),
            _ => Ok(()),
        }
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch { fd: self.tap.as_fd().as_raw_fd(), interest: Interest::ReadWrite, token: 0 }]
    }

    fn ready(&mut self, _token: u32, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        self.settle_offloads(driver.features());
        if self.tap_full {
            self.transmit(driver)?;
        }
        receive(&self.tap, &mut self.forwarded, driver)
    }

    fn runs_on(&mut self) {}

    fn reset(&mut self) {
        self.mac = self.permanent_mac;
        self.announce = false;
        self.tap_full = false;
        self.forwarded.clear();
        self.set_offloads(Offloads::NONE);
    }

    fn save(&self) -> NetV2 {
        NetV2 { mac: self.mac, permanent_mac: self.permanent_mac, announce: self.announce }
    }
}

fn check(mac: Mac) -> Result<(), Invalid> {
    Invalid::unless(mac[0] & 1 == 0, || {
        "the hardware address is a group address: its first byte must be even".into()
    })
}
