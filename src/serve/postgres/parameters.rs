//! Values that clients bind, text or binary, as Arrow scalars of the type that the statement wants.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano};
use bytes::{Buf, Bytes};

use super::answers::Trouble;
use super::decimal;
use super::statements::holds;
use crate::query::ScalarValue;
use crate::query::postgres::ColumnType;

const INVALID_TEXT: &str = "22P02";
const INVALID_BINARY: &str = "22P03";
const MICROS_TO_2000: i64 = 946_684_800_000_000;
const DAYS_TO_2000: i32 = 10_957;
/// Items of one array.
const MOST_ITEMS: usize = 1 << 20;

/// What a parameter is: as the client declared it, and as the statement wants it.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) declared: Option<ColumnType>,
    pub(super) wanted: DataType,
}

impl Parameter {
    /// The type that clients are told, and by which they write values.
    pub(super) fn column_type(&self) -> ColumnType {
        self.declared.unwrap_or_else(|| ColumnType::of_arrow(&self.wanted))
    }

    /// A value of it; `zone` is of times without one.
    pub(super) fn value(&self, bytes: Option<&Bytes>, is_binary: bool, zone: &str) -> Result<ScalarValue, Trouble> {
        let Some(bytes) = bytes else {
            return ScalarValue::try_from(&self.wanted).map_err(|error| broken(&error));
        };
        let column_type = self.column_type();
        let value = if is_binary {
            binary(bytes.clone(), column_type)?
        } else {
            let text = std::str::from_utf8(bytes)
                .map_err(|_| Trouble::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
            let to = column_type.arrow().unwrap_or_else(|| self.wanted.clone());
            from_text(text, column_type, &to, zone)?
        };
        let has = value.data_type();
        if has == self.wanted {
            return Ok(value);
        }
        if let (DataType::Timestamp(_, Some(_)), DataType::Timestamp(unit, None)) = (&self.wanted, &has) {
            // A time without a zone is one of the session's.
            let local = value.cast_to(&DataType::Timestamp(*unit, Some(zone.into())));
            return local.and_then(|local| local.cast_to(&self.wanted)).map_err(|error| broken(&error));
        }
        // Where the statement says nothing of the type, what was declared stays; and so does what the type that the
        // statement wants could not hold: it is the other side of a comparison that widens.
        let says_nothing = self.wanted == DataType::Utf8 && self.declared.is_some();
        let is_text = matches!(has, DataType::Utf8);
        if says_nothing || !(is_text || holds(&self.wanted, &has)) {
            return Ok(value);
        }
        Ok(value.cast_to(&self.wanted).unwrap_or(value))
    }
}

fn broken(error: &impl std::fmt::Display) -> Trouble {
    Trouble::new(INVALID_TEXT, error.to_string().lines().next().unwrap_or_default())
}

fn invalid(text: &str, name: &str) -> Trouble {
    let shown: String = text.chars().take(100).collect();
    Trouble::new(INVALID_TEXT, format!("invalid input syntax for type {name}: \"{shown}\""))
}

fn from_text(text: &str, column_type: ColumnType, to: &DataType, zone: &str) -> Result<ScalarValue, Trouble> {
    let name = || column_type.sql_name(-1);
    let invalid = || invalid(text, &name());
    if let DataType::List(item) = to {
        let items = items(text).ok_or_else(invalid)?;
        let one = ColumnType { is_array: false, ..column_type };
        let values: Result<Vec<ScalarValue>, Trouble> = items
            .into_iter()
            .map(|value| match value {
                Some(value) => from_text(&value, one, item.data_type(), zone),
                None => ScalarValue::try_from(item.data_type()).map_err(|error| broken(&error)),
            })
            .collect();
        return array(values?, item.data_type());
    }
    Ok(match to {
        DataType::Utf8 => ScalarValue::Utf8(Some(text.to_owned())),
        DataType::Boolean => ScalarValue::Boolean(Some(match text.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "y" | "yes" | "on" | "1" => true,
            "f" | "false" | "n" | "no" | "off" | "0" => false,
            _ => return Err(invalid()),
        })),
        DataType::Binary => ScalarValue::Binary(Some(bytea(text).ok_or_else(invalid)?)),
        DataType::Timestamp(unit, Some(_)) => {
            let local = DataType::Timestamp(*unit, Some(zone.into()));
            let value = cast(text, &local).ok_or_else(invalid)?;
            value.cast_to(to).map_err(|_| invalid())?
        }
        _ if column_type.item.name == "numeric"
            && !matches!(to, DataType::Decimal128(_, _) | DataType::Decimal256(_, _)) =>
        {
            // Of a number whose type is not known yet, all digits are kept.
            let scale = text.split_once('.').map_or(0, |(_, part)| part.trim_end().len()).min(38);
            let decimal = DataType::Decimal128(38, scale as i8);
            cast(text.trim(), &decimal).ok_or_else(invalid)?
        }
        _ => cast(text.trim(), to).ok_or_else(invalid)?,
    })
}

