//! The machine of `whimbrel-vmm`: one virtual machine on KVM.
#![deny(unsafe_code)]

mod arch;
mod bus;
mod control;
mod description_file;
mod disk_lock;
mod events;
mod host_cpu;
mod io_loop;
mod kvm;
mod launcher;
mod machine;
mod panics;
mod process;
mod seccomp;
mod terminal;
#[cfg(test)]
mod testing;
mod vcpu;

pub use arch::{Ahead, CpuidEntry, KernelError, MsrError, Transit};
pub use control::{Awaited, Beginning, Commands, Control, ControlError, Ending};
pub use description_file::read_in_time;
pub use devices::{balloon::Stats as BalloonStats, input::UnknownKey};
pub use disk_lock::DiskLockError;
pub use events::{Events, MachineEvent};
pub use host_cpu::host_cpu;
pub use kvm::KvmError;
pub use machine::{
    BoardError, BootDescription, BuildError, DeviceDescription, DeviceError, Differences, FileDescription,
    Incoming, Keep, Machine, MachineDescription, PageFaultError, PageFaults, PauseError, PauseTimings,
    PlugError, ResetError, ResourceError, RestoreError, SaveError, StatesError, StorageError, VcpuError,
    VirtioDescription,
};
pub use process::{ProcessError, last_lines, last_words, run};
pub use seccomp::SeccompError;
