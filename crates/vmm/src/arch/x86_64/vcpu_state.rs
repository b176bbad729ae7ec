//! The state of one vCPU.

use kvm_bindings::{KVM_VCPUEVENT_VALID_TRIPLE_FAULT, kvm_lapic_state, kvm_mp_state, kvm_xcrs};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

use super::{
    mirror::{DebugRegisters, Events, ExtendedControl, Registers, SystemRegisters},
    msr::{self, IA32_TSC, IA32_TSC_ADJUST, Msr, MsrError},
    xsave,
};
use crate::kvm::{KvmError, Trying as _};

/// One vCPU, without its CPUID, which is the machine's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VcpuV1 {
    /// Running, halted, or waiting to be started (`KVM_MP_STATE_*`).
    mp_state: u32,
    registers: Registers,
    system_registers: SystemRegisters,
    debug_registers: DebugRegisters,
    extended_controls: Vec<ExtendedControl>,
    #[serde(with = "serde_bytes")]
    xsave: Vec<u8>,
    #[serde(with = "serde_bytes")]
    local_apic: Vec<u8>,
    msrs: Vec<Msr>,
    events: Events,
}

impl Schema for VcpuV1 {
    const KIND: &'static str = "x86-vcpu";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

impl VcpuV1 {
    /// Whether exactly the registers in `msrs` were saved, in this order.
    pub(crate) fn has_msrs(&self, msrs: &[u32]) -> bool {
        self.msrs.iter().map(|msr| &msr.index).eq(msrs)
    }

    /// Forgets the registers that are not in `msrs`.
    pub(crate) fn keep_only_msrs(&mut self, msrs: &[u32]) {
        self.msrs.retain(|msr| msrs.contains(&msr.index));
    }
}

/// What a vCPU is restored with besides its state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    /// Time-stamp counter of the machine now, as [`super::vm_state::ClockV1`] has it.
    pub(crate) tsc: u64,
}

/// Saves the vCPU, which must be out of the guest with nothing half done.
///
/// The order is that of KVM's dependencies: reading the run state lets pending start-up interrupts take effect, which
/// changes registers; the deadline of the local APIC's timer is read before the APIC, as a timer that fires in between is
/// then restored twice and not lost (KVM forgets the deadline when it makes an interrupt of it); events come last, since
/// reading other things may queue them.
pub(crate) fn save(vcpu: &VcpuFd, msrs: &[u32], xsave_bytes: usize) -> Result<VcpuV1, MsrError> {
    let mp_state = vcpu.get_mp_state().trying("read the run state of a vCPU")?.mp_state;
    let registers = vcpu.get_regs().trying("read registers")?.into();
    let system_registers = vcpu.get_sregs().trying("read segment registers")?.into();
    let xsave = xsave::get(vcpu, xsave_bytes).trying("read the XSAVE area")?;
    let extended_controls = extended_controls(vcpu)?;
    let debug_registers = vcpu.get_debug_regs().trying("read debug registers")?.into();
    let msrs = msr::read(vcpu, msrs)?;
    let lapic = vcpu.get_lapic().trying("read a local APIC")?;
    let local_apic = lapic.regs.iter().map(|byte| byte.cast_unsigned()).collect();
    let events = events(vcpu)?;
    Ok(VcpuV1 {
        mp_state,
        registers,
        system_registers,
        debug_registers,
        extended_controls,
        xsave,
        local_apic,
        msrs,
        events,
    })
}

/// Makes a vCPU that has its CPUID, and has not run, what `state` says.
pub(crate) fn restore(vcpu: &VcpuFd, state: VcpuV1, xsave_bytes: usize, time: Time) -> Result<(), MsrError> {
    vcpu.set_mp_state(kvm_mp_state { mp_state: state.mp_state }).trying("set the run state of a vCPU")?;
    vcpu.set_regs(&state.registers.into()).trying("set registers")?;
    vcpu.set_sregs(&state.system_registers.into()).trying("set segment registers")?;
    xsave::set(vcpu, xsave_bytes, &state.xsave).trying("set the XSAVE area")?;
    set_extended_controls(vcpu, &state.extended_controls)?;
    vcpu.set_debug_regs(&state.debug_registers.into()).trying("set debug registers")?;
    set_local_apic(vcpu, &state.local_apic)?;
    set_tsc(vcpu, &state.msrs, time)?;
    msr::write(vcpu, &state.msrs)?;
    vcpu.set_vcpu_events(&state.events.into()).trying("set pending events")?;
    Ok(())
}

/// Writes the same counter on every vCPU, apart from what the guest added to it: KVM then finds them synchronous, and
/// keeps the offsets equal although the writes are not simultaneous (Linux, `kvm_synchronize_tsc`).
fn set_tsc(vcpu: &VcpuFd, msrs: &[Msr], time: Time) -> Result<(), MsrError> {
    let adjust = msrs.iter().find(|msr| msr.index == IA32_TSC_ADJUST).map_or(0, |msr| msr.value);
    msr::write(vcpu, &[Msr { index: IA32_TSC, value: time.tsc.wrapping_add(adjust) }])
}

/// Has KVM tell the guest that this vCPU stood still: its watchdogs do not bark for that. A guest without kvmclock cannot be told.
pub(crate) fn tell_that_it_stood_still(vcpu: &VcpuFd) {
    let _ = vcpu.kvmclock_ctrl();
}

/// The time-stamp counter of `vcpu` without what the guest added to it.
pub(crate) fn tsc(vcpu: &VcpuFd) -> Result<u64, MsrError> {
    let adjust = msr::read_one(vcpu, IA32_TSC_ADJUST).unwrap_or(0);
    Ok(msr::read_one(vcpu, IA32_TSC)?.wrapping_sub(adjust))
}

/// Older kernels do not take a report on triple faults, even that there is none.
fn events(vcpu: &VcpuFd) -> Result<Events, KvmError> {
    let mut events = vcpu.get_vcpu_events().trying("read pending events")?;
    if events.triple_fault.pending == 0 {
        events.flags &= !KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    }
    Ok(events.into())
}

fn extended_controls(vcpu: &VcpuFd) -> Result<Vec<ExtendedControl>, KvmError> {
    let xcrs = vcpu.get_xcrs().trying("read extended control registers")?;
    let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(0);
    Ok(xcrs.xcrs.iter().take(count).map(|xcr| (*xcr).into()).collect())
}

fn set_extended_controls(vcpu: &VcpuFd, controls: &[ExtendedControl]) -> Result<(), KvmError> {
    let mut xcrs = kvm_xcrs::default();
    let refused = Err(vmm_sys_util::errno::Error::new(libc::E2BIG));
    for (index, control) in controls.iter().enumerate() {
        let Some(slot) = xcrs.xcrs.get_mut(index) else {
            return refused.trying("set extended control registers");
        };
        *slot = control.clone().into();
        xcrs.nr_xcrs += 1;
    }
    vcpu.set_xcrs(&xcrs).trying("set extended control registers")
}

fn set_local_apic(vcpu: &VcpuFd, bytes: &[u8]) -> Result<(), KvmError> {
    let mut lapic = kvm_lapic_state::default();
    if bytes.len() != lapic.regs.len() {
        return Err(vmm_sys_util::errno::Error::new(libc::EINVAL)).trying("set a local APIC of another size");
    }
    for (register, byte) in lapic.regs.iter_mut().zip(bytes) {
        *register = byte.cast_signed();
    }
    vcpu.set_lapic(&lapic).trying("set a local APIC")
}
