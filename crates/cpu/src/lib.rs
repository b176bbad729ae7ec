//! Features of processors by the names that QEMU gives them, the models that a machine can have, and what several hosts have in common.
//!
//! A machine that may move between unlike hosts must not see what one of them lacks. [`CpuModel`] says what it sees, [`HostCpu`] what a
//! host can show, and [`baseline`] what all of some hosts can. This crate reads no processor and knows no KVM.

mod baseline;
mod features;
mod model;
mod near;

pub use baseline::{Baseline, BaselineError, HostCpu, Limit, baseline};
pub use features::{ALIASES, FEATURES, Feature, Register, by_name, in_word};
pub use model::{CpuModel, CpuModelError, MODELS, Model};
