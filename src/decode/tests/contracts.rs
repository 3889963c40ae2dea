//! What a contract says about records and columns.

use super::*;
use crate::schema::{infer_first, tests::contract};

fn matching(conditions: &[(&str, &[&str])]) -> Contract {
    let one = |(path, values): &(&str, &[&str])| Match {
        path: path.parse().unwrap(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    Contract { matches: conditions.iter().map(one).collect(), ..contract() }
}

fn declared(name: &str, path: &str, kind: ColumnType) -> ColumnContract {
    ColumnContract {
        name: name.into(),
        path: Some(path.parse().unwrap()),
        kind: Some(kind),
        ..ColumnContract::default()
    }
}

/// The batch of a contract whose columns are all declared.
fn decode_declared(contract: &Contract, payloads: &[&str]) -> Decoded {
    decode(contract, &SchemaVersion::declared(contract), &records(0, payloads))
}

#[test]
fn match_takes_what_meets_all_conditions() {
    for (conditions, payload, taken) in [
        (&[("type", &["car"][..])][..], r#"{"type":"car"}"#, true),
        (&[("type", &["car"])], r#"{"type":"c\u0061r"}"#, true),
        (&[("type", &["car"])], r#"{"type":"bus"}"#, false),
        (&[("type", &["car", "bus"])], r#"{"type":"bus"}"#, true),
        (&[("type", &["car"])], r#"{"kind":"car"}"#, false),
        (&[("type", &["car"])], r#"{"type":null}"#, false),
        (&[("type", &["car"])], r#"{"type":["car"]}"#, false),
        (&[("type", &["car"])], r#"{"type":"bus","type":"car"}"#, true),
        (&[("n", &["7"])], r#"{"n":7}"#, true),
        (&[("n", &["7"])], r#"{"n":"7"}"#, true),
        (&[("n", &["7"])], r#"{"n":7.0}"#, false),
        (&[("n", &["true"])], r#"{"n":true}"#, true),
        (&[("m.type", &["a"]), ("m.x", &["1"])], r#"{"m":{"type":"a","x":1}}"#, true),
        (&[("m.type", &["a"]), ("m.x", &["1"])], r#"{"m":{"type":"a","x":2}}"#, false),
        (&[("m", &["{}"])], r#"{"m":{}}"#, false),
    ] {
        let decoded = decode(&matching(conditions), &version(0, &[]), &records(0, &[payload]));
        assert_eq!(decoded.rows.num_rows() == 1, taken, "{conditions:?} {payload}");
        let skipped = if taken { BTreeMap::new() } else { BTreeMap::from([(Skip::NotMatched, 1)]) };
        assert_eq!((decoded.skipped, decoded.dead.len()), (skipped, 0), "{payload}");
    }
}

#[test]
fn match_looks_at_each_object_of_a_record() {
    let contract = matching(&[("t", &["a"])]);
    let version = version(1, &[column("id", "id", ColumnType::Int64)]);
    // The other table's object lacks the key, which is no concern of this one.
    let decoded = decode(&contract, &version, &records(0, &[r#"[{"t":"b"},{"t":"a","id":1},{"t":"a","id":2}]"#, "[]"]));
    let rows: Vec<(i64, i32)> = rows_of(&decoded.rows).into_iter().map(|(offset, row, _)| (offset, row)).collect();
    assert_eq!((rows, decoded.dead.len()), (vec![(0, 1), (0, 2)], 0));
    assert_eq!(decoded.skipped, BTreeMap::from([(Skip::EmptyArray, 1)]));
}

#[test]
fn what_is_matched_is_a_field_like_any_other() {
    let contract = matching(&[("t", &["a"])]);
    let records = records(0, &[r#"{"t":"a","x":1}"#, r#"{"t":"b","y":1}"#]);
    let first = infer_first(&contract, &[&records]);
    assert_eq!(only_row(&decode(&contract, &first, &records)), cells(&[("t", "a"), ("x", "1")]));
    // Unless it stands in a json column.
    let contract = Contract { columns: vec![declared("o", "o", ColumnType::Json)], ..matching(&[("o.t", &["a"])]) };
    let decoded = decode_declared(&contract, &[r#"{"o":{"t":"a"}}"#]);
    assert_eq!((only_row(&decoded), decoded.found.len()), (cells(&[("o", r#"{"t":"a"}"#)]), 0));
}

#[test]
fn match_by_key_header_and_topic() {
    let header = |value: &'static [u8]| [Header { name: "h".into(), value: Some(bytes::Bytes::from_static(value)) }];
    for (path, value, taken) in [
        ("$key", r#"{"k":5}"#, true),
        ("$key", "k", false),
        ("$key.k", "5", true),
        ("$key.k", "6", false),
        ("$key.other", "5", false),
        ("$header.h", "x", true),
        ("$header.none", "x", false),
        ("$topic", "fleet", true),
        ("$topic", "other", false),
    ] {
        let contract = matching(&[(path, &[value])]);
        let headers = header(b"x");
        let mut builder = RecordsBuilder::new(0);
        builder.push(record(0, Some(b"not json"), Some(br#"{"k":5}"#), &headers));
        builder.push(record(1, None, Some(br#"{"k":5}"#), &headers));
        let decoded = decode(&contract, &version(0, &[]), &builder.finish("fleet".into(), 1, 0));
        // Nothing but what stands outside decides: the payload is not looked at, unless the record is the table's.
        assert_eq!(decoded.dead.len(), usize::from(taken), "{path} {value}");
        assert_eq!(decoded.skipped[&Skip::Tombstone], 1);
    }
}

#[test]
fn a_record_nobody_can_read_is_the_first_tables() {
    let payloads = [&b"not json"[..], b"{\"t\":\"a\"", b"\xff", b"7", br#"{"t":"b"}"#];
    let mut contract = matching(&[("t", &["a"])]);
    let other = decode(&contract, &version(0, &[]), &records(0, &payloads));
    assert_eq!((other.dead.len(), other.skipped), (0, BTreeMap::from([(Skip::NotMatched, 5)])));
    contract.first_of = vec!["fleet".into()];
    let first = decode(&contract, &version(0, &[]), &records(0, &payloads));
    assert_eq!((first.dead.len(), first.skipped), (4, BTreeMap::from([(Skip::NotMatched, 1)])));
    // Whatever else it asks for: nobody else keeps the record.
    contract.matches.extend(matching(&[("$header.h", &["x"])]).matches);
    let first = decode(&contract, &version(0, &[]), &records(0, &payloads));
    assert_eq!((first.dead.len(), first.skipped), (4, BTreeMap::from([(Skip::NotMatched, 1)])));
}

#[test]
fn defaults_stand_for_what_is_absent_or_null_and_not_for_what_does_not_fit() {
    let column = |kind, default: &str| ColumnContract { default: Some(default.into()), ..declared("x", "x", kind) };
    for (kind, default, payload, expected) in [
        (ColumnType::Int64, "7", "{}", &[("x", "7")][..]),
        (ColumnType::Int64, "7", r#"{"x":null}"#, &[("x", "7")]),
        (ColumnType::Int64, "7", r#"{"x":1}"#, &[("x", "1")]),
        (ColumnType::Int64, "7", r#"{"x":"a"}"#, &[("_rescued", r#"{"x":"a"}"#)]),
        (ColumnType::String, "7", "{}", &[("x", "7")]),
        (ColumnType::Timestamp, "1970-01-01T00:00:01Z", "{}", &[("x", "1000000")]),
        (ColumnType::List(Element::String), "[\"a\"]", "{}", &[("x", "[a]")]),
    ] {
        let contract = Contract { columns: vec![column(kind, default)], ..contract() };
        assert_eq!(only_row(&decode_declared(&contract, &[payload])), cells(expected), "{payload}");
    }
    let contract = Contract {
        columns: vec![ColumnContract { default: Some("7".into()), ..declared("x", "$key", ColumnType::Int64) }],
        ..contract()
    };
    let mut builder = RecordsBuilder::new(0);
    builder.push(record(0, Some(b"{}"), Some(b"1"), &[]));
    builder.push(record(1, Some(b"[{},{}]"), None, &[]));
    builder.push(record(2, Some(b"{}"), Some(b"k"), &[]));
    let decoded = decode(&contract, &SchemaVersion::declared(&contract), &builder.finish("t".into(), 1, 0));
    let default = cells(&[("x", "7")]);
    let rescued = cells(&[("_rescued", r#"{"$key":"k"}"#)]);
    let expected = [cells(&[("x", "1")]), default.clone(), default, rescued];
    assert_eq!(users_cells(&decoded.rows), expected);
}

#[test]
fn a_column_that_must_have_a_value_makes_dead_letters() {
    let column = ColumnContract { not_null: true, ..declared("x", "a.x", ColumnType::Int64) };
    let contract = Contract { columns: vec![column], ..contract() };
    let decoded = decode_declared(&contract, &[r#"{"a":{"x":1}}"#, "{}", r#"{"a":{"x":null}}"#, r#"{"a":{"x":"1"}}"#]);
    assert_eq!(decoded.rows.num_rows(), 1);
    let dead: Vec<(Reason, &str)> =
        decoded.dead.iter().map(|letter| (letter.reason, letter.message.as_str())).collect();
    let missing = (Reason::ValueMissing, "column `x` has no value: `a.x` is missing or null");
    assert_eq!(dead, [missing, missing, (Reason::Misfit, "`a.x` does not fit column `x` (bigint): \"1\"")]);
}

#[test]
fn a_column_has_a_format_and_zone_of_its_own() {
    let column = |format: &str, zone| ColumnContract {
        format: Some(TimeFormat::parse(format)),
        zone,
        ..declared("x", "x", ColumnType::Timestamp)
    };
    for (format, zone, payload, expected) in [
        ("unix_ms", None, r#"{"x":1500}"#, &[("x", "1500000")][..]),
        ("unix_ms", None, r#"{"x":"soon"}"#, &[("_rescued", r#"{"x":"soon"}"#)]),
        ("yyyy-MM-dd HH:mm:ss", Some(chrono_tz::Asia::Seoul), r#"{"x":"1970-01-01 09:00:01"}"#, &[("x", "1000000")]),
        ("rfc3339", Some(chrono_tz::Asia::Seoul), r#"{"x":"1970-01-01T09:00:01"}"#, &[("x", "1000000")]),
    ] {
        let contract = Contract { columns: vec![column(format, zone)], ..contract() };
        assert_eq!(only_row(&decode_declared(&contract, &[payload])), cells(expected), "{payload}");
    }
}

#[test]
fn a_dropped_path_is_neither_column_nor_rescued() {
    let contract = Contract { dropped: vec![vec!["customer".into(), "phone".into()], vec!["x".into()]], ..contract() };
    let payloads = [r#"{"customer":{"phone":"1","name":"a"},"x":{"deep":[1]},"y":1}"#, r#"{"x":1}"#];
    let records = records(0, &payloads);
    let decoded = decode(&contract, &infer_first(&contract, &[&records]), &records);
    assert_eq!(users_cells(&decoded.rows), [cells(&[("customer_name", "a"), ("y", "1")]), vec![]]);
    assert_eq!(decoded.rescued, 0);
}

#[test]
fn strings_become_timestamps_where_the_contract_says_so() {
    let payloads =
        [r#"{"at":"2024-02-29T23:00:00+09:00","other":"2024-02-29T23:00:00Z","day":"2024-02-29"}"#, r#"{"other":"x"}"#];
    let kinds = |infer_timestamps| {
        let contract = Contract { infer_timestamps, ..contract() };
        let first = infer_first(&contract, &[&records(0, &payloads)]);
        first.columns.iter().map(|column| column.kind.word()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(true), ["timestamp", "string", "string"]);
    assert_eq!(kinds(false), ["string", "string", "string"]);
}
