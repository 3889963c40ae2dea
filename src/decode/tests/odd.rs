//! Odd inputs, one by one.

use arrow::array::Array;

use super::*;
use crate::schema::{Observed, OnNewField, tests::contract};

#[test]
fn payloads_that_are_dead_letters() {
    let bomb = "[".repeat(10_000);
    let deep = format!("{{\"a\":{}", "{\"a\":".repeat(10_000));
    for (payload, reason, message) in [
        (&b""[..], Reason::NotJson, "the payload is empty"),
        (b" \n", Reason::NotJson, "the payload is empty"),
        (b"42", Reason::NotAnObject, "the payload is a number, not an object, at byte 0"),
        (b"\"text\"", Reason::NotAnObject, "the payload is a string, not an object, at byte 0"),
        (b"null", Reason::NotAnObject, "the payload is null, not an object, at byte 0"),
        (b"{\"a\":NaN}", Reason::NotJson, "expected a value, found `N` at byte 5"),
        (b"{\"a\":-Infinity}", Reason::NotJson, "expected a digit, found `I` at byte 6"),
        (b"hello", Reason::NotJson, "expected a value, found `h` at byte 0"),
        (b"{\"a\":1", Reason::NotJson, "expected `,` or `}`, found the end at byte 6"),
        (b"{\"a\":1}x", Reason::NotJson, "expected the end or another object, found `x` at byte 7"),
        (b"{\"a\":1},{\"a\":2}", Reason::NotJson, "expected the end or another object, found `,` at byte 7"),
        (b"[{\"a\":1},7]", Reason::NotAnObject, "an element of the array is a number, not an object, at byte 9"),
        (b"[{\"a\":1}] {}", Reason::NotJson, "expected the end, found `{` at byte 10"),
        (b"{\"a\":\"\xff\"}", Reason::NotUtf8, "the payload is not UTF-8 at byte 6"),
        (b"\xef\xbb\xbf{}", Reason::NotJson, "expected a value, found `\u{feff}` at byte 0"),
        (br#"{"a":"\ud800"}"#, Reason::NotJson, "expected no lone surrogate in a string, found `\\` at byte 6"),
        (bomb.as_bytes(), Reason::TooDeep, "more than 128 nested arrays and objects at byte 128"),
        (deep.as_bytes(), Reason::TooDeep, "more than 128 nested arrays and objects at byte 640"),
    ] {
        let decoded = decode(&contract(), &version(0, &[]), &records(9, &[payload]));
        assert_eq!((decoded.rows.num_rows(), decoded.dead.len(), decoded.found.len()), (0, 1, 0));
        let letter = &decoded.dead[0];
        assert_eq!((letter.reason, letter.message.as_str()), (reason, message));
        assert_eq!(letter.payload.as_deref(), Some(payload));
        assert_eq!((letter.offset, letter.schema_version, letter.timestamp_us), (9, 3, BROKER_US));
    }
}

#[test]
fn several_rows_of_a_record_are_all_or_nothing() {
    let version = version(0, &[column("a", "a", ColumnType::Int64)]);
    let payloads = ["[{\"a\":1},{\"a\":2}]", "{\"a\":3}\n{\"a\":4}{\"a\":5}", "[{\"a\":6},{\"a\":}]", "[]", "{}"];
    let decoded = decode(&contract(), &version, &records(0, &payloads));
    let rows: Vec<(i64, i32, Option<String>)> =
        rows_of(&decoded.rows).into_iter().map(|(offset, row, mut cells)| (offset, row, cells.remove("a"))).collect();
    let row = |offset, row, a: &str| (offset, row, Some(a.to_owned()));
    assert_eq!(rows, [row(0, 0, "1"), row(0, 1, "2"), row(1, 0, "3"), row(1, 1, "4"), row(1, 2, "5"), (4, 0, None)]);
    assert_eq!(decoded.dead.iter().map(|letter| letter.offset).collect::<Vec<_>>(), [2]);
    assert_eq!(decoded.skipped, BTreeMap::from([(Skip::EmptyArray, 1)]));
}

#[test]
fn a_tombstone_is_a_counted_skip() {
    let decoded = decode(&contract(), &version(0, &[]), &build(0, &[None, None]));
    assert_eq!((decoded.rows.num_rows(), decoded.dead.len()), (0, 0));
    assert_eq!(decoded.skipped, BTreeMap::from([(Skip::Tombstone, 2)]));
}

#[test]
fn the_last_of_two_values_at_a_path_counts() {
    let version = version(0, &[column("a", "a", ColumnType::Int64), column("b", "o.b", ColumnType::Int64)]);
    for (payload, expected) in [
        (r#"{"a":1,"a":2}"#, &[("a", "2")][..]),
        (r#"{"a":"x","a":2}"#, &[("a", "2")]),
        (r#"{"a":2,"a":"x"}"#, &[("_rescued", r#"{"a":"x"}"#)]),
        (r#"{"a":1,"a":null}"#, &[]),
        (r#"{"o":{"b":1},"o":{"c":2}}"#, &[("_rescued", r#"{"o.c":2}"#), ("b", "1")]),
        (r#"{"x":1,"y":2,"x":3}"#, &[("_rescued", r#"{"y":2,"x":3}"#)]),
        (r#"{"x":1,"x":null,"y":null}"#, &[]),
        (r#"{"o":1,"o":null}"#, &[]),
        (r#"{"\u0061":7}"#, &[("a", "7")]),
    ] {
        let decoded = decode(&contract(), &version, &records(0, &[payload]));
        assert_eq!(only_row(&decoded), cells(expected), "{payload}");
    }
}

#[test]
fn what_does_not_fit_is_rescued_as_it_was_written() {
    let columns = [
        column("i", "i", ColumnType::Int64),
        column("d", "d", ColumnType::Double),
        column("t", "t", ColumnType::Timestamp),
    ];
    for (payload, expected) in [
        (r#"{"i":9223372036854775808,"d":1e999}"#, &[("_rescued", r#"{"i":9223372036854775808,"d":1e999}"#)][..]),
        (r#"{"i":3.0,"d":9007199254740993}"#, &[("_rescued", r#"{"i":3.0,"d":9007199254740993}"#)]),
        (r#"{"d":"<invalid>","i":1}"#, &[("_rescued", r#"{"d":"<invalid>"}"#), ("i", "1")]),
        (r#"{"t":"yesterday \u00e9"}"#, &[("_rescued", r#"{"t":"yesterday \u00e9"}"#)]),
        (r#"{"i":[ 1, "a b" ],"d":{"x":1}}"#, &[("_rescued", r#"{"i":[1,"a b"],"d.x":1}"#)]),
        (r#"{"new":{"odd.key":true,"q\"":[]}}"#, &[("_rescued", r#"{"new[\"odd.key\"]":true,"new[\"q\\\"\"]":[]}"#)]),
        (r#"{"empty":{},"null":null}"#, &[]),
    ] {
        let decoded = decode(&contract(), &version(0, &columns), &records(0, &[payload]));
        assert_eq!(only_row(&decoded), cells(expected), "{payload}");
    }
}

#[test]
fn nesting_beyond_eight_levels_is_one_json_value() {
    let payload = r#"{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h": { "i" : 1 },"h2":2}}}}}}}}"#;
    let first = crate::schema::infer_first(&contract(), &[&records(0, &[payload])]);
    let expected = [("a_b_c_d_e_f_g_h", "{\"i\":1}"), ("a_b_c_d_e_f_g_h2", "2")];
    assert_eq!(only_row(&decode(&contract(), &first, &records(0, &[payload]))), cells(&expected));
    // A declared path goes as deep as it says.
    let deep = version(0, &[column("i", "a.b.c.d.e.f.g.h.i", ColumnType::Int64)]);
    let decoded = decode(&contract(), &deep, &records(0, &[payload]));
    assert_eq!(only_row(&decoded), cells(&[("_rescued", r#"{"a.b.c.d.e.f.g.h2":2}"#), ("i", "1")]));
}

#[test]
fn json_columns_take_objects_whole() {
    let json = version(0, &[column("o", "o", ColumnType::Json)]);
    let decoded = decode(&contract(), &json, &records(0, &[r#"{"o":{ "a" : [1, 2], "b c":"d e"}}"#]));
    assert_eq!(only_row(&decoded), cells(&[("o", r#"{"a":[1,2],"b c":"d e"}"#)]));
    assert!(decoded.found.is_empty());
    // Found as an array beside columns of its members: objects stay flat; declared: both.
    let both = version(0, &[column("o", "o", ColumnType::Json), column("a", "o.a", ColumnType::Int64)]);
    let payload = [r#"{"o":{"a":1,"b":2}}"#];
    let flat = decode(&contract(), &both, &records(0, &payload));
    assert_eq!(only_row(&flat), cells(&[("_rescued", r#"{"o.b":2}"#), ("a", "1")]));
    let declared = ColumnContract { name: "o".into(), kind: Some(ColumnType::Json), ..ColumnContract::default() };
    let contract = Contract { columns: vec![declared], ..contract() };
    let whole = decode(&contract, &both, &records(0, &payload));
    assert_eq!(only_row(&whole), cells(&[("a", "1"), ("o", r#"{"a":1,"b":2}"#)]));
}

#[test]
fn finds_tell_where_what_and_how_often() {
    let payloads = [
        r#"{"a":1}"#,
        r#"[{"a":2.5,"b":{"c":[ 1 ]}},{"a":null}]"#,
        "{\"a\":3, broken",
        r#"{"a":18446744073709551616}"#,
    ];
    let found = decode(&contract(), &version(0, &[]), &records(4, &payloads)).found;
    assert_eq!(found.len(), 2);
    let (a, c) = (&found[0], &found[1]);
    assert_eq!((a.path.to_string().as_str(), a.rows, a.offset, a.at_byte, a.sample.as_str()), ("a", 3, 4, 5, "1"));
    assert_eq!(a.observed, Observed::INTEGER.and(Observed::REAL).and(Observed::BIG_INTEGER));
    assert_eq!((c.path.to_string().as_str(), c.rows, c.offset, c.sample.as_str()), ("b.c", 1, 5, "[1]"));
    let long = format!("{{\"a\":\"{}\"}}", "é".repeat(5_000));
    let found = decode(&contract(), &version(0, &[]), &records(0, &[long])).found;
    assert_eq!(found[0].sample.chars().count(), 101);
}

#[test]
fn keys_must_be_there_and_fit() {
    let keyed = version(2, &[column("car", "car.id", ColumnType::Int64), column("door", "door", ColumnType::String)]);
    let payloads = [
        r#"{"car":{"id":1},"door":"left","new":1}"#,
        r#"{"car":{"id":1},"new":1}"#,
        r#"{"car":{"id":null},"door":"left"}"#,
        r#"{"car":{"id":"x"},"door":"left"}"#,
        r#"[{"car":{"id":1},"door":"left"},{"door":"left"}]"#,
    ];
    let decoded = decode(&contract(), &keyed, &records(0, &payloads));
    assert_eq!(decoded.rows.num_rows(), 1);
    let dead: Vec<(&str, &str)> =
        decoded.dead.iter().map(|letter| (letter.reason.code(), letter.message.as_str())).collect();
    assert_eq!(
        dead,
        [
            ("key_missing", "key column `door` has no value: `door` is missing or null"),
            ("key_missing", "key column `car` has no value: `car.id` is missing or null"),
            ("key_misfit", "`car.id` does not fit column `car` (bigint): \"x\""),
            ("key_missing", "key column `car` has no value: `car.id` is missing or null"),
        ]
    );
    // A refused record still tells what is new: the key itself may be.
    assert_eq!(decoded.found[0].rows, 2);
}

#[test]
fn a_key_found_late_makes_rows_after_the_schema_has_evolved() {
    let contract = Contract { key: vec!["car_id".into()], ..contract() };
    let records = records(0, &[r#"{"Car":{"Id":"k7"},"v":1}"#]);
    let first = crate::schema::infer_first(&contract, &[]);
    let refused = decode(&contract, &first, &records);
    assert_eq!(refused.dead[0].reason, Reason::KeyMissing);
    let second = first.evolve(&contract, &refused.found).unwrap();
    assert_eq!(only_row(&decode(&contract, &second, &records)), cells(&[("car_id", "k7"), ("v", "1")]));
}

#[test]
fn on_type_conflict_dead_letter_refuses_misfits_and_no_new_fields() {
    let mut contract =
        Contract { on_type_conflict: OnTypeConflict::DeadLetter, on_new_field: OnNewField::Rescue, ..contract() };
    contract.time = Some(EventTime { path: "at".parse().unwrap(), format: TimeFormat::UnixMillis });
    let version = version(0, &[column("i", "i", ColumnType::Int64)]);
    let payloads = [r#"{"i":1,"new":"x"}"#, r#"{"i":"x"}"#, r#"{"i":1,"at":"noon"}"#];
    let decoded = decode(&contract, &version, &records(0, &payloads));
    assert_eq!(decoded.rows.num_rows(), 1);
    let messages: Vec<&str> = decoded.dead.iter().map(|letter| letter.message.as_str()).collect();
    assert_eq!(
        messages,
        ["`i` does not fit column `i` (bigint): \"x\"", "`at` does not fit column `event_time` (timestamp): \"noon\""]
    );
}

#[test]
fn event_time_is_read_in_the_declared_format_or_is_the_brokers() {
    let pattern = TimeFormat::Pattern("EEE MMM dd HH:mm:ss z yyyy".into());
    let broker = BROKER_US.to_string();
    for (format, payload, event, rescued) in [
        (TimeFormat::Rfc3339, r#"{"at":"2024-02-29T15:00:00Z"}"#, "1709218800000000", None),
        (TimeFormat::Rfc3339, r#"{"at":"2024-03-01T00:00:00"}"#, "1709218800000000", None),
        (TimeFormat::Rfc3339, r#"{"at":1709218800}"#, broker.as_str(), Some(r#"{"at":1709218800}"#)),
        (TimeFormat::UnixSeconds, r#"{"at":1709218800}"#, "1709218800000000", None),
        (TimeFormat::UnixMillis, r#"{"at":"1709218800123"}"#, "1709218800123000", None),
        (pattern.clone(), r#"{"at":"Fri Mar 01 00:00:00 KST 2024"}"#, "1709218800000000", None),
        (pattern, r#"{"at":"Fri Mar 01"}"#, broker.as_str(), Some(r#"{"at":"Fri Mar 01"}"#)),
        (TimeFormat::Rfc3339, r#"{"at":null}"#, broker.as_str(), None),
        (TimeFormat::Rfc3339, r#"{}"#, broker.as_str(), None),
        (TimeFormat::Rfc3339, r#"{"at":"1970-01-01T00:00:00Z"}"#, "0", None),
    ] {
        let mut contract = contract();
        contract.timezone = chrono_tz::Asia::Seoul;
        contract.time = Some(EventTime { path: "at".parse().unwrap(), format });
        let decoded = decode(&contract, &version(0, &[]), &records(0, &[payload]));
        let (_, _, cells) = rows_of(&decoded.rows).remove(0);
        assert_eq!(cells[fixed::EVENT_TIME], event, "{payload}");
        assert_eq!(cells.get(fixed::RESCUED).map(String::as_str), rescued, "{payload}");
        // 2024-03-01 in Seoul for all of them, the one of 1970 too.
        assert_eq!(cells[fixed::DAY], "19783", "{payload}");
        assert!(decoded.found.is_empty());
    }
}

#[test]
fn columns_from_key_headers_topic_and_timestamp() {
    let columns = [
        column("id", "$key.car.id", ColumnType::Int64),
        column("key", "$key", ColumnType::String),
        column("device", "$header.device", ColumnType::String),
        column("seq", "$header.seq", ColumnType::Int64),
        column("topic", "$topic", ColumnType::String),
        column("sent", "$timestamp", ColumnType::Timestamp),
        column("sent_text", "$timestamp", ColumnType::String),
    ];
    let header = |name: &str, value: &'static str| Header {
        name: name.into(),
        value: Some(bytes::Bytes::from_static(value.as_bytes())),
    };
    let headers = [header("device", "old"), header("device", "d1"), header("seq", "7x")];
    let mut builder = RecordsBuilder::new(0);
    builder.push(record(0, Some(b"{}"), Some(br#"{"car":{"id":5},"x":1}"#), &headers));
    builder.push(record(1, Some(b"{}"), Some(b"plain"), &[]));
    builder.push(record(2, Some(b"{}"), Some(b"\xff"), &[]));
    builder.push(record(3, Some(b"[{},{}]"), None, &[]));
    let decoded = decode(&contract(), &version(0, &columns), &builder.finish("fleet".into(), 1, 0));
    let rows = rows_of(&decoded.rows);
    let get = |row: usize, name: &str| rows[row].2.get(name).map(String::as_str);
    assert_eq!(get(0, "id"), Some("5"));
    assert_eq!(get(0, "key"), Some(r#"{"car":{"id":5},"x":1}"#));
    assert_eq!((get(0, "device"), get(0, "seq")), (Some("d1"), None));
    assert_eq!(get(0, "_rescued"), Some(r#"{"$header.seq":"7x"}"#));
    assert_eq!((get(0, "topic"), get(0, "sent_text")), (Some("fleet"), Some("2024-03-01T00:00:00Z")));
    assert_eq!(get(0, "sent"), Some(BROKER_US.to_string().as_str()));
    assert_eq!((get(1, "id"), get(1, "key"), get(1, "_rescued")), (None, Some("plain"), Some(r#"{"$key":"plain"}"#)));
    assert_eq!(get(2, "_rescued"), Some(r#"{"$key":"0xff"}"#));
    assert_eq!((get(3, "key"), get(4, "topic"), get(4, "_rescued")), (None, Some("fleet"), None));
    assert!(decoded.found.is_empty());
}

#[test]
fn a_string_of_fifty_megabytes_is_a_row() {
    let payload = format!("{{\"a\":\"{}\",\"b\":[{}1]}}", "x".repeat(50_000_000), "1, ".repeat(100_000));
    let columns = [column("a", "a", ColumnType::String), column("b", "b", ColumnType::Json)];
    let decoded = decode(&contract(), &version(0, &columns), &records(0, &[payload]));
    assert_eq!(decoded.rows["a"].as_string::<i32>().value(0).len(), 50_000_000);
    assert_eq!(decoded.rows["b"].as_string::<i32>().value(0).len(), 200_003);
    assert_eq!(decoded.rows["a"].len(), 1);
}

#[test]
fn a_record_whose_rows_would_not_fit_a_batch_is_a_dead_letter() {
    let version = version(0, &[column("key", "$key", ColumnType::String)]);
    let (key, payload) = (vec![b'k'; 1 << 20], format!("[{{}}{}]", ",{}".repeat(3_000)));
    let mut builder = RecordsBuilder::new(0);
    builder.push(record(0, Some(payload.as_bytes()), Some(&key), &[]));
    builder.push(record(1, Some(b"{}"), Some(&key), &[]));
    let decoded = decode(&contract(), &version, &builder.finish("t".into(), 1, 0));
    assert_eq!((decoded.rows.num_rows(), decoded.dead[0].reason), (1, Reason::TooLarge));
}

#[test]
fn more_new_paths_than_a_table_can_have_are_rescued_and_reported_up_to_a_bound() {
    let members: Vec<String> = (0..5_000).map(|n| format!("\"k{n}\":{n}")).collect();
    let payload = [format!("{{{}}}", members.join(","))];
    let first = crate::schema::infer_first(&contract(), &[&records(0, &payload)]);
    assert_eq!(first.columns.len(), crate::schema::MAX_COLUMNS);
    let decoded = decode(&contract(), &first, &records(0, &payload));
    assert_eq!((decoded.rescued, decoded.found.len()), (4_000, 2_000));
    assert_eq!(first.evolve(&contract(), &decoded.found), None);
}

#[test]
fn a_superseded_column_gets_no_more_values() {
    let mut wider = column("n__w1", "n", ColumnType::Double);
    wider.widens = Some("n".into());
    let version = version(0, &[column("n", "n", ColumnType::Int64), wider]);
    let decoded = decode(&contract(), &version, &records(0, &[r#"{"n":1}"#, r#"{"n":12.5}"#, r#"{"n":"x"}"#]));
    let cells = rows_of(&decoded.rows);
    let wide: Vec<_> = cells.iter().map(|(_, _, cells)| cells.get("n__w1").map(String::as_str)).collect();
    assert_eq!(wide, [Some("1.0"), Some("12.5"), None]);
    assert!(cells.iter().all(|(_, _, cells)| !cells.contains_key("n")));
    assert_eq!(decoded.rescued, 1);
}

#[test]
fn misfits_are_reported_by_path_with_what_was_seen() {
    let columns = [
        column("n", "n", ColumnType::Int64),
        column("text", "n", ColumnType::String),
        column("d", "d", ColumnType::Date),
        column("big", "big", ColumnType::Int64),
    ];
    let version = version(0, &columns);
    let payloads = [
        r#"{"n":1,"d":"2024-02-29","big":9007199254740992}"#,
        r#"{"n":12.5,"d":"2024-02-29T10:00:00Z"}"#,
        r#"{"n":"x","d":"never","big":-9007199254740993}"#,
        r#"{"n":2.5,"big":9007199254740994}"#,
    ];
    let decoded = decode(&contract(), &version, &records(7, &payloads));
    let told: Vec<_> = decoded
        .misfits
        .iter()
        .map(|find| (find.path.to_string(), find.observed, find.offset, find.rows, find.sample.as_str()))
        .collect();
    let expected = [
        ("n".to_owned(), Observed::REAL.and(Observed::STRING), 8, 3, "12.5"),
        ("d".to_owned(), Observed::TIMESTAMP.and(Observed::STRING), 8, 2, "\"2024-02-29T10:00:00Z\""),
        ("big".to_owned(), Observed::LONG, 9, 1, "-9007199254740993"),
    ];
    assert_eq!(told, expected);
    assert_eq!(decoded.found, []);
    // What is known to be beyond doubles is not told again.
    let mut known = version;
    known.columns[3].exact = false;
    let again = decode(&contract(), &known, &records(7, &payloads));
    assert!(again.misfits.iter().all(|find| find.path.to_string() != "big"));
}

#[test]
fn odd_keys_become_names_that_differ() {
    let payload =
        r#"{"a.b":1,"a b":2,"q\"uote":3,"😀":4,"Door":5,"door":6,"":7,"_offset":8,"_rescued":{"x":9},"a":{"b":10}}"#;
    let payloads = [payload];
    let first = crate::schema::infer_first(&contract(), &[&records(0, &payloads)]);
    let names: Vec<(&str, String)> =
        first.columns.iter().map(|column| (column.name.as_str(), column.path.to_string())).collect();
    let expected = [
        ("a_b", r#"["a.b"]"#),
        ("a_b__7d39", r#"["a b"]"#),
        ("q_uote", r#"["q\"uote"]"#),
        ("col", r#"["😀"]"#),
        ("door", "Door"),
        ("door__96dc", "door"),
        ("col__57b1", r#"[""]"#),
        ("offset", "_offset"),
        ("rescued_x", "_rescued.x"),
        ("a_b__e587", "a.b"),
    ];
    assert_eq!(names, expected.map(|(name, path)| (name, path.to_owned())));
    let row = only_row(&decode(&contract(), &first, &records(0, &payloads)));
    assert_eq!(row.iter().map(|(_, value)| value.parse::<i64>().unwrap()).sum::<i64>(), 55);
}

#[test]
fn a_hundred_levels_are_a_json_value_below_the_eighth() {
    let payload = [format!("{}1{}", r#"{"a":"#.repeat(100), "}".repeat(100))];
    let first = crate::schema::infer_first(&contract(), &[&records(0, &payload)]);
    assert_eq!(first.columns.len(), 1);
    let (name, value) = only_row(&decode(&contract(), &first, &records(0, &payload))).remove(0);
    assert_eq!((name.as_str(), value.len()), ("a_a_a_a_a_a_a_a", 92 * 6 + 1));
}

#[test]
fn a_value_that_is_an_object_now_and_then_has_columns_for_both() {
    let payloads = [r#"{"v":1}"#, r#"{"v":{"x":2}}"#, r#"{"v":"three"}"#, r#"{"v":{"x":4}}"#];
    let first = crate::schema::infer_first(&contract(), &[&records(0, &payloads)]);
    let rows = users_cells(&decode(&contract(), &first, &records(0, &payloads)).rows);
    assert_eq!(rows, [cells(&[("v", "1")]), cells(&[("v_x", "2")]), cells(&[("v", "three")]), cells(&[("v_x", "4")])]);
}
