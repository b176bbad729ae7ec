//! KVM's structures, field by field, in a form that can be saved, printed and read back strictly.
//!
//! The structures of `kvm-bindings` can be serialised too, but as bytes that follow the kernel's layout, and reading
//! them back accepts too few or too many.

use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_pic_state, kvm_pit_channel_state, kvm_regs, kvm_segment, kvm_sregs,
    kvm_vcpu_events, kvm_vcpu_events__bindgen_ty_1, kvm_vcpu_events__bindgen_ty_2,
    kvm_vcpu_events__bindgen_ty_3, kvm_vcpu_events__bindgen_ty_4, kvm_vcpu_events__bindgen_ty_5, kvm_xcr,
};
use serde::{Deserialize, Serialize};

/// Declares a structure with the named fields of a KVM structure, and the way there and back. Fields that are not named
/// (padding) are zero.
macro_rules! mirror {
    ($(#[$meta:meta])* $name:ident of $kvm:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $(pub(super) $field: $type,)+
        }

        impl From<$kvm> for $name {
            fn from(kvm: $kvm) -> Self {
                Self { $($field: kvm.$field.into(),)+ }
            }
        }

        impl From<$name> for $kvm {
            #[allow(clippy::needless_update, reason = "some structures have no padding")]
            fn from(state: $name) -> Self {
                Self { $($field: state.$field.into(),)+ ..Default::default() }
            }
        }
    };
}

mirror! {
    /// General registers.
    Registers of kvm_regs {
        rax: u64, rbx: u64, rcx: u64, rdx: u64, rsi: u64, rdi: u64, rsp: u64, rbp: u64,
        r8: u64, r9: u64, r10: u64, r11: u64, r12: u64, r13: u64, r14: u64, r15: u64,
        rip: u64, rflags: u64,
    }
}

mirror! {
    /// A segment register with its hidden part.
    Segment of kvm_segment {
        base: u64, limit: u32, selector: u16, type_: u8, present: u8, dpl: u8, db: u8, s: u8, l: u8, g: u8,
        avl: u8, unusable: u8,
    }
}

mirror! {
    /// A descriptor table register.
    Table of kvm_dtable { base: u64, limit: u16 }
}

mirror! {
    /// Segment and control registers, and the interrupts that are to be injected.
    SystemRegisters of kvm_sregs {
        cs: Segment, ds: Segment, es: Segment, fs: Segment, gs: Segment, ss: Segment, tr: Segment, ldt: Segment,
        gdt: Table, idt: Table,
        cr0: u64, cr2: u64, cr3: u64, cr4: u64, cr8: u64, efer: u64, apic_base: u64, interrupt_bitmap: [u64; 4],
    }
}

mirror! {
    /// Debug registers.
    DebugRegisters of kvm_debugregs { db: [u64; 4], dr6: u64, dr7: u64, flags: u64 }
}

mirror! {
    /// An extended control register.
    ExtendedControl of kvm_xcr { xcr: u32, value: u64 }
}

mirror! {
    /// Exceptions, interrupts and NMIs on their way into the vCPU.
    Events of kvm_vcpu_events {
        exception: Exception, interrupt: Injected, nmi: Nmi, sipi_vector: u32, flags: u32, smi: Smi,
        triple_fault: TripleFault, exception_has_payload: u8, exception_payload: u64,
    }
}

mirror! {
    /// An exception being delivered.
    Exception of kvm_vcpu_events__bindgen_ty_1 {
        injected: u8, nr: u8, has_error_code: u8, pending: u8, error_code: u32,
    }
}

mirror! {
    /// An interrupt being delivered.
    Injected of kvm_vcpu_events__bindgen_ty_2 { injected: u8, nr: u8, soft: u8, shadow: u8 }
}

mirror! {
    /// A non-maskable interrupt being delivered.
    Nmi of kvm_vcpu_events__bindgen_ty_3 { injected: u8, pending: u8, masked: u8 }
}

mirror! {
    /// A system management interrupt being delivered.
    Smi of kvm_vcpu_events__bindgen_ty_4 { smm: u8, pending: u8, smm_inside_nmi: u8, latched_init: u8 }
}

mirror! {
    /// Whether the vCPU is about to shut down.
    TripleFault of kvm_vcpu_events__bindgen_ty_5 { pending: u8 }
}

mirror! {
    /// One of the two old interrupt controllers.
    Pic of kvm_pic_state {
        last_irr: u8, irr: u8, imr: u8, isr: u8, priority_add: u8, irq_base: u8, read_reg_select: u8, poll: u8,
        special_mask: u8, init_state: u8, auto_eoi: u8, rotate_on_auto_eoi: u8, special_fully_nested_mode: u8,
        init4: u8, elcr: u8, elcr_mask: u8,
    }
}

mirror! {
    /// One of the three channels of the interval timer. When it was loaded, in the host's time, means nothing elsewhere:
    /// KVM starts the channel anew.
    PitChannel of kvm_pit_channel_state {
        count: u32, latched_count: u16, count_latched: u8, status_latched: u8, status: u8, read_state: u8,
        write_state: u8, write_latch: u8, rw_mode: u8, mode: u8, bcd: u8, gate: u8,
    }
}
