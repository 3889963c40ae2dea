//! Values as JSON text. What a date or a time cannot show (the year 12000) is written as the number it came as:
//! it will not fit its column, and is rescued.

use std::fmt::{Debug, Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, Datelike as _, NaiveDate, SecondsFormat};

use crate::schema::push_json_string;

/// Bytes of a decimal at most: writing its digits takes the square of them.
pub(in crate::decode) const MAX_DECIMAL_BYTES: usize = 416;

/// The years that RFC 3339 can write and every reader of Delta can show.
const YEARS: std::ops::RangeInclusive<i32> = 1..=9999;
const DAY_US: i64 = 86_400_000_000;

pub(in crate::decode) fn push_string(out: &mut String, value: &str) {
    if value.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
        push_json_string(out, value);
    } else {
        out.push('"');
        out.push_str(value);
        out.push('"');
    }
}

pub(super) fn push_integer(out: &mut String, value: impl itoa::Integer) {
    out.push_str(itoa::Buffer::new().format(value));
}

/// A float or a double with the fewest digits that read back; `double` is the same value.
pub(super) fn push_real(out: &mut String, value: impl Debug, double: f64) {
    // Debug writes a fraction or an exponent always, so that 1.0 stays a real.
    if double.is_finite() {
        write(out, format_args!("{value:?}"));
    } else if double.is_nan() {
        out.push_str("\"NaN\"");
    } else {
        out.push_str(if double > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    }
}

pub(super) fn push_base64(out: &mut String, bytes: &[u8]) {
    out.push('"');
    BASE64_STANDARD.encode_string(bytes, out);
    out.push('"');
}

pub(in crate::decode) fn push_date(out: &mut String, days: i32) {
    let date = days.checked_add(719_163).and_then(NaiveDate::from_num_days_from_ce_opt);
    match date.filter(|date| YEARS.contains(&date.year())) {
        Some(date) => write(out, format_args!("\"{date}\"")),
        None => push_integer(out, days),
    }
}

/// A time of day in units of `unit_ns`.
pub(in crate::decode) fn push_time(out: &mut String, value: i64, unit_ns: i64) {
    let us = if unit_ns < 1_000 { Some(value.div_euclid(1_000 / unit_ns)) } else { value.checked_mul(unit_ns / 1_000) };
    match us.filter(|us| (0..DAY_US).contains(us)) {
        Some(us) => {
            let (seconds, us) = (us / 1_000_000, us % 1_000_000);
            write(out, format_args!("\"{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60));
            push_fraction(out, us, 6);
            out.push('"');
        }
        None => push_integer(out, value),
    }
}

/// An instant in units of `unit_ns` since 1970. A local one is written without a zone, so it takes the project's.
pub(in crate::decode) fn push_timestamp(out: &mut String, value: i64, unit_ns: i64, local: bool) {
    let us = if unit_ns < 1_000 { Some(value.div_euclid(1_000 / unit_ns)) } else { value.checked_mul(unit_ns / 1_000) };
    let time = us.and_then(DateTime::from_timestamp_micros).filter(|time| YEARS.contains(&time.year()));
    match time {
        Some(time) => {
            let text = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            let text = if local { text.trim_end_matches('Z') } else { &text };
            write(out, format_args!("\"{text}\""));
        }
        None => push_integer(out, value),
    }
}

/// A decimal from its unscaled value: big-endian, two's complement.
pub(in crate::decode) fn push_decimal(out: &mut String, unscaled: &[u8], scale: usize) {
    let negative = unscaled.first().is_some_and(|byte| *byte >= 0x80);
    let mut rest = unscaled.to_vec();
    if negative {
        let mut carry = true;
        for byte in rest.iter_mut().rev() {
            let (value, overflow) = (!*byte).overflowing_add(carry.into());
            (*byte, carry) = (value, overflow);
        }
    }
    // Least significant digit first.
    let mut digits = Vec::new();
    while rest.iter().any(|byte| *byte != 0) || digits.len() <= scale {
        let mut remainder = 0;
        for byte in &mut rest {
            let value = remainder << 8 | u32::from(*byte);
            *byte = (value / 10) as u8;
            remainder = value % 10;
        }
        digits.push(b'0' + remainder as u8);
    }
    out.push_str(if negative { "\"-" } else { "\"" });
    for (at, digit) in digits.iter().enumerate().rev() {
        out.push((*digit).into());
        if at == scale && scale > 0 {
            out.push('.');
        }
    }
    out.push('"');
}

/// The lowest `length` bits, the highest first, as digits.
pub(in crate::decode) fn push_bits(out: &mut String, bytes: &[u8], length: usize) {
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    out.push('"');
    (0..length.min(8 * bytes.len())).rev().for_each(|at| out.push(if bit(at) { '1' } else { '0' }));
    out.push('"');
}

/// ISO 8601 for months, days and milliseconds, which do not convert into each other.
pub(super) fn push_duration(out: &mut String, bytes: [u8; 12]) {
    let part = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    write(out, format_args!("\"P{}M{}DT{}", part(0), part(4), part(8) / 1_000));
    push_fraction(out, i64::from(part(8) % 1_000), 3);
    out.push_str("S\"");
}

/// `.25` for 250 of thousandths (three `places`); nothing for 0.
fn push_fraction(out: &mut String, value: i64, places: usize) {
    if value != 0 {
        let digits = format!("{value:0places$}");
        out.push('.');
        out.push_str(digits.trim_end_matches('0'));
    }
}

fn write(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        write(&mut out);
        out
    }

    #[test]
    fn reals_stay_reals() {
        for (value, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e300, "1e300"),
            (f64::NAN, "\"NaN\""),
            (f64::INFINITY, "\"Infinity\""),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ] {
            assert_eq!(written(|out| push_real(out, value, value)), text);
        }
        assert_eq!(written(|out| push_real(out, 0.1_f32, 0.1_f32.into())), "0.1");
        assert_eq!(written(|out| push_real(out, f32::MAX, f32::MAX.into())), "3.4028235e38");
    }

    #[test]
    fn decimals_keep_all_digits() {
        for (bytes, scale, text) in [
            (&[][..], 0, "0"),
            (&[], 2, "0.00"),
            (&[5], 0, "5"),
            (&[5], 2, "0.05"),
            (&[0xfb], 2, "-0.05"),
            (&[0x04, 0xe2], 2, "12.50"),
            (&[0x80], 0, "-128"),
            (&[0xff, 0x80], 1, "-12.8"),
            (&[0x7f; 16], 10, "16947396313317327396019049076.0135540607"),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, "340282366920938463463374607431768211456"),
        ] {
            assert_eq!(written(|out| push_decimal(out, bytes, scale)), format!("\"{text}\""));
        }
    }

    #[test]
    fn times_and_what_they_cannot_show() {
        for (value, unit_ns, local, text) in [
            (0, 1_000_000, false, "\"1970-01-01T00:00:00Z\""),
            (1_709_296_496_123, 1_000_000, false, "\"2024-03-01T12:34:56.123Z\""),
            (1_709_296_496_123_456, 1_000, true, "\"2024-03-01T12:34:56.123456\""),
            (1_709_296_496_123_456_789, 1, false, "\"2024-03-01T12:34:56.123456Z\""),
            (-1, 1, false, "\"1969-12-31T23:59:59.999999Z\""),
            (i64::MAX, 1_000_000, false, "9223372036854775807"),
            (i64::MIN, 1_000, true, "-9223372036854775808"),
        ] {
            assert_eq!(written(|out| push_timestamp(out, value, unit_ns, local)), text);
        }
        for (days, text) in [(0, "\"1970-01-01\""), (-719_162, "\"0001-01-01\""), (i32::MAX, "2147483647")] {
            assert_eq!(written(|out| push_date(out, days)), text);
        }
        for (value, unit_ns, text) in [
            (0, 1_000, "\"00:00:00\""),
            (45_296_500, 1_000_000, "\"12:34:56.5\""),
            (86_399_999_999, 1_000, "\"23:59:59.999999\""),
            (DAY_US, 1_000, "86400000000"),
            (45_296_500_000_999, 1, "\"12:34:56.5\""),
            (-1, 1_000_000, "-1"),
        ] {
            assert_eq!(written(|out| push_time(out, value, unit_ns)), text);
        }
        let duration = [1, 0, 0, 0, 2, 0, 0, 0, 0xac, 0x0d, 0, 0];
        assert_eq!(written(|out| push_duration(out, duration)), "\"P1M2DT3.5S\"");
    }
}
