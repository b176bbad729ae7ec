//! A bare-metal guest for whoever moves virtual machines: it dirties its memory at a set rate, keeps checking
//! all of it, and prints each second what it found and how long it was held up. See README.md.
//!
//! `boot.S` brings each CPU to [`cpu_start`] in ring 3. The first CPU reads what it was asked ([`memory`],
//! `workload::params`), sets up the devices ([`virtio`]), starts the others ([`smp`]), and turns in one loop:
//! its share of the memory work ([`worker`]), the serial port ([`console`]), the devices, the report
//! ([`report`]). The others do their share of the memory work. Nothing sleeps and nothing interrupts.
#![no_std]
#![no_main]

mod boot;
mod clock;
mod commands;
mod console;
mod cpu;
mod lock;
mod memory;
mod power;
mod report;
mod shared;
mod smp;
mod virtio;
mod worker;

use core::sync::atomic::{AtomicU32, Ordering};

use workload::{
    page::{BYTES, Rules},
    params::{MAX_CPUS, Params},
};

use crate::{
    clock::Clock,
    commands::{Commands, Request},
    console::{Port, say},
    memory::{Ram, Regions},
    report::Reporter,
    shared::{ORDERS, SETUP, Setup},
    virtio::Devices,
    worker::Worker,
};

/// Where `boot.S` hands over each CPU, in ring 3.
// SAFETY: the name is ours alone.
#[unsafe(no_mangle)]
extern "C" fn cpu_start(cpu: u64) -> ! {
    if cpu == 0 { first_cpu() } else { smp::run(cpu) }
}

fn first_cpu() -> ! {
    let clock = Clock::new();
    let mut port = Port::new(clock.tsc_khz);
    let mut line = [0; 4096];
    let params = Params::parse(memory::copy_command_line(&mut line), |word, refusal| {
        say!("whimbrel warning {refusal} word={word}");
    });
    let mut ram = match Ram::new() {
        Ok(ram) => ram,
        Err(bad) => panic!("{}", bad.sentence()),
    };
    ram.map();
    let mut devices = Devices::new(&params, &mut ram, clock.tsc_khz);
    let ranks = smp::start(params.cpus, &mut ram, clock.tsc_khz);
    let (setup, spare) = own_memory(&params, &mut ram, &clock, ranks);
    devices.use_spare_memory(&spare);
    announce(&params, &clock, setup);
    let Some(mut worker) = Worker::new(setup, 0) else { unreachable!("the first CPU always has a rank") };

    let started = cpu::tsc();
    let mut filled = false;
    let mut commands = Commands::new();
    let mut reporter = Reporter::new(started, params.report_ms * clock.tsc_khz, &clock, params.waits);
    loop {
        let now = worker.turn();
        if !filled {
            filled = say_when_filled(setup, now.saturating_sub(started) / clock.tsc_khz);
        }
        match port.turn(now).and_then(|byte| commands.take(byte, setup)) {
            Some(Request::PowerOff) => match params.poweroff {
                Some((to, value)) => {
                    port.drain();
                    power::off(to, value);
                }
                None => say!("whimbrel warning no-poweroff-port-on-the-command-line"),
            },
            Some(Request::Reset) => {
                port.drain();
                power::reset(clock.tsc_khz);
            }
            None => {}
        }
        devices.turn(now, filled, setup);
        reporter.turn(now, &clock, setup, |text| devices.report(text));
    }
}

/// Divides what memory is left: the table of generations, what is owned, and what is spare.
fn own_memory(
    params: &Params,
    ram: &mut Ram,
    clock: &Clock,
    ranks: [Option<u8>; MAX_CPUS as usize],
) -> (&'static Setup, Regions) {
    let own = |free: u64| params.own.unwrap_or(free).min(free) / BYTES;
    let entries = own(ram.rest().bytes());
    let table = ram.take(entries * size_of::<AtomicU32>() as u64, 64) as *const AtomicU32;
    let pages = own(ram.rest().bytes());
    let (owned, spare) = ram.rest().split(pages * BYTES);
    // SAFETY: taken above for this alone; zeros are good atomics, and they stay for ever.
    let generations = unsafe { core::slice::from_raw_parts(table, pages as usize) };
    ORDERS.set_rate(params.rate);
    ORDERS.set_work(params.work, pages);
    ORDERS.verify.store(params.verify, Ordering::Relaxed);
    ORDERS.limit.store(pages, Ordering::Release);
    let cpus = ranks.iter().flatten().count() as u64;
    let rules = Rules { seed: params.seed, fill: params.fill, touch: params.touch };
    let writers = params.writers.map_or(cpus, |writers| cpus.min(writers.into()));
    SETUP.set(Setup {
        rules,
        order: params.order,
        owned,
        generations,
        ranks,
        cpus,
        writers,
        tsc_khz: clock.tsc_khz,
    });
    match SETUP.get() {
        Some(setup) => (setup, spare),
        None => unreachable!("it was just set"),
    }
}

fn announce(params: &Params, clock: &Clock, setup: &Setup) {
    say!(
        "whimbrel boot version={} memory={} owned={} work={} {params} cpus={} of={} tsc_khz={} tsc_from={} \
         kvmclock={} ring3={}",
        env!("CARGO_PKG_VERSION"),
        setup.owned.iter().map(|region| region.end).max().unwrap_or(0),
        setup.generations.len() as u64 * BYTES,
        ORDERS.work_pages.load(Ordering::Relaxed) * BYTES,
        setup.cpus,
        params.cpus,
        clock.tsc_khz,
        clock.tsc_from,
        u8::from(clock.has_kvmclock),
        boot::way_to_ring3(),
    );
    if params.work.is_some_and(|work| work > setup.generations.len() as u64 * BYTES) {
        say!("whimbrel warning less-memory-than-the-working-set-asked-for");
    }
}

/// Lets dirtying begin once every CPU has filled its share.
fn say_when_filled(setup: &Setup, ms: u64) -> bool {
    if !shared::working(setup).all(|(_, counts)| counts.filled.load(Ordering::Acquire)) {
        return false;
    }
    ORDERS.filled.store(true, Ordering::Release);
    let pages = setup.generations.len() as u64;
    say!("whimbrel filled pages={pages} bytes={} ms={ms}", pages * BYTES);
    true
}

/// Where `boot.S` sends a CPU that met an exception it has no use for.
// SAFETY: the name is ours alone.
#[unsafe(no_mangle)]
extern "C" fn fault_entry(cpu: u64) -> ! {
    let [vector, error, rip, rsp, address] = boot::fault();
    console::last_words(format_args!(
        "whimbrel fault cpu={cpu} vector={vector} error={error:#x} rip={rip:#x} rsp={rsp:#x} \
         address={address:#x}"
    ));
    boot::halt()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::last_words(format_args!("whimbrel panic {info}"));
    boot::halt()
}
