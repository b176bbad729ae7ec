use ciborium::Value;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::print;

/// Largest encoded body, in bytes, that is produced or accepted.
///
/// The largest real state is a vCPU with AMX enabled: about 12 KiB of XSAVE area and 5 KiB of MSRs. One mebibyte leaves
/// room for devices with tables and still bounds what a hostile peer can make us hold.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// The saved state of one device type.
pub trait Schema: Serialize + DeserializeOwned {
    /// What the state describes, for example `virtio-blk`. Never changes once released.
    const KIND: &'static str;
    /// Goes up by one with every change of the fields.
    const VERSION: u32;
    /// Oldest version that is still read, by [`Self::older`].
    const OLDEST: u32 = Self::VERSION;

    /// Makes the state from the body of an older version, from [`Self::OLDEST`] up to the one before [`Self::VERSION`].
    ///
    /// # Errors
    /// The body does not follow the schema of that version. What is refused here is refused by name. A state that reads no version
    /// but its own is never asked, and says [`not_read`].
    fn older(version: u32, body: Value) -> Result<Self, String>;
}

/// What [`Schema::older`] of a state says that reads no older version.
///
/// # Errors
/// Always.
pub fn not_read<S>(version: u32) -> Result<S, String> {
    Err(format!("version {version} is not read"))
}

/// The saved state of one device, as it is stored and sent.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceState {
    /// Which device of the machine, for example `disk0` or `vcpu3`. Unique within a machine.
    pub id: String,
    /// [`Schema::KIND`] of the body.
    pub kind: String,
    /// [`Schema::VERSION`] of the body.
    pub version: u32,
    /// The state itself, CBOR.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

/// Why a device state could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The envelope holds something else than the device expects.
    #[error(
        "State of device '{id}' is a '{found}', but this device needs a '{expected}': start both sides with the same devices"
    )]
    Kind {
        /// Device id.
        id: String,
        /// Kind in the envelope.
        found: String,
        /// Kind the device reads.
        expected: &'static str,
    },
    /// The envelope holds a version this build cannot read.
    #[error(
        "State '{kind}' of device '{id}' has version {found}, this build reads {oldest} to {newest}: upgrade the older side"
    )]
    Version {
        /// Device id.
        id: String,
        /// Kind of the state.
        kind: &'static str,
        /// Version in the envelope.
        found: u32,
        /// Oldest version the device reads.
        oldest: u32,
        /// Newest version the device reads.
        newest: u32,
    },
    /// The body does not follow the schema.
    #[error("State '{kind}' of device '{id}' is malformed: {detail}")]
    Malformed {
        /// Device id.
        id: String,
        /// Kind of the state.
        kind: String,
        /// What was wrong.
        detail: String,
    },
    /// The body is larger than [`MAX_BODY_BYTES`].
    #[error("State '{kind}' of device '{id}' is {bytes} bytes long, over the limit of {MAX_BODY_BYTES}")]
    TooLarge {
        /// Device id.
        id: String,
        /// Kind of the state.
        kind: String,
        /// Length of the body.
        bytes: usize,
    },
    /// The values follow the schema but cannot be true, for example a queue size that is not a power of two.
    #[error("State '{kind}' of device '{id}' is not valid: {detail}")]
    Invalid {
        /// Device id.
        id: String,
        /// Kind of the state.
        kind: &'static str,
        /// What cannot be true.
        detail: String,
    },
}

impl DeviceState {
    /// Encodes `state` as the state of device `id`.
    ///
    /// # Errors
    /// [`StateError::TooLarge`] past [`MAX_BODY_BYTES`].
    pub fn encode<S: Schema>(id: impl Into<String>, state: &S) -> Result<Self, StateError> {
        let id = id.into();
        let mut body = Vec::with_capacity(4096);
        ciborium::into_writer(state, &mut body).map_err(|error| StateError::Malformed {
            id: id.clone(),
            kind: S::KIND.into(),
            detail: error.to_string(),
        })?;
        if body.len() > MAX_BODY_BYTES {
            return Err(StateError::TooLarge { id, kind: S::KIND.into(), bytes: body.len() });
        }
        Ok(Self { id, kind: S::KIND.into(), version: S::VERSION, body })
    }

    /// Decodes the body as an `S`, which it may be in an older version that `S` still reads.
    ///
    /// # Errors
    /// Another kind, a version that is not read, or a body that does not follow the schema to the last byte.
    pub fn decode<S: Schema>(&self) -> Result<S, StateError> {
        if self.kind != S::KIND {
            return Err(StateError::Kind {
                id: self.id.clone(),
                found: self.kind.clone(),
                expected: S::KIND,
            });
        }
        if !(S::OLDEST..=S::VERSION).contains(&self.version) {
            return Err(StateError::Version {
                id: self.id.clone(),
                kind: S::KIND,
                found: self.version,
                oldest: S::OLDEST,
                newest: S::VERSION,
            });
        }
        if self.body.len() > MAX_BODY_BYTES {
            return Err(StateError::TooLarge {
                id: self.id.clone(),
                kind: self.kind.clone(),
                bytes: self.body.len(),
            });
        }
        if self.version == S::VERSION {
            return self.body();
        }
        S::older(self.version, self.body()?).map_err(|detail| self.malformed(&detail))
    }

