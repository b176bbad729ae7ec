use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, desc::split::Descriptor};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::{Buffers, GuestError, MemoryRange, QueueV1};
use crate::{GuestMemory, Invalid};

/// A virtqueue: what the driver set in its registers, and once it is ready, where the device stands in its rings.
#[derive(Debug)]
pub struct VirtQueue {
    max_size: u16,
    /// Registers, as the driver wrote them; checked when it sets the queue ready.
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) driver_ring: u64,
    pub(super) device_ring: u64,
    /// Some while the queue is ready.
    ring: Option<Queue>,
    /// How far the driver was told of completions: used entries, modulo 2^16. Between two turns of the device this is
    /// where the used ring stands, so it is not saved.
    told: u16,
}

/// A request that the driver made available: the buffers that the device may read, then those that it may write.
#[derive(Debug)]
pub struct Chain<'m> {
    /// Names the request when it is completed.
    pub head: u16,
    /// What the driver says.
    pub readable: Buffers<'m>,
    /// Where the device answers.
    pub writable: Buffers<'m>,
}

/// Bytes before the entries of the used ring, and of an entry (spec, 2.7.8).
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;
/// Bytes before the entries of the available ring (spec, 2.7.6).
const AVAILABLE_HEADER: u64 = 4;

impl VirtQueue {
    pub(super) fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, descriptors: 0, driver_ring: 0, device_ring: 0, ring: None, told: 0 }
    }

    /// The driver may use the queue.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ring.is_some()
    }

    /// Entries, as the driver set them.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Largest size that the driver may set.
    #[must_use]
    pub fn max_size(&self) -> u16 {
        self.max_size
    }

    /// The next request, if there is one.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn pop<'m>(&mut self, memory: &'m GuestMemory) -> Result<Option<Chain<'m>>, GuestError> {
        let Some(ring) = &mut self.ring else { return Ok(None) };
        let chain = ring.iter(memory).map_err(GuestError::Ring)?.next();
        chain.map(|descriptors| Chain::resolve(descriptors, memory)).transpose()
    }

    /// What [`Self::pop`] touches before it knows the buffers of the next request, but for the rings: its table of descriptors, if the
    /// driver put them into one of their own (spec, 2.7.5.3).
    pub(super) fn next_table(&self, memory: &GuestMemory) -> Option<MemoryRange> {
        let ring = self.ring.as_ref()?;
        let next = ring.next_avail();
        if ring.avail_idx(memory, Ordering::Acquire).ok()?.0 == next {
            return None;
        }
        let slot = u64::from(next % ring.size());
        let head = ring.avail_ring().checked_add(AVAILABLE_HEADER + 2 * slot)?;
        let head = u16::from_le(memory.read_obj(GuestAddress(head)).ok()?);
        if head >= ring.size() {
            return None;
        }
        let descriptor = ring.desc_table().checked_add(16 * u64::from(head))?;
        let descriptor: Descriptor = memory.read_obj(GuestAddress(descriptor)).ok()?;
        descriptor.refers_to_indirect_table().then(|| (descriptor.addr(), descriptor.len() as usize))
    }

    /// Where the rings are, if the queue is ready.
    pub(super) fn rings(&self) -> impl Iterator<Item = MemoryRange> {
        let parts = self.is_ready().then(|| self.parts());
        parts.into_iter().flatten().map(|(_, address, bytes)| (GuestAddress(address), bytes))
    }

    /// Where the rings are, and the buffers of the next requests, at most `most` of them: what the device touches when it goes on. Whoever
    /// breaks the rules is found out then.
    pub(super) fn touched_next(&mut self, memory: &GuestMemory, most: u16) -> Vec<GuestAddress> {
        let mut touched: Vec<_> = self.rings().map(|(address, _)| address).collect();
        let next = self.ring.as_ref().map(QueueT::next_avail);
        for _ in 0..most {
            let Ok(Some(chain)) = self.pop(memory) else { break };
            touched
                .extend(chain.readable.ranges().chain(chain.writable.ranges()).map(|(address, _)| address));
        }
        // A request that breaks the rules counts as popped too.
        if let (Some(ring), Some(next)) = (&mut self.ring, next) {
            ring.set_next_avail(next);
        }
        touched
    }

    /// The three parts: name, address, length in bytes (spec, 2.7).
    fn parts(&self) -> [(&'static str, u64, usize); 3] {
        let entries = usize::from(self.size);
        [
            ("descriptor table", self.descriptors, 16 * entries),
            ("driver ring", self.driver_ring, 6 + 2 * entries),
            ("device ring", self.device_ring, 6 + 8 * entries),
        ]
    }

    /// Puts the `count` requests popped last back, to be popped again.
    pub fn unpop(&mut self, count: u16) {
        if let Some(ring) = &mut self.ring {
            ring.set_next_avail(ring.next_avail().wrapping_sub(count));
        }
    }

    /// Hands requests back to the driver: pairs of a head and the number of bytes that the device wrote from the start of
    /// that request on. The driver sees all of them or none, as it must with a packet that spans several.
    ///
    /// # Errors
    /// The used ring is not in memory, or a head is not of this queue.
    pub fn complete(&mut self, memory: &GuestMemory, requests: &[(u16, u32)]) -> Result<(), GuestError> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let Some(((last, last_written), earlier)) = requests.split_last() else { return Ok(()) };
        // The library publishes each entry at once: so all but the last are put in place by hand, behind its back.
        for (head, written) in earlier {
            if *head >= ring.size() {
                return Err(GuestError::Ring(virtio_queue::Error::InvalidDescriptorIndex));
            }
            let slot = u64::from(ring.next_used() % ring.size());
            // struct virtq_used_elem: le32 id, le32 len.
            let element = (u64::from(*written) << 32 | u64::from(*head)).to_le();
            let address = GuestAddress(ring.used_ring() + USED_HEADER + slot * USED_ELEMENT);
            memory.write_obj(element, address).map_err(ring_memory)?;
            ring.set_next_used(ring.next_used().wrapping_add(1));
        }
        ring.add_used(memory, *last, *last_written).map_err(GuestError::Ring)
    }

    /// Whether the driver wants an interrupt for what was completed since the last call (spec, 2.7.7 and 2.7.10).
    ///
    /// Not the library's `needs_notification`, which does not know the flag of drivers that poll, and counts only what
    /// it completed itself.
    pub(super) fn wants_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, GuestError> {
        let Some(ring) = &mut self.ring else { return Ok(false) };
        let new = ring.next_used();
        let old = std::mem::replace(&mut self.told, new);
        if new == old {
            return Ok(false);
        }
        // The completions must be visible before the wish is read, or a driver that changes it now waits for ever.
        fence(Ordering::SeqCst);
        let load = |offset| -> Result<u16, GuestError> {
            let address = GuestAddress(ring.avail_ring() + offset);
            memory.load(address, Ordering::Relaxed).map(u16::from_le).map_err(ring_memory)
        };
        if ring.event_idx_enabled() {
            let event = load(AVAILABLE_HEADER + 2 * u64::from(ring.size()))?;
            return Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old));
        }
        Ok(u32::from(load(0)?) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Tells the driver that it need not announce new requests.
    pub(super) fn silence(&mut self, memory: &GuestMemory) -> Result<(), GuestError> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        ring.disable_notification(memory).map_err(GuestError::Ring)
    }

    /// Asks the driver to announce new requests. True if there are some already, which it will not announce.
    pub(super) fn listen(&mut self, memory: &GuestMemory) -> Result<bool, GuestError> {
        let Some(ring) = &mut self.ring else { return Ok(false) };
        ring.enable_notification(memory).map_err(GuestError::Ring)
    }

    /// The driver sets the queue ready.
    pub(super) fn start(&mut self, memory: &GuestMemory, event_idx: bool) -> Result<(), GuestError> {
        self.ring = Some(self.checked_ring(memory, event_idx).map_err(GuestError::Setup)?);
        self.told = 0;
        Ok(())
    }

    /// The driver stops using the queue; its registers stay.
    pub(super) fn stop(&mut self) {
        self.ring = None;
    }

    pub(super) fn save(&self) -> QueueV1 {
        QueueV1 {
            size: self.size,
            ready: self.is_ready(),
            descriptors: self.descriptors,
            driver_ring: self.driver_ring,
            device_ring: self.device_ring,
            next_available: self.ring.as_ref().map_or(0, QueueT::next_avail),
            next_used: self.ring.as_ref().map_or(0, QueueT::next_used),
        }
    }

    pub(super) fn restore(
        max_size: u16,
        state: &QueueV1,
        memory: &GuestMemory,
        event_idx: bool,
    ) -> Result<Self, Invalid> {
        let mut queue = Self {
            max_size,
            size: state.size,
            descriptors: state.descriptors,
            driver_ring: state.driver_ring,
            device_ring: state.device_ring,
            ring: None,
            told: state.next_used,
        };
        if state.ready {
            let mut ring = queue.checked_ring(memory, event_idx)?;
            ring.set_next_avail(state.next_available);
            ring.set_next_used(state.next_used);
            queue.ring = Some(ring);
        }
        Ok(queue)
    }

    fn checked_ring(&self, memory: &GuestMemory, event_idx: bool) -> Result<Queue, Invalid> {
        let library = |error: virtio_queue::Error| Invalid(error.to_string());
        let mut ring = Queue::new(self.max_size).map_err(library)?;
        ring.try_set_size(self.size).map_err(|_| {
            Invalid(format!("queue size {} is not a power of two of at most {}", self.size, self.max_size))
        })?;
        ring.try_set_desc_table_address(GuestAddress(self.descriptors)).map_err(library)?;
        ring.try_set_avail_ring_address(GuestAddress(self.driver_ring)).map_err(library)?;
        ring.try_set_used_ring_address(GuestAddress(self.device_ring)).map_err(library)?;
        ring.set_event_idx(event_idx);
        ring.set_ready(true);
        for (name, address, bytes) in self.parts() {
            // The library takes a driver ring at address 0 for one that was never set.
            let in_memory = address != 0 && memory.check_range(GuestAddress(address), bytes);
            Invalid::unless(in_memory, || {
                format!("{name} of {bytes} bytes at {address:#x} is not in memory")
            })?;
        }
        Ok(ring)
    }
}

fn ring_memory(error: GuestMemoryError) -> GuestError {
    GuestError::Ring(virtio_queue::Error::GuestMemory(error))
}

impl<'m> Chain<'m> {
    /// Walks the descriptors. The library ends a chain without a word where it breaks: the last descriptor then still
    /// promises a next one.
    fn resolve(
        mut descriptors: DescriptorChain<&'m GuestMemory>,
        memory: &'m GuestMemory,
    ) -> Result<Self, GuestError> {
        let head = descriptors.head_index();
        let mut chain = Self { head, readable: Buffers::default(), writable: Buffers::default() };
        let mut complete = false;
        let mut writable_seen = false;
        for descriptor in descriptors.by_ref() {
            let buffers = if descriptor.is_write_only() {
                writable_seen = true;
                &mut chain.writable
            } else if writable_seen {
                return Err(GuestError::MixedBuffers { head });
            } else {
                &mut chain.readable
            };
            buffers.push(memory, descriptor.addr(), descriptor.len() as usize)?;
            complete = !descriptor.has_next();
        }
        if complete { Ok(chain) } else { Err(GuestError::BrokenChain { head }) }
    }
}
