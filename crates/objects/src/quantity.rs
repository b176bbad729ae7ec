use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// A number with an optional unit, as Kubernetes writes it: `4Gi`, `512M`, `1000`. Kept as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantity(String);

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not read as a number and a unit.
    #[error(
        "must be a number with an optional unit Ki, Mi, Gi, Ti, Pi (powers of 1024) or k, M, G, T, P (powers of 1000)"
    )]
    Form,
    /// It does not fit into 64 bits.
    #[error("is too large")]
    TooLarge,
}

const UNITS: &[(&str, u64)] = &[
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("", 1),
];

impl Quantity {
    /// That many bytes, written with the largest power of 1024 that divides them.
    pub fn from_bytes(bytes: u64) -> Self {
        let binary = UNITS.iter().take(5).rev().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
        Self(binary.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit)))
    }

    /// As a whole number of bytes (or whatever is counted).
    ///
    /// # Errors
    /// The text is no quantity, or does not fit.
    pub fn bytes(&self) -> Result<u64, QuantityError> {
        let digits = self.0.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(self.0.len());
        let (number, unit) = self.0.split_at(digits);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or(QuantityError::Form)?.1;
        if number.is_empty() {
            return Err(QuantityError::Form);
        }
        let number: u64 = number.parse().map_err(|_| QuantityError::TooLarge)?;
        number.checked_mul(factor).ok_or(QuantityError::TooLarge)
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// A string, or a whole number as people write it in YAML.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            serde_json::Value::Number(number) => Ok(Self(number.to_string())),
            _ => Err(D::Error::custom(QuantityError::Form)),
        }
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_kubernetes() {
        let bytes = |text: &str| Quantity::from(text).bytes();
        assert_eq!(bytes("4Gi"), Ok(4 << 30));
        assert_eq!(bytes("1M"), Ok(1_000_000));
        assert_eq!(bytes("0"), Ok(0));
        for wrong in ["", "Gi", "-1", "4 Gi", "4GiB", "1.5Gi", "x"] {
            assert_eq!(bytes(wrong), Err(QuantityError::Form), "{wrong}");
        }
        assert_eq!(bytes("99999999999999999999"), Err(QuantityError::TooLarge));
        assert_eq!(bytes("99999999999Gi"), Err(QuantityError::TooLarge));
    }

    #[test]
    fn bytes_are_written_as_people_write_them() {
        for (bytes, text) in [(0, "0"), (1, "1"), (1 << 30, "1Gi"), (3 << 19, "1536Ki"), (1000, "1000")] {
            let quantity = Quantity::from_bytes(bytes);
            assert_eq!(quantity.to_string(), text);
            assert_eq!(quantity.bytes(), Ok(bytes));
        }
    }
}
