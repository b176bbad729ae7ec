use proptest::prelude::*;
use state::DeviceState;
use virtio_bindings::{virtio_net::*, virtio_ring::VIRTIO_RING_F_EVENT_IDX};

use super::{
    CONTROL, Mac, Net, NetV2, RECEIVE, TRANSMIT, Tap, TapError, rarp,
    wire_testing::{RARP, Wire, frame, tun, wire},
};
use crate::{
    IoDevice, Lifecycle, fixtures,
    virtio::{
        VirtioV1, feature,
        hostile::{endure, hostilities},
        testing::{DATA, Guest, readable, take_dirty, writable},
    },
};

const MAC: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const HEADER: usize = 12;
const MRG: u64 = feature(VIRTIO_NET_F_MRG_RXBUF);
const ANNOUNCE: u64 = feature(VIRTIO_NET_F_GUEST_ANNOUNCE);

/// Where transmitted packets, received ones, and commands are.
const SENT: u64 = DATA;
const RECEIVED: u64 = DATA + 0x10_0000;
const COMMAND: u64 = DATA + 0x40_0000;

/// A machine on a network, with these features accepted.
fn started(features: u64) -> Option<(Guest<Net>, Wire)> {
    let (tap, wire) = wire()?;
    Some((Guest::started(Net::new(tap, MAC).unwrap(), features), wire))
}

impl Guest<Net> {
    /// Queues a packet, in two buffers.
    fn offer_packet(&mut self, payload: &[u8]) -> u16 {
        let packet = [&[0; HEADER], frame(payload).as_slice()].concat();
        self.put(SENT, &packet);
        let chain = [readable(SENT, 20), readable(SENT + 20, packet.len() as u32 - 20)];
        self.offer(TRANSMIT, &chain)
    }

    /// Offers `count` buffers of `bytes` bytes for packets.
    fn offer_buffers(&mut self, count: u64, bytes: u32) {
        for index in 0..count {
            self.offer(RECEIVE, &[writable(RECEIVED + index * 0x1_0000, bytes)]);
        }
        self.notify(RECEIVE);
    }

    /// The tap became ready.
    fn tap_ready(&mut self) {
        self.device.ready(1 << 16);
        self.run();
    }

    /// The next packet, taken together from the buffers that it fills, and how many those are. Heads stand for buffers.
    fn packet(&mut self) -> Option<(Vec<u8>, u16)> {
        let (head, bytes) = self.used(RECEIVE)?;
        let mut packet = self.buffer(head, bytes);
        let buffers = u16::from_le_bytes([packet[10], packet[11]]);
        for _ in 1..buffers {
            let (head, bytes) = self.used(RECEIVE).expect("a packet is seen before all of it is there");
            packet.extend(self.buffer(head, bytes));
        }
        Some((packet.split_off(HEADER + 14), buffers))
    }

    fn buffer(&self, head: u16, bytes: u32) -> Vec<u8> {
        self.get::<0x1_0000>(RECEIVED + u64::from(head) * 0x1_0000)[..bytes as usize].to_vec()
    }

    /// Waits for a packet of a test; the kernel sends others.
    fn wait_for_packet(&mut self) -> (Vec<u8>, u16) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::time::Instant::now() < deadline {
            self.tap_ready();
            if let Some(packet) = self.packet() {
                return packet;
            }
        }
        panic!("no packet came");
    }

    fn command(&mut self, class: u32, command: u32, data: &[u8]) -> u8 {
        self.put(COMMAND, &[&[class as u8, command as u8], data].concat());
        let chain = [readable(COMMAND, 2 + data.len() as u32), writable(COMMAND + 0x1000, 1)];
        let head = self.submit(CONTROL, &chain);
        assert_eq!(self.used(CONTROL), Some((head, 1)));
        self.get::<1>(COMMAND + 0x1000)[0]
    }

    /// The status field in the configuration space.
    fn net_status(&mut self) -> u32 {
        u32::from(u16::from_le_bytes(self.config::<2>(6)))
    }
}

fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index % 251) as u8).collect()
}

