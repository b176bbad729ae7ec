//! Sends of which the kernel has not said yet that it is done with them.

use std::collections::VecDeque;

use crate::{Buffer, error_queue::Completion};

/// The sends of one connection, in their order. Pure: what the kernel says comes from outside.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    sends: VecDeque<Send>,
    /// The kernel's number of the first of them.
    oldest: u32,
    /// Of those that are not done.
    bytes: usize,
    /// How many there ever were.
    begun: u64,
    buffers: usize,
    /// Number of the batch that is being sent.
    batch: u64,
    /// Batches of which something was copied, and the last of them.
    copied: u64,
    last_copied: u64,
}

#[derive(Debug)]
struct Send {
    bytes: usize,
    batch: u64,
    is_done: bool,
    copied: bool,
    buffer: Option<Buffer>,
}

/// The kernel tells of a send that there never was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown;

impl InFlight {
    /// What is sent from here on belongs to the next batch.
    pub(crate) fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// The kernel took so many bytes, and reads them where they are.
    pub(crate) fn begin(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.begun += 1;
        let batch = self.batch;
        self.sends.push_back(Send { bytes, batch, is_done: false, copied: false, buffer: None });
    }

    /// What was sent up to now may lie in `buffer`: it is free when that is done.
    pub(crate) fn keep(&mut self, buffer: Buffer, free: &mut Vec<Buffer>) {
        match self.sends.back_mut() {
            Some(Send { buffer: place @ None, .. }) => {
                *place = Some(buffer);
                self.buffers += 1;
            }
            // The kernel is done with all, or with all since it was given another buffer.
            _ => free.push(buffer),
        }
    }

    /// What is left of the batch that is being sent, or all of it, is copied.
    pub(crate) fn copy(&mut self) {
        let batch = self.batch;
        match self.sends.back_mut().filter(|send| send.batch == batch) {
            Some(send) => send.copied = true,
            None => self.count_copied(batch),
        }
    }

    /// The kernel is done with some of them. Buffers that are free now go to `free`.
    pub(crate) fn end(&mut self, completion: Completion, free: &mut Vec<Buffer>) -> Result<(), Unknown> {
        let Completion { first, last, copied } = completion;
        let from = first.wrapping_sub(self.oldest) as usize;
        let count = last.wrapping_sub(first) as usize;
        let to = from.checked_add(count).filter(|to| *to < self.sends.len()).ok_or(Unknown)?;
        for send in self.sends.range_mut(from..=to) {
            if !std::mem::replace(&mut send.is_done, true) {
                self.bytes -= send.bytes;
                send.copied |= copied;
            }
        }
        while let Some(done) = self.sends.pop_front_if(|send| send.is_done) {
            self.oldest = self.oldest.wrapping_add(1);
            if done.copied {
                match self.sends.front_mut().filter(|next| next.batch == done.batch) {
                    // With its last send.
                    Some(next) => next.copied = true,
                    None => self.count_copied(done.batch),
                }
            }
            if let Some(buffer) = done.buffer {
                self.buffers -= 1;
                free.push(buffer);
            }
        }
        Ok(())
    }

    /// A batch counts once, when its last send ends, or at once when it has none under way: that is the one that is being sent, and may be
    /// counted again.
    fn count_copied(&mut self, batch: u64) {
        self.copied += u64::from(batch != self.last_copied);
        self.last_copied = self.last_copied.max(batch);
    }

    /// Bytes that the kernel may still read.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Buffers that it may still read.
    pub(crate) fn buffers(&self) -> usize {
        self.buffers
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sends.is_empty()
    }

    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// How many are done, with all before them.
    pub(crate) fn done(&self) -> u64 {
        self.begun - self.sends.len() as u64
    }

