//! Times as people type them.

use std::str::FromStr;

/// A time of whole seconds, typed with s, m, h or d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) u32);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let wrong = || format!("'{typed}' is no time: write 1s to 30d, with s, m, h or d");
        let (digits, unit) = typed.split_at_checked(typed.len().saturating_sub(1)).ok_or_else(wrong)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            _ => return Err(wrong()),
        };
        let number =
            digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let total = number.and_then(|number| number.checked_mul(seconds));
        total.filter(|total| (1..=30 * 24 * 3600).contains(total)).map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_typed_with_a_unit() {
        assert_eq!("10m".parse(), Ok(Seconds(600)));
        assert_eq!("90s".parse(), Ok(Seconds(90)));
        assert_eq!("30d".parse(), Ok(Seconds(2_592_000)));
        for wrong in ["", "s", "10", "0s", "+1s", "-1s", "1.5h", "31d", "99999999999s", "1é"] {
            assert!(wrong.parse::<Seconds>().is_err(), "{wrong}");
        }
    }
}
