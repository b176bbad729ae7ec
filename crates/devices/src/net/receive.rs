use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
};

use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF};

use super::{BUDGET, HEADER_BYTES, LARGE_PACKET, RECEIVE, Tap, forwarded::Forwarded};
use crate::virtio::{Buffers, Chain, Driver, GuestError};

/// Room for a frame without segmentation (spec, 5.1.6.3.1).
const SMALL_PACKET: usize = 1514 + HEADER_BYTES;

/// Offset of num_buffers in the header: how many requests the packet takes. The tap leaves it alone.
const NUM_BUFFERS: usize = 10;

/// Buffers that the driver made available and that no packet has filled yet.
///
/// The tap does not say how long its next packet is. With mergeable buffers so many are offered to it that any packet
/// fits; what it did not fill is offered for the next one, and what is left after a turn goes back to the queue.
#[derive(Default)]
struct Window<'m> {
    chains: VecDeque<Chain<'m>>,
    bytes: usize,
}

/// Takes packets that were forwarded, then those of the tap, until there are none, the driver has no buffers, or other devices should have their turn.
pub(super) fn receive(
    tap: &Tap,
    forwarded: &mut Forwarded,
    driver: &mut Driver<'_>,
) -> Result<(), GuestError> {
    let mut window = Window::default();
    let result = fill(tap, forwarded, driver, &mut window);
    driver.unpop(RECEIVE, window.chains.len() as u16);
    result?;
    driver.interrupt(RECEIVE)
}

fn fill<'m>(
    tap: &Tap,
    forwarded: &mut Forwarded,
    driver: &mut Driver<'m>,
    window: &mut Window<'m>,
) -> Result<(), GuestError> {
    let mergeable = driver.has(VIRTIO_NET_F_MRG_RXBUF);
    // The tap says when it has packets; the driver need not say that it has buffers, unless we wait for them.
    driver.silence(RECEIVE)?;
    for _ in 0..BUDGET {
        if !window.gather(driver, mergeable)? {
            if !driver.listen(RECEIVE)? {
                return Ok(());
            }
            driver.silence(RECEIVE)?;
            continue;
        }
        let room = window.room(mergeable);
        match next(tap, forwarded, &room) {
            Ok(bytes) => window.deliver(driver, &room, bytes)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // No packet, or no interface any more.
            Err(error) => {
                tap.note(&error);
                return Ok(());
            }
        }
    }
    driver.again(RECEIVE);
    Ok(())
}

/// Puts the next packet into `room`. Returns its length.
fn next(tap: &Tap, forwarded: &mut Forwarded, room: &Buffers<'_>) -> io::Result<usize> {
    match forwarded.take() {
        Some(packet) => Ok(room.write(&packet)),
        None if forwarded.goes_first() => Err(ErrorKind::WouldBlock.into()),
        None => room.read_from(tap),
    }
}

impl<'m> Window<'m> {
    /// Pops buffers until any packet fits. False if the driver has too few.
    fn gather(&mut self, driver: &mut Driver<'m>, mergeable: bool) -> Result<bool, GuestError> {
        let segments = driver.has(VIRTIO_NET_F_GUEST_TSO4) || driver.has(VIRTIO_NET_F_GUEST_TSO6);
        let enough = if segments { LARGE_PACKET } else { SMALL_PACKET };
        let limit = driver.size(RECEIVE);
        while if mergeable { self.bytes < LARGE_PACKET } else { self.chains.is_empty() } {
            // More than the queue holds can only be a driver that offers the same buffers again and again.
            if self.chains.len() >= usize::from(limit) {
                break;
            }
            let Some(chain) = driver.pop(RECEIVE)? else { break };
            if chain.writable.len() < HEADER_BYTES {
                return Err(GuestError::Request(
                    "a buffer for received packets is shorter than their header",
                ));
            }
            self.bytes += chain.writable.len();
            self.chains.push_back(chain);
        }
        // Whoever gives all of the queue gives what there is; a packet that does not fit is cut then.
        let everything = self.chains.len() == usize::from(limit) && limit > 0;
        Ok(!self.chains.is_empty() && (!mergeable || everything || self.bytes >= enough))
    }

    /// Where the next packet goes.
    fn room(&self, mergeable: bool) -> Buffers<'m> {
        let mut room = Buffers::default();
        let chains = if mergeable { self.chains.len() } else { 1 };
        for chain in self.chains.iter().take(chains) {
            if !room.append(&chain.writable) {
                break;
            }
        }
        room
    }

    /// Hands the driver the buffers that a packet of `bytes` bytes filled.
    fn deliver(
        &mut self,
        driver: &mut Driver<'m>,
        room: &Buffers<'m>,
        bytes: usize,
    ) -> Result<(), GuestError> {
        let mut filled = Vec::with_capacity(1);
        let mut rest = bytes;
        while rest > 0
            && let Some(chain) = self.chains.pop_front()
        {
            let written = rest.min(chain.writable.len());
            filled.push((chain.head, written as u32));
            self.bytes -= chain.writable.len();
            rest -= written;
        }
        let mut header = room.clone();
        let _before = header.take_front(NUM_BUFFERS);
        header.write(&(filled.len() as u16).to_le_bytes());
        driver.complete(RECEIVE, &filled)
    }
}
