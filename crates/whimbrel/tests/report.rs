//! `whimbrel report` on what is no report.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{path::Path, time::Duration};

use assert_cmd::Command;

/// What is said about a file that cannot be shown.
fn refused(path: &Path) -> String {
    let mut command = Command::cargo_bin("whimbrel").unwrap();
    let output = command.arg("report").arg(path).timeout(Duration::from_secs(30)).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn only_a_file_of_a_reports_size_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for path in [&pipe, Path::new("/dev/zero"), folder.path()] {
        assert!(refused(path).contains("neither a file nor the socket"), "{}", path.display());
    }
    let huge = folder.path().join("huge");
    std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    assert!(refused(&huge).contains("longer than"));
}
