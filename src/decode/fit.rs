//! Does a value fit its column? Never by guessing: what would lose something does not fit and is rescued.
//!
//! | column | takes |
//! |---|---|
//! | boolean | `true`, `false` |
//! | bigint | integers within 64 bits, written as integers (`3.0` does not fit) |
//! | double | reals rounded to the nearest double unless they become infinite or zero; integers up to ±2⁵³ |
//! | string | strings; numbers and booleans as their JSON text |
//! | json | everything, as JSON text without white space |
//! | date | strings in RFC 3339 |
//! | timestamp | strings in RFC 3339; dates as midnight UTC |
//!
//! A null fits everywhere.

use chrono_tz::Tz;

use super::{
    scan::{Cursor, Kind, Slot, compact, unescape},
    time,
};
use crate::schema::{ColumnType, Observed};

/// The greatest distance from zero within which every integer is a double.
pub(super) const EXACT: u64 = 1 << 53;

/// A value that fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Boolean(bool),
    /// A bigint, a timestamp in microseconds, or a date in days.
    Integer(i64),
    Double(f64),
    /// Bytes of the text the value came from.
    Input(u32, u32),
    /// Bytes of the arena.
    Arena(u32, u32),
}

/// The value in `slot` of `text` as a column of type `kind` holds it; `None` if it does not fit. The slot is
/// neither absent nor null. What must be rewritten goes to `arena`.
pub(super) fn fit(kind: ColumnType, slot: Slot, text: &str, arena: &mut String, zone: Tz) -> Option<Value> {
    let number = matches!(slot.kind, Kind::Integer | Kind::Real);
    let boolean = matches!(slot.kind, Kind::True | Kind::False);
    match (kind, slot.kind) {
        (ColumnType::Boolean, _) if boolean => Some(Value::Boolean(slot.kind == Kind::True)),
        (ColumnType::Int64, Kind::Integer) => integer(slot.raw(text)).map(Value::Integer),
        (ColumnType::Double, Kind::Integer) => {
            let exact = integer(slot.raw(text)).filter(|value| value.unsigned_abs() <= EXACT)?;
            Some(Value::Double(exact as f64))
        }
        (ColumnType::Double, Kind::Real) => real(slot.raw(text)).map(Value::Double),
        (ColumnType::String, Kind::Text) => Some(Value::Input(slot.start + 1, slot.end - 1)),
        (ColumnType::String, Kind::Escaped) => Some(rewrite(arena, |arena| unescape(slot.inner(text), arena))),
        (ColumnType::String, _) if number || boolean => Some(Value::Input(slot.start, slot.end)),
        (ColumnType::Json, Kind::Nested) => Some(rewrite(arena, |arena| compact(slot.raw(text), arena))),
        (ColumnType::Json, _) => Some(Value::Input(slot.start, slot.end)),
        (ColumnType::Timestamp | ColumnType::Date, Kind::Text) => fit_time(kind, slot.inner(text), zone),
        (ColumnType::Timestamp | ColumnType::Date, Kind::Escaped) => {
            let mut plain = String::new();
            unescape(slot.inner(text), &mut plain);
            fit_time(kind, &plain, zone)
        }
        _ => None,
    }
}

/// A text from a message key, a header or the topic, as a column of type `kind` holds it: strings as they are,
/// the other types as if the text stood in JSON without quotes.
pub(super) fn fit_text(kind: ColumnType, text: &str, arena: &mut String, zone: Tz) -> Option<Value> {
    match kind {
        ColumnType::String => Some(rewrite(arena, |arena| arena.push_str(text))),
        ColumnType::Timestamp | ColumnType::Date => fit_time(kind, text, zone),
        ColumnType::Boolean | ColumnType::Int64 | ColumnType::Double | ColumnType::Json => {
            let mut cursor = Cursor::new(text);
            let slot = cursor.value(0).ok()?;
            cursor.skip_space();
            if !cursor.at_end() || slot.kind == Kind::Null {
                return None;
            }
            let value = fit(kind, slot, text, arena, zone)?;
            Some(into_arena(value, text, arena))
        }
    }
}

/// The same value, cut loose from the text it came from.
pub(super) fn into_arena(value: Value, text: &str, arena: &mut String) -> Value {
    match value {
        Value::Input(start, end) => rewrite(arena, |arena| arena.push_str(&text[start as usize..end as usize])),
        value => value,
    }
}

/// What `write` appends to the arena.
pub(super) fn rewrite(arena: &mut String, write: impl FnOnce(&mut String)) -> Value {
    let start = arena.len() as u32;
    write(arena);
    Value::Arena(start, arena.len() as u32)
}

fn fit_time(kind: ColumnType, text: &str, zone: Tz) -> Option<Value> {
    let day = time::date(text).map(i64::from);
    let value = match kind {
        ColumnType::Date => day?,
        _ => day.map(|day| day * time::DAY_US).or_else(|| time::timestamp(text, zone))?,
    };
    Some(Value::Integer(value))
}

/// A checked integer within 64 bits.
fn integer(raw: &str) -> Option<i64> {
    let (digits, negative) = match raw.as_bytes() {
        [b'-', digits @ ..] => (digits, true),
        digits => (digits, false),
    };
    if digits.len() > 18 {
        return raw.parse().ok();
    }
    let value = digits.iter().fold(0, |value: i64, digit| value * 10 + i64::from(digit - b'0'));
    Some(if negative { -value } else { value })
}

