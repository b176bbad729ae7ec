//! The few instructions that Rust has no words for.

use core::arch::asm;

/// The time-stamp counter, read after everything before it.
#[inline]
pub(crate) fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter. The fence keeps two readings in order.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, nomem, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Tells the CPU that this is a loop that waits.
#[inline]
pub(crate) fn pause() {
    core::hint::spin_loop();
}

/// Reads a byte from a port.
pub(crate) fn in8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: no device here writes to memory because of a port access.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nostack, nomem, preserves_flags)) };
    value
}

/// Writes a byte to a port.
pub(crate) fn out8(port: u16, value: u8) {
    // SAFETY: as for `in8`.
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nostack, nomem, preserves_flags)) };
}

/// Writes two bytes to a port.
pub(crate) fn out16(port: u16, value: u16) {
    // SAFETY: as for `in8`.
    unsafe { asm!("out dx, ax", in("ax") value, in("dx") port, options(nostack, nomem, preserves_flags)) };
}

/// Writes all bytes to one port, with a single exit to the host where it can.
pub(crate) fn out_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: reads `bytes` and nothing else; the direction flag is clear as the ABI has it.
    unsafe {
        asm!("rep outsb", inout("rcx") bytes.len() => _, inout("rsi") bytes.as_ptr() => _, in("dx") port,
            options(nostack, readonly, preserves_flags));
    }
}

/// A device's registers in memory space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mmio(u64);

impl Mmio {
    /// Registers from `base` on.
    ///
    /// # Safety
    /// `base` and all offsets used are mapped, uncached, and no memory of ours.
    pub(crate) unsafe fn new(base: u64) -> Self {
        Self(base)
    }

    /// Reads a register. A plain `mov`, which every instruction emulator knows.
    #[inline]
    pub(crate) fn read(self, offset: u64) -> u32 {
        let value: u32;
        // SAFETY: promised to `new`.
        unsafe {
            asm!("mov {:e}, dword ptr [{}]", out(reg) value, in(reg) self.0 + offset,
                options(nostack, preserves_flags));
        }
        value
    }

    /// Writes a register, after all writes to memory before it.
    #[inline]
    pub(crate) fn write(self, offset: u64, value: u32) {
        // SAFETY: promised to `new`. Not `nomem`, so the compiler keeps earlier writes before it.
        unsafe {
            asm!("mov dword ptr [{}], {:e}", in(reg) self.0 + offset, in(reg) value,
                options(nostack, preserves_flags));
        }
    }
}

/// What the compiler expects a C library to have.
mod libc_symbols {
    use core::arch::asm;

    // SAFETY (of the names): each does what C says of the function of this name, and there is no other.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller promises both ranges, and that they do not overlap.
        unsafe {
            asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= count {
            // SAFETY: promised by the caller; the destination does not begin inside the source.
            return unsafe { memcpy(to, from, count) };
        }
        // SAFETY: promised by the caller. From the end, as the destination begins inside the source.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rcx") count => _,
                inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
                inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
        // SAFETY: promised by the caller.
        unsafe {
            asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8,
                options(nostack, preserves_flags));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        for index in 0..count {
            // SAFETY: promised by the caller. Volatile, or the compiler would make this a call of itself.
            let (l, r) = unsafe { (left.add(index).read_volatile(), right.add(index).read_volatile()) };
            if l != r {
                return i32::from(l) - i32::from(r);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
        // SAFETY: promised by the caller.
        unsafe { memcmp(left, right, count) }
    }
}
