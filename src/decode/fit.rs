//! Does a value fit its column? Never by guessing: what would lose something does not fit and is rescued.
//!
//! | column | takes |
//! |---|---|
//! | boolean | `true`, `false` |
//! | bigint | integers within 64 bits, written as integers (`3.0` does not fit) |
//! | double | reals rounded to the nearest double unless they become infinite or zero; integers up to ±2⁵³ |
//! | string | strings; numbers and booleans as their JSON text |
//! | json | everything, as JSON text without white space |
//! | timestamp | what its format says: strings in RFC 3339 unless declared otherwise, then dates too, as midnight UTC |
//! | date | strings such as `2024-02-29` |
//! | bigint[] and the like | arrays whose elements all fit the type before the brackets, or are null |
//!
//! A null fits everywhere.

use std::ops::Range;

use chrono_tz::Tz;

use super::{
    scan::{Cursor, EXACT, Kind, Slot, compact, unescape},
    time::{self, Clock},
};
use crate::schema::{ColumnType, Element, Observed, TimeFormat};

/// A value that fitted, in two words that stay in registers: through memory each would be written in parts and read as
/// a whole, which costs more than to parse it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Value {
    tag: Tag,
    bits: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Tag {
    Null,
    Boolean,
    Integer,
    Double,
    Input,
    Text,
    List,
}

/// What a [`Value`] is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Held {
    /// Only inside a list.
    Null,
    Boolean(bool),
    /// A bigint, a timestamp in microseconds, or a date in days.
    Integer(i64),
    Double(f64),
    /// Bytes of the text the value came from.
    Input(Range<usize>),
    /// Bytes of the arena's text.
    Text(Range<usize>),
    /// Elements of the arena, none of them a list.
    List(Range<usize>),
}

impl Value {
    pub const NULL: Self = Self { tag: Tag::Null, bits: 0 };

    fn boolean(value: bool) -> Self {
        Self { tag: Tag::Boolean, bits: value.into() }
    }

    pub fn integer(value: i64) -> Self {
        Self { tag: Tag::Integer, bits: value.cast_unsigned() }
    }

    fn double(value: f64) -> Self {
        Self { tag: Tag::Double, bits: value.to_bits() }
    }

    fn range(tag: Tag, start: u32, end: u32) -> Self {
        Self { tag, bits: u64::from(start) << 32 | u64::from(end) }
    }

    #[inline(always)]
    pub fn get(self) -> Held {
        let range = || (self.bits >> 32) as usize..(self.bits & u64::from(u32::MAX)) as usize;
        match self.tag {
            Tag::Null => Held::Null,
            Tag::Boolean => Held::Boolean(self.bits != 0),
            Tag::Integer => Held::Integer(self.bits.cast_signed()),
            Tag::Double => Held::Double(f64::from_bits(self.bits)),
            Tag::Input => Held::Input(range()),
            Tag::Text => Held::Text(range()),
            Tag::List => Held::List(range()),
        }
    }
}

/// What values point into.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Rewritten texts.
    pub text: String,
    /// Elements of lists.
    pub elements: Vec<Value>,
}

impl Arena {
    pub fn clear(&mut self) {
        self.text.clear();
        self.elements.clear();
    }

    /// What `write` appends to the text.
    pub fn write(&mut self, write: impl FnOnce(&mut String)) -> Value {
        let start = self.text.len() as u32;
        write(&mut self.text);
        Value::range(Tag::Text, start, self.text.len() as u32)
    }

    /// The same value, cut loose from the text it came from.
    pub fn keep(&mut self, value: Value, text: &str) -> Value {
        match value.get() {
            Held::Input(range) => self.write(|arena| arena.push_str(&text[range])),
            Held::List(range) => {
                for at in range {
                    self.elements[at] = self.keep(self.elements[at], text);
                }
                value
            }
            _ => value,
        }
    }
}

/// How a column takes values.
#[derive(Debug)]
pub(super) struct Form {
    pub kind: ColumnType,
    /// How timestamps are written.
    pub clock: Clock,
    /// The zone of timestamps without one.
    pub zone: Tz,
    /// True if a timestamp in RFC 3339 may be a plain date: midnight UTC. `event_time` may not.
    pub dates: bool,
}

