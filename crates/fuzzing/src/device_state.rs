//! The saved state of a device, from a peer.

use serde::{Deserialize, Serialize};
use state::{DeviceState, Schema, Value, not_read};

/// A schema with a field of every shape that states have.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Everything {
    small: u8,
    large: u64,
    signed: i32,
    flag: bool,
    list: Vec<u16>,
    maybe: Option<String>,
    pair: (u32, bool),
    inner: Inner,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Inner {
    Empty,
    Bytes([u8; 4]),
    Named { key: u64 },
}

impl Schema for Everything {
    const KIND: &'static str = "everything";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

/// The bytes as the body of a state, and as an envelope with a state in it.
pub(crate) fn run(bytes: &[u8]) {
    let envelope = |body: &[u8]| DeviceState {
        id: "x".into(),
        kind: Everything::KIND.into(),
        version: 1,
        body: body.to_vec(),
    };
    decode(&envelope(bytes));
    if let Ok(state) = ciborium::from_reader::<DeviceState, _>(bytes) {
        decode(&state);
    }
}

fn decode(state: &DeviceState) {
    assert!(!state.print().is_empty());
    if let Ok(value) = state.decode::<Everything>() {
        let again = DeviceState::encode("x", &value).expect("what was small enough still is");
        assert_eq!(again.decode::<Everything>().expect("our own encoding"), value);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let with = |inner| Everything {
        small: 1,
        large: u64::MAX,
        signed: -1,
        flag: true,
        list: vec![1, 2, 3],
        maybe: Some("text".into()),
        pair: (7, false),
        inner,
    };
    let states = [Inner::Empty, Inner::Bytes([1, 2, 3, 4]), Inner::Named { key: 9 }].map(with);
    let states: Vec<_> = states.iter().filter_map(|state| DeviceState::encode("x", state).ok()).collect();
    let mut seeds: Vec<Vec<u8>> = states.iter().map(|state| state.body.clone()).collect();
    let mut whole = Vec::new();
    if states.first().is_some_and(|state| ciborium::into_writer(state, &mut whole).is_ok()) {
        seeds.push(whole);
    }
    // A map, an array and a string of 2^63 items, and arrays in arrays.
    seeds.extend([
        [0xbb, 0x7f].into_iter().chain([0xff; 7]).collect(),
        [0x9b, 0x7f].into_iter().chain([0xff; 7]).collect(),
        [0x5b, 0x7f].into_iter().chain([0xff; 7]).collect(),
        vec![0x81; 2000],
    ]);
    seeds
}