fn cast(text: &str, to: &DataType) -> Option<ScalarValue> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let found = cast_with_options(&StringArray::from(vec![text]), to, &options).ok()?;
    let value = ScalarValue::try_from_array(&found, 0).ok()?;
    (!value.is_null()).then_some(value)
}

fn array(values: Vec<ScalarValue>, item: &DataType) -> Result<ScalarValue, Trouble> {
    let count = values.len();
    let values: ArrayRef = if values.is_empty() {
        arrow::array::new_empty_array(item)
    } else {
        ScalarValue::iter_to_array(values).map_err(|error| broken(&error))?
    };
    let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let list = ListArray::try_new(field, OffsetBuffer::from_lengths([count]), values, None);
    list.map(|list| ScalarValue::List(Arc::new(list))).map_err(|error| broken(&error))
}

/// `\x…` or the old form with octal escapes.
fn bytea(text: &str) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        let digits = digits.as_bytes();
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        return digits.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
        } else if let Some(after) = rest.strip_prefix(b"\\") {
            out.push(b'\\');
            rest = after;
        } else {
            let octal = std::str::from_utf8(rest.get(..3)?).ok()?;
            out.push(u8::from_str_radix(octal, 8).ok()?);
            rest = &rest[3..];
        }
    }
    Some(out)
}

