//! Quantities as people read them. Whatever a report says is printed, be it absurd: nothing here overflows or panics.

use std::fmt::{self, Display};

/// Bytes with a decimal unit, as networks and rates are thought of.
#[derive(Clone, Copy)]
pub(crate) struct Bytes(pub(crate) f64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(f64, &str); 4] = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
        let text = match UNITS.iter().find(|(size, _)| self.0 >= *size) {
            Some((size, unit)) if self.0 < 10.0 * size => format!("{:.2} {unit}", self.0 / size),
            Some((size, unit)) if self.0 < 1e6 * size => format!("{:.1} {unit}", self.0 / size),
            Some((size, unit)) => format!("{:.1e} {unit}", self.0 / size),
            None => format!("{:.0} B", self.0),
        };
        f.pad(&text)
    }
}

/// Bytes per second.
#[derive(Clone, Copy)]
pub(crate) struct Rate(pub(crate) f64);

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", Bytes(self.0)))
    }
}

/// A time given in milliseconds: milliseconds or seconds, whichever reads better.
#[derive(Clone, Copy)]
pub(crate) struct Millis(pub(crate) f64);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            ms if ms.abs() >= 1e12 => format!("{:.1e} s", ms / 1e3),
            ms if ms >= 1e3 => format!("{:.2} s", ms / 1e3),
            ms if ms >= 100.0 => format!("{ms:.0} ms"),
            ms if ms >= 10.0 => format!("{ms:.1} ms"),
            ms => format!("{ms:.2} ms"),
        };
        f.pad(&text)
    }
}

/// A number with its thousands apart.
#[derive(Clone, Copy)]
pub(crate) struct Count(pub(crate) u64);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(' ');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!(Bytes(999.0).to_string(), "999 B");
        assert_eq!(Bytes(1_073_741_824.0).to_string(), "1.07 GB");
        assert_eq!(Rate(67_200_000.0).to_string(), "67.2 MB/s");
        assert_eq!(Millis(0.25).to_string(), "0.25 ms");
        assert_eq!(Millis(20.34).to_string(), "20.3 ms");
        assert_eq!(Millis(2090.0).to_string(), "2.09 s");
        assert_eq!(Count(1_234_567).to_string(), "1 234 567");
    }

    #[test]
    fn absurd_quantities_stay_short() {
        for number in [0.0, -1.0, 1e300, f64::MAX, f64::MIN, f64::MIN_POSITIVE] {
            for text in [Bytes(number).to_string(), Millis(number).to_string()] {
                assert!(text.len() < 330, "{text}");
            }
        }
        assert!(Bytes(f64::MAX).to_string().len() < 16);
    }
}
