//! What the assembly of the start leaves behind for Rust.

use core::{
    ptr,
    sync::atomic::{AtomicU32, Ordering, fence},
};

use workload::params::MAX_CPUS;

core::arch::global_asm!(include_str!("boot.S"), options(att_syntax));

/// The leaves that `boot.S` asks for, in its order.
const CPUID_LEAVES: [u32; 10] =
    [0, 1, 7, 0x15, 0x16, 0x4000_0000, 0x4000_0001, 0x4000_0010, 0x8000_0000, 0x8000_0007];

unsafe extern "C" {
    static start_info_address: u32;
    static cpuid_results: [[u32; 4]; CPUID_LEAVES.len()];
    static fault_record: [u64; 5];
    static left_by_iretq: AtomicU32;
    static fault_taken: AtomicU32;
    static mut user_stacks: [u64; MAX_CPUS as usize];
    static mut idt: [u8; 512];
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static mut pdpt: [u64; 512];
    static kvm_system_time: u8;
    static kvm_wall_clock: u8;
    static image_end: u8;
}

/// A CPUID leaf as ring 0 read it: EAX, EBX, ECX, EDX. Zeros if it is not one of those that were read or
/// the CPU does not have it.
pub(crate) fn cpuid(leaf: u32) -> [u32; 4] {
    // SAFETY: the first CPU wrote it before it entered Rust, and nothing writes it since.
    let results = unsafe { &cpuid_results };
    let find = |leaf| CPUID_LEAVES.iter().position(|l| *l == leaf).map_or([0; 4], |index| results[index]);
    let highest = find(leaf & 0xc000_0000)[0];
    if leaf <= highest { find(leaf) } else { [0; 4] }
}

/// Where the loader put the start info.
pub(crate) fn start_info() -> u64 {
    // SAFETY: written once, before Rust was entered.
    u64::from(unsafe { start_info_address })
}

/// The first free byte behind the image.
pub(crate) fn end_of_image() -> u64 {
    ptr::addr_of!(image_end) as u64
}

/// How ring 0 was left.
pub(crate) fn way_to_ring3() -> &'static str {
    // SAFETY: an atomic in the image; ring 0 writes it with a single store.
    if unsafe { left_by_iretq.load(Ordering::Relaxed) } == 0 { "sysexit" } else { "iretq" }
}

/// What `boot.S` noted of the exception that stopped us: vector, error code, RIP, RSP, CR2.
pub(crate) fn fault() -> [u64; 5] {
    // SAFETY: written once, by the only CPU that gets as far as asking for it.
    unsafe { fault_record }
}

/// Halts this CPU for good, without giving its thread on the host any more to do.
pub(crate) fn halt() -> ! {
    // SAFETY: the first makes the exception handler halt on any exception; the second raises one. No
    // memory is touched that Rust knows of.
    unsafe {
        fault_taken.store(1, Ordering::SeqCst);
        core::arch::asm!("ud2", options(noreturn));
    }
}

/// Resets the machine the way that always works: an exception for which there is no handler.
pub(crate) fn triple_fault() -> ! {
    // SAFETY: the interrupt descriptor table is no Rust object, and nothing runs after this.
    unsafe {
        ptr::write_bytes(ptr::addr_of_mut!(idt), 0, 1);
        core::arch::asm!("ud2", options(noreturn));
    }
}

/// The code that other CPUs start with, to be copied to a page below 1 MiB.
pub(crate) fn trampoline() -> &'static [u8] {
    let (start, end) = (ptr::addr_of!(ap_trampoline), ptr::addr_of!(ap_trampoline_end));
    // SAFETY: both are labels around one piece of code in the image, which is never written.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Sets the stack that CPU `cpu` begins with, before it is started.
pub(crate) fn set_stack(cpu: u32, top: u64) {
    // SAFETY: only the first CPU writes the table, and CPU `cpu` reads its entry when it is started, after.
    unsafe { user_stacks[cpu as usize] = top };
    fence(Ordering::SeqCst);
}

/// The table of the page directories: one entry for each GiB up to 512 GiB.
pub(crate) fn page_directories() -> *mut [u64; 512] {
    ptr::addr_of_mut!(pdpt)
}

/// Where KVM keeps the clock, and where it put the time at which the clock was 0.
pub(crate) fn kvmclock_pages() -> (*const u8, *const u8) {
    (ptr::addr_of!(kvm_system_time), ptr::addr_of!(kvm_wall_clock))
}