/// The items of an array's text: `{1,NULL,"a \"b\""}`. One dimension only.
fn items(text: &str) -> Option<Vec<Option<String>>> {
    let inside = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut found = Vec::new();
    let mut chars = inside.chars().peekable();
    if inside.trim().is_empty() {
        return Some(found);
    }
    loop {
        while chars.next_if(|char| char.is_whitespace()).is_some() {}
        let mut item = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => item.push(chars.next()?),
                    char => item.push(char),
                }
            }
            while chars.next_if(|char| char.is_whitespace()).is_some() {}
            found.push(Some(item));
        } else {
            while let Some(char) = chars.next_if(|char| *char != ',') {
                match char {
                    '{' | '}' | '"' => return None,
                    '\\' => item.push(chars.next()?),
                    char => item.push(char),
                }
            }
            let item = item.trim();
            if item.is_empty() {
                return None;
            }
            found.push((!item.eq_ignore_ascii_case("null")).then(|| item.to_owned()));
        }
        if found.len() > MOST_ITEMS {
            return None;
        }
        match chars.next() {
            None => return Some(found),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

fn binary(mut bytes: Bytes, column_type: ColumnType) -> Result<ScalarValue, Trouble> {
    let name = column_type.sql_name(-1);
    let invalid =
        || Trouble::new(INVALID_BINARY, format!("incorrect binary data format of a parameter of type {name}"));
    if column_type.is_array {
        return binary_array(&mut bytes, column_type).ok_or_else(invalid)?;
    }
    let value = (|| {
        Some(match column_type.item.name {
            "bool" => ScalarValue::Boolean(Some(bytes.try_get_u8().ok()? != 0)),
            "int2" => ScalarValue::Int16(Some(bytes.try_get_i16().ok()?)),
            "int4" => ScalarValue::Int32(Some(bytes.try_get_i32().ok()?)),
            "int8" => ScalarValue::Int64(Some(bytes.try_get_i64().ok()?)),
            "oid" | "regclass" | "regtype" | "regproc" => {
                ScalarValue::Int64(Some(i64::from(bytes.try_get_u32().ok()?)))
            }
            "float4" => ScalarValue::Float32(Some(bytes.try_get_f32().ok()?)),
            "float8" => ScalarValue::Float64(Some(bytes.try_get_f64().ok()?)),
            "date" => ScalarValue::Date32(Some(bytes.try_get_i32().ok()?.checked_add(DAYS_TO_2000)?)),
            "time" => ScalarValue::Time64Microsecond(Some(bytes.try_get_i64().ok()?)),
            "timestamp" | "timestamptz" => {
                let micros = bytes.try_get_i64().ok()?.checked_add(MICROS_TO_2000)?;
                let zone = (column_type.item.name == "timestamptz").then(|| "UTC".into());
                ScalarValue::TimestampMicrosecond(Some(micros), zone)
            }
            "interval" => {
                let (micros, days, months) =
                    (bytes.try_get_i64().ok()?, bytes.try_get_i32().ok()?, bytes.try_get_i32().ok()?);
                let value = IntervalMonthDayNano::new(months, days, micros.checked_mul(1_000)?);
                ScalarValue::IntervalMonthDayNano(Some(value))
            }
            "numeric" => {
                let text = decimal::from_binary(&bytes)?;
                bytes.clear();
                let scale = text.split_once('.').map_or(0, |(_, part)| part.len());
                cast(&text, &DataType::Decimal128(38, i8::try_from(scale).ok().filter(|scale| *scale <= 38)?))?
            }
            "uuid" => {
                let value = uuid::Uuid::from_slice(&bytes).ok()?;
                bytes.clear();
                ScalarValue::Utf8(Some(value.to_string()))
            }
            "bytea" => ScalarValue::Binary(Some(std::mem::take(&mut bytes).into())),
            _ => {
                let mut text = std::mem::take(&mut bytes);
                if column_type.item.name == "jsonb" && text.first() == Some(&1) {
                    text.advance(1);
                }
                ScalarValue::Utf8(Some(String::from_utf8(text.into()).ok()?))
            }
        })
    })();
    value.filter(|_| bytes.is_empty()).ok_or_else(invalid)
}

fn binary_array(bytes: &mut Bytes, column_type: ColumnType) -> Option<Result<ScalarValue, Trouble>> {
    let (dimensions, _, item) = (bytes.try_get_i32().ok()?, bytes.try_get_i32().ok()?, bytes.try_get_u32().ok()?);
    let one = ColumnType { is_array: false, ..column_type };
    let count = match dimensions {
        0 => 0,
        1 => {
            let count = usize::try_from(bytes.try_get_i32().ok()?).ok()?;
            bytes.try_get_i32().ok()?;
            count
        }
        _ => return None,
    };
    if item != one.item.oid || count > bytes.len() / 4 {
        return None;
    }
    let data_type = one.arrow().unwrap_or(DataType::Utf8);
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let length = bytes.try_get_u32().ok()?;
        if length == u32::MAX {
            values.push(ScalarValue::try_from(&data_type).ok()?);
            continue;
        }
        let length = length as usize;
        if length > bytes.len() {
            return None;
        }
        match binary(bytes.split_to(length), one) {
            Ok(value) => values.push(value),
            Err(trouble) => return Some(Err(trouble)),
        }
    }
    bytes.is_empty().then(|| array(values, &data_type))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;
    use proptest::prelude::*;

    use super::*;
    use crate::query::postgres::ALL_TYPES;

    fn parameter(oid: u32, wanted: DataType) -> Parameter {
        Parameter { declared: ColumnType::of_oid(oid), wanted }
    }

    fn read(oid: u32, wanted: DataType, text: &str) -> Result<ScalarValue, Trouble> {
        parameter(oid, wanted).value(Some(&Bytes::copy_from_slice(text.as_bytes())), false, "Asia/Seoul")
    }

    #[test]
    fn texts_are_read_as_the_statement_wants_them() {
        assert_eq!(read(0, DataType::Int64, "42").unwrap(), ScalarValue::Int64(Some(42)));
        assert_eq!(read(23, DataType::Int64, "42").unwrap(), ScalarValue::Int64(Some(42)));
        assert_eq!(read(1043, DataType::Utf8, "it's").unwrap(), ScalarValue::Utf8(Some("it's".into())));
        assert_eq!(
            read(23, DataType::Utf8, "7").unwrap(),
            ScalarValue::Int32(Some(7)),
            "nothing is known but what was declared"
        );
        assert_eq!(read(0, DataType::Boolean, "yes").unwrap(), ScalarValue::Boolean(Some(true)));
        assert_eq!(read(0, DataType::Decimal128(10, 2), "1.5").unwrap(), ScalarValue::Decimal128(Some(150), 10, 2));
        assert_eq!(read(1700, DataType::Float64, "1.5").unwrap(), ScalarValue::Decimal128(Some(15), 38, 1));
        assert_eq!(read(701, DataType::Int64, "2.5").unwrap(), ScalarValue::Float64(Some(2.5)), "it is not cut off");
        assert_eq!(read(1700, DataType::Int64, "2.5").unwrap(), ScalarValue::Decimal128(Some(25), 38, 1));
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let at = |text: &str| read(1184, zoned.clone(), text).unwrap();
        assert_eq!(at("2026-01-01 09:00:00"), at("2026-01-01 00:00:00+00"), "a time without zone is the session's");
        assert_eq!(at("2026-01-01 00:00:00.5+00:00"), at("2026-01-01 09:00:00.500+09"));
        assert_eq!(read(0, DataType::Binary, "\\x00ff").unwrap(), ScalarValue::Binary(Some(vec![0, 255])));
        assert_eq!(read(17, DataType::Binary, "a\\000\\\\").unwrap(), ScalarValue::Binary(Some(b"a\0\\".to_vec())));
        for (oid, wanted, text) in [
            (23, DataType::Int32, "x"),
            (16, DataType::Boolean, "maybe"),
            (0, DataType::Date32, "soon"),
            (1007, DataType::Int64, "{1,"),
        ] {
            assert_eq!(read(oid, wanted, text).unwrap_err().code, INVALID_TEXT, "{text}");
        }
        let null = parameter(0, DataType::Int64).value(None, false, "UTC").unwrap();
        assert_eq!(null, ScalarValue::Int64(None));
    }

    #[test]
    fn arrays_are_read_from_text() {
        assert_eq!(items("{}"), Some(vec![]));
        let wanted = ["1", "a \"b\"", "NULL"].map(|item| Some(item.to_owned()));
        assert_eq!(items("{1, \"a \\\"b\\\"\",\"NULL\"}"), Some(wanted.to_vec()));
        assert_eq!(items("{NULL,x}"), Some(vec![None, Some("x".to_owned())]));
        for wrong in ["", "1", "{1", "{1,}", "{{1}}", "{\"a}"] {
            assert_eq!(items(wrong), None, "{wrong}");
        }
        let value = read(1016, DataType::new_list(DataType::Int64, true), "{1,NULL,3}").unwrap();
        assert_eq!(value.to_string(), "[1, , 3]");
    }

    proptest! {
        #[test]
        fn whatever_is_bound_is_a_value_or_an_error(at in 0..ALL_TYPES.len(), array: bool, bytes: Vec<u8>, is_binary: bool) {
            let known = ALL_TYPES[at];
            let parameter = parameter(if array { known.array } else { known.oid }, DataType::Utf8);
            let _ = parameter.value(Some(&bytes.into()), is_binary, "UTC");
        }
    }
}
