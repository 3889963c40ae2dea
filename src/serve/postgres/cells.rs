//! Values as PostgreSQL writes them: text and binary, from Arrow's arrays.
//!
//! A column is made a writer once per batch; a writer appends the value of a row, which is not null. Text follows
//! `DateStyle = ISO`, `IntervalStyle = postgres`, `bytea_output = hex` and shortest numbers; binary is that of each type's
//! `…_send` function.

use arrow::array::timezone::Tz;
use arrow::array::types::{
    Date32Type, Date64Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Field, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, make_encoder};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike};

use super::decimal;
use crate::query::postgres::{ColumnType, OID};

/// Appends the value of a row.
pub(super) type Write<'a> = Box<dyn FnMut(usize, &mut Vec<u8>) -> Result<(), ArrowError> + Send + 'a>;

/// Days and microseconds between 1970 and 2000, where PostgreSQL begins to count.
const DAYS: i64 = 10_957;
const MICROS: i64 = DAYS * 86_400_000_000;

/// The writer of a column that clients were told is `told`. `zone` is where times of day are shown.
pub(super) fn writer<'a>(
    array: &'a ArrayRef,
    told: ColumnType,
    is_binary: bool,
    zone: Tz,
) -> Result<Write<'a>, ArrowError> {
    if is_binary && !told.is_array && *array.data_type() == DataType::Int64 && told.item.len == 4 {
        // Numbers of things in catalogs.
        return Ok(infallible::<Int64Type>(array, |value, out| out.extend((value as u32).to_be_bytes())));
    }
    if is_binary && told.item.name == "char" && *array.data_type() == DataType::Utf8 {
        return bytes(array, |value, out| out.push(value.first().copied().unwrap_or(0)));
    }
    let column_type = ColumnType::of_arrow(array.data_type());
    if column_type.item == crate::query::postgres::JSON && !column_type.is_array {
        return json(array);
    }
    if column_type.is_array {
        let item = if told.is_array || told.item.is_vector() { told } else { column_type };
        return list(array, item, is_binary, zone);
    }
    if is_binary { binary(array) } else { text(array, zone) }
}

/// Appends what `write` appends, behind its length: that of a value.
pub(super) fn sized(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    behind_length(out, 0, write)
}

/// Appends a message, whose body `write` appends; nothing if that fails.
pub(super) fn message(
    out: &mut Vec<u8>,
    kind: u8,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    let start = out.len();
    out.push(kind);
    // The length of a message counts itself.
    let done = behind_length(out, 4, write);
    if done.is_err() {
        out.truncate(start);
    }
    done
}

fn behind_length(
    out: &mut Vec<u8>,
    own: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    let start = out.len();
    out.extend([0; 4]);
    write(out)?;
    let length = i32::try_from(out.len() - start - 4 + own).map_err(|_| out_of_range("a row of more than 2 GiB"))?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn out_of_range(what: &str) -> ArrowError {
    ArrowError::ComputeError(format!("{what} is out of PostgreSQL's range"))
}

fn each<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    mut write: impl FnMut(T::Native, &mut Vec<u8>) -> Result<(), ArrowError> + Send + 'a,
) -> Write<'a> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    Box::new(move |row, out| write(array.value(row), out))
}

fn infallible<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    write: impl Fn(T::Native, &mut Vec<u8>) + Send + 'a,
) -> Write<'a> {
    each::<T>(array, move |value, out| {
        write(value, out);
        Ok(())
    })
}

fn number<T>(value: T, out: &mut Vec<u8>)
where
    T: itoa::Integer,
{
    out.extend(itoa::Buffer::new().format(value).as_bytes());
}