    /// Batches of which something was copied, as far as that is known.
    pub(crate) fn copied(&self) -> u64 {
        self.copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(first: u32, last: u32, copied: bool) -> Completion {
        Completion { first, last, copied }
    }

    #[test]
    fn a_buffer_is_free_when_all_up_to_it_is_done_in_whatever_order() {
        let (mut sends, mut free) = (InFlight::default(), Vec::new());
        sends.begin(10);
        sends.begin(20);
        sends.keep(Buffer::new(4096).unwrap(), &mut free);
        sends.begin(30);
        assert_eq!((sends.bytes(), sends.buffers(), sends.done()), (60, 1, 0));
        sends.end(completion(1, 1, false), &mut free).unwrap();
        assert_eq!((sends.bytes(), sends.done(), free.len()), (40, 0, 0), "what is before it is not done");
        sends.end(completion(0, 0, true), &mut free).unwrap();
        assert_eq!((sends.bytes(), sends.done(), free.len()), (30, 2, 1));
        sends.end(completion(2, 2, false), &mut free).unwrap();
        assert!(sends.is_empty());
        assert_eq!((sends.bytes(), sends.buffers(), sends.begun()), (0, 0, 3));
    }

    #[test]
    fn a_buffer_that_nothing_is_read_from_any_more_is_free_at_once() {
        let (mut sends, mut free) = (InFlight::default(), Vec::new());
        sends.keep(Buffer::new(4096).unwrap(), &mut free);
        assert_eq!((sends.buffers(), free.len()), (0, 1), "nothing is under way");
        sends.begin(10);
        sends.keep(Buffer::new(4096).unwrap(), &mut free);
        sends.keep(Buffer::new(4096).unwrap(), &mut free);
        assert_eq!((sends.buffers(), free.len()), (1, 2), "nothing since the one before");
    }

    #[test]
    fn a_batch_counts_once_however_much_of_it_was_copied_and_by_whom() {
        let (mut sends, mut free) = (InFlight::default(), Vec::new());
        // The first is copied by the kernel in two of three parts, the second from its middle on, the third as a whole, the fourth
        // not at all, and of the fifth the kernel is done with what it has copied before the rest of it is.
        sends.begin_batch();
        (0..3).for_each(|_| sends.begin(1));
        sends.begin_batch();
        sends.begin(1);
        sends.copy();
        assert_eq!(sends.copied(), 0, "nothing is done");
        sends.end(completion(2, 3, true), &mut free).unwrap();
        sends.end(completion(0, 1, true), &mut free).unwrap();
        assert_eq!(sends.copied(), 2);
        sends.begin_batch();
        sends.copy();
        assert_eq!(sends.copied(), 3);
        sends.begin_batch();
        sends.begin(1);
        sends.end(completion(4, 4, false), &mut free).unwrap();
        assert_eq!(sends.copied(), 3);
        sends.begin_batch();
        sends.begin(1);
        sends.end(completion(5, 5, true), &mut free).unwrap();
        sends.copy();
        assert_eq!(sends.copied(), 4);
    }

    #[test]
    fn a_batch_that_is_copied_while_an_earlier_one_is_under_way_makes_neither_count_twice() {
        let (mut sends, mut free) = (InFlight::default(), Vec::new());
        sends.begin_batch();
        (0..2).for_each(|_| sends.begin(1));
        sends.end(completion(0, 0, true), &mut free).unwrap();
        sends.begin_batch();
        sends.copy();
        sends.end(completion(1, 1, true), &mut free).unwrap();
        sends.copy();
        assert_eq!(sends.copied(), 2);
    }

    #[test]
    fn numbers_begin_anew_after_the_last_one() {
        let (mut sends, mut free) = (InFlight { oldest: u32::MAX, ..InFlight::default() }, Vec::new());
        (0..3).for_each(|_| sends.begin(1));
        sends.end(completion(u32::MAX, 1, false), &mut free).unwrap();
        assert!(sends.is_empty());
    }

    #[test]
    fn what_was_never_sent_is_not_done() {
        let (mut sends, mut free) = (InFlight::default(), Vec::new());
        sends.begin(1);
        for (first, last) in [(0, 1), (1, 1), (5, 2), (u32::MAX, 0), (0, u32::MAX)] {
            assert_eq!(sends.end(completion(first, last, false), &mut free), Err(Unknown), "{first} {last}");
        }
        assert_eq!(sends.done(), 0);
        sends.end(completion(0, 0, false), &mut free).unwrap();
        assert_eq!(sends.end(completion(0, 0, false), &mut free), Err(Unknown), "twice");
    }
}
