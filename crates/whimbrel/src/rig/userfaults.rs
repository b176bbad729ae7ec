use std::fs;

/// Whether a process of this user may hear the page faults of a machine, as far as can be told without trying.
pub(crate) fn userfaults_may_be_heard() -> bool {
    let device = fs::File::options().read(true).write(true).open("/dev/userfaultfd").is_ok();
    let everybody = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    device || everybody.is_ok_and(|value| value.trim() == "1") || rustix::process::geteuid().is_root()
}
