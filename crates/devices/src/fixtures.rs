//! States of released versions, kept in `fixtures/` for ever: a build that cannot load one of them cannot take a
//! machine from a peer of that release.

use std::{fs, path::PathBuf};

use state::DeviceState;

/// The state in `fixtures/NAME.cbor`. `today` is the same as this build saves it; the two differ when a schema was changed
/// without a new version. With `WHIMBREL_BLESS=1` a file that is missing is written.
pub(crate) fn released(name: &str, today: &DeviceState) -> DeviceState {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{name}.cbor"));
    if !path.exists() && std::env::var_os("WHIMBREL_BLESS").is_some() {
        let mut bytes = Vec::new();
        ciborium::into_writer(today, &mut bytes).unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let released: DeviceState = ciborium::from_reader(bytes.as_slice()).unwrap();
    assert!(
        released == *today,
        "a released schema changed: give it a new version\n{}\n{}",
        released.print(),
        today.print()
    );
    released
}

/// The state in `fixtures/NAME.cbor`, of a version that is not saved any more but still read.
pub(crate) fn before(name: &str) -> DeviceState {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{name}.cbor"));
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    ciborium::from_reader(bytes.as_slice()).unwrap()
}
