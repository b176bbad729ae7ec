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
    /// How many the kernel has copied all the same.
    copied: u64,
    buffers: usize,
}

#[derive(Debug)]
struct Send {
    bytes: usize,
    is_done: bool,
    buffer: Option<Buffer>,
}

/// The kernel tells of a send that there never was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown;

impl InFlight {
    /// The kernel took so many bytes, and reads them where they are. `buffer` is what they are in, if it is to be kept for that; it is
    /// free when this send and all before it are done.
    pub(crate) fn begin(&mut self, bytes: usize, buffer: Option<Buffer>) {
        self.bytes += bytes;
        self.begun += 1;
        self.buffers += usize::from(buffer.is_some());
        self.sends.push_back(Send { bytes, is_done: false, buffer });
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
                self.copied += u64::from(copied);
            }
        }
        while let Some(done) = self.sends.pop_front_if(|send| send.is_done) {
            self.oldest = self.oldest.wrapping_add(1);
            if let Some(buffer) = done.buffer {
                self.buffers -= 1;
                free.push(buffer);
            }
        }
        Ok(())
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
        sends.begin(10, None);
        sends.begin(20, Some(Buffer::new(4096)));
        sends.begin(30, None);
        assert_eq!((sends.bytes(), sends.buffers(), sends.done()), (60, 1, 0));
        sends.end(completion(1, 1, false), &mut free).unwrap();
        assert_eq!((sends.bytes(), sends.done(), free.len()), (40, 0, 0), "what is before it is not done");
        sends.end(completion(0, 0, true), &mut free).unwrap();
        assert_eq!((sends.bytes(), sends.done(), free.len(), sends.copied()), (30, 2, 1, 1));
        sends.end(completion(2, 2, false), &mut free).unwrap();
        assert!(sends.is_empty());
        assert_eq!((sends.bytes(), sends.buffers(), sends.begun()), (0, 0, 3));
    }

    #[test]
    fn numbers_begin_anew_after_the_last_one() {
        let (mut sends, mut free) = (InFlight { oldest: u32::MAX, ..InFlight::default() }, Vec::new());
        (0..3).for_each(|_| sends.begin(1, None));
        sends.end(completion(u32::MAX, 1, false), &mut free).unwrap();
        assert!(sends.is_empty());
    }

    #[test]
    fn what_was_never_sent_is_not_done() {
        let (mut sends, mut free) = (InFlight::default(), Vec::new());
        sends.begin(1, None);
        for (first, last) in [(0, 1), (1, 1), (5, 2), (u32::MAX, 0), (0, u32::MAX)] {
            assert_eq!(sends.end(completion(first, last, false), &mut free), Err(Unknown), "{first} {last}");
        }
        assert_eq!(sends.done(), 0);
        sends.end(completion(0, 0, false), &mut free).unwrap();
        assert_eq!(sends.end(completion(0, 0, false), &mut free), Err(Unknown), "twice");
    }
}
