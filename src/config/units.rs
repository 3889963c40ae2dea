//! Quantities with units, as people write them: `"5s"`, `"4GiB"`.

use std::{fmt, str::FromStr, time::Duration};

use super::problem::Complaint;

/// A span of time in whole milliseconds: `"250ms"`, `"5s"`, `"10m"`, `"1h"`, `"400d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval {
    millis: u64,
}

/// A number of bytes: `"512MiB"`, `"4GiB"`, `"64kB"`, `"100B"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is no such quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError(pub(super) Complaint);

/// Units and what each is worth, largest first.
type Units = &'static [(&'static str, u64)];

const TIMES: Units = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const BINARY: Units = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: Units = &[("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
const BYTES: Units = &[("B", 1)];

impl Interval {
    /// The same as the standard library's type.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

impl FromStr for Interval {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, "a duration", &[TIMES], "a whole number and a unit: ms, s, m, h or d, as in \"250ms\" or \"10m\"")
            .map(|millis| Self { millis })
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let hint = "a whole number and a unit: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, as in \"512MiB\"";
        parse(text, "a size", &[BINARY, DECIMAL, BYTES], hint).map(Self)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.millis, &[TIMES])
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &[BINARY, DECIMAL, BYTES])
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        self.0.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for UnitError {}

impl From<UnitError> for Complaint {
    fn from(error: UnitError) -> Self {
        error.0
    }
}

fn parse(text: &str, what: &str, units: &[Units], hint: &str) -> Result<u64, UnitError> {
    let no = |message: String, hint: String| Err(UnitError(Complaint::new(message).hint(hint)));
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let known = || units.iter().copied().flatten();
    if number.is_empty() {
        return no(format!("`{text}` is not {what}"), hint.to_owned());
    }
    if unit.is_empty() {
        return no(format!("`{text}` has no unit"), hint.to_owned());
    }
    let Some((_, worth)) = known().find(|(name, _)| *name == unit) else {
        let hint = match known().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim())) {
            Some((name, _)) => format!("did you mean \"{number}{name}\"?"),
            None => hint.to_owned(),
        };
        return no(format!("`{text}` is not {what}: unknown unit `{unit}`"), hint);
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(*worth)) {
        Some(value) => Ok(value),
        None => no(format!("`{text}` is too large"), hint.to_owned()),
    }
}

/// Writes `value` in the largest unit that divides it; the families of units are tried in order.
fn write(f: &mut fmt::Formatter<'_>, value: u64, units: &[Units]) -> fmt::Result {
    let smallest = units.iter().copied().flatten().find(|(_, worth)| *worth == 1);
    let unit =
        units.iter().copied().flatten().find(|(_, worth)| value > 0 && value.is_multiple_of(*worth)).or(smallest);
    match unit {
        Some((name, worth)) => write!(f, "{}{name}", value / worth),
        None => write!(f, "{value}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in
            [("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("1h", 3_600_000), ("400d", 34_560_000_000), ("0s", 0)]
        {
            assert_eq!(text.parse::<Interval>().unwrap().duration(), Duration::from_millis(millis), "{text}");
        }
        for (text, bytes) in [
            ("512MiB", 512 << 20),
            ("4GiB", 4 << 30),
            ("64kB", 64_000),
            ("7B", 7),
            ("1KiB", 1024),
            ("2TB", 2e12 as u64),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message, hint) in [
            ("5", "`5` has no unit", "a whole number"),
            ("", "`` is not a duration", "a whole number"),
            ("soon", "`soon` is not a duration", "a whole number"),
            ("1.5s", "`1.5s` is not a duration: unknown unit `.5s`", "a whole number"),
            ("-5s", "`-5s` is not a duration", "a whole number"),
            ("5 s", "`5 s` is not a duration: unknown unit ` s`", "did you mean \"5s\"?"),
            ("5S", "`5S` is not a duration: unknown unit `S`", "did you mean \"5s\"?"),
            ("99999999999999999999d", "`99999999999999999999d` is too large", "a whole number"),
        ] {
            let UnitError(complaint) = text.parse::<Interval>().unwrap_err();
            assert_eq!(complaint.message, message);
            assert!(complaint.hint.as_ref().unwrap().starts_with(hint), "{text}: {complaint:?}");
        }
        assert!("10".parse::<Interval>().unwrap_err().to_string().starts_with("`10` has no unit (a whole number and"));
        let UnitError(complaint) = "4gib".parse::<ByteSize>().unwrap_err();
        assert_eq!(complaint.hint.as_deref(), Some("did you mean \"4GiB\"?"));
    }

    proptest! {
        #[test]
        fn intervals_round_trip(number in 0u64..100_000, unit in 0..TIMES.len()) {
            let interval: Interval = format!("{number}{}", TIMES[unit].0).parse().unwrap();
            prop_assert_eq!(interval.duration().as_millis(), u128::from(number) * u128::from(TIMES[unit].1));
            prop_assert_eq!(interval.to_string().parse::<Interval>().unwrap(), interval);
        }

        #[test]
        fn sizes_round_trip(bytes in prop_oneof![any::<u64>(), (0u64..1 << 20).prop_map(|n| n << 20), 0u64..5_000_000]) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse::<ByteSize>().unwrap(), ByteSize(bytes));
        }
    }
}
