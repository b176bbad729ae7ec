use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use virtio_bindings::{
    virtio_config::{
        VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
        VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
    },
    virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING},
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

use super::{TransportV1, feature};
use crate::{Interrupt, Invalid};

/// Features that the transport offers for every device.
pub const RING_FEATURES: u64 =
    feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_RING_F_EVENT_IDX) | feature(VIRTIO_RING_F_INDIRECT_DESC);

/// Status bits that a driver sets (spec, 2.1).
const DRIVER_STATUS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// The registers of the transport that are plain values, without the queues.
#[derive(Debug, Default)]
pub(super) struct Registers {
    pub(super) status: u32,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u32,
    pub(super) config_generation: u32,
}

/// What follows from a write to the status register.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StatusChange {
    /// The driver resets the device.
    Reset,
    /// The driver is ready: queues are to be looked at.
    DriverOk,
    /// Nothing beyond the new status.
    Nothing,
}

impl Registers {
    /// The driver negotiated features, is ready, and did not break the rules since.
    pub(super) fn is_live(&self) -> bool {
        self.status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET) == VIRTIO_CONFIG_S_DRIVER_OK
    }

    pub(super) fn driver_ok(&self) -> bool {
        self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0
    }

    pub(super) fn event_idx(&self) -> bool {
        self.driver_features & feature(VIRTIO_RING_F_EVENT_IDX) != 0
    }

    pub(super) fn set_needs_reset(&mut self) {
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    }

    /// The driver writes the status. Bits are only ever added, and FEATURES_OK and DRIVER_OK only in their order
    /// (spec, 3.1.1); FEATURES_OK stays clear if the features do not fit, which is how the driver learns it.
    pub(super) fn write_status(&mut self, value: u32, offered: u64) -> StatusChange {
        if value == 0 {
            return StatusChange::Reset;
        }
        let mut added = value & DRIVER_STATUS & !self.status;
        let acceptable =
            self.driver_features & !offered == 0 && self.driver_features & feature(VIRTIO_F_VERSION_1) != 0;
        if !acceptable {
            added &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if (self.status | added) & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            added &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        self.status |= added;
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 { StatusChange::DriverOk } else { StatusChange::Nothing }
    }

    /// The driver accepts 32 features; after FEATURES_OK they are settled.
    pub(super) fn write_driver_features(&mut self, value: u32) {
        if self.status & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            return;
        }
        match self.driver_features_select {
            0 => self.driver_features = (self.driver_features & !0xffff_ffff) | u64::from(value),
            1 => self.driver_features = (self.driver_features & 0xffff_ffff) | u64::from(value) << 32,
            _ => {}
        }
    }

    pub(super) fn restore(state: &TransportV1, offered: u64) -> Result<Self, Invalid> {
        let known = DRIVER_STATUS | VIRTIO_CONFIG_S_NEEDS_RESET;
        Invalid::unless(state.status & !known == 0, || {
            format!("status {:#x} has unknown bits", state.status)
        })?;
        let has = |bit| state.status & bit != 0;
        Invalid::unless(!has(VIRTIO_CONFIG_S_DRIVER_OK) || has(VIRTIO_CONFIG_S_FEATURES_OK), || {
            "the driver is ready but its features are not".into()
        })?;
        if has(VIRTIO_CONFIG_S_FEATURES_OK) {
            let missing = state.driver_features & !offered;
            Invalid::unless(missing == 0, || {
                format!(
                    "the guest uses features {missing:#x} that the device cannot offer here: give it the same host \
                     resources as on the source"
                )
            })?;
        }
        Ok(Self {
            status: state.status,
            device_features_select: state.device_features_select,
            driver_features_select: state.driver_features_select,
            driver_features: state.driver_features,
            queue_select: state.queue_select,
            config_generation: state.config_generation,
        })
    }
}

/// The interrupt line and the reasons for it. Apart from the other registers, so that a vCPU that acknowledges an
/// interrupt does not wait for a device that is busy with a disk.
#[derive(Debug)]
pub(super) struct Line {
    status: AtomicU32,
    interrupt: Arc<dyn Interrupt>,
}

impl Line {
    pub(super) fn new(interrupt: Arc<dyn Interrupt>) -> Self {
        Self { status: AtomicU32::new(0), interrupt }
    }

    pub(super) fn restore(interrupt: Arc<dyn Interrupt>, status: u32) -> Result<Self, Invalid> {
        Invalid::unless(status & !(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG) == 0, || {
            format!("interrupt status {status:#x} has unknown bits")
        })?;
        Ok(Self { status: AtomicU32::new(status), interrupt })
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// Requests were completed.
    pub(super) fn used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// The configuration space changed, or the device needs a reset.
    pub(super) fn config(&self) {
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
    }

    /// Raises the line again if something was not acknowledged: the edge may have been lost with the machine that
    /// was saved. One edge too many is harmless, as the driver reads the status.
    pub(super) fn repeat(&self) {
        if self.status() != 0 {
            self.interrupt.trigger();
        }
    }

    fn raise(&self, reason: u32) {
        self.status.fetch_or(reason, Ordering::SeqCst);
        self.interrupt.trigger();
    }
}
