//! Who goes first on a processor.

use rustix::process::{Pid, getpriority_process, setpriority_process};

/// How much the threads give way that carry what nobody waits for, while a machine runs that lacks pages: they get a third of what
/// others get that want the processor too (a weight of 335 to 1024: Linux, kernel/sched/core.c, sched_prio_to_weight), and all that
/// nobody else wants. A vCPU, and who brings it the page that it waits for, do not wait behind them.
const NICE: i32 = 5;
/// The most there is.
const NICEST: i32 = 19;

/// From here on this thread gives way to others. Only ever called at the end of a thread's life: without a privilege nobody gets back
/// what was given away.
pub(crate) fn give_way() {
    // More than what the process has, which may be anything.
    let given = getpriority_process(None::<Pid>);
    if let Err(error) = given.and_then(|nice| setpriority_process(None::<Pid>, (nice + NICE).min(NICEST))) {
        tracing::warn!("A thread cannot give way to the machine: {error}");
    }
}