#[test]
fn a_tap_that_is_taken_away_is_told_of_and_the_device_goes_on() {
    for sends in [false, true] {
        let Some((mut guest, wire)) = started(MRG) else { return };
        guest.offer_buffers(4, 0x1000);
        guest.tap_ready();
        assert!(!guest.device.with(|net| net.tap.is_gone()));
        let taken = std::process::Command::new("ip").args(["link", "del", &wire.name]).status();
        if !taken.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: an interface cannot be taken away");
            return;
        }
        if sends {
            let head = guest.offer_packet(b"lost");
            guest.notify(TRANSMIT);
            assert_eq!(guest.used(TRANSMIT), Some((head, 0)), "as on a wire");
        } else {
            guest.tap_ready();
        }
        assert!(guest.device.with(|net| net.tap.is_gone()));
    }
}

#[test]
fn a_packet_of_the_guest_goes_out() {
    let Some((mut guest, wire)) = started(0) else { return };
    let head = guest.offer_packet(&payload(1000));
    guest.notify(TRANSMIT);
    assert_eq!(wire.receive(), payload(1000));
    assert_eq!(guest.used(TRANSMIT), Some((head, 0)));
    assert_eq!(guest.interrupt(), Some(1));
}

#[test]
fn a_packet_of_the_network_comes_in() {
    let Some((mut guest, wire)) = started(0) else { return };
    guest.offer_buffers(8, 1526);
    take_dirty(&guest.memory, 0);
    wire.send(&payload(1500));
    assert_eq!(guest.wait_for_packet(), (payload(1500), 1));
    assert_eq!(guest.interrupt(), Some(1));
    assert!(take_dirty(&guest.memory, RECEIVED));
}

#[test]
fn a_packet_spans_as_many_mergeable_buffers_as_it_needs() {
    let Some((mut guest, wire)) = started(MRG) else { return };
    guest.offer_buffers(16, 600);
    wire.send(&payload(1400));
    wire.send(&payload(100));
    wire.send(&payload(600));
    assert_eq!(guest.wait_for_packet(), (payload(1400), 3));
    assert_eq!(guest.wait_for_packet(), (payload(100), 1));
    assert_eq!(guest.wait_for_packet(), (payload(600), 2));
}

#[test]
fn an_interrupt_that_was_asked_for_in_the_middle_of_a_packet_comes() {
    let Some((mut guest, wire)) = started(MRG | feature(VIRTIO_RING_F_EVENT_IDX)) else { return };
    guest.want_interrupt_at(RECEIVE, 0);
    guest.offer_buffers(16, 600);
    wire.send(&payload(1400));
    guest.wait_for_packet();
    assert_eq!(guest.interrupt(), Some(1));
}

#[test]
fn packets_wait_in_the_tap_until_the_guest_has_buffers() {
    let Some((mut guest, wire)) = started(0) else { return };
    wire.send(&payload(100));
    guest.tap_ready();
    assert_eq!(guest.packet(), None);
    guest.offer_buffers(8, 1526);
    assert_eq!(guest.wait_for_packet(), (payload(100), 1));
}

#[test]
fn mergeable_buffers_that_are_too_few_wait_for_more() {
    let Some((mut guest, wire)) = started(MRG) else { return };
    guest.offer_buffers(1, 600);
    wire.send(&payload(1400));
    guest.tap_ready();
    assert_eq!(guest.packet(), None, "the packet would have been cut");
    for index in 1..8 {
        guest.offer(RECEIVE, &[writable(RECEIVED + index * 0x1_0000, 600)]);
    }
    guest.notify(RECEIVE);
    assert_eq!(guest.wait_for_packet(), (payload(1400), 3));
}

#[test]
fn more_packets_than_a_turn_moves_all_arrive() {
    let Some((mut guest, wire)) = started(0) else { return };
    for number in 0..200 {
        let packet = [&[0; HEADER], frame(&[number; 100]).as_slice()].concat();
        let address = SENT + u64::from(number) * 0x100;
        guest.put(address, &packet);
        guest.offer(TRANSMIT, &[readable(address, packet.len() as u32)]);
    }
    guest.notify(TRANSMIT);
    for number in 0..200 {
        assert_eq!(wire.receive(), [number; 100]);
    }
}

