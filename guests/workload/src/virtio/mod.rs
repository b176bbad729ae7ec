//! Virtio over MMIO, by polling.

use core::fmt;

use workload::params::Params;

use crate::console::Text;
use crate::memory::{Ram, Regions};
use crate::shared::Setup;

/// The devices that were asked for and found.
#[derive(Debug)]
pub(crate) struct Devices {}

impl Devices {
    pub(crate) fn new(_params: &Params, _ram: &mut Ram, _tsc_khz: u64) -> Self {
        Self {}
    }
    pub(crate) fn use_spare_memory(&mut self, _spare: &Regions) {}
    pub(crate) fn turn(&mut self, _now: u64, _filled: bool, _setup: &Setup) {}
    pub(crate) fn report(&self, _text: &mut Text) -> fmt::Result {
        Ok(())
    }
}