/// Microseconds since 1970 of a timestamp's values.
fn micros<'a>(
    array: &'a dyn Array,
    unit: TimeUnit,
    mut write: impl FnMut(i64, &mut Vec<u8>) -> Result<(), ArrowError> + Send + 'a,
) -> Write<'a> {
    let times = |value: i64, factor: i64| value.checked_mul(factor).ok_or_else(|| out_of_range("a timestamp"));
    match unit {
        TimeUnit::Second => each::<TimestampSecondType>(array, move |v, out| write(times(v, 1_000_000)?, out)),
        TimeUnit::Millisecond => each::<TimestampMillisecondType>(array, move |v, out| write(times(v, 1_000)?, out)),
        TimeUnit::Microsecond => each::<TimestampMicrosecondType>(array, write),
        TimeUnit::Nanosecond => each::<TimestampNanosecondType>(array, move |v, out| write(v.div_euclid(1_000), out)),
    }
}

/// Microseconds of a time of day.
fn time_of_day<'a>(
    array: &'a dyn Array,
    mut write: impl FnMut(i64, &mut Vec<u8>) -> Result<(), ArrowError> + Send + 'a,
) -> Result<Write<'a>, ArrowError> {
    Ok(match array.data_type() {
        DataType::Time32(TimeUnit::Second) => {
            each::<Time32SecondType>(array, move |v, out| write(i64::from(v) * 1_000_000, out))
        }
        DataType::Time32(_) => each::<Time32MillisecondType>(array, move |v, out| write(i64::from(v) * 1_000, out)),
        DataType::Time64(TimeUnit::Microsecond) => each::<Time64MicrosecondType>(array, write),
        DataType::Time64(_) => each::<Time64NanosecondType>(array, move |v, out| write(v / 1_000, out)),
        other => return Err(unknown(other)),
    })
}

/// Months, days and microseconds of an interval or duration.
fn interval<'a>(
    array: &'a dyn Array,
    write: impl Fn(i32, i32, i64, &mut Vec<u8>) + Send + 'a,
) -> Result<Write<'a>, ArrowError> {
    let scaled = |value: i64, factor: i64| value.checked_mul(factor).ok_or_else(|| out_of_range("a duration"));
    Ok(match array.data_type() {
        DataType::Interval(IntervalUnit::YearMonth) => {
            infallible::<IntervalYearMonthType>(array, move |months, out| write(months, 0, 0, out))
        }
        DataType::Interval(IntervalUnit::DayTime) => infallible::<IntervalDayTimeType>(array, move |value, out| {
            write(0, value.days, i64::from(value.milliseconds) * 1_000, out);
        }),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            infallible::<IntervalMonthDayNanoType>(array, move |value, out| {
                write(value.months, value.days, value.nanoseconds.div_euclid(1_000), out);
            })
        }
        DataType::Duration(TimeUnit::Second) => each::<DurationSecondType>(array, move |value, out| {
            write(0, 0, scaled(value, 1_000_000)?, out);
            Ok(())
        }),
        DataType::Duration(TimeUnit::Millisecond) => each::<DurationMillisecondType>(array, move |value, out| {
            write(0, 0, scaled(value, 1_000)?, out);
            Ok(())
        }),
        DataType::Duration(TimeUnit::Microsecond) => {
            infallible::<DurationMicrosecondType>(array, move |value, out| write(0, 0, value, out))
        }
        DataType::Duration(TimeUnit::Nanosecond) => {
            infallible::<DurationNanosecondType>(array, move |value, out| write(0, 0, value.div_euclid(1_000), out))
        }
        other => return Err(unknown(other)),
    })
}

fn bytes<'a>(array: &'a dyn Array, write: impl Fn(&[u8], &mut Vec<u8>) + Send + 'a) -> Result<Write<'a>, ArrowError> {
    macro_rules! of {
        ($array:expr) => {{
            let array = $array;
            Box::new(move |row, out: &mut Vec<u8>| {
                write(array.value(row).as_ref(), out);
                Ok(())
            })
        }};
    }
    Ok(match array.data_type() {
        DataType::Utf8 => of!(array.as_string::<i32>()),
        DataType::LargeUtf8 => of!(array.as_string::<i64>()),
        DataType::Utf8View => of!(array.as_string_view()),
        DataType::Binary => of!(array.as_binary::<i32>()),
        DataType::LargeBinary => of!(array.as_binary::<i64>()),
        DataType::BinaryView => of!(array.as_binary_view()),
        DataType::FixedSizeBinary(_) => of!(array.as_fixed_size_binary()),
        other => return Err(unknown(other)),
    })
}