#[test]
fn malformed_packets_and_an_interface_that_is_down_lose_packets_and_nothing_else() {
    let Some((mut guest, wire)) = started(0) else { return };
    let head = guest.submit(TRANSMIT, &[readable(SENT, 5)]);
    assert_eq!(guest.used(TRANSMIT), Some((head, 0)));
    wire.set_up(false);
    let head = guest.offer_packet(b"lost");
    guest.notify(TRANSMIT);
    assert_eq!(guest.used(TRANSMIT), Some((head, 0)));
    wire.set_up(true);
    guest.offer_packet(&payload(100));
    guest.notify(TRANSMIT);
    assert_eq!(wire.receive(), payload(100));
}

#[test]
fn a_buffer_shorter_than_a_header_stops_the_device() {
    let Some((mut guest, _wire)) = started(0) else { return };
    guest.submit(RECEIVE, &[writable(RECEIVED, 11)]);
    assert_ne!(guest.status() & 64, 0);
}

#[test]
fn the_guest_changes_its_address_and_a_reset_brings_the_old_one_back() {
    let Some((mut guest, _wire)) = started(0) else { return };
    let new = [2, 0, 0, 0, 0, 9];
    assert_eq!(guest.command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, &new), 0);
    assert_eq!(guest.config::<6>(0), new);
    let group = [3, 0, 0, 0, 0, 9];
    assert_eq!(guest.command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, &group), 1);
    assert_eq!(guest.command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, &new[..5]), 1);
    assert_eq!(guest.device.mac(), new);
    guest.write(0x70, 0);
    assert_eq!(guest.device.mac(), MAC);
}

#[test]
fn filters_are_acknowledged_and_unknown_commands_are_not() {
    let Some((mut guest, _wire)) = started(0) else { return };
    assert_eq!(guest.command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &[1]), 0);
    assert_eq!(guest.command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, &[0; 8]), 0);
    assert_eq!(guest.command(VIRTIO_NET_CTRL_MQ, 0, &[1, 0]), 1);
    assert_eq!(guest.command(99, 99, &[]), 1);
}

#[test]
fn an_announcement_goes_out_and_the_guest_is_asked_once() {
    let Some((mut guest, wire)) = started(ANNOUNCE) else { return };
    guest.device.announce().unwrap();
    assert_eq!(wire.receive_of(RARP), rarp(MAC));
    assert_eq!(guest.interrupt(), Some(2));
    assert_eq!(guest.net_status(), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    guest.device.announce().unwrap();
    assert_eq!(guest.interrupt(), None, "it was asked already");
    assert_eq!(guest.command(VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, &[]), 0);
    assert_eq!(guest.net_status(), VIRTIO_NET_S_LINK_UP);
}

#[test]
fn a_guest_that_cannot_announce_itself_is_not_asked() {
    let Some((mut guest, wire)) = started(0) else { return };
    guest.device.announce().unwrap();
    wire.receive_of(RARP);
    assert_eq!(guest.interrupt(), None);
    wire.set_up(false);
    assert!(guest.device.announce().is_err());
}

#[test]
fn an_announcement_is_a_broadcast_about_the_sender() {
    let frame = rarp(MAC);
    assert_eq!(frame[..6], [0xff; 6]);
    assert_eq!(frame[6..12], MAC);
    assert_eq!(frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    assert_eq!((&frame[22..28], &frame[32..38]), (MAC.as_slice(), MAC.as_slice()));
}

#[test]
fn offloads_are_given_to_a_guest_that_has_them_and_taken_back_from_the_next() {
    let offloads =
        [VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4].into_iter().fold(0, |all, it| all | feature(it));
    let Some((mut guest, wire)) = started(offloads | MRG) else { return };
    assert_eq!(guest.offered() & offloads, offloads);
    // With segmentation a packet of the host may be larger than a frame, so small buffers are not offered to the tap.
    guest.offer_buffers(8, 1526);
    wire.send(&payload(100));
    guest.tap_ready();
    assert_eq!(guest.packet(), None);
    guest.write(0x70, 0);
    guest.start(MRG);
    guest.offer_buffers(8, 1526);
    assert_eq!(guest.wait_for_packet(), (payload(100), 1));
}

#[test]
fn queued_packets_and_a_changed_address_move_with_the_machine() {
    let Some((mut guest, wire)) = started(ANNOUNCE) else { return };
    guest.command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, &[2, 0, 0, 0, 0, 9]);
    guest.device.announce().unwrap();
    let head = guest.offer_packet(&payload(300));
    let released = fixtures::released("virtio-net-v2", &guest.save());
    assert!(wire.is_silent());
    let (tap, wire) = super::wire_testing::wire().unwrap();
    let restore = |state: &NetV2| Net::restore(tap, state);
    let mut moved = guest.restored(&released, restore).unwrap();
    moved.device.kick();
    assert_eq!(wire.receive(), payload(300));
    assert_eq!(moved.used(TRANSMIT), Some((head, 0)));
    assert_eq!((moved.device.mac(), moved.device.permanent_mac()), ([2, 0, 0, 0, 0, 9], MAC));
    assert_eq!(moved.net_status(), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    moved.offer_buffers(8, 1526);
    wire.send(&payload(200));
    assert_eq!(moved.wait_for_packet(), (payload(200), 1));
    moved.write(0x70, 0);
    assert_eq!(moved.device.mac(), MAC, "a reset brings the machine's own address back");
}

#[test]
fn a_state_of_the_version_before_is_loaded_with_the_address_in_use_as_the_permanent_one() {
    let before = fixtures::before("virtio-net-v1");
    assert_eq!(before.version, 1);
    let Some((tap, wire)) = wire() else { return };
    let guest = Guest::started(Net::new(tap, MAC).unwrap(), ANNOUNCE);
    drop(wire);
    let (tap, wire) = super::wire_testing::wire().unwrap();
    let mut moved = guest.restored(&before, |state: &NetV2| Net::restore(tap, state)).unwrap();
    assert_eq!((moved.device.mac(), moved.device.permanent_mac()), ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 9]));
    moved.write(0x70, 0);
    assert_eq!(moved.device.mac(), [2, 0, 0, 0, 0, 9]);
    drop(wire);
}

