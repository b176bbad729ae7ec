//! What is tried in the lab. Each scenario can be run alone.

mod boot;
mod moves;

use std::time::Duration;

use crate::{Lab, LabError};

/// One thing that is tried.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Runs it; figures are printed by `say`.
    pub run: fn(&Lab) -> Result<(), LabError>,
}

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "boot-vmlinuz",
        about: "a stock Debian guest boots from its bzImage, finds its devices, powers off",
        run: boot::vmlinuz,
    },
    Scenario { name: "boot-vmlinux", about: "the same as an ELF kernel by PVH", run: boot::vmlinux },
    Scenario {
        name: "boot-workload",
        about: "the workload guest runs on hardware-style KVM",
        run: boot::workload,
    },
    Scenario { name: "idle", about: "an idle guest with one CPU moves there and back", run: moves::idle_1 },
    Scenario {
        name: "idle-2-cpus",
        about: "an idle guest with two CPUs moves there and back",
        run: moves::idle_2,
    },
    Scenario {
        name: "idle-4-cpus",
        about: "an idle guest with four CPUs moves there and back",
        run: moves::idle_4,
    },
    Scenario {
        name: "memory",
        about: "memory that is written all the time is what was written",
        run: moves::memory,
    },
];

/// How long a guest may take to do what it was asked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A figure of a scenario.
fn say(text: &str) {
    println!("    {text}");
}
