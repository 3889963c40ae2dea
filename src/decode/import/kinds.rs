//! Types of columns that are found, and values brought into them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray, StringBuilder,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, and_not, can_cast_types, cast_with_options, is_not_null, nullif, or};
use arrow::datatypes::{DataType, Field, Float32Type, TimeUnit};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, make_encoder};
use chrono::{DateTime, NaiveDate};

use crate::decode::file::{days, is_number};

/// The greatest whole number below which a double holds each.
const EXACT: u64 = 1 << 53;

pub fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The narrowest type that holds the values of both; text holds all.
pub fn join(a: &DataType, b: &DataType) -> DataType {
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (DataType::Null, other) | (other, DataType::Null) => other.clone(),
        (a, b) if a.is_signed_integer() && b.is_signed_integer() => {
            if a.primitive_width() < b.primitive_width() {
                b.clone()
            } else {
                a.clone()
            }
        }
        (a, b) if is_number_type(a) && is_number_type(b) => DataType::Float64,
        (DataType::Decimal128(p, s), DataType::Decimal128(q, t)) => {
            let scale = *s.max(t);
            let whole = (i16::from(*p) - i16::from(*s)).max(i16::from(*q) - i16::from(*t));
            match u8::try_from(whole + i16::from(scale)) {
                Ok(precision) if precision <= 38 => DataType::Decimal128(precision, scale),
                _ => DataType::Utf8,
            }
        }
        _ => DataType::Utf8,
    }
}

fn is_number_type(kind: &DataType) -> bool {
    kind.is_signed_integer() || matches!(kind, DataType::Float32 | DataType::Float64)
}

/// The narrowest type that all values of a column are written as; null if there are none.
pub fn written_as(column: &StringArray) -> DataType {
    let mut kind = DataType::Null;
    let mut inexact = false;
    for text in column.iter().flatten() {
        let own = match () {
            () if boolean(text).is_some() => DataType::Boolean,
            () if int(text).is_some() => DataType::Int64,
            () if float(text).is_some() => DataType::Float64,
            () if date(text).is_some() => DataType::Date32,
            () if time(text).is_some() => micros(),
            () => return DataType::Utf8,
        };
        inexact |= int(text).is_some_and(|value| value.unsigned_abs() > EXACT);
        kind = join(&kind, &own);
        if kind == DataType::Utf8 || (kind == DataType::Float64 && inexact) {
            return DataType::Utf8;
        }
    }
    kind
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let is_written =
        !digits.is_empty() && (digits.len() == 1 || digits[0] != b'0') && digits.iter().all(u8::is_ascii_digit);
    if is_written { text.parse().ok() } else { None }
}

fn float(text: &str) -> Option<f64> {
    // A whole number that a double does not hold would lose its last digits.
    match int(text) {
        Some(value) => (value.unsigned_abs() <= EXACT).then_some(value as f64),
        None => (text.contains(['.', 'e', 'E']) && is_number(text)).then(|| text.parse().ok())?,
    }
}

fn date(text: &str) -> Option<i32> {
    let is_written = text.len() == 10 && text.as_bytes()[4] == b'-';
    is_written.then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(days))?
}

fn time(text: &str) -> Option<i64> {
    let is_likely = text.len() >= 20 && text.as_bytes()[4] == b'-';
    is_likely.then(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros()))?
}

/// A column in the type `to`: null where a value does not fit.
pub fn fit(column: &ArrayRef, is_written: bool, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    if column.null_count() == column.len() {
        return Ok(new_null_array(to, column.len()));
    }
    if to == &DataType::Utf8 {
        return text(column);
    }
    if let Some(text) = column.as_string_opt::<i32>() {
        let values = || text.iter();
        match to {
            DataType::Boolean => return Ok(Arc::new(values().map(|text| boolean(text?)).collect::<BooleanArray>())),
            DataType::Int64 => return Ok(Arc::new(values().map(|text| int(text?)).collect::<Int64Array>())),
            DataType::Float64 => return Ok(Arc::new(values().map(|text| float(text?)).collect::<Float64Array>())),
            DataType::Date32 => return Ok(Arc::new(values().map(|text| date(text?)).collect::<Date32Array>())),
            to if *to == micros() => {
                let times = values().map(|text| time(text?)).collect::<TimestampMicrosecondArray>();
                return Ok(Arc::new(times.with_timezone("UTC")));
            }
            // Whatever else there is was made by other formats: of text it takes numbers.
            _ if is_written && to.is_numeric() => {}
            _ => {}
        }
    }
    if !can_cast_types(column.data_type(), to) || column.data_type().is_nested() != to.is_nested() {
        return Ok(new_null_array(to, column.len()));
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let there = cast_with_options(column, to, &options)?;
    if to.is_nested() || !can_cast_types(to, column.data_type()) {
        return Ok(there);
    }
    match (column.data_type(), to) {
        // Tables keep microseconds: what is finer is cut off, as everywhere.
        (DataType::Timestamp(..), DataType::Timestamp(..)) => return Ok(there),
        // A float column was never meant to hold all digits of a double; but it has to be one of its numbers.
        (DataType::Float64 | DataType::Utf8, DataType::Float32) => {
            let same = there.as_primitive::<Float32Type>().iter().map(|value| value.map(f32::is_finite));
            let numbers: BooleanArray = same.collect();
            return nullif(&there, &arrow::compute::not(&numbers)?);
        }
        // `5` is 5.00, however it is written.
        (DataType::Utf8, DataType::Decimal128(..)) => {
            let exact = |column: &ArrayRef| cast_with_options(column, &DataType::Decimal256(76, 30), &options);
            let same = not_distinct(&exact(&there)?, &exact(column)?)?;
            return nullif(&there, &arrow::compute::not(&same)?);
        }
        _ => {}
    }
    // A cast cuts off what does not fit; what does fit comes back as it was.
    let back = cast_with_options(&there, column.data_type(), &options)?;
    let same = not_distinct(&back, column)?;
    nullif(&there, &arrow::compute::not(&same)?)
}

/// Which values of `column` did not fit into `fitted`.
pub fn misfits(column: &ArrayRef, fitted: &ArrayRef) -> Result<BooleanArray, ArrowError> {
    and_not(&is_not_null(column)?, &is_not_null(fitted)?)
}

/// Either, where there is none for the first column.
pub fn either(a: Option<BooleanArray>, b: &BooleanArray) -> Result<BooleanArray, ArrowError> {
    match a {
        None => Ok(b.clone()),
        Some(a) => or(&a, b),
    }
}

/// The values as text; what is no scalar as JSON.
pub fn text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let kind = column.data_type();
    if !kind.is_nested() && can_cast_types(kind, &DataType::Utf8) {
        return cast_with_options(column, &DataType::Utf8, &CastOptions { safe: true, ..CastOptions::default() });
    }
    let field: Arc<Field> = Arc::new(Field::new("value", kind.clone(), true));
    let options = EncoderOptions::default();
    let mut encoder = make_encoder(&field, column.as_ref(), &options)?;
    let mut texts = StringBuilder::new();
    for at in 0..column.len() {
        if encoder.is_null(at) {
            texts.append_null();
            continue;
        }
        let mut bytes = Vec::new();
        encoder.encode(at, &mut bytes);
        texts.append_value(String::from_utf8_lossy(&bytes));
    }
    Ok(Arc::new(texts.finish()))
}
