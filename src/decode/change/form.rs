//! Values of database columns as JSON text that fits a column of Millpond.
//!
//! | in the message | means | becomes |
//! |---|---|---|
//! | a number of days | a date | `"2026-01-02"` |
//! | a number of milliseconds, microseconds or nanoseconds | a time of day | `"03:04:05.678"` |
//! | the same | a timestamp without a zone | `"2026-01-02T03:04:05.678"` |
//! | base64 | a decimal, by its scale | `"12345.67"`, all its digits |
//! | `{"scale":1,"value":"Xw=="}` | a decimal with a scale of its own | `"9.5"` |
//! | base64 | bits, the lowest first | `"0101"` |
//!
//! A column that the contract declares a number takes it as one: `12345.67`; a boolean takes 0 and 1, a bigint true
//! and false, a date days.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::members::Members;
use crate::decode::{
    scan::{Cursor, Kind, Slot},
    walk::content,
    writer::text,
};
use crate::schema::ColumnType;

/// What Debezium writes for a value that the database's log does not hold.
const UNAVAILABLE: &str = "__debezium_unavailable_value";
/// The same where bytes are due, in base64.
const UNAVAILABLE_BYTES: &str = "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==";

/// What a column's values mean.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Meaning {
    /// What they say.
    Plain,
    /// Days since 1970.
    Date,
    /// An ISO date that may end in a zone.
    IsoDate,
    /// So many nanoseconds per unit since midnight.
    Time(i64),
    /// So many nanoseconds per unit since 1970, of no zone.
    Timestamp(i64),
    /// The unscaled value, big-endian, in base64.
    Decimal(usize),
    /// A decimal with its scale.
    VariableDecimal,
    /// So many bits, little-endian, in base64.
    Bits(usize),
    /// An array of such values.
    List(Box<Meaning>),
}

/// True if the value stands for one that the source does not tell.
pub(super) fn is_unavailable(value: Slot, text: &str) -> bool {
    match value.kind {
        Kind::Text => matches!(value.inner(text), UNAVAILABLE | UNAVAILABLE_BYTES),
        Kind::Nested => {
            let inner = value.raw(text).strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::trim);
            let only = inner.and_then(|inner| inner.strip_prefix('"')?.strip_suffix('"'));
            matches!(only, Some(UNAVAILABLE | UNAVAILABLE_BYTES))
        }
        _ => false,
    }
}

/// True if the value is a decimal that says its scale: no other object looks like that.
pub(super) fn is_variable_decimal(value: Slot, text: &str) -> bool {
    variable_decimal(value, text).is_some()
}

/// Writes a value in the form that its meaning and the type of the column it goes to ask for.
pub(super) fn write_value(
    value: Slot,
    text: &str,
    (meaning, wanted): (&Meaning, Option<ColumnType>),
    out: &mut String,
) {
    let start = out.len();
    write_meaning(value, text, meaning, wanted, out);
    match (wanted, value.kind) {
        (_, Kind::Null) | (None, _) => {}
        (Some(ColumnType::Double | ColumnType::Int64), _) => {
            match &out[start..] {
                "true" => out.replace_range(start.., "1"),
                "false" => out.replace_range(start.., "0"),
                written => {
                    if let Some(number) = quoted_number(written) {
                        out.replace_range(start.., &number);
                    }
                }
            };
        }
        (Some(ColumnType::Boolean), _) => match &out[start..] {
            "1" => out.replace_range(start.., "true"),
            "0" => out.replace_range(start.., "false"),
            _ => {}
        },
        (Some(ColumnType::Date), Kind::Integer) if *meaning == Meaning::Plain => {
            if let Ok(days) = out[start..].parse() {
                out.truncate(start);
                text::push_date(out, days);
            }
        }
        _ => {}
    }
}