impl Form {
    /// The value in `slot` of `text` as the column holds it; `None` if it does not fit. The slot is neither absent
    /// nor null.
    #[inline(always)]
    pub fn fit(&self, slot: Slot, text: &str, arena: &mut Arena) -> Option<Value> {
        match (self.kind, slot.kind) {
            (ColumnType::Timestamp, Kind::Integer | Kind::Real) => {
                self.clock.read_number(slot, text).map(Value::integer)
            }
            (ColumnType::Timestamp | ColumnType::Date, Kind::Text) => self.fit_time(slot.inner(text)),
            (ColumnType::Timestamp | ColumnType::Date, Kind::Escaped) => {
                let mut plain = String::new();
                unescape(slot.inner(text), &mut plain);
                self.fit_time(&plain)
            }
            (ColumnType::List(element), Kind::Nested) => fit_list(element, slot, text, arena),
            (kind, _) => fit_scalar(kind, slot, text, arena),
        }
    }

    /// A text from a message key, a header, the topic or a contract's `default`, as the column holds it: strings as
    /// they are, the other types as if the text stood in JSON without quotes.
    pub fn fit_text(&self, text: &str, arena: &mut Arena) -> Option<Value> {
        match self.kind {
            ColumnType::String => Some(arena.write(|arena| arena.push_str(text))),
            ColumnType::Timestamp | ColumnType::Date => self.fit_time(text),
            _ => {
                let mut cursor = Cursor::new(text);
                let slot = cursor.value(0).ok()?;
                cursor.skip_space();
                if !cursor.at_end() || slot.kind == Kind::Null {
                    return None;
                }
                let value = self.fit(slot, text, arena)?;
                Some(arena.keep(value, text))
            }
        }
    }

    fn fit_time(&self, text: &str) -> Option<Value> {
        match self.kind {
            ColumnType::Date => time::date(text).map(|days| Value::integer(days.into())),
            _ => {
                let day = || (self.dates && matches!(self.clock, Clock::Rfc3339)).then(|| time::date(text)).flatten();
                let midnight = || day().map(|day| i64::from(day) * time::DAY_US);
                self.clock.read(text, self.zone).or_else(midnight).map(Value::integer)
            }
        }
    }
}

/// True if `text`, as a header would write it, is a value of a column of such a type. `format` and `zone` are those of
/// timestamps.
pub fn is_value(kind: ColumnType, format: Option<&TimeFormat>, zone: Tz, text: &str) -> bool {
    let form = Form { kind, clock: format.map_or(Clock::Rfc3339, Clock::new), zone, dates: true };
    form.fit_text(text, &mut Arena::default()).is_some()
}

/// As [`Form::fit`], as far as no more than the type must be known of the column; `None` says nothing otherwise.
#[inline(always)]
pub(super) fn fit_scalar(kind: ColumnType, slot: Slot, text: &str, arena: &mut Arena) -> Option<Value> {
    match (kind, slot.kind) {
        (ColumnType::Boolean, Kind::True) => Some(Value::boolean(true)),
        (ColumnType::Boolean, Kind::False) => Some(Value::boolean(false)),
        (ColumnType::Int64, Kind::Integer) => integer(slot, text).map(Value::integer),
        (ColumnType::Double, Kind::Integer) => {
            let exact = integer(slot, text).filter(|value| value.unsigned_abs() <= EXACT)?;
            Some(Value::double(exact as f64))
        }
        (ColumnType::Double, Kind::Real) => real(slot, text).map(Value::double),
        (ColumnType::String, Kind::Text) => Some(Value::range(Tag::Input, slot.start() + 1, slot.end() - 1)),
        (ColumnType::String, Kind::Escaped) => Some(arena.write(|arena| unescape(slot.inner(text), arena))),
        (ColumnType::String, Kind::Integer | Kind::Real | Kind::True | Kind::False) => {
            Some(Value::range(Tag::Input, slot.start(), slot.end()))
        }
        (ColumnType::Json, Kind::Nested) => Some(arena.write(|arena| compact(slot.raw(text), arena))),
        (ColumnType::Json, _) => Some(Value::range(Tag::Input, slot.start(), slot.end())),
        _ => None,
    }
}

