//! Timestamps and days as messages write them. Results are microseconds since 1970 in UTC, within the years
//! 0001 to 9999 that every reader of Delta can show; digits beyond microseconds are cut.

use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone};
use chrono_tz::Tz;

use super::{
    pattern::Pattern,
    scan::{Cursor, Kind, Slot},
};
use crate::schema::TimeFormat;

const SECOND_US: i64 = 1_000_000;
pub(super) const DAY_US: i64 = 86_400 * SECOND_US;
/// 0001-01-01 and the end of 9999, in microseconds since 1970.
const YEARS_US: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// How `event_time` is read, prepared once.
#[derive(Debug)]
pub(super) enum Clock {
    Rfc3339,
    /// Microseconds per unit of a number since 1970.
    Unix(i64),
    Pattern(Pattern),
    /// A pattern that cannot be read: no text fits it.
    Broken,
}

/// Why a declared time format cannot be used, if so.
pub fn check_time_format(format: &TimeFormat) -> Result<(), String> {
    match format {
        TimeFormat::Pattern(pattern) => Pattern::new(pattern).map(|_| ()),
        _ => Ok(()),
    }
}

impl Clock {
    pub fn new(format: &TimeFormat) -> Self {
        match format {
            TimeFormat::Rfc3339 => Clock::Rfc3339,
            TimeFormat::UnixSeconds => Clock::Unix(SECOND_US),
            TimeFormat::UnixMillis => Clock::Unix(1_000),
            TimeFormat::UnixMicros => Clock::Unix(1),
            TimeFormat::Pattern(pattern) => Pattern::new(pattern).map_or(Clock::Broken, Clock::Pattern),
        }
    }

    /// The time that a text means; numbers may stand in quotes.
    pub fn read(&self, text: &str, zone: Tz) -> Option<i64> {
        match self {
            Clock::Rfc3339 => timestamp(text, zone),
            Clock::Unix(_) => {
                let mut cursor = Cursor::new(text);
                let slot = cursor.scalar().ok().filter(|_| cursor.at_end())?;
                self.read_number(slot, text)
            }
            Clock::Pattern(pattern) => pattern.read(text, zone),
            Clock::Broken => None,
        }
    }

    /// The time that a JSON number means.
    pub fn read_number(&self, slot: Slot, text: &str) -> Option<i64> {
        let Clock::Unix(unit_us) = self else { return None };
        let raw = slot.raw(text);
        let us = match slot.kind {
            Kind::Integer => raw.parse::<i64>().ok()?.checked_mul(*unit_us)?,
            // Today's seconds × 10⁶ are below 2⁵³: the nearest microsecond is exact.
            Kind::Real => (raw.parse::<f64>().ok()? * *unit_us as f64).round() as i64,
            _ => return None,
        };
        YEARS_US.contains(&us).then_some(us)
    }
}

/// RFC 3339, and ISO 8601's freedoms in it: a space for the `T`, no seconds, `+0900`, no zone (then `zone`'s).
pub(super) fn timestamp(text: &str, zone: Tz) -> Option<i64> {
    let bytes = text.as_bytes();
    let day = date(text.get(..10)?)?;
    if !matches!(bytes.get(10)?, b'T' | b't' | b' ') || *bytes.get(13)? != b':' {
        return None;
    }
    let (hour, minute) = (two(bytes, 11)?, two(bytes, 14)?);
    let (mut second, mut fraction_us, mut at) = (0, 0, 16);
    if bytes.get(at) == Some(&b':') {
        second = two(bytes, at + 1)?;
        at += 3;
        if let Some(b'.' | b',') = bytes.get(at) {
            let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            fraction_us = fraction(bytes.get(at + 1..at + 1 + digits)?)?;
            at += 1 + digits;
        }
    }
    let zone = match &text[at..] {
        "" => Zone::Named(zone),
        rest => Zone::Offset(offset(rest)?),
    };
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second);
    zone.to_utc(i64::from(day) * DAY_US + seconds * SECOND_US + fraction_us)
}

