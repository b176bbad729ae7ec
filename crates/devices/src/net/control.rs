use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_MAC,
    VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_CTRL_RX,
    VIRTIO_NET_CTRL_RX_ALLMULTI, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use super::Mac;
use crate::virtio::{Buffers, GuestError};

/// What a command of the control queue changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// The guest has a new hardware address.
    SetMac(Mac),
    /// The guest has announced itself.
    Announced,
    /// The guest asks for more or fewer packets. It gets all of them anyway, which is allowed (spec, 5.1.6.5.1.1).
    Filter,
}

/// Reads one command and writes its answer (spec, 5.1.6.5). Returns what to do, and the bytes written.
pub(super) fn take(
    mut readable: Buffers<'_>,
    writable: &Buffers<'_>,
) -> Result<(Option<Command>, u32), GuestError> {
    let mut header = [0; 2];
    if readable.take_front(2).read(&mut header) != 2 {
        return Err(GuestError::Request("a network command is too short"));
    }
    let command = parse(u32::from(header[0]), u32::from(header[1]), &readable);
    let answer = if command.is_some() { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
    let written = writable.write(&[answer as u8]);
    if written == 0 {
        return Err(GuestError::Request("a network command has no room for its answer"));
    }
    Ok((command, 1))
}

fn parse(class: u32, command: u32, data: &Buffers<'_>) -> Option<Command> {
    match (class, command) {
        (VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC | VIRTIO_NET_CTRL_RX_ALLMULTI)
        | (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET) => Some(Command::Filter),
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) => {
            let mut mac = Mac::default();
            // A group address cannot be that of an interface.
            (data.read(&mut mac) == mac.len() && mac[0] & 1 == 0).then_some(Command::SetMac(mac))
        }
        (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK) => Some(Command::Announced),
        _ => None,
    }
}
