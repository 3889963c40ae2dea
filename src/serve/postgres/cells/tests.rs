use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DurationMillisecondArray, Float32Array,
    Float64Array, Int64Array, IntervalMonthDayNanoArray, ListArray, StringArray, StructArray, Time64NanosecondArray,
    TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, IntervalMonthDayNano};

use super::*;

fn texts(array: impl Array + 'static, zone: &str) -> Vec<String> {
    let array = plain(&(Arc::new(array) as ArrayRef)).unwrap();
    let mut write = writer(&array, ColumnType::of_arrow(array.data_type()), false, zone.parse().unwrap()).unwrap();
    let mut one = |row| {
        let mut out = Vec::new();
        write(row, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    (0..array.len()).map(&mut one).collect()
}

fn bytes_of(array: impl Array + 'static) -> Vec<u8> {
    let array = plain(&(Arc::new(array) as ArrayRef)).unwrap();
    let mut out = Vec::new();
    writer(&array, ColumnType::of_arrow(array.data_type()), true, "UTC".parse().unwrap()).unwrap()(0, &mut out)
        .unwrap();
    out
}

/// As PostgreSQL 15 shows these values.
#[test]
fn texts_are_postgresqls() {
    assert_eq!(texts(BooleanArray::from(vec![true, false]), "UTC"), ["t", "f"]);
    assert_eq!(texts(UInt64Array::from(vec![u64::MAX]), "UTC"), ["18446744073709551615"]);
    let floats = vec![
        0.0,
        -0.0,
        1.0,
        0.1,
        1e15,
        123_456_789_012_345.0,
        1e-4,
        1e-5,
        1.5e300,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let shown = [
        "0",
        "-0",
        "1",
        "0.1",
        "1e+15",
        "123456789012345",
        "0.0001",
        "1e-05",
        "1.5e+300",
        "NaN",
        "Infinity",
        "-Infinity",
    ];
    assert_eq!(texts(Float64Array::from(floats), "UTC"), shown);
    assert_eq!(texts(Float32Array::from(vec![0.1, 1e6, 123_456.0]), "UTC"), ["0.1", "1e+06", "123456"]);
    assert_eq!(texts(BinaryArray::from(vec![b"\x00\xff".as_slice(), b""]), "UTC"), ["\\x00ff", "\\x"]);
    assert_eq!(
        texts(Date32Array::from(vec![0, 20_787, -719_529]), "UTC"),
        ["1970-01-01", "2026-11-30", "0002-12-31 BC"]
    );
    assert_eq!(texts(Time64NanosecondArray::from(vec![3_723_450_000_999]), "UTC"), ["01:02:03.45"]);
    assert_eq!(
        texts(Decimal128Array::from(vec![-5, 12_345]).with_precision_and_scale(10, 2).unwrap(), "UTC"),
        ["-0.05", "123.45"]
    );
}

#[test]
fn times_are_shown_in_the_sessions_zone() {
    let at = || TimestampMicrosecondArray::from(vec![1_796_036_400_123_000]);
    assert_eq!(texts(at(), "Asia/Seoul"), ["2026-11-30 11:00:00.123"], "a time without a zone has none");
    assert_eq!(texts(at().with_timezone("UTC"), "Asia/Seoul"), ["2026-11-30 20:00:00.123+09"]);
    assert_eq!(texts(at().with_timezone("UTC"), "+05:30"), ["2026-11-30 16:30:00.123+05:30"]);
    assert_eq!(texts(at().with_timezone("Asia/Seoul"), "America/New_York"), ["2026-11-30 06:00:00.123-05"]);
    let old = TimestampSecondArray::from(vec![-63_000_000_000]).with_timezone("UTC");
    assert_eq!(texts(old, "UTC"), ["0028-08-11 08:00:00+00 BC"]);
    let nano = TimestampNanosecondArray::from(vec![-1]);
    assert_eq!(texts(nano, "UTC"), ["1969-12-31 23:59:59.999999"]);
    let far = Arc::new(TimestampSecondArray::from(vec![i64::MAX])) as ArrayRef;
    assert!(
        writer(&far, ColumnType::of_arrow(far.data_type()), false, "UTC".parse().unwrap()).unwrap()(0, &mut Vec::new())
            .is_err()
    );
}

#[test]
fn intervals_have_a_sign_in_each_part() {
    let of = |months, days, micros: i64| IntervalMonthDayNano::new(months, days, micros * 1_000);
    let values = vec![of(14, 3, 14_706_789_000), of(0, 0, 0), of(-1, 2, -1), of(0, 1, 0), of(-13, 0, 5_000_000)];
    let shown = [
        "1 year 2 mons 3 days 04:05:06.789",
        "00:00:00",
        "-1 mons +2 days -00:00:00.000001",
        "1 day",
        "-1 years -1 mons +00:00:05",
    ];
    assert_eq!(texts(IntervalMonthDayNanoArray::from(values), "UTC"), shown);
    assert_eq!(texts(DurationMillisecondArray::from(vec![90_061_001]), "UTC"), ["25:01:01.001"]);
}

#[test]
fn arrays_and_what_has_no_type_of_its_own() {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None, Some(3)]), Some(vec![])]);
    assert_eq!(texts(list, "UTC"), ["{1,NULL,3}", "{}"]);
    let words = StringArray::from(vec!["a", "", "null", "b c", "d\"e\\", "{"]);
    let field = Arc::new(Field::new_list_field(DataType::Utf8, true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([words.len()]);
    let list = ListArray::new(field, offsets, Arc::new(words), None);
    assert_eq!(texts(list, "UTC"), [r#"{a,"","null","b c","d\"e\\","{"}"#]);
    let fields = vec![
        (Arc::new(Field::new("lat", DataType::Float64, true)), Arc::new(Float64Array::from(vec![37.5])) as ArrayRef),
        (
            Arc::new(Field::new("name", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![None::<&str>])) as ArrayRef,
        ),
    ];
    assert_eq!(texts(StructArray::from(fields), "UTC"), [r#"{"lat":37.5,"name":null}"#]);
}

#[test]
fn bytes_are_postgresqls() {
    assert_eq!(bytes_of(Int64Array::from(vec![-2])), (-2i64).to_be_bytes());
    assert_eq!(bytes_of(Date32Array::from(vec![10_958])), 1i32.to_be_bytes());
    assert_eq!(bytes_of(TimestampSecondArray::from(vec![946_684_801])), 1_000_000i64.to_be_bytes());
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(7), None])]);
    let words = [1, 1, 23, 2, 1, 4, 7, -1i32];
    assert_eq!(bytes_of(list), words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>());
    let interval = IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(1, 2, 3_000)]);
    let wanted = [&3i64.to_be_bytes()[..], &2i32.to_be_bytes(), &1i32.to_be_bytes()].concat();
    assert_eq!(bytes_of(interval), wanted);
}
