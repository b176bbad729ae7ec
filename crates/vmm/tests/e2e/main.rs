//! `whimbrel-vmm` from end to end: real processes, real KVM, and the workload guest, which checks its memory all the time.
//!
//! Everything is driven as an operator drives it: flags, signals, the monitor's socket.
#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod cpu_models;
mod devices;
mod dirty_rate;
mod disk_locks;
mod dump;
mod faults;
mod hanging;
mod harmed;
mod harness;
mod identity;
mod input;
mod interleaved;
mod life_cycle;
mod lost_lines;
mod memory;
mod memory_matrix;
mod migration;
mod names;
mod predict;
mod python;
mod reboot;
mod seccomp;
mod stopped_time;
mod storage;
mod terminal;
mod threads;
mod truth;
mod undecided;