/// `YYYY-MM-DD` as days since 1970.
pub(super) fn date(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let year = i32::from(two(bytes, 0)?) * 100 + i32::from(two(bytes, 2)?);
    civil(year, two(bytes, 5)?.into(), two(bytes, 8)?.into())
}

/// Days since 1970 of a date in the years 1 to 9999.
pub(super) fn civil(year: i32, month: u32, day: u32) -> Option<i32> {
    let days = NaiveDate::from_ymd_opt(year, month, day)?.num_days_from_ce() - 719_163;
    (1..=9999).contains(&year).then_some(days)
}

fn two(bytes: &[u8], at: usize) -> Option<u8> {
    match bytes.get(at..at + 2)? {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some((a - b'0') * 10 + (b - b'0')),
        _ => None,
    }
}

/// Digits of a second's fraction as microseconds.
pub(super) fn fraction(digits: &[u8]) -> Option<i64> {
    let padded = digits.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    (!digits.is_empty()).then(|| padded.fold(0, |us, digit| us * 10 + i64::from(digit - b'0')))
}

/// `Z`, `+09:00`, `+0900`, `+09` in seconds east of UTC.
pub(super) fn offset(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    let sign = match bytes.first()? {
        b'Z' | b'z' if bytes.len() == 1 => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = match bytes.len() {
        3 => (two(bytes, 1)?, 0),
        5 => (two(bytes, 1)?, two(bytes, 3)?),
        6 if bytes[3] == b':' => (two(bytes, 1)?, two(bytes, 4)?),
        _ => return None,
    };
    (hours <= 18 && minutes <= 59).then(|| sign * (i32::from(hours) * 3_600 + i32::from(minutes) * 60))
}

/// What a local time is relative to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zone {
    /// Seconds east of UTC.
    Offset(i32),
    Named(Tz),
}

impl Zone {
    /// The instant of a local time, both in microseconds. A time that occurs twice is the earlier one; a time
    /// that the clocks skipped is read with the offset before the change, as Java does.
    pub fn to_utc(self, local_us: i64) -> Option<i64> {
        let offset = match self {
            Zone::Offset(seconds) => seconds,
            Zone::Named(Tz::UTC) => 0,
            Zone::Named(zone) => {
                let local = naive(local_us)?;
                match zone.offset_from_local_datetime(&local) {
                    MappedLocalTime::Single(offset) | MappedLocalTime::Ambiguous(offset, _) => offset,
                    MappedLocalTime::None => {
                        zone.offset_from_local_datetime(&local.checked_sub_signed(TimeDelta::hours(3))?).earliest()?
                    }
                }
                .fix()
                .local_minus_utc()
            }
        };
        Some(local_us - i64::from(offset) * SECOND_US).filter(|us| YEARS_US.contains(us))
    }
}

fn naive(us: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_micros(us).map(|time| time.naive_utc())
}

/// `_day` as days since 1970: the date of `event_us` in `zone` if it lies within −30 … +1 days of the broker's
/// timestamp, else the broker's: a wrong device clock opens no partition in 1970.
pub(super) fn day(event_us: i64, broker_us: i64, zone: Tz) -> i32 {
    let ahead_us = event_us.saturating_sub(broker_us);
    let us = if (-30 * DAY_US..=DAY_US).contains(&ahead_us) { event_us } else { broker_us };
    let offset = match zone {
        Tz::UTC => 0,
        zone => naive(us).map_or(0, |time| zone.offset_from_utc_datetime(&time).fix().local_minus_utc()),
    };
    us.saturating_add(i64::from(offset) * SECOND_US).div_euclid(DAY_US) as i32
}

