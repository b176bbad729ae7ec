//! What the processor of this host can show machines, as its VMM says, in labels of the Node.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use cpu::HostCpu;
use objects::{CPU_FEATURE_LABEL, CPU_MODEL_LABEL, CPU_VENDOR_LABEL};

/// How long a VMM may take to say it: it opens /dev/kvm and asks.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest that it may say, in bytes: a list of features has three thousand.
const MAX_BYTES: u64 = 1 << 20;

/// Asks the VMM.
///
/// # Errors
/// It cannot be started, does not end, or says something else.
pub(crate) fn labels(vmm: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut command = Command::new(vmm);
    // What it complains of is for whoever reads the agent's log.
    command.arg("--print-cpu").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let said = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
    let (tell, told) = sync_channel(1);
    let read = move || {
        let mut text = Vec::new();
        // Nobody waits for it any more if that fails.
        let _ = tell.send(said.take(MAX_BYTES).read_to_end(&mut text).map(|_| text));
    };
    let reader = thread::Builder::new().name("vmm-cpu".to_owned()).spawn(read);
    let text = reader.and_then(|_| told.recv_timeout(PATIENCE).map_err(io::Error::other)?);
    // What has said everything has ended or is about to; what has not is not waited for.
    child.kill()?;
    child.wait()?;
    let host: HostCpu = serde_json::from_slice(&text?).map_err(io::Error::other)?;
    Ok(labels_of(&host))
}

fn labels_of(host: &HostCpu) -> BTreeMap<String, String> {
    // A name that is no part of a label would have all of them refused: some makers' names have spaces.
    let named = |kind: &str, name: &str| {
        let name: String =
            name.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-.".contains(*letter)).collect();
        format!("{kind}{}", name.trim_matches(|letter: char| !letter.is_ascii_alphanumeric()))
    };
    let features = host.features.iter().filter_map(|name| cpu::by_name(name));
    let features = features.map(|feature| named(CPU_FEATURE_LABEL, feature.name));
    let models = host.models().map(|name| named(CPU_MODEL_LABEL, name));
    let vendor = [named(CPU_VENDOR_LABEL, &host.vendor)];
    features.chain(models).chain(vendor).map(|label| (label, "true".to_owned())).collect()
}

/// Whether a label is one of those that are written here.
pub(crate) fn is_ours(label: &str) -> bool {
    [CPU_VENDOR_LABEL, CPU_MODEL_LABEL, CPU_FEATURE_LABEL].iter().any(|kind| label.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// A program that does that.
    fn program(folder: &Path, script: &str) -> std::path::PathBuf {
        let path = folder.join("vmm");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn what_a_vmm_says_becomes_labels() {
        let folder = tempfile::tempdir().unwrap();
        let level =
            ["fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge"];
        let rest =
            ["mca", "cmov", "pat", "pse36", "clflush", "mmx", "fxsr", "sse", "sse2", "syscall", "nx", "lm"];
        let features: Vec<_> = level.iter().chain(&rest).map(|name| format!("\"{name}\"")).collect();
        let host = format!(
            "{{\"host\":\"a\",\"vendor\":\"  Shanghai  \",\"brand\":\"b\",\"features\":[{}]}}",
            features.join(",")
        );
        let labels = labels(&program(folder.path(), &format!("echo '{host}'"))).unwrap();
        for expected in [
            "cpu-vendor.whimbrel.dev/Shanghai",
            "cpu-model.whimbrel.dev/x86-64",
            "cpu-feature.whimbrel.dev/sse2",
        ] {
            assert!(labels.contains_key(expected) && is_ours(expected), "{expected}: {labels:?}");
        }
        assert!(!labels.contains_key("cpu-model.whimbrel.dev/x86-64-v2"));
        assert_eq!(labels.len(), features.len() + 2);
    }

    #[test]
    fn a_vmm_that_says_something_else_or_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(labels(&folder.path().join("none")).is_err());
        for script in ["exit 1", "echo '{}'", "echo nonsense", "exec sleep 60"] {
            assert!(labels(&program(folder.path(), script)).is_err(), "{script}");
        }
    }
}
