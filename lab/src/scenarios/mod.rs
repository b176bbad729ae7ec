//! What is tried in the lab. Each scenario can be run alone.

mod boot;
mod clock;
mod devices;
mod disk;
mod encryption;
mod failures;
mod fleet;
mod moves;
mod network;
mod postcopy;
mod processors;

use std::time::Duration;

use crate::{Journey, Lab, LabError, Spawned};

/// One thing that is tried.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Runs it, and prints figures.
    pub run: fn(&Lab) -> Result<(), LabError>,
}

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    scenario(
        "boot-vmlinuz",
        "a stock Debian guest boots from its bzImage, finds its devices, powers off",
        boot::vmlinuz,
    ),
    scenario("boot-vmlinux", "the same as an ELF kernel by PVH", boot::vmlinux),
    scenario("workload", "the workload guest on hardware-style KVM moves there and back", moves::workload),
    scenario("idle", "an idle guest with one CPU moves there and back", moves::idle_1),
    scenario("idle-2-cpus", "an idle guest with two CPUs moves there and back", moves::idle_2),
    scenario("idle-4-cpus", "an idle guest with four CPUs moves there and back", moves::idle_4),
    scenario("memory", "memory that is written all the time is what was written", moves::memory),
    scenario(
        "disk",
        "what a guest wrote is on the disk they share, whole, and only one side writes",
        disk::writer,
    ),
    scenario(
        "stream",
        "a TCP stream through the guest stays open and arrives byte for byte",
        network::stream,
    ),
    scenario("ping", "a ping every 10 ms: how many are lost, how long none is answered", network::ping),
    scenario("film", "a guest plays a film over HTTP: frames late and lost, longest freeze", network::film),
    scenario("weather", "a move over 50 ms and with 1 % of all packets lost", network::weather),
    scenario(
        "eavesdropper",
        "encrypted, nothing of a guest's memory is on the network; in clear, all of it is",
        encryption::eavesdropper,
    ),
    scenario(
        "fleet",
        "two hosts of a fleet: a guest with disk, network card and settings starts and moves both ways",
        fleet::first_machine,
    ),
    scenario(
        "postcopy",
        "a guest runs before its memory is there, and moves back so: memory, disk and stream are whole",
        postcopy::there_and_back,
    ),
    scenario(
        "postcopy-cut",
        "the network is cut for 20 s while memory follows, the guest runs on, and all of it comes",
        postcopy::cut,
    ),
    scenario(
        "models",
        "hosts of two models: a baseline moves both ways, more than the older one has is refused",
        processors::models,
    ),
    scenario("clock", "clocks never go back, and the wall clock stays right", clock::clock),
    scenario("devices", "balloon and keyboard are as they were", devices::balloon_and_keyboard),
    scenario(
        "reboot",
        "a guest that has moved reboots, hears its power button, and powers off",
        devices::reboot,
    ),
    scenario(
        "destination-dies",
        "the destination's host dies on the way, and the guest runs on",
        failures::destination_dies,
    ),
    scenario(
        "cut-on-the-way",
        "the network is cut while pages move, and the guest runs on",
        failures::cut_on_the_way,
    ),
    scenario(
        "cut-at-switchover",
        "the network is cut around the hand-over, and the guest runs once",
        failures::cut_at_switchover,
    ),
];

const fn scenario(
    name: &'static str,
    about: &'static str,
    run: fn(&Lab) -> Result<(), LabError>,
) -> Scenario {
    Scenario { name, about, run }
}

/// How long a guest may take to do what it was asked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A figure of a scenario.
fn say(text: &str) {
    output::say!("    {text}");
}

/// Fails if it does not hold.
fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), LabError> {
    if holds { Ok(()) } else { Err(LabError::Wrong(otherwise())) }
}

/// Waits until a load has counted on by `more`.
fn goes_on(load: &Spawned, name: &str, more: i64) -> Result<i64, LabError> {
    let before = load.last(name).unwrap_or(0);
    load.number(name, PATIENCE, |now| now >= before + more)
}

/// The guest powers off, and the figures of its moves are printed.
fn end(journey: Journey<'_>) -> Result<(), LabError> {
    journey.finish()?.iter().for_each(|figure| say(figure));
    Ok(())
}
