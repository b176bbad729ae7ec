//! Quantities as people read and type them.

use std::{
    fmt::{self, Display},
    str::FromStr,
    time::Duration,
};

/// Bytes with a decimal unit, as networks and rates are thought of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
        let text = match UNITS.iter().find(|(size, _)| self.0 >= *size) {
            // Two decimals where one would hide half of it.
            Some((size, unit)) if self.0 < 10 * size => {
                format!("{:.2} {unit}", self.0 as f64 / *size as f64)
            }
            Some((size, unit)) => format!("{:.1} {unit}", self.0 as f64 / *size as f64),
            None => format!("{} B", self.0),
        };
        f.pad(&text)
    }
}

/// Memory with a binary unit, as it is bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) u64);

impl Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, unit) = if self.0 >= 1 << 30 { (1u64 << 30, "GiB") } else { (1 << 20, "MiB") };
        if self.0.is_multiple_of(size) {
            write!(f, "{} {unit}", self.0 / size)
        } else {
            write!(f, "{:.1} {unit}", self.0 as f64 / size as f64)
        }
    }
}

/// A time: microseconds, milliseconds or seconds, whichever reads best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let text = if seconds >= 1.0 {
            format!("{seconds:.1} s")
        } else if seconds >= 0.1 {
            format!("{:.0} ms", seconds * 1e3)
        } else {
            format!("{:.1} ms", seconds * 1e3)
        };
        f.pad(&text)
    }
}

/// A number with its thousands apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() * 4 / 3);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(' ');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// Bytes each second, typed with K, M or G (powers of 1000).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteRate(pub(crate) u64);

/// A text that is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{typed}' is no rate: write bytes per second with K, M or G (powers of 1000), such as 100M")]
pub(crate) struct RateError {
    typed: String,
}

impl FromStr for ByteRate {
    type Err = RateError;

    fn from_str(typed: &str) -> Result<Self, RateError> {
        let (digits, unit) = match typed.as_bytes().last() {
            Some(b'K' | b'k') => (&typed[..typed.len() - 1], 1000),
            Some(b'M' | b'm') => (&typed[..typed.len() - 1], 1_000_000),
            Some(b'G' | b'g') => (&typed[..typed.len() - 1], 1_000_000_000),
            _ => (typed, 1),
        };
        // A sign would parse, and mean nothing here.
        let number: Option<u64> = if digits.starts_with('+') { None } else { digits.parse().ok() };
        number
            .and_then(|number| number.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| RateError { typed: typed.to_owned() })
    }
}

impl Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", Bytes(self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!(Bytes(999).to_string(), "999 B");
        assert_eq!(Bytes(1_073_741_824).to_string(), "1.07 GB");
        assert_eq!(Bytes(67_200_000).to_string(), "67.2 MB");
        assert_eq!(Memory(1 << 30).to_string(), "1 GiB");
        assert_eq!(Memory(1536 << 20).to_string(), "1.5 GiB");
        assert_eq!(Memory(128 << 20).to_string(), "128 MiB");
        assert_eq!(Span(Duration::from_micros(12_345)).to_string(), "12.3 ms");
        assert_eq!(Span(Duration::from_millis(2090)).to_string(), "2.1 s");
        assert_eq!(Count(1_234_567).to_string(), "1 234 567");
        assert_eq!(Count(12).to_string(), "12");
        assert_eq!(ByteRate(100_000_000).to_string(), "100.0 MB/s");
    }

    #[test]
    fn rates_are_typed_in_powers_of_1000() {
        assert_eq!("100M".parse(), Ok(ByteRate(100_000_000)));
        assert_eq!("0".parse(), Ok(ByteRate(0)));
        assert_eq!("2g".parse(), Ok(ByteRate(2_000_000_000)));
        for wrong in ["", "M", "-1M", "+1M", "1T", "1MB", "1.5M", "99999999999G", "é"] {
            assert!(wrong.parse::<ByteRate>().is_err(), "{wrong}");
        }
    }
}
