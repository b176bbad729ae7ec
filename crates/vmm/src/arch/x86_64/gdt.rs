//! The segments with which a kernel starts. The boot protocols fix the selectors of Linux (`__BOOT_CS`, `__BOOT_DS`).

use devices::GuestMemory;
use kvm_bindings::kvm_segment;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::layout;

/// Limit of the table: four descriptors of eight bytes.
pub(super) const LIMIT: u16 = 4 * 8 - 1;

/// Segment types (Intel SDM, volume 3, 3.4.5.1 and 3.5): execute/read accessed, read/write accessed, busy task segment.
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const TASK: u8 = 0xb;

/// Code, flat; of 64 or 32 bits.
pub(super) fn code(long: bool) -> kvm_segment {
    kvm_segment { selector: 0x10, type_: CODE, l: long.into(), db: (!long).into(), ..flat() }
}

/// Data, flat.
pub(super) fn data() -> kvm_segment {
    kvm_segment { selector: 0x18, type_: DATA, db: 1, ..flat() }
}

/// The task segment that a processor must have, without a descriptor: nobody loads it.
pub(super) fn task() -> kvm_segment {
    kvm_segment { limit: 0x67, type_: TASK, present: 1, ..Default::default() }
}

/// Writes the table.
pub(super) fn write(memory: &GuestMemory, long: bool) -> Result<(), GuestMemoryError> {
    let table = [0, 0, descriptor(&code(long)), descriptor(&data())];
    memory.write_obj(table, GuestAddress(layout::GDT))
}

fn flat() -> kvm_segment {
    kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() }
}

/// The descriptor of a segment (Intel SDM, volume 3, figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(segment.limit >> 12);
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    let base = segment.base;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_flat_segments() {
        assert_eq!(descriptor(&code(true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&code(false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&data()), 0x00cf_9300_0000_ffff);
    }
}