/// RFC 3339 text of an instant, for a string column fed by `$timestamp`.
pub(super) fn write_timestamp(us: i64) -> Option<String> {
    let time = DateTime::from_timestamp_micros(us)?;
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    #[test]
    fn timestamps_as_written() {
        let seoul = chrono_tz::Asia::Seoul;
        for (text, expected) in [
            ("2024-03-01T12:34:56Z", Some("2024-03-01T12:34:56Z")),
            ("2024-03-01t12:34:56.123456789z", Some("2024-03-01T12:34:56.123456Z")),
            ("2024-03-01 12:34:56,5+0900", Some("2024-03-01T03:34:56.5Z")),
            ("2024-03-01T12:34-03:30", Some("2024-03-01T16:04:00Z")),
            ("2024-03-01T12:34:56", Some("2024-03-01T03:34:56Z")),
            ("2024-03-01T23:59:60Z", Some("2024-03-02T00:00:00Z")),
            ("2024-02-30T00:00:00Z", None),
            ("2024-03-01T24:00:00Z", None),
            ("2024-03-01T12:34:56.Z", None),
            ("2024-03-01T12:34:56+99:00", None),
            ("2024-03-01T12:34:56Zx", None),
            ("2024-03-01", None),
            ("2024-3-1T12:00:00Z", None),
            ("0000-03-01T12:00:00Z", None),
            ("2024-03-01T12:3é:00Z", None),
            ("", None),
        ] {
            assert_eq!(timestamp(text, seoul), expected.map(us), "{text}");
        }
    }

    #[test]
    fn local_times_that_occur_twice_or_never() {
        let new_york = chrono_tz::America::New_York;
        assert_eq!(timestamp("2024-03-10T02:30:00", new_york), Some(us("2024-03-10T07:30:00Z")));
        assert_eq!(timestamp("2024-11-03T01:30:00", new_york), Some(us("2024-11-03T05:30:00Z")));
    }

    #[test]
    fn numbers_since_1970() {
        for (format, text, expected) in [
            (TimeFormat::UnixSeconds, "1709296496", Some(1_709_296_496_000_000)),
            (TimeFormat::UnixSeconds, "1709296496.123456", Some(1_709_296_496_123_456)),
            (TimeFormat::UnixMillis, "1709296496123", Some(1_709_296_496_123_000)),
            (TimeFormat::UnixMillis, "1.709296496123e12", Some(1_709_296_496_123_000)),
            (TimeFormat::UnixMicros, "-1", Some(-1)),
            (TimeFormat::UnixSeconds, "9223372036854775807", None),
            (TimeFormat::UnixMillis, "1e300", None),
            (TimeFormat::UnixMillis, "true", None),
            (TimeFormat::UnixMillis, "12 ", None),
        ] {
            assert_eq!(Clock::new(&format).read(text, Tz::UTC), expected, "{text}");
        }
    }

    #[test]
    fn a_day_follows_the_device_unless_its_clock_is_wrong() {
        let seoul = chrono_tz::Asia::Seoul;
        let broker = us("2024-03-31T16:00:00Z");
        let days = |text: &str| date(text).unwrap();
        for (event, zone, expected) in [
            ("2024-03-31T14:59:59Z", seoul, "2024-03-31"),
            ("2024-03-31T15:00:00Z", seoul, "2024-04-01"),
            ("2024-03-31T15:00:00Z", Tz::UTC, "2024-03-31"),
            ("2024-03-01T16:00:00Z", seoul, "2024-03-02"),
            ("2024-03-01T15:59:59Z", seoul, "2024-04-01"),
            ("2024-04-01T16:00:00Z", seoul, "2024-04-02"),
            ("2024-04-01T16:00:01Z", seoul, "2024-04-01"),
            ("1970-01-01T00:00:00Z", seoul, "2024-04-01"),
        ] {
            assert_eq!(day(us(event), broker, zone), days(expected), "{event}");
        }
    }

    proptest! {
        #[test]
        fn any_instant_reads_back(us in YEARS_US) {
            prop_assert_eq!(timestamp(&write_timestamp(us).unwrap(), Tz::UTC), Some(us));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,30}", a in any::<i64>(), b in any::<i64>()) {
            let _ = timestamp(&text, chrono_tz::Asia::Seoul);
            let _ = day(a, b, chrono_tz::Asia::Seoul);
        }
    }
}
