use state::{DeviceState, Schema, StateError};

use super::{Machine, board::VcpuError, ids};
use crate::{
    arch::{ClockV1, IrqchipV1, PitV1, save_vcpu, touched_next},
    kvm::KvmError,
};

/// Why a machine could not be saved. It can go on as if nothing had happened.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The guest runs.
    #[error("The machine runs: pause it before it is saved")]
    Running,
    /// A vCPU could not be read.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A state does not fit its envelope.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Machine {
    /// The states of everything but memory: vCPUs (all at the same time), interrupt controllers, timer, clock, devices.
    /// Changes nothing: the machine may go on afterwards.
    ///
    /// # Errors
    /// The machine runs, or something could not be read.
    pub fn save(&self) -> Result<Vec<DeviceState>, SaveError> {
        // Held to the end: nobody resumes the machine meanwhile.
        let _transition = self.transition.lock();
        if self.is_running() {
            return Err(SaveError::Running);
        }
        let vm = &self.board.hypervisor.vm;
        let xsave_bytes = self.board.hypervisor.xsave_bytes;
        let vcpus = self.board.on_vcpus(|_| {
            let msrs = self.board.processor.msrs.clone();
            move |fd| save_vcpu(fd, &msrs, xsave_bytes)
        })?;
        let mut states = Vec::new();
        for (index, vcpu) in (0u8..).zip(&vcpus) {
            states.push(DeviceState::encode(ids::vcpu(index), vcpu)?);
        }
        states.push(encode(ids::IRQCHIP, &IrqchipV1::save(vm)?)?);
        states.push(encode(ids::PIT, &PitV1::save(vm)?)?);
        states.push(encode(ids::CLOCK, &ClockV1::save(vm, self.board.tsc()?)?)?);
        states.push(self.events.save(ids::REQUESTS)?);
        states.extend(self.devices.save()?);
        Ok(states)
    }
}

impl Machine {
    /// Guest-physical addresses that the stopped machine touches first when it goes on, the surest of each vCPU first. Nobody relies on it: what
    /// cannot be found out is not in it.
    pub(crate) fn touched_next(&self) -> Vec<u64> {
        let _transition = self.transition.lock();
        if self.is_running() {
            return Vec::new();
        }
        let found = self.board.on_vcpus(|_| {
            let msrs = self.board.processor.msrs.clone();
            move |fd| Ok(touched_next(fd, &msrs))
        });
        let found = found.unwrap_or_default();
        let most = found.iter().map(Vec::len).max().unwrap_or_default();
        let nth = |index: usize| found.iter().filter_map(move |vcpu| vcpu.get(index).copied());
        (0..most).flat_map(nth).chain(self.devices.touched_next()).collect()
    }
}

fn encode<S: Schema>(id: &str, state: &S) -> Result<DeviceState, StateError> {
    DeviceState::encode(id, state)
}
