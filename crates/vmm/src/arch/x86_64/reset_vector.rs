//! What a PC's firmware has at the address where a processor starts, and where a guest jumps to that wants to be reset.
//!
//! There is no firmware here. Linux takes this way on every machine with hardware-reduced ACPI: it wants to have EFI reset it, and
//! where there is no EFI it goes back to real mode and jumps here, without trying the reset register (Linux,
//! arch/x86/kernel/reboot.c, `reboot_init` and `native_machine_emergency_restart`).

use devices::GuestMemory;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::layout;

/// Real-mode code: pulses the reset line of the keyboard controller, and stops.
const CODE: [u8; 7] = [
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xf4, // hlt
    0xeb, 0xfd, // jmp back to hlt
];

/// Writes the code.
pub(super) fn write(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    memory.write_slice(&CODE, GuestAddress(layout::RESET_VECTOR))
}
