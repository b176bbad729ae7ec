//! The handshake: what each side says of itself before a page moves.
//!
//! The three messages of this file, and all that is in them, take fields that they do not know, and pass over them: a later release may add one that an
//! earlier one can do without. What must not be passed over comes with a [feature](crate::Features) or a protocol version.

use std::{collections::HashSet, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use state::{DeviceState, Schema};

use crate::MAX_CHANNELS;

/// Names one migration attempt: chosen at random by the source, it ties channels and later questions to the attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// The source introduces the machine that is to move. First message on the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// The attempt, as in the greeting.
    pub session: SessionId,
    /// How many page channels the source wants to open, 1 to [`MAX_CHANNELS`].
    pub channels: u16,
    /// Bytes of a page; both sides must agree.
    pub page_bytes: u32,
    /// What will be compared before the machine runs.
    pub digest: Digest,
    /// Guest memory, in the order by which batches number it.
    pub blocks: Vec<BlockInfo>,
    /// Every device whose state will come.
    pub devices: Vec<DeviceInfo>,
    /// The machine as its monitor describes it (CPUs, CPUID, MSRs, …). The engine carries it without looking inside.
    pub machine: DeviceState,
    /// Whether pages may follow when the machine runs; only with [`Features::POSTCOPY`](crate::Features::POSTCOPY).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub postcopy: bool,
}

/// What the two sides compare before the machine runs at the destination, beyond counts and the checksums of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Digest {
    /// Nothing.
    #[default]
    Off,
    /// Every page as it was last sent with the page as it was placed: finds what was damaged on the way.
    Transfer,
    /// That, and all memory of the stopped machine with what was last sent, and all memory of the destination with what was
    /// placed: finds also what the dirty log missed.
    Full,
}

/// One block of guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockInfo {
    /// Name, for example `ram.low`.
    pub name: String,
    /// First guest-physical address.
    pub guest_address: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// One device whose state travels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Id within the machine.
    pub id: String,
    /// Kind of its state.
    pub kind: String,
    /// Newest version of its state that this side has: a source sends this one if the destination reads it.
    pub version: u32,
    /// Oldest version that this side has: that a source can write, or that a destination can read.
    pub oldest: u32,
}

/// The versions of a kind of state that a destination reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateVersions {
    /// Kind of the states.
    pub kind: String,
    /// Oldest version.
    pub oldest: u32,
    /// Newest version.
    pub newest: u32,
}

/// The destination takes the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// How many page channels to open: at most what the source asked for.
    pub channels: u16,
    /// What the destination reads of each kind of state that the source named.
    pub reads: Vec<StateVersions>,
}

/// The destination does not take the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// Every reason, each a sentence.
    pub reasons: Vec<String>,
}

/// Most blocks a machine may have; bounds what a [`Hello`] can make the destination hold.
pub const MAX_BLOCKS: usize = 256;

/// Most devices a machine may have.
pub const MAX_DEVICES: usize = 4096;

impl Hello {
    /// Everything that cannot work, as sentences, when this machine arrives at a destination that has `blocks` and
    /// `devices`. Empty when all fits. What is in [`Self::machine`] is checked by the monitor of the destination.
    #[must_use]
    pub fn mismatches(&self, blocks: &[BlockInfo], devices: &[DeviceInfo]) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.channels == 0 || self.channels > MAX_CHANNELS {
            reasons.push(format!("{} channels asked for, 1 to {MAX_CHANNELS} are possible", self.channels));
        }
        if self.page_bytes as usize != crate::PAGE_BYTES {
            reasons.push(format!(
                "Pages of {} bytes, this destination has {}",
                self.page_bytes,
                crate::PAGE_BYTES
            ));
        }
        if self.blocks != blocks {
            reasons.push(format!(
                "Memory differs: the source has {}, this destination {}; give both the same memory size",
                memory(&self.blocks),
                memory(blocks)
            ));
        }
        reasons.extend(device_mismatches(&self.devices, devices));
        reasons
    }
}

impl DeviceInfo {
    /// The device `id`, whose state is an `S`.
    #[must_use]
    pub fn of<S: Schema>(id: impl Into<String>) -> Self {
        Self { id: id.into(), kind: S::KIND.into(), version: S::VERSION, oldest: S::OLDEST }
    }

    /// The device `id`, whose state is of that kind and comes, or is read, in those versions.
    #[must_use]
    pub fn new(id: impl Into<String>, kind: impl Into<String>, versions: RangeInclusive<u32>) -> Self {
        Self { id: id.into(), kind: kind.into(), version: *versions.end(), oldest: *versions.start() }
    }

    /// The version in which the state of this device travels to a destination that reads `reads`.
    ///
    /// # Errors
    /// There is none that both sides have; the reason.
    pub fn agreed(&self, reads: &StateVersions) -> Result<u32, String> {
        let version = self.version.min(reads.newest);
        if version >= self.oldest && version >= reads.oldest {
            return Ok(version);
        }
        Err(format!(
            "The state of device '{}' ({}) comes in version {}, and the destination reads {}: upgrade the older side",
            self.id,
            self.kind,
            range(self.oldest, self.version),
            range(reads.oldest, reads.newest)
        ))
    }

    /// What a destination with this device reads.
    #[must_use]
    pub fn reads(&self) -> StateVersions {
        StateVersions { kind: self.kind.clone(), oldest: self.oldest, newest: self.version }
    }
}

/// Of `ours`, what is read of each kind that `theirs` names.
#[must_use]
pub fn reads(theirs: &[DeviceInfo], ours: &[DeviceInfo]) -> Vec<StateVersions> {
    let named = |our: &&DeviceInfo| theirs.iter().any(|device| device.kind == our.kind);
    let mut reads: Vec<StateVersions> = Vec::new();
    for our in ours.iter().filter(named) {
        if !reads.iter().any(|known| known.kind == our.kind) {
            reads.push(our.reads());
        }
    }
    reads
}

