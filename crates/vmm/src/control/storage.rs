use devices::blk::{DiskFailure, DiskFigures};
use monitor::types::{BlockDeviceStats, BlockError, BlockErrorAction, BlockOperation, BlockStats, RunState};

use super::{Control, one_line};
use crate::machine::disk_id;

impl Control {
    /// A request failed at the image of disk number `index`. If it waits, the machine is stopped until it is let go on, which tries
    /// the request again: here, or wherever the machine has been moved to.
    pub(super) fn storage_failed(&self, index: usize, failure: &DiskFailure) {
        let (disk, stops) = (disk_id(index), failure.waiting.is_some());
        self.events.block_io_error(&BlockError {
            device: disk.clone(),
            operation: if failure.write { BlockOperation::Write } else { BlockOperation::Read },
            action: if stops { BlockErrorAction::Stop } else { BlockErrorAction::Report },
            nospace: failure.no_space,
            reason: failure.reason.clone(),
        });
        let Some(waiting) = &failure.waiting else { return };
        let turn = self.turn.lock();
        // Stopped by somebody else, or not this side's any more: the request is done when the machine runs on. Or that it has done since.
        if self.state() != RunState::Running || !waiting.is_pending() {
            return;
        }
        let Ok(machine) = self.machine() else { return };
        let path = self.config.disks().get(index).map(|disk| disk.path().to_string()).unwrap_or_default();
        let why = if failure.no_space { "there is no space left for it" } else { failure.reason.as_str() };
        tracing::error!(
            "Disk '{disk}' ('{path}') could not do what the guest asked for: {why}. The machine is stopped; mend that, then cont tries again"
        );
        self.machine_events.set_waits_for_storage(true);
        if let Err(error) = self.halt(&turn, &machine, RunState::IoError) {
            tracing::error!("{}", one_line(&error));
            if error.runs_on() {
                self.machine_events.set_waits_for_storage(false);
            }
        }
    }

    /// The state of a machine that is stopped here, and was not told to.
    pub(super) fn why_stopped(&self) -> RunState {
        if self.machine_events.waits_for_storage() { RunState::IoError } else { RunState::Paused }
    }
}

/// What disk number `index` has done, in QEMU's words.
pub(super) fn stats(index: usize, figures: DiskFigures) -> BlockStats {
    let DiskFigures { reads, writes, flushes, discards, highest_write } = figures;
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let device = disk_id(index);
    let stats = BlockDeviceStats {
        rd_bytes: reads.bytes,
        wr_bytes: writes.bytes,
        unmap_bytes: discards.bytes,
        rd_operations: reads.done,
        wr_operations: writes.done,
        flush_operations: flushes.done,
        unmap_operations: discards.done,
        rd_total_time_ns: nanos(reads.took),
        wr_total_time_ns: nanos(writes.took),
        flush_total_time_ns: nanos(flushes.took),
        unmap_total_time_ns: nanos(discards.took),
        wr_highest_offset: highest_write,
        failed_rd_operations: reads.failed,
        failed_wr_operations: writes.failed,
        failed_flush_operations: flushes.failed,
        failed_unmap_operations: discards.failed,
        invalid_rd_operations: reads.invalid,
        invalid_wr_operations: writes.invalid,
        invalid_flush_operations: flushes.invalid,
        invalid_unmap_operations: discards.invalid,
        ..BlockDeviceStats::default()
    };
    BlockStats { node_name: device.clone(), device, stats }
}