fn unknown(data_type: &DataType) -> ArrowError {
    ArrowError::NotYetImplemented(format!("values of type {data_type} have no form in PostgreSQL's protocol"))
}

fn text<'a>(array: &'a dyn Array, zone: Tz) -> Result<Write<'a>, ArrowError> {
    use DataType as T;
    Ok(match array.data_type() {
        T::Boolean => {
            let array = array.as_boolean();
            Box::new(move |row, out| {
                out.push(if array.value(row) { b't' } else { b'f' });
                Ok(())
            })
        }
        T::Int8 => infallible::<Int8Type>(array, number),
        T::Int16 => infallible::<Int16Type>(array, number),
        T::Int32 => infallible::<Int32Type>(array, number),
        T::Int64 => infallible::<Int64Type>(array, number),
        T::UInt8 => infallible::<UInt8Type>(array, number),
        T::UInt16 => infallible::<UInt16Type>(array, number),
        T::UInt32 => infallible::<UInt32Type>(array, number),
        T::UInt64 => infallible::<UInt64Type>(array, number),
        T::Float16 => infallible::<Float16Type>(array, |value, out| float(f32::from(value), out)),
        T::Float32 => infallible::<Float32Type>(array, float),
        T::Float64 => infallible::<Float64Type>(array, float),
        T::Decimal128(_, scale) => {
            let scale = *scale;
            each::<Decimal128Type>(array, move |value, out| {
                out.extend(decimal::text(&value.to_string(), scale).as_bytes());
                Ok(())
            })
        }
        T::Decimal256(_, scale) => {
            let scale = *scale;
            each::<Decimal256Type>(array, move |value, out| {
                out.extend(decimal::text(&value.to_string(), scale).as_bytes());
                Ok(())
            })
        }
        T::Utf8 | T::LargeUtf8 | T::Utf8View => bytes(array, |value, out| out.extend(value))?,
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => bytes(array, |value, out| {
            out.extend(b"\\x");
            value.iter().for_each(|byte| hex(*byte, out));
        })?,
        T::Date32 => each::<Date32Type>(array, |days, out| date(i64::from(days), out)),
        T::Date64 => each::<Date64Type>(array, |millis, out| date(millis.div_euclid(86_400_000), out)),
        T::Time32(_) | T::Time64(_) => time_of_day(array, |micros, out| {
            let seconds = micros.div_euclid(1_000_000);
            two(seconds / 3_600, out);
            out.push(b':');
            two(seconds / 60 % 60, out);
            out.push(b':');
            two(seconds % 60, out);
            fraction(micros.rem_euclid(1_000_000), out);
            Ok(())
        })?,
        T::Timestamp(unit, None) => micros(array, *unit, |micros, out| {
            let time = DateTime::from_timestamp_micros(micros).ok_or_else(|| out_of_range("a timestamp"))?;
            timestamp(time.naive_utc(), out)
        }),
        T::Timestamp(unit, Some(_)) => micros(array, *unit, move |micros, out| {
            let utc = DateTime::from_timestamp_micros(micros).ok_or_else(|| out_of_range("a timestamp"))?.naive_utc();
            let offset = zone.offset_from_utc_datetime(&utc).fix();
            let local = utc.checked_add_offset(offset).ok_or_else(|| out_of_range("a timestamp"))?;
            // The era stands behind the offset.
            let (year, era) = year(local.year());
            at(local, year, out);
            offset_text(offset.local_minus_utc(), out);
            out.extend(era);
            Ok(())
        }),
        T::Interval(_) | T::Duration(_) => interval(array, interval_text)?,
        T::Null => Box::new(|_, _| Ok(())),
        other => return Err(unknown(other)),
    })
}

