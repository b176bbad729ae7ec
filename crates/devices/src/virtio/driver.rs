use vmm_sys_util::eventfd::EventFd;

use super::{Buffers, Chain, GuestError, VirtQueue, presence::Ahead, registers::Line};
use crate::GuestMemory;

/// The driver as its device sees it: guest memory, the queues, and ways to be heard.
#[derive(Debug)]
pub struct Driver<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) queues: &'a mut [VirtQueue],
    pub(super) features: u64,
    pub(super) line: &'a Line,
    pub(super) events: &'a [EventFd],
    /// Of a machine of which memory is still to come.
    pub(super) ahead: Option<Ahead<'a>>,
}

impl<'a> Driver<'a> {
    /// The memory that the driver's buffers are in.
    #[must_use]
    pub fn memory(&self) -> &'a GuestMemory {
        self.memory
    }

    /// Whether the driver accepted feature number `number`.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        self.features & super::feature(number) != 0
    }

    /// The features that the driver accepted.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The next request in `queue`, if the queue is ready and has one. One whose memory is still to come waits, and all behind it;
    /// everything is looked at again when that memory is here.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain<'a>>, GuestError> {
        let memory = self.memory;
        let Some(queue) = self.queues.get_mut(queue).filter(|queue| queue.is_ready()) else {
            return Ok(None);
        };
        let Some(ahead) = &mut self.ahead else { return queue.pop(memory) };
        if ahead.waits() || !ahead.are_here(queue.next_table(memory)) {
            return Ok(None);
        }
        let Some(chain) = queue.pop(memory)? else { return Ok(None) };
        if !ahead.buffers_are_here([&chain.readable, &chain.writable]) {
            queue.unpop(1);
            return Ok(None);
        }
        Ok(Some(chain))
    }

    /// Puts the `count` requests popped last from `queue` back.
    pub fn unpop(&mut self, queue: usize, count: u16) {
        if let Some(queue) = self.queue(queue) {
            queue.unpop(count);
        }
    }

    /// Entries of `queue`, 0 if it is not ready.
    #[must_use]
    pub fn size(&self, queue: usize) -> u16 {
        self.queues.get(queue).filter(|queue| queue.is_ready()).map_or(0, VirtQueue::size)
    }

    /// Hands requests back, all at once: pairs of a head and the number of bytes written.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn complete(&mut self, queue: usize, requests: &[(u16, u32)]) -> Result<(), GuestError> {
        let memory = self.memory;
        self.queue(queue).map_or(Ok(()), |queue| queue.complete(memory, requests))
    }

    /// Raises the interrupt if the driver wants to know of what was completed in `queue`.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn interrupt(&mut self, queue: usize) -> Result<(), GuestError> {
        let memory = self.memory;
        if self.queue(queue).map_or(Ok(false), |queue| queue.wants_interrupt(memory))? {
            self.line.used();
        }
        Ok(())
    }

    /// Has `queue` processed again soon, after other devices had their turn.
    pub fn again(&self, queue: usize) {
        if let Some(event) = self.events.get(queue) {
            // Fails only when the counter is at its maximum, and then the event is pending anyway.
            let _ = event.write(1);
        }
    }

    /// Tells the driver of `queue` not to announce requests, as the device looks by itself.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn silence(&mut self, queue: usize) -> Result<(), GuestError> {
        let memory = self.memory;
        self.queue(queue).map_or(Ok(()), |queue| queue.silence(memory))
    }

    /// Asks the driver to announce requests in `queue`; true if there already are some that were not popped, but for those that wait
    /// for their memory.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn listen(&mut self, queue: usize) -> Result<bool, GuestError> {
        if self.ahead.as_ref().is_some_and(Ahead::waits) {
            return Ok(false);
        }
        let memory = self.memory;
        self.queue(queue).map_or(Ok(false), |queue| queue.listen(memory))
    }

    /// Serves requests of `queue` until there are none, or `budget` of them were served: then the rest is left for
    /// another turn, so that one device never keeps its thread. `serve` returns the number of bytes it wrote.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn serve(
        &mut self,
        queue: usize,
        budget: usize,
        mut serve: impl FnMut(Buffers<'a>, Buffers<'a>) -> Result<u32, GuestError>,
    ) -> Result<(), GuestError> {
        self.serve_or_keep(queue, budget, |readable, writable| serve(readable, writable).map(Some))
    }

    /// As [`Self::serve`], but where `serve` returns `None` the request stays the first of the queue, and no other is served until the
    /// queue is processed next.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn serve_or_keep(
        &mut self,
        queue: usize,
        budget: usize,
        mut serve: impl FnMut(Buffers<'a>, Buffers<'a>) -> Result<Option<u32>, GuestError>,
    ) -> Result<(), GuestError> {
        let mut done = false;
        self.silence(queue)?;
        // A turn that finds nothing costs one too: a driver that moves its ring to and fro cannot keep us here.
        for _ in 0..budget {
            if let Some(Chain { head, readable, writable }) = self.pop(queue)? {
                let Some(written) = serve(readable, writable)? else {
                    self.unpop(queue, 1);
                    return Ok(());
                };
                self.complete(queue, &[(head, written)])?;
                self.interrupt(queue)?;
            } else if self.listen(queue)? {
                self.silence(queue)?;
            } else {
                done = true;
                break;
            }
        }
        if !done {
            self.again(queue);
        }
        Ok(())
    }

    fn queue(&mut self, queue: usize) -> Option<&mut VirtQueue> {
        self.queues.get_mut(queue).filter(|queue| queue.is_ready())
    }
}
