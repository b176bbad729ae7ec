//! What the demo and the benchmarks stand on: a host that is checked, machines in processes of their own, the guest's
//! word, and an orderly end whenever the user wants one.

mod certificates;
mod cipher;
mod contender;
mod drive;
mod felt;
mod host;
mod huge_pages;
mod interrupt;
mod kvm;
mod link;
mod machine;
mod procfs;
mod program;
mod serial;
mod units;
mod userfaults;
mod witness;

pub(crate) use certificates::{HOST, certificates};
pub(crate) use cipher::bare_cipher_per_gib;
pub(crate) use comparison::Contender;
pub(crate) use contender::{Backing, ContenderError, Contenders, End, Guest};
pub(crate) use drive::{encrypt, listen, micros};
pub(crate) use felt::{Felt, checked_since_arrival, held_rate, longest_gap};
pub(crate) use host::Host;
pub(crate) use huge_pages::{HUGE_PAGE, HugePages};
pub(crate) use interrupt::{Interrupt, Interrupted};
pub(crate) use kvm::{KvmError, check_kvm};
pub(crate) use link::{BitRate, Link, LinkError, Namespace};
pub(crate) use machine::{Files, Machine, MachineError};
pub(crate) use procfs::{available_memory, resident_bytes};
pub(crate) use program::{ProgramError, find_vmm};
pub(crate) use units::{ByteRate, Bytes, Count, Memory, Span};
pub(crate) use userfaults::userfaults_may_be_heard;
pub(crate) use witness::{Witness, WitnessError};