/// A checked real as the nearest double, unless that is infinite, or zero for what is not zero.
fn real(raw: &str) -> Option<f64> {
    let value: f64 = raw.parse().ok()?;
    let mantissa = raw.split(['e', 'E']).next().unwrap_or_default();
    let vanished = value == 0.0 && mantissa.bytes().any(|byte| (b'1'..=b'9').contains(&byte));
    (value.is_finite() && !vanished).then_some(value)
}

/// What kind of value was seen.
pub(super) fn observe(slot: Slot, text: &str) -> Observed {
    match slot.kind {
        Kind::Absent | Kind::Null => Observed::default(),
        Kind::True | Kind::False => Observed::BOOLEAN,
        Kind::Integer => match integer(slot.raw(text)) {
            Some(value) if value.unsigned_abs() <= EXACT => Observed::INTEGER,
            Some(_) => Observed::LONG,
            None => Observed::BIG_INTEGER,
        },
        Kind::Real => Observed::REAL,
        Kind::Text | Kind::Escaped => Observed::STRING,
        Kind::Nested => Observed::NESTED,
    }
}

/// What kind of value did not fit: as [`observe`], and timestamps where a column of `kinds` holds dates.
pub(super) fn observe_misfit(kinds: &[(u32, ColumnType)], slot: Slot, text: &str, zone: Tz) -> Observed {
    let date = kinds.iter().any(|(_, kind)| *kind == ColumnType::Date);
    if date && fit(ColumnType::Timestamp, slot, text, &mut String::new(), zone).is_some() {
        return Observed::TIMESTAMP;
    }
    observe(slot, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a column of `kind` holds of the JSON `text`, written out.
    fn held(kind: ColumnType, text: &str) -> Option<String> {
        let slot = Cursor::new(text).value(0).unwrap();
        let mut arena = String::new();
        let value = fit(kind, slot, text, &mut arena, Tz::UTC)?;
        Some(match value {
            Value::Boolean(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Double(value) => format!("{value:?}"),
            Value::Input(start, end) => text[start as usize..end as usize].to_owned(),
            Value::Arena(start, end) => arena[start as usize..end as usize].to_owned(),
        })
    }

    #[test]
    fn values_and_columns() {
        use ColumnType::{Boolean, Date, Double, Int64, Json, String, Timestamp};
        for (kind, text, expected) in [
            (Boolean, "true", Some("true")),
            (Boolean, "1", None),
            (Boolean, "\"true\"", None),
            (Int64, "-0", Some("0")),
            (Int64, "999999999999999999", Some("999999999999999999")),
            (Int64, "-9223372036854775808", Some("-9223372036854775808")),
            (Int64, "9223372036854775808", None),
            (Int64, "3.0", None),
            (Int64, "3e2", None),
            (Int64, "\"3\"", None),
            (Double, "3", Some("3.0")),
            (Double, "9007199254740992", Some("9007199254740992.0")),
            (Double, "9007199254740993", None),
            (Double, "-9223372036854775808", None),
            (Double, "1e20", Some("1e20")),
            (Double, "0.1234567890123456789", Some("0.12345678901234568")),
            (Double, "-0.0", Some("-0.0")),
            (Double, "0e999", Some("0.0")),
            (Double, "1e400", None),
            (Double, "1e-400", None),
            (Double, "\"<invalid>\"", None),
            (Double, "true", None),
            (String, "\"a\"", Some("a")),
            (String, r#""a\n\u00e9\ud83d\ude00""#, Some("a\né😀")),
            (String, "\"\"", Some("")),
            (String, "18446744073709551616", Some("18446744073709551616")),
            (String, "1.50", Some("1.50")),
            (String, "false", Some("false")),
            (String, "[1]", None),
            (Json, "[ 1 , {\"a\" : \"b c\"} ]", Some("[1,{\"a\":\"b c\"}]")),
            (Json, "\"a\"", Some("\"a\"")),
            (Json, "1.50", Some("1.50")),
            (Timestamp, "\"1970-01-01T00:00:01Z\"", Some("1000000")),
            (Timestamp, r#""1970\u002d01-01T00:00:01Z""#, Some("1000000")),
            (Timestamp, "1", None),
            (Timestamp, "\"1970-01-02\"", Some("86400000000")),
            (Timestamp, "\"1970-01-32\"", None),
            (Date, "\"1970-01-02\"", Some("1")),
            (Date, "\"1970-01-02T00:00:00Z\"", None),
        ] {
            assert_eq!(held(kind, text).as_deref(), expected, "{} {text}", kind.word());
        }
    }

    #[test]
    fn texts_from_keys_and_headers() {
        for (kind, text, fits) in [
            (ColumnType::String, " any ", true),
            (ColumnType::Int64, "42", true),
            (ColumnType::Int64, "42x", false),
            (ColumnType::Int64, "null", false),
            (ColumnType::Boolean, "true", true),
            (ColumnType::Json, "{\"a\": 1}", true),
            (ColumnType::Json, "{", false),
            (ColumnType::Timestamp, "2024-03-01T00:00:00Z", true),
            (ColumnType::Date, "today", false),
        ] {
            assert_eq!(fit_text(kind, text, &mut String::new(), Tz::UTC).is_some(), fits, "{text}");
        }
    }
}