fn fit_list(element: Element, slot: Slot, text: &str, arena: &mut Arena) -> Option<Value> {
    let begin = arena.elements.len();
    let fits = each_element(slot, text, |slot| {
        let value = match slot.kind {
            Kind::Null => Some(Value::NULL),
            _ => fit_scalar(element.column_type(), slot, text, arena),
        };
        arena.elements.extend(value);
        value.is_some()
    });
    if !fits {
        arena.elements.truncate(begin);
        return None;
    }
    Some(Value::range(Tag::List, begin as u32, arena.elements.len() as u32))
}

/// Calls `take` with each element of the checked array in `slot` until it says no; false then, and if the slot holds
/// no array.
fn each_element(slot: Slot, text: &str, mut take: impl FnMut(Slot) -> bool) -> bool {
    let mut cursor = Cursor::at(text, slot.start() as usize);
    if cursor.peek() != b'[' || cursor.enter(1).is_err() {
        return false;
    }
    let mut more = cursor.first_element();
    while more {
        let Ok(element) = cursor.value(1) else { return false };
        if !take(element) {
            return false;
        }
        more = cursor.next_element().unwrap_or(false);
    }
    true
}

/// A checked integer within 64 bits.
fn integer(slot: Slot, text: &str) -> Option<i64> {
    match Cursor::at(text, slot.start() as usize).short_integer() {
        Some((value, _)) => Some(value),
        None => slot.raw(text).parse().ok(),
    }
}

/// A checked real as the nearest double, unless that is infinite, or zero for what is not zero.
fn real(slot: Slot, text: &str) -> Option<f64> {
    if let Some((value, _)) = Cursor::at(text, slot.start() as usize).short_real() {
        return Some(value);
    }
    let raw = slot.raw(text);
    let value: f64 = raw.parse().ok()?;
    if value == 0.0 {
        let mantissa = raw.split(['e', 'E']).next().unwrap_or_default();
        return (!mantissa.bytes().any(|byte| (b'1'..=b'9').contains(&byte))).then_some(value);
    }
    value.is_finite().then_some(value)
}

/// What kind of value was seen. With `timestamps`, strings are tried as timestamps whose zone may be `zone`.
pub(super) fn observe(slot: Slot, text: &str, timestamps: bool, zone: Tz) -> Observed {
    match slot.kind {
        Kind::Absent | Kind::Null => Observed::default(),
        Kind::True | Kind::False => Observed::BOOLEAN,
        Kind::Integer => match integer(slot, text) {
            Some(value) if value.unsigned_abs() <= EXACT => Observed::INTEGER,
            Some(_) => Observed::LONG,
            None => Observed::BIG_INTEGER,
        },
        Kind::Real => Observed::REAL,
        Kind::Text if timestamps && time::timestamp(slot.inner(text), zone).is_some() => Observed::TIMESTAMP,
        Kind::Text | Kind::Escaped => Observed::STRING,
        Kind::Nested => {
            let mut elements = Observed::default();
            let scalars = each_element(slot, text, |element| {
                elements = elements.and(observe(element, text, false, zone));
                element.kind != Kind::Nested
            });
            if scalars { Observed::list_of(elements) } else { Observed::NESTED }
        }
    }
}

