//! What the processor of this host can show machines, as its VMM says, in labels of the Node.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    thread,
    time::Duration,
};

use cpu::HostCpu;
use objects::{BRIDGE_LABEL, CPU_FEATURE_LABEL, CPU_MODEL_LABEL, CPU_VENDOR_LABEL};
use serde_json::{Map, Value};

/// How long a VMM may take to say it: it opens /dev/kvm and asks. Only a thread waits for it that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest that it may say, in bytes: a list of features has three thousand.
const MAX_BYTES: u64 = 1 << 20;
/// Longest name of a label, behind its kind.
const MAX_NAME: usize = 63;

/// What the VMM said, for as long as it is the same program.
#[derive(Debug, Default)]
pub(crate) struct Processor {
    said: Option<(Program, Labels)>,
    /// Where the reply of a VMM comes that is being asked.
    asked: Option<(Program, Receiver<io::Result<Labels>>)>,
}

type Labels = BTreeMap<String, String>;

/// By what one program at a path is told from the next: device, inode, seconds and nanoseconds of its last change. `None` where it has no path.
type Program = Option<(u64, u64, i64, i64)>;

impl Processor {
    /// The labels, for which the VMM is asked where it was not yet, or has been replaced since: `None` until it has replied. Does not wait for it.
    ///
    /// # Errors
    /// It cannot be started, does not end, or says something else.
    pub(crate) fn labels(&mut self, vmm: &Path) -> io::Result<Option<&Labels>> {
        let program =
            fs::metadata(vmm).ok().map(|file| (file.dev(), file.ino(), file.mtime(), file.mtime_nsec()));
        if self.said.as_ref().is_some_and(|(before, _)| *before == program) {
            return Ok(self.said.as_ref().map(|(_, labels)| labels));
        }
        let reply = match self.asked.take() {
            Some((before, reply)) if before == program => reply,
            _ => ask(vmm)?,
        };
        match reply.try_recv() {
            Ok(said) => Ok(Some(&self.said.insert((program, said?)).1)),
            Err(TryRecvError::Empty) => {
                self.asked = Some((program, reply));
                Ok(None)
            }
            Err(TryRecvError::Disconnected) => Err(io::Error::other("whoever asked it has ended")),
        }
    }
}

/// Asks the VMM on a thread of its own.
fn ask(vmm: &Path) -> io::Result<Receiver<io::Result<Labels>>> {
    let (tell, told) = sync_channel(1);
    let vmm = vmm.to_owned();
    // Whoever does not want to know any more asks another program.
    let asking = move || drop(tell.send(labels(&vmm)));
    thread::Builder::new().name("vmm-ask".to_owned()).spawn(asking)?;
    Ok(told)
}

/// What has to be written over the labels of a Node, so that of ours it has those that are `wanted` and no others.
pub(crate) fn change(
    there: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> Map<String, Value> {
    let gone = there.keys().filter(|label| is_ours(label) && !wanted.contains_key(*label));
    let other = wanted.iter().filter(|(label, value)| there.get(*label) != Some(value));
    let other = other.map(|(label, value)| (label.clone(), value.as_str().into()));
    gone.map(|label| (label.clone(), Value::Null)).chain(other).collect()
}

/// Asks the VMM.
fn labels(vmm: &Path) -> io::Result<BTreeMap<String, String>> {
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
    let features = host.features.iter().filter_map(|name| cpu::by_name(name));
    let features = features.filter_map(|feature| label(CPU_FEATURE_LABEL, feature.name));
    let models = host.models().filter_map(|name| label(CPU_MODEL_LABEL, name));
    let vendor = label(CPU_VENDOR_LABEL, &host.vendor);
    features.chain(models).chain(vendor).map(|label| (label, "true".to_owned())).collect()
}

/// With as much of a name as a label may have, if that is anything: one that is no label would have all of them refused, and some makers' names
/// have spaces.
fn label(kind: &str, name: &str) -> Option<String> {
    let letters = name.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-.".contains(*letter));
    let name: String = letters.take(MAX_NAME).collect();
    let name = name.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
    (!name.is_empty()).then(|| format!("{kind}{name}"))
}

/// Whether a label is one of those that agents write.
fn is_ours(label: &str) -> bool {
    label.starts_with(BRIDGE_LABEL) || is_of_processor(label)
}

/// Whether a label tells of the processor.
pub(crate) fn is_of_processor(label: &str) -> bool {
    [CPU_VENDOR_LABEL, CPU_MODEL_LABEL, CPU_FEATURE_LABEL].iter().any(|kind| label.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Instant};

    use serde_json::json;

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
    fn a_name_that_is_no_label_is_cut_to_one_or_left_out() {
        assert_eq!(label("a/", " -Zhao xin!. ").as_deref(), Some("a/Zhaoxin"));
        assert_eq!(label("a/", "  \0-.  "), None);
        assert_eq!(label("a/", &"x".repeat(100)).unwrap().len(), 2 + MAX_NAME);
        let host = HostCpu {
            host: "a".into(),
            vendor: "\0".into(),
            brand: "b".into(),
            features: ["aes".into()].into(),
        };
        assert_eq!(labels_of(&host).into_keys().collect::<Vec<_>>(), ["cpu-feature.whimbrel.dev/aes"]);
    }

    /// What it says in the end.
    fn wait(processor: &mut Processor, vmm: &Path) -> io::Result<Labels> {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            if let Some(labels) = processor.labels(vmm)? {
                return Ok(labels.clone());
            }
            assert!(Instant::now() < deadline, "it is never told");
            thread::yield_now();
        }
    }

    #[test]
    fn a_vmm_is_asked_once_and_again_when_there_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let say = |vendor: &str| {
            let host = json!({ "host": "a", "vendor": vendor, "brand": "b", "features": [] });
            program(folder.path(), &format!("echo x >> {}/asked; echo '{host}'", folder.path().display()))
        };
        let asked = || fs::read_to_string(folder.path().join("asked")).unwrap().len() / 2;
        let mut processor = Processor::default();
        let vmm = say("one");
        for _ in 0..2 {
            assert!(wait(&mut processor, &vmm).unwrap().contains_key("cpu-vendor.whimbrel.dev/one"));
        }
        assert_eq!(asked(), 1);
        fs::remove_file(&vmm).unwrap();
        assert!(wait(&mut processor, &vmm).is_err());
        say("two");
        assert!(wait(&mut processor, &vmm).unwrap().contains_key("cpu-vendor.whimbrel.dev/two"));
        assert_eq!(asked(), 2);
    }

    #[test]
    fn what_is_written_is_what_differs_of_ours() {
        let labels = |names: &[(&str, &str)]| -> BTreeMap<String, String> {
            names.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let (aes, avx, sse) =
            ("cpu-feature.whimbrel.dev/aes", "cpu-feature.whimbrel.dev/avx", "cpu-feature.whimbrel.dev/sse");
        let wanted = labels(&[(aes, "true"), (sse, "true")]);
        let there = labels(&[("zone", "a"), (aes, "false"), (avx, "true")]);
        let changed = change(&there, &wanted);
        assert_eq!(Value::from(changed), json!({ aes: "true", avx: null, sse: "true" }));
        assert!(change(&labels(&[("zone", "a"), (aes, "true"), (sse, "true")]), &wanted).is_empty());
    }

    #[test]
    fn a_vmm_that_says_something_else_or_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(labels(&folder.path().join("none")).is_err());
        for script in ["exit 1", "echo '{}'", "echo nonsense"] {
            assert!(labels(&program(folder.path(), script)).is_err(), "{script}");
        }
    }
}
