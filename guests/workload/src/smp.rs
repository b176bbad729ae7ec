//! Starting the other CPUs: INIT and start-up IPIs through the local APIC (Intel SDM 3A, 11.4.4).

use core::sync::atomic::Ordering;

use workload::params::MAX_CPUS;

use crate::{
    boot,
    console::say,
    cpu::{self, Mmio},
    memory::Ram,
    shared::{COUNTS, SETUP},
    worker::Worker,
};

const LAPIC: u64 = 0xfee0_0000;
const SPURIOUS: u64 = 0xf0;
const SPURIOUS_ENABLE: u32 = 0x1ff;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;
const INIT_WAIT_MS: u64 = 10;
const RETRY_WAIT_MS: u64 = 50;
/// Where ring 0 is emulated, or CPUs wait for each other on too few cores, coming up takes a while.
const UP_WAIT_MS: u64 = 5000;
const STACK: u64 = 16384;

/// Starts CPUs up to `cpus` in all. Returns the rank of each CPU that is up, the first included.
pub(crate) fn start(cpus: u32, ram: &mut Ram, tsc_khz: u64) -> [Option<u8>; MAX_CPUS as usize] {
    let mut ranks = [None; MAX_CPUS as usize];
    ranks[0] = Some(0);
    if cpus > 1 && !ram.has_low_page {
        say!("whimbrel warning no-low-memory-to-start-cpus at={:#x}", Ram::LOW_PAGE);
    } else if cpus > 1 {
        let code = boot::trampoline();
        // SAFETY: there is memory there, nothing of ours is in it, and the loader's data has been read.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), Ram::LOW_PAGE as *mut u8, code.len()) };
        start_all(cpus, ram, tsc_khz);
    }
    let mut rank = 0;
    for cpu in 1..cpus {
        if is_up(cpu) {
            rank += 1;
            ranks[cpu as usize] = Some(rank);
        } else {
            say!("whimbrel warning cpu-did-not-come-up cpu={cpu}");
        }
    }
    ranks
}

/// All at once: those that are up wait in a loop, and would hold up those that are still to come.
fn start_all(cpus: u32, ram: &mut Ram, tsc_khz: u64) {
    for cpu in 1..cpus {
        // A function starts with the stack 8 bytes off a multiple of 16, as after a call.
        boot::set_stack(cpu, ram.take(STACK, 16) + STACK - 8);
    }
    // SAFETY: the top of the first 4 GiB is mapped uncached, and the local APIC is where it is after reset.
    let lapic = unsafe { Mmio::new(LAPIC) };
    lapic.write(SPURIOUS, SPURIOUS_ENABLE);
    let send = |cpu: u32, what| {
        lapic.write(ICR_HIGH, cpu << 24);
        lapic.write(ICR_LOW, what);
    };
    let startup = STARTUP | (Ram::LOW_PAGE >> 12) as u32;
    let all_up = || (1..cpus).all(is_up);
    (1..cpus).for_each(|cpu| send(cpu, INIT));
    wait(INIT_WAIT_MS * tsc_khz, || false);
    (1..cpus).for_each(|cpu| send(cpu, startup));
    if !wait(RETRY_WAIT_MS * tsc_khz, all_up) {
        (1..cpus).filter(|cpu| !is_up(*cpu)).for_each(|cpu| send(cpu, startup));
        wait(UP_WAIT_MS * tsc_khz, all_up);
    }
}

fn is_up(cpu: u32) -> bool {
    COUNTS[cpu as usize].online.load(Ordering::Acquire)
}

/// Whether `done` came true within so many ticks.
fn wait(ticks: u64, done: impl Fn() -> bool) -> bool {
    let start = cpu::tsc();
    while !done() {
        if cpu::tsc().wrapping_sub(start) > ticks {
            return false;
        }
        cpu::pause();
    }
    true
}

/// What a CPU other than the first does.
pub(crate) fn run(cpu: u64) -> ! {
    COUNTS[cpu as usize].online.store(true, Ordering::Release);
    let setup = loop {
        match SETUP.get() {
            Some(setup) => break setup,
            None => cpu::pause(),
        }
    };
    // One that came up too late has no share.
    let Some(mut worker) = Worker::new(setup, cpu) else { boot::halt() };
    loop {
        worker.turn();
    }
}