#[test]
fn a_group_address_is_refused() {
    let Some((tap, _wire)) = wire() else { return };
    let guest = Guest::started(Net::new(tap, MAC).unwrap(), 0);
    let damaged: [fn(&mut NetV2); 2] = [|state| state.mac[0] |= 1, |state| state.permanent_mac[0] |= 1];
    for damage in damaged {
        let mut state: VirtioV1<NetV2> = guest.save().decode().unwrap();
        damage(&mut state.device);
        let state = DeviceState::encode("net0", &state).unwrap();
        let (tap, _wire) = super::wire_testing::wire().unwrap();
        assert!(guest.restored(&state, |state| Net::restore(tap, state)).is_err());
    }
    let (tap, _wire) = wire().unwrap();
    assert!(Net::new(tap, [0xff; 6]).is_err());
}

#[test]
fn taps_that_cannot_be_used_are_refused_with_advice() {
    for name in ["", "sixteen-letters!", "a b", "a/b", "um\u{e4}"] {
        assert!(matches!(Tap::open(name), Err(TapError::Name(_))), "{name}");
    }
    let Some((_tap, wire)) = wire() else { return };
    let missing = Tap::open("no-such-tap").unwrap_err();
    assert!(matches!(missing, TapError::Missing { .. }), "{missing}");
    assert!(matches!(Tap::open("no-such-tap"), Err(TapError::Missing { .. })), "it was not made");
    let busy = Tap::open(&wire.name).unwrap_err();
    assert!(busy.to_string().contains("another process uses it"), "{busy}");
    let loopback = Tap::open("lo").unwrap_err();
    assert!(loopback.to_string().contains("'lo'"), "{loopback}");
    assert!(matches!(Tap::from_fd(tun(None)), Err(TapError::NotATap { .. })));
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(Tap::from_fd(null.into()), Err(TapError::NotATap { .. })));
    let bare = tun(Some(libc::IFF_TAP | libc::IFF_NO_PI));
    assert!(matches!(Tap::from_fd(bare), Err(TapError::Flags { .. })));
    let good = Tap::from_fd(tun(Some(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR))).unwrap();
    assert_eq!(good.name(), "tap0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn no_guest_breaks_it(hostilities in hostilities()) {
        let Some((tap, wire)) = wire() else { return Ok(()) };
        for _ in 0..20 {
            wire.send(&payload(1000));
        }
        let restore = |state: NetV2| {
            let (tap, _wire) = super::wire_testing::wire()?;
            Some(Net::restore(tap, &state).unwrap())
        };
        endure(Net::new(tap, MAC).unwrap(), hostilities, restore);
    }
}