    fn body<T: DeserializeOwned>(&self) -> Result<T, StateError> {
        let mut rest = self.body.as_slice();
        let body = ciborium::from_reader(&mut rest).map_err(|error| self.malformed(&error.to_string()))?;
        if rest.is_empty() {
            Ok(body)
        } else {
            Err(self.malformed(&format!("{} bytes are left over", rest.len())))
        }
    }

    /// The state as text, without knowing its schema.
    #[must_use]
    pub fn print(&self) -> String {
        let body = ciborium::from_reader::<Value, _>(self.body.as_slice()).map_or_else(
            |error| format!("<{} bytes, not CBOR: {error}>", self.body.len()),
            |value| print::value(&value),
        );
        format!("{} ({} v{}) {body}", self.id, self.kind, self.version)
    }

    fn malformed(&self, detail: &str) -> StateError {
        StateError::Malformed { id: self.id.clone(), kind: self.kind.clone(), detail: detail.into() }
    }
}

impl std::fmt::Debug for DeviceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceState({} {} v{}, {} bytes)", self.id, self.kind, self.version, self.body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct TimerV1 {
        ticks: u64,
        armed: bool,
    }
    impl Schema for TimerV1 {
        const KIND: &'static str = "timer";
        const VERSION: u32 = 1;

        fn older(version: u32, _: Value) -> Result<Self, String> {
            not_read(version)
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct TimerWithLess {
        ticks: u64,
    }
    impl Schema for TimerWithLess {
        const KIND: &'static str = "timer";
        const VERSION: u32 = 1;

        fn older(version: u32, _: Value) -> Result<Self, String> {
            not_read(version)
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct TimerV2 {
        ticks: u64,
    }
    impl Schema for TimerV2 {
        const KIND: &'static str = "timer";
        const VERSION: u32 = 2;

        fn older(version: u32, _: Value) -> Result<Self, String> {
            not_read(version)
        }
    }

    fn saved() -> DeviceState {
        DeviceState::encode("timer0", &TimerV1 { ticks: 7, armed: true }).unwrap()
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        assert_eq!(saved().decode::<TimerV1>().unwrap(), TimerV1 { ticks: 7, armed: true });
    }

    #[test]
    fn a_left_over_field_is_an_error() {
        assert!(matches!(saved().decode::<TimerWithLess>(), Err(StateError::Malformed { .. })));
    }

    #[test]
    fn a_missing_field_is_an_error() {
        let less = DeviceState::encode("timer0", &TimerWithLess { ticks: 7 }).unwrap();
        assert!(matches!(less.decode::<TimerV1>(), Err(StateError::Malformed { .. })));
    }

    #[test]
    fn a_version_that_is_not_read_is_refused_by_name() {
        let error = saved().decode::<TimerV2>().unwrap_err();
        assert!(matches!(error, StateError::Version { found: 1, oldest: 2, newest: 2, .. }), "{error}");
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct TimerV3 {
        nanoseconds: u64,
    }
    impl Schema for TimerV3 {
        const KIND: &'static str = "timer";
        const VERSION: u32 = 3;
        const OLDEST: u32 = 2;

        fn older(_: u32, body: Value) -> Result<Self, String> {
            let TimerV2 { ticks } = body.deserialized().map_err(|error| error.to_string())?;
            Ok(Self { nanoseconds: ticks * 10 })
        }
    }

    #[test]
    fn a_state_of_the_release_before_is_read_and_an_older_one_refused_by_name() {
        let before = DeviceState::encode("timer0", &TimerV2 { ticks: 7 }).unwrap();
        assert_eq!(before.decode::<TimerV3>().unwrap(), TimerV3 { nanoseconds: 70 });
        let damaged = DeviceState { body: vec![0xa0], ..before };
        assert!(matches!(damaged.decode::<TimerV3>(), Err(StateError::Malformed { .. })));
        let error = saved().decode::<TimerV3>().unwrap_err();
        assert!(matches!(error, StateError::Version { found: 1, oldest: 2, newest: 3, .. }), "{error}");
    }

    #[test]
    fn bytes_after_the_body_are_an_error() {
        let mut state = saved();
        state.body.push(0);
        assert!(matches!(state.decode::<TimerV1>(), Err(StateError::Malformed { .. })));
    }

    #[test]
    fn a_state_prints_with_its_field_names() {
        assert_eq!(saved().print(), "timer0 (timer v1) {ticks: 7, armed: true}");
    }
}
