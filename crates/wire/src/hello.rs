//! The handshake: what each side says of itself before a page moves.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use state::DeviceState;

use crate::{MAX_CHANNELS, OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION};

/// Names one migration attempt: chosen at random by the source, it ties channels and later questions to the attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// The source introduces itself and the machine that is to move. First message on the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Highest protocol version that the source speaks.
    pub version: u16,
    /// Lowest protocol version that the source speaks.
    pub oldest_version: u16,
    /// Release of the source, for messages only.
    pub release: String,
    /// The attempt.
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
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
pub struct DeviceInfo {
    /// Id within the machine.
    pub id: String,
    /// Kind of its state.
    pub kind: String,
    /// Version of its state.
    pub version: u32,
}

/// The destination takes the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// Protocol version for the rest of the migration.
    pub version: u16,
    /// Release of the destination, for messages only.
    pub release: String,
    /// How many page channels to open: at most what the source asked for.
    pub channels: u16,
}

/// The destination does not take the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// Every reason, each a sentence.
    pub reasons: Vec<String>,
}

/// Most blocks a machine may have; bounds what a [`Hello`] can make the destination hold.
pub const MAX_BLOCKS: usize = 256;

/// Most devices a machine may have.
pub const MAX_DEVICES: usize = 4096;

impl Hello {
    /// The version that both sides speak, highest first.
    ///
    /// # Errors
    /// The reason, when there is none.
    pub fn common_version(&self) -> Result<u16, String> {
        let version = self.version.min(PROTOCOL_VERSION);
        if version >= self.oldest_version && version >= OLDEST_PROTOCOL_VERSION {
            return Ok(version);
        }
        Err(format!(
            "The source (release {}) speaks migration protocol {} to {}, this destination {OLDEST_PROTOCOL_VERSION} to \
             {PROTOCOL_VERSION}: upgrade the older side",
            self.release, self.oldest_version, self.version
        ))
    }

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
            Some(our) if our.version != device.version => reasons.push(format!(
                "State of device '{}' ({}) has version {} on the source and {} here: use the same release",
                device.id, device.kind, device.version, our.version
            )),
            Some(_) => {}
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

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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

    fn device(id: &str, kind: &str, version: u32) -> DeviceInfo {
        DeviceInfo { id: id.into(), kind: kind.into(), version }
    }

    fn hello() -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            oldest_version: OLDEST_PROTOCOL_VERSION,
            release: "1.0".into(),
            session: SessionId([1; 16]),
            channels: 4,
            page_bytes: 4096,
            digest: Digest::Off,
            blocks: vec![BlockInfo { name: "ram.low".into(), guest_address: 0, bytes: 1 << 30 }],
            devices: vec![device("vcpu0", "vcpu", 1), device("disk0", "virtio-blk", 1)],
            machine: DeviceState { id: "machine".into(), kind: "machine".into(), version: 1, body: vec![] },
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
    fn a_newer_peer_that_still_speaks_our_version_is_met_there() {
        let hello = Hello { version: PROTOCOL_VERSION + 3, ..hello() };
        assert_eq!(hello.common_version(), Ok(PROTOCOL_VERSION));
    }

    #[test]
    fn a_peer_that_gave_up_our_version_is_refused() {
        let hello = Hello { version: PROTOCOL_VERSION + 3, oldest_version: PROTOCOL_VERSION + 1, ..hello() };
        assert!(hello.common_version().unwrap_err().contains("upgrade the older side"));
    }
}