fn binary<'a>(array: &'a dyn Array) -> Result<Write<'a>, ArrowError> {
    use DataType as T;
    Ok(match array.data_type() {
        T::Boolean => {
            let array = array.as_boolean();
            Box::new(move |row, out| {
                out.push(u8::from(array.value(row)));
                Ok(())
            })
        }
        T::Int8 => infallible::<Int8Type>(array, |value, out| out.extend(i16::from(value).to_be_bytes())),
        T::UInt8 => infallible::<UInt8Type>(array, |value, out| out.extend(i16::from(value).to_be_bytes())),
        T::Int16 => infallible::<Int16Type>(array, |value, out| out.extend(value.to_be_bytes())),
        T::UInt16 => infallible::<UInt16Type>(array, |value, out| out.extend(i32::from(value).to_be_bytes())),
        T::Int32 => infallible::<Int32Type>(array, |value, out| out.extend(value.to_be_bytes())),
        T::UInt32 => infallible::<UInt32Type>(array, |value, out| out.extend(i64::from(value).to_be_bytes())),
        T::Int64 => infallible::<Int64Type>(array, |value, out| out.extend(value.to_be_bytes())),
        T::UInt64 => infallible::<UInt64Type>(array, |value, out| decimal::binary(&value.to_string(), 0, out)),
        T::Float16 => infallible::<Float16Type>(array, |value, out| out.extend(f32::from(value).to_be_bytes())),
        T::Float32 => infallible::<Float32Type>(array, |value, out| out.extend(value.to_be_bytes())),
        T::Float64 => infallible::<Float64Type>(array, |value, out| out.extend(value.to_be_bytes())),
        T::Decimal128(_, scale) => {
            let scale = *scale;
            infallible::<Decimal128Type>(array, move |value, out| decimal::binary(&value.to_string(), scale, out))
        }
        T::Decimal256(_, scale) => {
            let scale = *scale;
            infallible::<Decimal256Type>(array, move |value, out| decimal::binary(&value.to_string(), scale, out))
        }
        T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => {
            bytes(array, |value, out| out.extend(value))?
        }
        T::Date32 => each::<Date32Type>(array, |days, out| days_since_2000(i64::from(days), out)),
        T::Date64 => each::<Date64Type>(array, |millis, out| days_since_2000(millis.div_euclid(86_400_000), out)),
        T::Time32(_) | T::Time64(_) => time_of_day(array, |micros, out| {
            out.extend(micros.to_be_bytes());
            Ok(())
        })?,
        T::Timestamp(unit, _) => micros(array, *unit, |micros, out| {
            let micros = micros.checked_sub(MICROS).ok_or_else(|| out_of_range("a timestamp"))?;
            out.extend(micros.to_be_bytes());
            Ok(())
        }),
        T::Interval(_) | T::Duration(_) => interval(array, |months, days, micros, out| {
            out.extend(micros.to_be_bytes());
            out.extend(days.to_be_bytes());
            out.extend(months.to_be_bytes());
        })?,
        T::Null => Box::new(|_, _| Ok(())),
        other => return Err(unknown(other)),
    })
}

/// What has no type of its own, as JSON. Binary `json` is its text.
fn json(array: &ArrayRef) -> Result<Write<'_>, ArrowError> {
    let field = std::sync::Arc::new(Field::new("", array.data_type().clone(), true));
    let options = EncoderOptions::default().with_explicit_nulls(true);
    // The encoder may keep references to its field only; it is made for each row's use through the array.
    let mut pieces = Vec::new();
    let encoded = {
        let mut encoder = make_encoder(&field, array.as_ref(), &options)?;
        let mut text = Vec::new();
        for row in 0..array.len() {
            let start = text.len();
            if !encoder.is_null(row) {
                encoder.encode(row, &mut text);
            }
            pieces.push(start..text.len());
        }
        text
    };
    Ok(Box::new(move |row, out| {
        out.extend(&encoded[pieces[row].clone()]);
        Ok(())
    }))
}

