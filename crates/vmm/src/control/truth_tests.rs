//! What is said of the machine is true of its vCPUs when something of it breaks.

use std::sync::mpsc::Receiver;

use config::{Config, RawConfig};
use engine::SourceMachine as _;

use super::{outgoing::Leaving, *};
use crate::testing::{guest, kvm_is_usable};

/// A machine whose guest turns in circles.
fn machine(break_it: impl FnOnce(&mut Machine)) -> Option<(Arc<Control>, Receiver<MachineEvent>)> {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    if !kvm_is_usable(&test) {
        return None;
    }
    // again: jmp again
    let kernel = guest(&[0xeb, 0xfe]);
    // With a monitor, which nobody connects to, the process does not end for a failure.
    let yaml = format!("kernel: {}\nserial: none\nmonitor: unix:/nowhere", kernel.path().display());
    let config = Config::new(RawConfig::from_yaml(&yaml, "test").unwrap()).unwrap();
    let (events, heard) = events::Events::channel();
    let mut machine = Machine::boot(&config, events.clone()).unwrap();
    break_it(&mut machine);
    let (control, _end) = Control::new(config, machine.into(), events, Events::new()).unwrap();
    control.resume().unwrap();
    Some((control, heard))
}

/// The machine as the engine has it.
fn leaving(control: &Arc<Control>) -> Leaving {
    Leaving { control: control.clone(), machine: control.machine().unwrap() }
}

/// Asserts that the machine is in this state, and does accordingly.
fn is_truly(control: &Control, state: RunState) {
    assert_eq!(control.state(), state);
    assert_eq!(control.machine().unwrap().is_running(), state == RunState::Running, "{state}");
}

#[test]
fn a_reset_that_gets_half_way_stops_the_machine_until_one_succeeds() {
    let Some((control, _heard)) = machine(Machine::forget_how_it_was_at_power_on) else { return };
    is_truly(&control, RunState::Running);
    for _ in 0..2 {
        let why = control.reset(ShutdownCause::HostQmpSystemReset).unwrap_err().to_string();
        assert!(why.contains("Half of the machine") && why.contains("run state of a vCPU"), "{why}");
        is_truly(&control, RunState::InternalError);
        control.pause().unwrap();
        is_truly(&control, RunState::InternalError);
        assert!(control.resume().unwrap_err().to_string().contains("reset it"));
        is_truly(&control, RunState::InternalError);
    }
}

#[test]
fn a_machine_that_breaks_while_it_is_handed_over_does_not_run_on_unseen() {
    let Some((control, _heard)) = machine(|_| {}) else { return };
    let leaving = leaving(&control);
    let broken = || MachineEvent::Failed { thread: "disk0".into(), reason: "on purpose".into() };
    assert!(leaving.stop().unwrap());
    control.hear(broken());
    is_truly(&control, RunState::FinishMigrate);
    leaving.resume(true).unwrap();
    is_truly(&control, RunState::InternalError);

    control.reset(ShutdownCause::HostQmpSystemReset).unwrap();
    is_truly(&control, RunState::Paused);
    control.resume().unwrap();
    is_truly(&control, RunState::Running);
    // What was wrong then is not wrong now.
    assert!(leaving.stop().unwrap());
    leaving.resume(true).unwrap();
    is_truly(&control, RunState::Running);
    control.hear(broken());
    is_truly(&control, RunState::InternalError);
    leaving.stop().unwrap_err();
    is_truly(&control, RunState::InternalError);
}

#[test]
fn a_machine_that_broke_and_could_not_be_taken_back_wants_to_be_reset_before_it_runs() {
    let Some((control, _heard)) = machine(|_| {}) else { return };
    let leaving = leaving(&control);
    assert!(leaving.stop().unwrap());
    control.hear(MachineEvent::Failed { thread: "disk0".into(), reason: "on purpose".into() });
    // As when its disks could not be locked again: the engine has given up.
    control.stays();
    is_truly(&control, RunState::InternalError);
    control.resume().unwrap_err();
    control.reset(ShutdownCause::HostQmpSystemReset).unwrap();
    control.resume().unwrap();
    is_truly(&control, RunState::Running);
}

#[test]
fn a_reset_that_the_guest_wants_while_it_is_handed_over_is_done_where_it_runs_on() {
    let Some((control, heard)) = machine(|_| {}) else { return };
    let leaving = leaving(&control);
    assert!(leaving.stop().unwrap());
    devices::MachineRequests::reset(&control.machine_events);
    control.hear(heard.try_recv().unwrap());
    is_truly(&control, RunState::FinishMigrate);
    leaving.resume(true).unwrap();
    assert_eq!(heard.try_recv(), Ok(MachineEvent::Reset), "it is said again");
    control.hear(MachineEvent::Reset);
    is_truly(&control, RunState::Running);
}