/// Writes what a value means; one that cannot mean that is written as it came, and will be a misfit of its column.
fn write_meaning(value: Slot, text: &str, meaning: &Meaning, wanted: Option<ColumnType>, out: &mut String) {
    let integer = || value.raw(text).parse::<i64>().ok().filter(|_| value.kind == Kind::Integer);
    let bytes = || {
        let base64 = matches!(value.kind, Kind::Text | Kind::Escaped).then(|| content(value, text))?;
        BASE64_STANDARD.decode(base64.as_bytes()).ok().filter(|bytes| bytes.len() <= text::MAX_DECIMAL_BYTES)
    };
    let start = out.len();
    match meaning {
        Meaning::Date => {
            if let Some(days) = integer().and_then(|days| i32::try_from(days).ok()) {
                text::push_date(out, days);
            }
        }
        Meaning::IsoDate if value.kind == Kind::Text => {
            let date = value.inner(text);
            text::push_string(out, date.strip_suffix('Z').unwrap_or(date));
        }
        Meaning::Time(unit_ns) => {
            if let Some(value) = integer() {
                text::push_time(out, value, *unit_ns);
            }
        }
        Meaning::Timestamp(unit_ns) => {
            if let Some(value) = integer() {
                text::push_timestamp(out, value, *unit_ns, true);
            }
        }
        Meaning::Decimal(scale) => {
            if let Some(unscaled) = bytes() {
                text::push_decimal(out, &unscaled, *scale);
            }
        }
        Meaning::Bits(length) => {
            if let Some(bytes) = bytes() {
                text::push_bits(out, &bytes, *length);
            }
        }
        Meaning::List(inner) if value.kind == Kind::Nested && **inner != Meaning::Plain => {
            write_list(value, text, inner, out);
        }
        // A contract that wants a number or its digits says all there is to know of such an object.
        Meaning::VariableDecimal | Meaning::Plain => {
            let known = *meaning == Meaning::VariableDecimal
                || matches!(wanted, Some(ColumnType::Double | ColumnType::String | ColumnType::Int64));
            if let Some((scale, unscaled)) = variable_decimal(value, text).filter(|_| known) {
                text::push_decimal(out, &unscaled, scale);
            }
        }
        Meaning::IsoDate | Meaning::List(_) => {}
    }
    if out.len() == start {
        out.push_str(value.raw(text));
    }
}

fn write_list(value: Slot, text: &str, inner: &Meaning, out: &mut String) {
    let start = out.len();
    let mut cursor = Cursor::at(text, value.start() as usize);
    let mut write = || {
        if cursor.peek() != b'[' {
            return None;
        }
        cursor.enter(1).ok()?;
        let mut more = cursor.first_element();
        let mut separator = '[';
        while more {
            out.push(std::mem::replace(&mut separator, ','));
            write_meaning(cursor.value(1).ok()?, text, inner, None, out);
            more = cursor.next_element().ok()?;
        }
        out.push_str(if separator == '[' { "[]" } else { "]" });
        Some(())
    };
    if write().is_none() {
        out.truncate(start);
    }
}

/// Scale and unscaled value of `{"scale":…,"value":"…"}`, if the value is exactly that.
fn variable_decimal(value: Slot, text: &str) -> Option<(usize, Vec<u8>)> {
    let members = Members::of(value, text)?;
    let scale = members.number("scale").and_then(|scale| usize::try_from(scale).ok()).filter(|scale| *scale < 1_000)?;
    let unscaled = members.get("value").filter(|slot| slot.kind == Kind::Text && members.list.len() == 2)?;
    let bytes = BASE64_STANDARD.decode(unscaled.inner(text)).ok()?;
    (bytes.len() <= text::MAX_DECIMAL_BYTES).then_some((scale, bytes))
}

/// The number that a JSON string holds.
fn quoted_number(json: &str) -> Option<String> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?.trim();
    let mut cursor = Cursor::new(inner);
    let value = cursor.value(0).ok()?;
    (cursor.at_end() && matches!(value.kind, Kind::Integer | Kind::Real)).then(|| inner.to_owned())
}