/// Arrays of one dimension, and what PostgreSQL calls vectors: they count from 0, and have blanks between their numbers.
fn list<'a>(array: &'a ArrayRef, column_type: ColumnType, is_binary: bool, zone: Tz) -> Result<Write<'a>, ArrowError> {
    let DataType::List(_) = array.data_type() else { return Err(unknown(array.data_type())) };
    let lists = array.as_list::<i32>();
    let items = lists.values();
    let is_vector = column_type.item.is_vector();
    let of = if is_vector { ColumnType::of_arrow(items.data_type()) } else { column_type };
    let numbers = is_vector && *items.data_type() == DataType::Int64;
    let of = if numbers { ColumnType::of_oid(OID.oid).unwrap_or(of) } else { of };
    let mut item = writer(items, ColumnType { is_array: false, ..of }, is_binary, zone)?;
    if is_binary {
        return Ok(Box::new(move |row, out| {
            let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
            let has_nulls = range.clone().any(|at| items.is_null(at));
            let dimensions = i32::from(!range.is_empty());
            out.extend(dimensions.to_be_bytes());
            out.extend(i32::from(has_nulls).to_be_bytes());
            out.extend(of.item.oid.to_be_bytes());
            if dimensions > 0 {
                out.extend((range.len() as i32).to_be_bytes());
                out.extend(i32::from(!is_vector).to_be_bytes());
            }
            for at in range {
                if items.is_null(at) {
                    out.extend((-1i32).to_be_bytes());
                } else {
                    sized(out, |out| item(at, out))?;
                }
            }
            Ok(())
        }));
    }
    if is_vector {
        return Ok(Box::new(move |row, out| {
            let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
            for at in range.clone() {
                if at > range.start {
                    out.push(b' ');
                }
                item(at, out)?;
            }
            Ok(())
        }));
    }
    let mut cell = Vec::new();
    Ok(Box::new(move |row, out| {
        let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
        out.push(b'{');
        for at in range.clone() {
            if at > range.start {
                out.push(b',');
            }
            if items.is_null(at) {
                out.extend(b"NULL");
                continue;
            }
            cell.clear();
            item(at, &mut cell)?;
            let plain = !cell.is_empty()
                && !cell.eq_ignore_ascii_case(b"null")
                && !cell
                    .iter()
                    .any(|byte| matches!(byte, b'{' | b'}' | b',' | b'"' | b'\\') || byte.is_ascii_whitespace());
            if plain {
                out.extend(&cell);
                continue;
            }
            out.push(b'"');
            for byte in &cell {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(*byte);
            }
            out.push(b'"');
        }
        out.push(b'}');
        Ok(())
    }))
}

