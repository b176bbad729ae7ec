use devices::balloon::Discard;
use vm_memory::GuestAddress;

use super::{Machine, board::VcpuError, restore::restore_vcpus, run::PauseError};
use crate::{
    arch::{KernelError, Time},
    kvm::KvmError,
    launcher::Launcher,
};

/// Why a machine could not be reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// What it boots cannot be loaded any more. Nothing was changed: it runs if it did.
    #[error(transparent)]
    Image(KernelError),
    /// It could not be stopped, and runs on.
    #[error(transparent)]
    Runs(PauseError),
    /// Its memory was given up, and it did not come to a stop.
    #[error(transparent)]
    Stuck(PauseError),
    /// Memory could not be emptied.
    #[error("Guest memory cannot be emptied")]
    Memory(#[source] std::io::Error),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A vCPU refused.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The kernel could not be loaded again.
    #[error(transparent)]
    Boot(#[from] KernelError),
}

impl ResetError {
    /// Whether the machine is as it was. Otherwise it is paused, half of it is reset, and it can only be reset again.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        matches!(self, Self::Image(_) | Self::Runs(_))
    }
}

impl Machine {
    /// Starts the guest anew, as after power-on: vCPUs, interrupt controllers, devices, memory, kernel. A machine that ran
    /// runs afterwards. Of one that lacks pages, see [`Self::stop_lacking`] for `forget_missing`.
    ///
    /// # Errors
    /// See [`ResetError`], and [`ResetError::is_untouched`] for what has become of the machine.
    pub(crate) fn reset(
        &self,
        launcher: &Launcher,
        forget_missing: Option<impl FnOnce() -> bool>,
    ) -> Result<(), ResetError> {
        // What can be found out beforehand is: from the next step on there is no way back.
        self.boot.verify(launcher).map_err(ResetError::Image)?;
        let _transition = self.transition.lock();
        let ran = self.is_running();
        let stopped = match forget_missing {
            Some(forget_missing) => self.stop_and_forget(forget_missing),
            None => self.stop().map(|_| ()),
        };
        match stopped {
            Err(error) if error.runs_on() => return Err(ResetError::Runs(error)),
            Err(error @ PauseError::Stuck { .. }) => return Err(ResetError::Stuck(error)),
            Err(error) => {
                tracing::warn!(%error, "the guest is reset with a disk that does not take what was written");
            }
            Ok(()) => {}
        }
        self.devices.reset();
        self.empty_memory().map_err(ResetError::Memory)?;
        let vm = &self.board.hypervisor.vm;
        let power_on = self.board.power_on.clone();
        power_on.irqchip.restore(vm)?;
        power_on.pit.restore(vm)?;
        // Time does not go back for a guest that starts anew.
        restore_vcpus(&self.board, power_on.vcpus, Time { tsc: self.board.tsc()? })?;
        let entry =
            self.boot.load(self.board.ram.memory(), self.description.cpus, self.devices.virtio_slots)?;
        self.board.start_at(entry)?;
        self.events.settle();
        if ran {
            self.start();
        }
        Ok(())
    }

    /// Gives all memory back to the host: it reads as zero. Every page counts as written, since a migration that is under
    /// way has sent what was there before.
    fn empty_memory(&self) -> std::io::Result<()> {
        Discard::new(self.board.ram.memory().clone())?.discard(GuestAddress(0), u64::MAX)?;
        Ok(())
    }
}
