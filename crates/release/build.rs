//! Finds out which commit is being built.

use std::{env, fs, process::Command};

/// Digits of a commit that are shown. What a VMM tells the other side of a migration may have 20 bytes in all.
const DIGITS: usize = 8;

fn main() {
    println!("cargo::rerun-if-env-changed=WHIMBREL_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=commit.txt");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let version = match commit() {
        Some(commit) => format!("{version}+{commit}"),
        None => version,
    };
    println!("cargo::rustc-env=WHIMBREL_VERSION={version}");
}

/// What the packager says, or git, or the archive that this was unpacked from; `None` where nobody knows.
fn commit() -> Option<String> {
    if let Ok(said) = env::var("WHIMBREL_COMMIT") {
        return Some(said).filter(|said| is_sound(said));
    }
    // Builds for debugging are of no commit in particular, and would be made anew after each.
    if env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return Some("debug".to_owned());
    }
    git_commit().or_else(archived)
}

fn git_commit() -> Option<String> {
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    // Written with every commit and checkout. Cargo would build each time for a file that is not there.
    if fs::exists(&log).is_ok_and(|is_there| is_there) {
        println!("cargo::rerun-if-changed={log}");
    }
    let commit = git(&["rev-parse", &format!("--short={DIGITS}"), "HEAD"])?;
    let is_changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if is_changed { format!("{commit}.dirty") } else { commit }).filter(|commit| is_sound(commit))
}

/// What `git archive` has written into the file.
fn archived() -> Option<String> {
    let text = fs::read_to_string("commit.txt").ok()?;
    Some(text.trim().chars().take(DIGITS).collect()).filter(|commit: &String| is_sound(commit))
}

/// Whether it can be the last part of a version.
fn is_sound(commit: &str) -> bool {
    !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