impl Digest {
    /// Whether anything is compared.
    #[must_use]
    pub fn is_on(self) -> bool {
        self != Self::Off
    }

    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Transfer => "transfer",
            Self::Full => "full",
        }
    }
}

impl SessionId {
    /// An id that no machine chooses, for sides that have no session.
    pub const NONE: Self = Self([0; 16]);
}

fn range(oldest: u32, newest: u32) -> String {
    if oldest == newest { newest.to_string() } else { format!("{oldest} to {newest}") }
}

fn memory(blocks: &[BlockInfo]) -> String {
    let list = blocks.iter().take(MAX_BLOCKS);
    let list =
        list.map(|block| format!("{} ({} MiB at {:#x})", block.name, block.bytes >> 20, block.guest_address));
    list.collect::<Vec<_>>().join(", ")
}

fn device_mismatches(theirs: &[DeviceInfo], ours: &[DeviceInfo]) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut known = HashSet::new();
    for device in theirs.iter().take(MAX_DEVICES) {
        if !known.insert(&device.id) {
            reasons.push(format!("The source names the device '{}' twice", device.id));
            continue;
        }
        match ours.iter().find(|our| our.id == device.id) {
            None => reasons.push(format!(
                "The source has a device '{}' ({}), this destination has not",
                device.id, device.kind
            )),
            Some(our) if our.kind != device.kind => reasons.push(format!(
                "Device '{}' is a {} on the source and a {} here",
                device.id, device.kind, our.kind
            )),
            Some(our) => reasons.extend(device.agreed(&our.reads()).err()),
        }
    }
    for our in ours {
        if !theirs.iter().any(|device| device.id == our.id) {
            reasons.push(format!(
                "This destination has a device '{}' ({}), the source has not",
                our.id, our.kind
            ));
        }
    }
    if theirs.len() > MAX_DEVICES {
        reasons.push(format!("{} devices, at most {MAX_DEVICES} are possible", theirs.len()));
    }
    reasons
}

/// As a UUID is written, which is what it is where a fleet has chosen it.
impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, byte)| {
            let hyphen = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{hyphen}{byte:02x}")
        })
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_written_as_a_uuid() {
        let bytes: Vec<u8> = (0..16).collect();
        let session = SessionId(bytes.try_into().unwrap());
        assert_eq!(session.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }

    fn device(id: &str, kind: &str, version: u32) -> DeviceInfo {
        DeviceInfo { id: id.into(), kind: kind.into(), version, oldest: version }
    }

    fn hello() -> Hello {
        Hello {
            session: SessionId([1; 16]),
            channels: 4,
            page_bytes: 4096,
            digest: Digest::Off,
            blocks: vec![BlockInfo { name: "ram.low".into(), guest_address: 0, bytes: 1 << 30 }],
            devices: vec![device("vcpu0", "vcpu", 1), device("disk0", "virtio-blk", 1)],
            machine: DeviceState { id: "machine".into(), kind: "machine".into(), version: 1, body: vec![] },
            postcopy: false,
        }
    }

    #[test]
    fn equal_machines_fit() {
        let hello = hello();
        assert_eq!(hello.mismatches(&hello.blocks, &hello.devices), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_listed_at_once() {
        let mut hello = hello();
        let (blocks, devices) =
            (hello.blocks.clone(), vec![device("vcpu0", "vcpu", 2), device("rng0", "virtio-rng", 1)]);
        hello.channels = 0;
        hello.page_bytes = 65536;
        hello.blocks[0].bytes *= 2;
        let reasons = hello.mismatches(&blocks, &devices);
        assert_eq!(reasons.len(), 6, "{reasons:#?}");
    }

    #[test]
    fn a_state_travels_in_the_newest_version_that_both_sides_have() {
        let source = DeviceInfo { oldest: 2, ..device("net0", "virtio-net", 4) };
        let reads = |oldest, newest| StateVersions { kind: "virtio-net".into(), oldest, newest };
        assert_eq!(source.agreed(&reads(1, 9)), Ok(4));
        assert_eq!(source.agreed(&reads(1, 3)), Ok(3));
        assert_eq!(source.agreed(&reads(4, 5)), Ok(4));
        for (oldest, newest) in [(1, 1), (5, 6)] {
            let reason = source.agreed(&reads(oldest, newest)).unwrap_err();
            assert!(reason.contains("'net0' (virtio-net)") && reason.contains("2 to 4"), "{reason}");
        }
    }

    #[test]
    fn a_field_of_a_later_release_does_no_harm_in_the_handshake() {
        let mut value = ciborium::Value::serialized(&hello()).unwrap();
        add_to_every_map(&mut value);
        // But for the machine: its envelope is the monitor's business, and strict like that of every state.
        let machine = ciborium::Value::serialized(&hello().machine).unwrap();
        let map = value.as_map_mut().unwrap();
        map.iter_mut()
            .filter(|(key, _)| *key == "machine".into())
            .for_each(|(_, value)| *value = machine.clone());
        assert_eq!(value.deserialized::<Hello>().unwrap(), hello());
    }

    fn add_to_every_map(value: &mut ciborium::Value) {
        match value {
            ciborium::Value::Map(map) => {
                map.iter_mut().for_each(|(_, value)| add_to_every_map(value));
                map.push(("mood".into(), "fine".into()));
            }
            ciborium::Value::Array(values) => values.iter_mut().for_each(add_to_every_map),
            _ => {}
        }
    }
}
