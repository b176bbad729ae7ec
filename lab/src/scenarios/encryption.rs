//! What somebody on the network sees of a move.

use std::process::Command;

use monitor::types::{CertificateInfo, MigrationInfo};
use serde_json::json;

use super::{check, end, say};
use crate::{Journey, Lab, LabError, Protection, Recording, Spec, Vmm, programs::run};

/// Bytes of the guest's page cache that the network is searched for.
const SECRET_BYTES: u64 = 8 << 20;
/// Most bytes of a frame, of a card that leaves it to others to cut what it sends into segments.
const FRAME_BYTES: u64 = 64 << 10;
/// Where the guest keeps them: in memory.
const SECRET: &str = "/run/secret";
/// What a host is given of its directory of certificates.
const FILES: [(&str, u32); 5] = [
    ("ca-cert.pem", 0o644),
    ("server-cert.pem", 0o644),
    ("server-key.pem", 0o600),
    ("client-cert.pem", 0o644),
    ("client-key.pem", 0o600),
];

/// A guest whose memory has a pattern that nobody knows moves encrypted, and in clear back. Who listens in on the network finds the
/// pattern on the way back, and thereby knows how to look for it; on the way there it is nowhere.
pub(super) fn eavesdropper(lab: &Lab) -> Result<(), LabError> {
    issue_certificates(lab)?;
    let mut journey = Journey::begin(lab, Spec { protection: Protection::Certified, ..Spec::linux(1) })?;
    // A line that is in the guest's memory a hundred thousand times, so that it is in any frame that has a part of that. It has
    // come here over the hosts' other network, before anybody listens.
    let line = journey.guest().run("head -c 32 /dev/urandom | sha256sum | cut -c1-64")?;
    let line = line.trim();
    journey.guest().run(&format!("yes {line} | head -c {SECRET_BYTES} > {SECRET}"))?;
    let sum = |journey: &Journey<'_>| journey.guest().run(&format!("sha256sum < {SECRET}"));
    let before = sum(&journey)?;

    // It could leave this place in clear too, were it told to.
    let spec = Spec { protection: Protection::Certified, flags: vec!["--insecure".into()], ..Spec::linux(1) };
    let there = Vmm::vacancy(lab, journey.elsewhere(), &spec)?;
    let (info, there_encrypted) = listen_in(lab, "encrypted", || journey.hop_to(there))?;
    is_encrypted(&info)?;
    found("encrypted", there_encrypted, line, |frames| frames == 0)?;
    check(sum(&journey)? == before, || "The guest's memory is not what it was".into())?;

    let back = Vmm::vacancy(lab, journey.elsewhere(), &Spec::linux(1))?;
    journey.here().command("migrate-set-parameters", json!({ "tls-creds": "" }))?;
    let (_, in_clear) = listen_in(lab, "in-clear", || journey.hop_to(back))?;
    found("in clear", in_clear, line, |frames| frames >= SECRET_BYTES / FRAME_BYTES)?;
    check(sum(&journey)? == before, || "The guest's memory is not what it was".into())?;
    end(journey)
}

/// As administrators do, on a machine that is neither host; and copies to each host what is its.
fn issue_certificates(lab: &Lab) -> Result<(), LabError> {
    let folder =
        tempfile::tempdir_in(lab.logs()).map_err(LabError::file("create a folder in", lab.logs()))?;
    let hosts = lab.hosts().iter().map(|host| format!("{},{}", host.name(), host.address()));
    let hosts: Vec<_> = hosts.collect();
    let ca = |words: &[&str]| {
        let tool = &lab.images().programs().tool;
        run(Command::new(tool).arg("ca").args(words).current_dir(folder.path())).map(|_| ())
    };
    ca(&["init"])?;
    ca(&[&["issue"], &hosts.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())?;
    for host in lab.hosts() {
        host.remote().run(&format!("mkdir -p {}", Spec::CERTIFICATES))?;
        for (file, mode) in FILES {
            let issued = folder.path().join(host.name()).join(file);
            host.remote().put(&issued, &format!("{}/{file}", Spec::CERTIFICATES), mode)?;
        }
    }
    Ok(())
}

/// Does `what`, and returns with what comes of it what went over the network meanwhile.
fn listen_in<T>(
    lab: &Lab,
    name: &str,
    what: impl FnOnce() -> Result<T, LabError>,
) -> Result<(T, Recording), LabError> {
    let mut recording = lab.network().record(&lab.logs().join(format!("{name}.pcap")))?;
    let done = what();
    lab.network().stop_recording();
    if done.is_err() {
        recording.keep();
    }
    Ok((done?, recording))
}

/// In as many frames as is right.
fn found(
    what: &str,
    mut recording: Recording,
    line: &str,
    is_right: impl FnOnce(u64) -> bool,
) -> Result<(), LabError> {
    let (totals, with) = (recording.totals()?, recording.frames_with(line.as_bytes())?);
    say(&format!(
        "{what}: {with} of {} frames ({} MiB) have a part of the guest's memory",
        totals.frames,
        totals.bytes >> 20
    ));
    // What the guest's memory is sent in cannot be much shorter than that.
    let is_whole = totals.bytes >= SECRET_BYTES;
    if is_whole && is_right(with) {
        return Ok(());
    }
    let path = recording.keep().display().to_string();
    Err(LabError::Wrong(format!(
        "{with} of {} frames, {} bytes, have a line of the guest's memory, which is {line}: they are in {path}",
        totals.frames, totals.bytes
    )))
}

/// As far as the source says.
fn is_encrypted(info: &MigrationInfo) -> Result<(), LabError> {
    let security = info.whimbrel.as_ref().and_then(|more| more.security.as_ref());
    let has = |certificate: &Option<CertificateInfo>, name: &str| {
        certificate.as_ref().is_some_and(|certificate| certificate.names.iter().any(|one| one == name))
    };
    let is_right = security.is_some_and(|security| {
        security.encrypted && has(&security.own, "dns:a") && has(&security.peer, "dns:b")
    });
    check(is_right, || format!("The source says of its migration: {security:?}"))
}
