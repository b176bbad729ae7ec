//! The disk: writes, reads back and flushes groups of sectors that can tell whether they are right.

use core::fmt;

use workload::{
    content::Random,
    page::next_generation,
    sector::{self, GROUP_SECTORS},
};

use crate::{
    console::{Text, say},
    memory::Ram,
    report::field,
    virtio::{
        queue::{Buffer, Part, Queue},
        transport::{Kind, Transport},
    },
};

const FEATURE_READ_ONLY: u32 = 5;
const FEATURE_FLUSH: u32 = 9;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const OK: u8 = 0;
/// Not a status that a device writes.
const UNWRITTEN: u8 = 0xff;
/// Requests at a time.
const DEPTH: u16 = 8;
/// The first 16 MiB of the disk are used: enough to be everywhere, few enough to be read again soon.
const MAX_GROUPS: u64 = 4096;
const HEADER: usize = 16;
/// Of 16 operations.
const FLUSHES: u64 = 1;
const WRITES: u64 = 7;

/// The disk device.
#[derive(Debug)]
pub(crate) struct Disk {
    queue: Queue,
    jobs: [Job; DEPTH as usize],
    seed: u64,
    groups: u64,
    read_only: bool,
    can_flush: bool,
    /// The generation that each group must have; 0 is unknown.
    generations: &'static mut [u32],
    random: Random,
    ticks_per_operation: u64,
    due: u64,
    operations: u64,
    errors: u64,
}

#[derive(Debug)]
struct Job {
    header: Buffer,
    data: Buffer,
    status: Buffer,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Nothing,
    Read { group: u64 },
    Write { group: u64, generation: u32 },
    Flush,
}

impl What {
    fn group(self) -> Option<u64> {
        match self {
            What::Read { group } | What::Write { group, .. } => Some(group),
            What::Nothing | What::Flush => None,
        }
    }
}

impl Disk {
    pub(crate) fn new(device: &Transport, seed: u64, rate: u32, ram: &mut Ram, tsc_khz: u64) -> Option<Self> {
        let features = device.begin(Kind::Disk, 1 << FEATURE_READ_ONLY | 1 << FEATURE_FLUSH)?;
        let queue = device.queue(0, 3, DEPTH, ram)?;
        let sectors = device.config_u64(0);
        device.ready();
        let groups = (sectors / GROUP_SECTORS).min(MAX_GROUPS);
        let read_only = features.has(FEATURE_READ_ONLY);
        say!("whimbrel disk sectors={sectors} groups={groups} read_only={}", u8::from(read_only));
        if groups < u64::from(DEPTH) {
            say!("whimbrel warning disk-too-small sectors={sectors}");
            return None;
        }
        let table = ram.take(groups * size_of::<u32>() as u64, 64) as *mut u32;
        // SAFETY: taken for this alone, zeroed, and never given back.
        let generations = unsafe { core::slice::from_raw_parts_mut(table, groups as usize) };
        let job = |_| Job {
            header: Buffer::new(HEADER, ram),
            data: Buffer::new(4096, ram),
            status: Buffer::new(1, ram),
            what: What::Nothing,
        };
        Some(Self {
            queue,
            jobs: core::array::from_fn(job),
            seed,
            groups,
            read_only,
            can_flush: features.has(FEATURE_FLUSH),
            generations,
            random: Random::new(seed ^ sectors),
            ticks_per_operation: (tsc_khz * 1000 / u64::from(rate)).max(1),
            due: 0,
            operations: 0,
            errors: 0,
        })
    }

    /// Takes back what is done, and starts what is due.
    pub(crate) fn turn(&mut self, now: u64) {
        while let Some((slot, _)) = self.queue.take() {
            self.finish(slot);
        }
        while now.wrapping_sub(self.due) < 1 << 63 {
            let Some(slot) = self.queue.free_slot().filter(|slot| *slot < DEPTH) else { break };
            self.start(slot);
            // What could not be done in time is not made up for.
            let late = now.wrapping_sub(self.due) > u64::from(DEPTH) * self.ticks_per_operation;
            self.due = if late { now } else { self.due }.wrapping_add(self.ticks_per_operation);
        }
        self.queue.kick();
    }

    pub(crate) fn report(&self, text: &mut Text) -> fmt::Result {
        field(text, "disk_ops", self.operations)?;
        field(text, "disk_errors", self.errors)?;
        field(text, "disk_inflight", u64::from(self.queue.in_flight()))
    }

    fn start(&mut self, slot: u16) {
        let what = self.choose();
        let job = &mut self.jobs[usize::from(slot)];
        job.what = what;
        let kind = match what {
            What::Nothing | What::Flush => FLUSH,
            What::Read { .. } => IN,
            What::Write { .. } => OUT,
        };
        let first_sector = what.group().unwrap_or(0) * GROUP_SECTORS;
        let header = job.header.bytes(HEADER);
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[4..8].fill(0);
        header[8..].copy_from_slice(&first_sector.to_le_bytes());
        job.status.bytes(1)[0] = UNWRITTEN;
        let (header, data, status) = (job.header.to_read(HEADER), job.data.to_write(), job.status.to_write());
        match what {
            What::Nothing | What::Flush => self.queue.post(slot, &[header, status]),
            What::Read { .. } => {
                // A device that says it read and did not must not find the last one's data here.
                job.data.words().fill(0);
                self.queue.post(slot, &[header, data, status]);
            }
            What::Write { group, generation } => {
                sector::write(job.data.words(), self.seed, group, generation);
                let data = Part { for_device_to_write: false, ..data };
                self.queue.post(slot, &[header, data, status]);
            }
        }
    }

    /// What to do next, in a group that no other request is at.
    fn choose(&mut self) -> What {
        let dice = self.random.below(16);
        if dice < FLUSHES && self.can_flush {
            return What::Flush;
        }
        let mut group = self.random.below(self.groups);
        let write = dice < FLUSHES + WRITES && !self.read_only;
        // Rather read what was written than what was not: only that can be checked.
        for _ in 0..16 {
            let known = self.generations[group as usize] != 0 || write || self.read_only;
            if known && !self.jobs.iter().any(|job| job.what.group() == Some(group)) {
                break;
            }
            group = self.random.below(self.groups);
        }
        while self.jobs.iter().any(|job| job.what.group() == Some(group)) {
            group = (group + 1) % self.groups;
        }
        if write {
            What::Write { group, generation: next_generation(self.generations[group as usize]) }
        } else {
            What::Read { group }
        }
    }

    fn finish(&mut self, slot: u16) {
        let Some(job) = self.jobs.get_mut(usize::from(slot)) else { return };
        let what = core::mem::replace(&mut job.what, What::Nothing);
        self.operations += 1;
        let status = job.status.bytes(1)[0];
        if status != OK {
            self.errors += 1;
            say!("whimbrel disk-error {what:?} status={status}");
            if let What::Write { group, .. } = what {
                self.generations[group as usize] = 0;
            }
            return;
        }
        match what {
            What::Write { group, generation } => self.generations[group as usize] = generation,
            What::Read { group } => {
                let expected = self.generations[group as usize];
                if let Err(bad) = sector::verify(job.data.words(), self.seed, group, expected) {
                    self.errors += 1;
                    say!(
                        "whimbrel disk-error sector={} expected_gen={expected} found_sector={} found_gen={}",
                        bad.sector,
                        bad.found_sector,
                        bad.found_generation,
                    );
                    self.generations[group as usize] = 0;
                }
            }
            What::Flush | What::Nothing => {}
        }
    }
}