fn hex(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// The shortest text that reads back as the same number, as PostgreSQL writes it: with an exponent where `%g` has one.
fn float<F: Float>(value: F, out: &mut Vec<u8>) {
    if !value.is_finite() {
        let special: &[u8] = match value.partial_cmp(&F::ZERO) {
            Some(std::cmp::Ordering::Greater) => b"Infinity",
            Some(_) => b"-Infinity",
            None => b"NaN",
        };
        return out.extend(special);
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(value);
    let size = value.abs();
    if size == F::ZERO || (size >= F::SMALL && size < F::LARGE) {
        return out.extend(text.strip_suffix(".0").unwrap_or(text).as_bytes());
    }
    // Large and small numbers are few.
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    out.extend(digits.as_bytes());
    out.push(b'e');
    out.push(if exponent < 0 { b'-' } else { b'+' });
    two(i64::from(exponent.abs()), out);
}

trait Float: ryu::Float + PartialOrd + std::fmt::LowerExp {
    const ZERO: Self;
    /// Numbers below this one …
    const SMALL: Self;
    /// … and from this one on have an exponent.
    const LARGE: Self;
    fn is_finite(self) -> bool;
    fn abs(self) -> Self;
}

macro_rules! floats {
    ($($float:ident below $large:literal),*) => {
        $(impl Float for $float {
            const ZERO: Self = 0.0;
            const SMALL: Self = 1e-4;
            const LARGE: Self = $large;

            fn is_finite(self) -> bool {
                $float::is_finite(self)
            }

            fn abs(self) -> Self {
                $float::abs(self)
            }
        })*
    };
}

floats!(f32 below 1e6, f64 below 1e15);

/// At least two digits.
fn two(value: i64, out: &mut Vec<u8>) {
    if value < 10 {
        out.push(b'0');
    }
    number(value, out);
}

/// `.` and microseconds without trailing zeros; nothing if there are none.
fn fraction(micros: i64, out: &mut Vec<u8>) {
    if micros == 0 {
        return;
    }
    out.push(b'.');
    let mut rest = micros;
    let mut unit = 100_000;
    while rest > 0 {
        out.push(b'0' + (rest / unit) as u8);
        (rest, unit) = (rest % unit, unit / 10);
    }
}

/// A year as it is written, and what stands at the end: there is no year 0.
fn year(year: i32) -> (i32, &'static [u8]) {
    if year > 0 { (year, b"") } else { (1 - year, b" BC") }
}

fn day(date: NaiveDate, year: i32, out: &mut Vec<u8>) {
    if year < 1_000 {
        out.extend(format!("{year:04}").as_bytes());
    } else {
        number(year, out);
    }
    out.push(b'-');
    two(i64::from(date.month()), out);
    out.push(b'-');
    two(i64::from(date.day()), out);
}

fn at(time: NaiveDateTime, year: i32, out: &mut Vec<u8>) {
    day(time.date(), year, out);
    out.push(b' ');
    two(i64::from(time.hour()), out);
    out.push(b':');
    two(i64::from(time.minute()), out);
    out.push(b':');
    two(i64::from(time.second()), out);
    fraction(i64::from(time.nanosecond() / 1_000), out);
}

fn timestamp(time: NaiveDateTime, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let (year, era) = year(time.year());
    at(time, year, out);
    out.extend(era);
    Ok(())
}

fn date(days: i64, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let seconds = days.checked_mul(86_400).and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let date = seconds.ok_or_else(|| out_of_range("a date"))?.date_naive();
    let (year, era) = year(date.year());
    day(date, year, out);
    out.extend(era);
    Ok(())
}

/// `+00`, `+05:30`, `-00:25:21`.
fn offset_text(seconds: i32, out: &mut Vec<u8>) {
    out.push(if seconds < 0 { b'-' } else { b'+' });
    let seconds = i64::from(seconds.abs());
    two(seconds / 3_600, out);
    if seconds % 3_600 > 0 {
        out.push(b':');
        two(seconds / 60 % 60, out);
    }
    if seconds % 60 > 0 {
        out.push(b':');
        two(seconds % 60, out);
    }
}

fn days_since_2000(days: i64, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let days = i32::try_from(days - DAYS).map_err(|_| out_of_range("a date"))?;
    out.extend(days.to_be_bytes());
    Ok(())
}

/// `1 year 2 mons 3 days 04:05:06.5`, each part with its sign; `00:00:00` if there is none.
fn interval_text(months: i32, days: i32, micros: i64, out: &mut Vec<u8>) {
    let start = out.len();
    let mut negative_before = false;
    let mut part = |value: i32, one: &str, out: &mut Vec<u8>| {
        if value == 0 {
            return;
        }
        if out.len() > start {
            out.push(b' ');
        }
        if negative_before && value > 0 {
            out.push(b'+');
        }
        let plural = if value == 1 { "" } else { "s" };
        out.extend(format!("{value} {one}{plural}").as_bytes());
        negative_before = value < 0;
    };
    part(months / 12, "year", out);
    part(months % 12, "mon", out);
    part(days, "day", out);
    if micros != 0 || out.len() == start {
        if out.len() > start {
            out.push(b' ');
        }
        if micros < 0 {
            out.push(b'-');
        } else if negative_before {
            out.push(b'+');
        }
        let (seconds, rest) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
        two((seconds / 3_600) as i64, out);
        out.push(b':');
        two((seconds / 60 % 60) as i64, out);
        out.push(b':');
        two((seconds % 60) as i64, out);
        fraction(rest as i64, out);
    }
}

/// `array` with dictionaries, views and long offsets taken away, as writers want lists.
pub(super) fn plain(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let to = crate::query::wire::data_type(array.data_type());
    if *array.data_type() == to { Ok(std::sync::Arc::clone(array)) } else { cast(array, &to) }
}

#[cfg(test)]
mod tests;
