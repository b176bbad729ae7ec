//! The example runs as it stands. It is compiled into this test, so that no other build has to have made it before.

#[path = "../examples/toy_monitor.rs"]
mod toy_monitor;

/// The second process that the example starts is this test again.
#[test]
fn the_toy_monitor_moves_its_machine_to_another_process() {
    if let Err(error) = toy_monitor::main() {
        panic!("{error}");
    }
}