/// What kind of value did not fit: as [`observe`], and timestamps where one of `columns` holds dates.
pub(super) fn observe_misfit(columns: &[(u32, Form)], slot: Slot, text: &str, zone: Tz) -> Observed {
    let wider = Form { kind: ColumnType::Timestamp, clock: Clock::Rfc3339, zone, dates: true };
    let date = columns.iter().any(|(_, form)| form.kind == ColumnType::Date);
    if date && wider.fit(slot, text, &mut Arena::default()).is_some() {
        return Observed::TIMESTAMP;
    }
    observe(slot, text, false, zone)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(value: Value, text: &str, arena: &Arena) -> String {
        match value.get() {
            Held::Null => "null".to_owned(),
            Held::Boolean(value) => value.to_string(),
            Held::Integer(value) => value.to_string(),
            Held::Double(value) => format!("{value:?}"),
            Held::Input(range) => text[range].to_owned(),
            Held::Text(range) => arena.text[range].to_owned(),
            Held::List(range) => {
                let elements = arena.elements[range].iter().map(|value| shown(*value, text, arena));
                format!("[{}]", elements.collect::<Vec<_>>().join(";"))
            }
        }
    }

    /// A column without a declared format.
    fn plain(kind: ColumnType, zone: Tz) -> Form {
        Form { kind, clock: Clock::Rfc3339, zone, dates: true }
    }

    /// What a column holds of the JSON `text`, written out.
    fn held(form: &Form, text: &str) -> Option<String> {
        let slot = Cursor::new(text).value(0).unwrap();
        let mut arena = Arena::default();
        let value = form.fit(slot, text, &mut arena);
        assert!(value.is_some() || arena.elements.is_empty(), "{text}");
        Some(shown(value?, text, &arena))
    }

    #[test]
    fn values_and_columns() {
        use ColumnType::{Boolean, Date, Double, Int64, Json, List, String, Timestamp};
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
            (List(Element::Int64), "[ 1, null ,-3]", Some("[1;null;-3]")),
            (List(Element::Int64), "[]", Some("[]")),
            (List(Element::Int64), "[1, 2.5]", None),
            (List(Element::Int64), "[1, [2]]", None),
            (List(Element::Int64), "{\"a\":1}", None),
            (List(Element::Int64), "1", None),
            (List(Element::Double), "[1, 2.5]", Some("[1.0;2.5]")),
            (List(Element::Double), "[9007199254740993]", None),
            (List(Element::Boolean), "[true,false]", Some("[true;false]")),
            (List(Element::String), r#"["a,]","\u00e9",1.50,false]"#, Some("[a,];é;1.50;false]")),
            (List(Element::String), r#"["a",{}]"#, None),
        ] {
            assert_eq!(held(&plain(kind, Tz::UTC), text).as_deref(), expected, "{} {text}", kind.word());
        }
    }

    /// The JSON number `text` as a double; some more text follows it, as in a message.
    fn read_real(text: &str) -> Option<f64> {
        let slot = Cursor::new(text).scalar().unwrap();
        real(slot, &format!("{text},\"next\":1"))
    }

    proptest! {
        #[test]
        fn reals_are_the_nearest_doubles(whole in 0..1_000_000_000_000_u64, fraction in "[0-9]{1,12}", negative in any::<bool>()) {
            let text = format!("{}{whole}.{fraction}", if negative { "-" } else { "" });
            let expected = text.parse().ok().map(f64::to_bits);
            prop_assert_eq!(read_real(&text).map(f64::to_bits), expected, "{}", text);
        }

        #[test]
        fn doubles_read_back(value in any::<f64>().prop_filter("JSON has no others", |value| value.is_finite())) {
            prop_assert_eq!(read_real(&format!("{value:?}")).map(f64::to_bits), Some(value.to_bits()));
        }
    }

    #[test]
    fn timestamps_in_a_declared_format() {
        let seoul = chrono_tz::Asia::Seoul;
        for (format, text, expected) in [
            (TimeFormat::UnixMillis, "1500", Some("1500000")),
            (TimeFormat::UnixMillis, "\"1500\"", Some("1500000")),
            (TimeFormat::UnixMillis, "\"1970-01-01T00:00:01Z\"", None),
            (TimeFormat::Rfc3339, "\"1970-01-01T09:00:01\"", Some("1000000")),
            (TimeFormat::Pattern("yyyyMMdd".into()), "\"19700102\"", Some("54000000000")),
            (TimeFormat::Pattern("yyyyMMdd".into()), "19700102", None),
        ] {
            let form = Form { kind: ColumnType::Timestamp, clock: Clock::new(&format), zone: seoul, dates: true };
            assert_eq!(held(&form, text).as_deref(), expected, "{text}");
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
            (ColumnType::List(Element::String), "[\"a\"]", true),
            (ColumnType::List(Element::String), "a", false),
        ] {
            let form = plain(kind, Tz::UTC);
            assert_eq!(form.fit_text(text, &mut Arena::default()).is_some(), fits, "{text}");
        }
    }
}