#[test]
fn what_waits_where_a_machine_was_reaches_its_driver_where_it_is() {
    let (Some((mut here, wire)), Some((mut there, other_wire))) = (started(MRG), started(MRG)) else {
        return;
    };
    wire.send(&payload(1400));
    wire.send(&payload(100));
    let waiting = until_they_wait(&here, 2);
    // They are not had twice.
    here.offer_buffers(16, 600);
    here.tap_ready();
    assert_eq!(here.packet(), None);
    assert_eq!(there.device.forward(waiting), 2);
    // They come before what has come here, and wait for buffers.
    other_wire.send(&payload(60));
    there.run();
    assert_eq!(there.packet(), None);
    there.offer_buffers(16, 600);
    assert_eq!(there.wait_for_packet(), (payload(1400), 3));
    assert_eq!(there.wait_for_packet(), (payload(100), 1));
    assert_eq!(there.wait_for_packet(), (payload(60), 1));
}

#[test]
fn what_comes_here_waits_for_what_follows_the_machine() {
    let Some((mut guest, wire)) = started(MRG) else { return };
    let follows = |byte: usize| [vec![0; HEADER], frame(&payload(byte))].concat();
    guest.device.packets_follow();
    wire.send(&payload(60));
    guest.offer_buffers(16, 600);
    guest.tap_ready();
    assert_eq!(guest.packet(), None);
    assert_eq!(guest.device.forward([follows(300)]), 1);
    assert_eq!(guest.wait_for_packet(), (payload(300), 1));
    guest.run();
    assert_eq!(guest.packet(), None, "another may follow");
    assert_eq!(guest.device.forward([follows(200)]), 1);
    guest.device.no_packets_follow();
    assert_eq!(guest.wait_for_packet(), (payload(200), 1));
    assert_eq!(guest.wait_for_packet(), (payload(60), 1));
    // One that has been reset waits for nothing.
    guest.device.packets_follow();
    guest.device.clone().reset();
    assert!(guest.device.take_waiting(1 << 20).is_empty());
}

#[test]
fn what_no_driver_took_is_forwarded_again() {
    let (Some((here, _wire)), Some((there, _other))) = (started(MRG), started(MRG)) else { return };
    let packet = [vec![0; HEADER], frame(&payload(200))].concat();
    assert_eq!(here.device.forward([packet.clone()]), 1);
    let waiting = here.device.take_waiting(1 << 20);
    assert_eq!(waiting.first(), Some(&packet));
    assert_eq!(there.device.forward(waiting), 1);
    there.device.clone().reset();
    assert!(
        there.device.take_waiting(1 << 20).is_empty(),
        "a machine that was reset gets what was not for it"
    );
}

#[test]
fn what_is_no_packet_and_what_is_too_much_is_not_taken() {
    let Some((guest, _wire)) = started(0) else { return };
    assert_eq!(guest.device.forward([Vec::new(), vec![0; HEADER + 13], vec![0; 70_000]]), 0);
    assert_eq!(guest.device.forward(std::iter::repeat_n(vec![0; 100], 5000)), 1000);
    let Some((guest, _wire)) = started(0) else { return };
    assert_eq!(guest.device.forward(std::iter::repeat_n(vec![0; 65_000], 1000)), (4 << 20) / 65_000);
}

/// Takes what waits in the tap, when that are so many packets of a test.
fn until_they_wait(guest: &Guest<Net>, count: usize) -> Vec<Vec<u8>> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut waiting = Vec::new();
    while waiting.len() < count {
        assert!(std::time::Instant::now() < deadline, "no packet came");
        waiting.extend(guest.device.take_waiting(1 << 20));
    }
    waiting
}
