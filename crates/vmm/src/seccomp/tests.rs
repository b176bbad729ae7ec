//! Filters hold for good, so that each case runs in a process of its own: this program once more, with one test to run.

use std::{
    process::{Command, Output},
    thread,
};

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::panics;

/// Set in the process in which a case is tried: its name.
const CASE: &str = "WHIMBREL_SECCOMP_CASE";

/// Runs `in_child` in a process of its own and returns how that ended; `None` in that process.
fn in_process_of_its_own(test: &str, in_child: impl FnOnce()) -> Option<Output> {
    if std::env::var(CASE).is_ok_and(|case| case == test) {
        in_child();
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("seccomp::tests::{test}"), "--exact", "--nocapture"]).env(CASE, test);
    Some(command.output().unwrap())
}

fn in_thread(name: &str, role: Role, body: impl FnOnce() + Send + 'static) {
    let body = move || {
        enter(role).unwrap();
        body();
    };
    // Its panic is what some cases are about.
    let _ = thread::Builder::new().name(name.into()).spawn(body).unwrap().join();
}

/// Something that a thread of a vCPU has no business with.
fn open_a_file() {
    let _ = std::fs::File::options().write(true).open("/dev/null");
}

#[test]
fn a_forbidden_call_is_told_and_ends_the_process() {
    let output = in_process_of_its_own("a_forbidden_call_is_told_and_ends_the_process", || {
        switch_on(Seccomp::On).unwrap();
        in_thread("vcpu7", Role::Vcpu, open_a_file);
    });
    let Some(output) = output else { return };
    let (status, said) = (output.status, String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(status.code(), Some(violation::EXIT_STATUS), "{status}: {said}");
    let line =
        said.lines().find(|line| line.starts_with("whimbrel-vmm: Thread 'vcpu7' wanted system call 257("));
    assert!(line.is_some_and(|line| line.contains("--seccomp log")), "{said}");
}

#[test]
fn a_forbidden_ioctl_is_told_by_its_number() {
    let output = in_process_of_its_own("a_forbidden_ioctl_is_told_by_its_number", || {
        switch_on(Seccomp::On).unwrap();
        // Asks how large a terminal is.
        in_thread("disk0", Role::Disk, || {
            let _ = rustix::io::ioctl_fionread(std::io::stdin());
        });
    });
    let Some(output) = output else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("'disk0' wanted system call 16(0x0, 0x541b, "), "{said}");
}

#[test]
fn what_a_role_allows_is_still_held_to_what_the_process_allows() {
    let output = in_process_of_its_own("what_a_role_allows_is_still_held_to_what_the_process_allows", || {
        switch_on(Seccomp::On).unwrap();
        let _ = Command::new("/bin/true").status();
    });
    assert!(output.is_none_or(|output| output.status.code() == Some(violation::EXIT_STATUS)));
}

#[test]
fn a_forbidden_call_that_is_only_logged_goes_through() {
    let output = in_process_of_its_own("a_forbidden_call_that_is_only_logged_goes_through", || {
        switch_on(Seccomp::Log).unwrap();
        in_thread("vcpu7", Role::Vcpu, || {
            assert!(std::fs::read_to_string("/proc/thread-self/status").unwrap().contains("Seccomp:\t2"));
            println!("went through");
        });
    });
    let Some(output) = output else { return };
    assert!(String::from_utf8_lossy(&output.stdout).contains("went through"), "{output:?}");
}

#[test]
fn a_confined_thread_can_allocate_log_and_panic() {
    let output = in_process_of_its_own("a_confined_thread_can_allocate_log_and_panic", || {
        panics::install_hook(Seccomp::On);
        switch_on(Seccomp::On).unwrap();
        for role in Role::ALL {
            in_thread("confined", role, move || {
                let memory = vec![1_u8; 64 << 20];
                // As is done with kernels that are older than this one.
                rustix::fs::open("/proc/self/auxv", OFlags::RDONLY, Mode::empty()).unwrap();
                thread::sleep(std::time::Duration::from_millis(1));
                eprintln!("{role:?} has {}", memory.len());
                panic!("on purpose, as {role:?}");
            });
        }
    });
    let Some(output) = output else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    for role in Role::ALL {
        let panicked = said.lines().find(|line| line.contains(&format!("on purpose, as {role:?}.")));
        assert!(
            panicked.is_some_and(|line| line.starts_with("whimbrel-vmm: Thread 'confined' panicked at ")),
            "{said}"
        );
    }
}

#[test]
fn without_filters_a_thread_may_do_anything() {
    // Nothing was switched on in this process.
    in_thread("free", Role::Populate, open_a_file);
}

#[test]
fn no_thread_may_do_what_the_process_may_not() {
    let process = Role::Process.allowed();
    for role in Role::ALL {
        let allowed = role.allowed();
        let more: Vec<_> = allowed.calls.iter().filter(|call| !process.calls.contains(call)).collect();
        assert!(more.is_empty(), "{role:?} may make system calls {more:?}");
        let covered =
            |rule: &&(i64, Argument)| process.calls.contains(&rule.0) || process.restricted.contains(rule);
        let more: Vec<_> = allowed.restricted.iter().filter(|rule| !covered(rule)).collect();
        assert!(more.is_empty(), "{role:?} may make system calls {more:?}");
    }
}

#[test]
fn no_thread_starts_programs_or_touches_other_processes() {
    let never = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_init_module,
    ];
    let process = Role::Process.allowed();
    assert!(process.calls.iter().all(|call| !never.contains(call)));
    assert!(process.restricted.iter().all(|(call, _)| !never.contains(call)));
}

#[test]
fn ioctl_numbers_are_the_kernels() {
    // As the kernel's headers have them, printed by a program in C.
    assert_eq!(ioctls::RUN, [0xae80]);
    assert_eq!(ioctls::DIRTY_LOG, [0x4010_ae42, 0x4020_ae46]);
    assert_eq!(ioctls::CLEAR_DIRTY_LOG, [0xc018_aec0]);
    assert_eq!(ioctls::RESET_DIRTY_RINGS, [0xaec7]);
    assert_eq!(ioctls::SAVE_CHIPS, [0xc208_ae62, 0x8070_ae9f, 0x8030_ae7c]);
}
