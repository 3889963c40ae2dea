//! What each source writes, and the one form it becomes. The recorded messages are those of a real Debezium.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::decode::{
    DeadLetter, Decoded, Decoder, Header, Records, RecordsBuilder, SchemaText, WriterSchema, WriterSchemas,
};
use crate::schema::{ColumnContract, SchemaVersion, infer_first};

const RECORDED: &str = include_str!("../../../tests/fixtures/debezium-postgres.txt");
const DMS: &str = include_str!("../../../tests/fixtures/dms-fleet.jsonl");

fn contract(format: Format, key: &str) -> Contract {
    Contract { format, key: vec![key.to_owned()], ..Contract::undeclared("cars", "fleet") }
}

fn typed(name: &str, kind: ColumnType) -> ColumnContract {
    ColumnContract { name: name.to_owned(), kind: Some(kind), ..ColumnContract::default() }
}

/// A message: key, value, headers.
struct Message {
    key: Option<String>,
    value: Option<String>,
    headers: Vec<Header>,
}

fn message(key: Value, value: Value) -> Message {
    let text = |value: Value| (!value.is_null()).then(|| value.to_string());
    Message { key: text(key), value: text(value), headers: Vec::new() }
}

/// The messages that Debezium sent to `topic`.
fn recorded(topic: &str) -> Vec<Message> {
    let blocks = RECORDED.split("\n\n").filter(|block| block.lines().any(|line| line == format!("DEST {topic}")));
    blocks
        .map(|block| {
            let part = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let known = |name: &str| part(name).filter(|text| *text != "null").map(str::to_owned);
            let header = |pair: &str| {
                let (name, value) = pair.trim().split_once('=')?;
                Some(Header { name: name.to_owned(), value: Some(value.trim_matches('"').to_owned().into()) })
            };
            let headers = part("HDR").unwrap_or_default().split(';').filter_map(header).collect();
            Message { key: known("KEY"), value: known("VAL"), headers }
        })
        .collect()
}

fn records(messages: &[Message]) -> Records {
    let mut builder = RecordsBuilder::new(0);
    for (at, message) in messages.iter().enumerate() {
        builder.push(Record {
            offset: at as i64,
            timestamp_us: 1_795_380_335_000_000,
            key: message.key.as_ref().map(String::as_bytes),
            payload: message.value.as_ref().map(String::as_bytes),
            headers: &message.headers,
        });
    }
    builder.finish("fleet".into(), 0, 0)
}

/// The changes of messages; what is left out and what is refused as its code.
fn changes(contract: &Contract, messages: &[Message]) -> Vec<Value> {
    let mut changes = Changes::new(contract).unwrap();
    let read = |record: Record<'_>| {
        let utf8 = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
        let (payload, key) = (utf8(record.payload), utf8(record.key));
        let mut out = String::new();
        match changes.read(&record, payload.as_deref(), key.as_deref(), &mut out) {
            Ok(Outcome::Change { keyed }) => {
                let change: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
                assert_eq!(keyed, change["op"] != "t", "{out}");
                change
            }
            Ok(Outcome::Skipped(skip)) => json!(skip.code()),
            Err(fault) => json!({"refused": fault.reason.code(), "why": fault.message}),
        }
    };
    records(messages).iter().map(read).collect()
}

fn decode(contract: &Contract, messages: &[Message]) -> (SchemaVersion, Decoded) {
    let records = records(messages);
    let contract = contract.clone().into_changes();
    let version = infer_first(&contract, &[&records]);
    let decoded = Decoder::new(Arc::new(contract), Arc::new(version.clone())).decode(&records).unwrap();
    (version, decoded)
}

#[test]
fn each_recorded_message_is_a_change_a_tombstone_or_a_mark() {
    let short = |change: &Value| match change {
        Value::String(skip) => skip.clone(),
        change => {
            let (op, key) = (&change["op"], &change["after"]["car_id"]);
            format!("{} {key} {}", op.as_str().unwrap(), change["token"].as_str().unwrap_or("-"))
        }
    };
    let mut of_cars = contract(Format::DebeziumJson, "car_id");
    of_cars.columns = vec![typed("odo", ColumnType::String)];
    let cars = changes(&of_cars, &recorded("fleet.public.carinfo"));
    let found: Vec<String> = cars.iter().map(short).collect();
    let token = |commit: u64, lsn: u64| token(&[commit, lsn]);
    let expected = [
        format!("r 1 {}", token(0, 26_403_040)),
        format!("r 2 {}", token(0, 26_403_040)),
        format!("c 3 {}", token(0, 26_403_080)),
        format!("u 1 {}", token(26_403_504, 26_403_504)),
        format!("d 3 {}", token(26_404_072, 26_404_072)),
        "x 3 -".to_owned(),
        format!("c 33 {}", token(26_404_072, 26_404_072)),
        format!("u 2 {}", token(26_404_480, 26_406_848)),
        format!("u 2 {}", token(26_407_008, 26_442_736)),
        format!("u 2 {}", token(26_442_896, 26_443_336)),
        format!("d 33 {}", token(26_443_544, 26_443_544)),
        "x 33 -".to_owned(),
    ];
    assert_eq!(found, expected);
    assert_eq!(cars[0]["snapshot"], "first");
    assert_eq!(cars[2].get("snapshot"), None);
    assert_eq!(cars[0]["run"], "01a20501-a39c-7f10-b05e-3613dcde0780");
    assert_eq!(cars[2]["source_time"], "2026-11-22T20:45:35.499369Z");
    // A delete tells its key and nothing else as the row, and what Debezium invented as it was.
    assert_eq!(cars[4]["after"], json!({"car_id": 3}));
    assert_eq!(cars[4]["before"]["plate"], "");

    let devices = changes(&contract(Format::DebeziumJson, "device_id"), &recorded("fleet.public.deviceinfo"));
    assert_eq!(devices.last().unwrap()["op"], "t");
    for topic in ["fleet.transaction", "fleet.message"] {
        let marks = changes(&contract(Format::DebeziumJson, "id"), &recorded(topic));
        assert!(!marks.is_empty() && marks.iter().all(|mark| mark == "control"), "{topic}: {marks:?}");
    }
}

#[test]
fn recorded_changes_become_rows_with_the_columns_of_the_table() {
    let types =
        [typed("price", ColumnType::Double), typed("odo", ColumnType::String), typed("reg_date", ColumnType::Date)];
    let mut contract = contract(Format::DebeziumJson, "car_id");
    contract.columns = types.to_vec();
    contract.columns[0].scale = Some(2);
    let (version, decoded) = decode(&contract, &recorded("fleet.public.carinfo"));
    assert_eq!((decoded.dead.len(), decoded.rows.num_rows()), (0, 12));
    let names: Vec<&str> = version.columns.iter().map(|column| column.name.as_str()).collect();
    for name in ["car_id", "plate", "price", "color", "tags", "before_plate", "_op", "_token", "_unchanged"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let rows = crate::decode::tests::rows_of(&decoded.rows);
    let first = &rows[0].2;
    for (name, value) in
        [("price", "12345.67"), ("odo", "9.5"), ("reg_date", "20455"), ("_op", "r"), ("tags", "[x;y]"), ("car_id", "1")]
    {
        assert_eq!(first.get(name).map(String::as_str), Some(value), "{first:?}");
    }
    assert!(rows.iter().all(|row| !row.2.contains_key("_rescued")));
    assert!(decoded.rescued == 0 && decoded.misfits.is_empty());
}

#[test]
fn a_truncate_needs_no_key_and_any_other_change_does() {
    let (_, decoded) = decode(&contract(Format::DebeziumJson, "device_id"), &recorded("fleet.public.deviceinfo"));
    assert!(decoded.dead.is_empty());
    let rows = crate::decode::tests::rows_of(&decoded.rows);
    let truncate = &rows[rows.len() - 1].2;
    assert_eq!((truncate.get("_op").map(String::as_str), truncate.get("device_id")), (Some("t"), None));

    let keyless = message(Value::Null, json!({"op": "c", "after": {"name": "x"}, "source": {}}));
    let (_, decoded) = decode(&contract(Format::DebeziumJson, "id"), &[keyless]);
    let codes = |dead: &[DeadLetter]| dead.iter().map(|letter| letter.reason.code()).collect::<Vec<_>>();
    assert_eq!(codes(&decoded.dead), ["key_missing"]);
}

/// A message in the form of Kafka Connect's JSON converter with schemas: fields of `after` with type, name and parameters.
fn enveloped(fields: &Value, after: &Value) -> Message {
    let row = |name: &str| json!({"type": "struct", "optional": true, "field": name, "fields": fields});
    let op = json!({"type": "string", "optional": false, "field": "op"});
    let schema = json!({"type": "struct", "fields": [row("before"), row("after"), op], "name": "fleet.Envelope"});
    let source = json!({"connector": "mysql", "name": "fleet", "file": "mysql-bin.000012", "pos": 4711, "row": 3,
                        "server_id": 1, "ts_ms": 1_795_380_335_499_i64, "snapshot": "false"});
    let payload = json!({"op": "c", "before": null, "after": after, "source": source});
    message(json!({"schema": {}, "payload": {"id": 1}}), json!({"schema": schema, "payload": payload}))
}

#[test]
fn a_schema_beside_the_payload_says_what_values_mean() {
    let field = |name: &str, kind: &str, meaning: &str, parameters: Value| json!({"field": name, "type": kind, "optional": true, "name": meaning, "parameters": parameters});
    let plain = |name: &str, kind: &str| json!({"field": name, "type": kind, "optional": true});
    let decimal = "org.apache.kafka.connect.data.Decimal";
    let dates = json!({"field": "days", "type": "array", "optional": true,
                       "items": {"type": "int32", "name": "io.debezium.time.Date"}});
    let none = Value::Null;
    let cases = [
        (plain("id", "int64"), json!(1), json!(1), "bigint"),
        (plain("small", "int16"), json!(0), json!(0), "bigint"),
        (plain("flag", "boolean"), json!(true), json!(true), "boolean"),
        (plain("ratio", "double"), json!(1.0), json!(1.0), "double"),
        (plain("nothing_yet", "float"), none.clone(), none.clone(), "double"),
        (field("price", "bytes", decimal, json!({"scale": "2"})), json!("EtaH"), json!("12345.67"), "string"),
        (field("debt", "bytes", decimal, json!({"scale": "2"})), json!("/w=="), json!("-0.01"), "string"),
        (
            field("odo", "struct", "io.debezium.data.VariableScaleDecimal", none.clone()),
            json!({"scale": 1, "value": "Xw=="}),
            json!("9.5"),
            "string",
        ),
        (field("d", "int32", "io.debezium.time.Date", none.clone()), json!(20455), json!("2026-01-02"), "date"),
        (
            field("d_iso", "string", "io.debezium.time.IsoDate", none.clone()),
            json!("2026-01-02Z"),
            json!("2026-01-02"),
            "date",
        ),
        (
            field("t_ms", "int32", "io.debezium.time.Time", none.clone()),
            json!(11_045_678),
            json!("03:04:05.678"),
            "string",
        ),
        (
            field("t_us", "int64", "io.debezium.time.MicroTime", none.clone()),
            json!(11_045_678_901_i64),
            json!("03:04:05.678901"),
            "string",
        ),
        (
            field("t_ns", "int64", "io.debezium.time.NanoTime", none.clone()),
            json!(11_045_678_901_234_i64),
            json!("03:04:05.678901"),
            "string",
        ),
        (
            field("at_ms", "int64", "io.debezium.time.Timestamp", none.clone()),
            json!(1_767_323_045_678_i64),
            json!("2026-01-02T03:04:05.678"),
            "timestamp",
        ),
        (
            field("at_us", "int64", "io.debezium.time.MicroTimestamp", none.clone()),
            json!(1_767_323_045_678_901_i64),
            json!("2026-01-02T03:04:05.678901"),
            "timestamp",
        ),
        (
            field("at_ns", "int64", "io.debezium.time.NanoTimestamp", none.clone()),
            json!(1_767_323_045_678_901_234_i64),
            json!("2026-01-02T03:04:05.678901"),
            "timestamp",
        ),
        (
            field("at_connect", "int64", "org.apache.kafka.connect.data.Timestamp", none.clone()),
            json!(1_767_323_045_678_i64),
            json!("2026-01-02T03:04:05.678"),
            "timestamp",
        ),
        (
            field("at_zone", "string", "io.debezium.time.ZonedTimestamp", none.clone()),
            json!("2026-01-02T03:04:05Z"),
            json!("2026-01-02T03:04:05Z"),
            "timestamp",
        ),
        (field("kind", "string", "io.debezium.data.Enum", json!({"allowed": "a,b"})), json!("a"), json!("a"), "string"),
        (
            field("bits", "bytes", "io.debezium.data.Bits", json!({"length": "10"})),
            json!("BQI="),
            json!("1000000101"),
            "string",
        ),
        (
            field("doc", "string", "io.debezium.data.Json", none.clone()),
            json!("{\"a\":1}"),
            json!("{\"a\":1}"),
            "string",
        ),
        (dates, json!([20455]), json!(["2026-01-02"]), "string[]"),
    ];
    let fields: Vec<Value> = cases.iter().map(|case| case.0.clone()).collect();
    let pairs = |pick: fn(&(Value, Value, Value, &str)) -> Value| {
        cases
            .iter()
            .map(|case| (case.0["field"].as_str().unwrap().to_owned(), pick(case)))
            .collect::<serde_json::Map<_, _>>()
    };
    let (sent, expected) = (pairs(|case| case.1.clone()), pairs(|case| case.2.clone()));
    let contract = contract(Format::DebeziumJson, "id");
    let message = || enveloped(&json!(fields), &json!(sent));
    let change = changes(&contract, &[message()]).remove(0);
    assert_eq!(change["after"], json!(expected));
    assert_eq!(change["epoch"], "fleet/mysql-bin");
    assert_eq!(change["token"], token(&[12, 4711, 3]));

    let (version, decoded) = decode(&contract, &[message()]);
    assert!(decoded.dead.is_empty() && decoded.rescued == 0, "{:?}", decoded.misfits);
    for (field, .., kind) in &cases {
        let column = version.columns.iter().find(|column| column.name == field["field"].as_str().unwrap()).unwrap();
        assert_eq!(column.kind.word(), *kind, "{}", column.name);
    }
    assert!(!version.columns.iter().any(|column| column.name.starts_with("source")));
}

#[test]
fn a_contract_gives_types_to_values_without_a_schema() {
    let mut contract = contract(Format::DebeziumJson, "id");
    contract.columns = vec![
        typed("price", ColumnType::Double),
        typed("odo", ColumnType::Double),
        typed("flag", ColumnType::Boolean),
        typed("count", ColumnType::Int64),
        typed("since", ColumnType::Date),
        typed("text", ColumnType::Double),
    ];
    contract.columns[0].scale = Some(2);
    let after = |flag: Value, count: Value| {
        let row = json!({"id": 1, "price": "EtaH", "odo": {"scale": 1, "value": "Xw=="}, "flag": flag, "count": count,
                         "since": 20455, "text": "1e3"});
        message(Value::Null, json!({"op": "u", "after": row, "source": {}}))
    };
    let found = changes(&contract, &[after(json!(1), json!(true)), after(json!(false), json!("17"))]);
    assert_eq!(
        found[0]["after"],
        json!({"id": 1, "price": 12345.67, "odo": 9.5, "flag": true, "count": 1, "since": "2026-01-02", "text": 1e3})
    );
    assert_eq!((&found[1]["after"]["flag"], &found[1]["after"]["count"]), (&json!(false), &json!(17)));
}

#[test]
fn a_decimal_of_which_nobody_told_the_type_is_refused_with_the_way_out() {
    let row = json!({"id": 1, "odoMeter": {"scale": 1, "value": "Xw=="}});
    let change = message(Value::Null, json!({"op": "c", "after": row, "source": {}}));
    let found = changes(&contract(Format::DebeziumJson, "id"), &[change]).remove(0);
    assert_eq!(found["refused"], "untyped_value");
    let why = found["why"].as_str().unwrap();
    assert!(why.contains("columns.odo_meter.type") && why.contains("decimal.handling.mode"), "{why}");
}

#[test]
fn what_the_source_does_not_tell_is_left_as_it_was() {
    let row = json!({"id": 1, "big": "__debezium_unavailable_value", "tags": ["__debezium_unavailable_value"],
                     "blob": "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==", "model": null});
    let change = message(Value::Null, json!({"op": "u", "after": row, "source": {}}));
    let found = changes(&contract(Format::DebeziumJson, "id"), &[change]).remove(0);
    assert_eq!(found["after"], json!({"id": 1, "model": null}));
    assert_eq!(found["unchanged"], json!(["big", "tags", "blob"]));
}

#[test]
fn unwrapped_rows_tell_deletes_in_each_of_their_ways() {
    let flat = |value: Value| message(json!({"id": 7}), value);
    let headers = vec![
        Header { name: "__op".into(), value: Some("c".into()) },
        Header { name: "__source_lsn".into(), value: Some("255".into()) },
    ];
    let messages = [
        flat(json!({"id": 7, "a": 1})),
        flat(json!({"id": 7, "a": 1, "__op": "c", "__lsn": 255, "__source_ts_ms": 1_767_323_045_678_i64})),
        flat(json!({"id": 7, "a": 1, "__deleted": "true", "__op": "d"})),
        flat(json!({"id": 7, "a": 1, "__deleted": "false", "__op": "u"})),
        flat(Value::Null),
        Message { headers, ..flat(json!({"id": 7, "a": 2})) },
        message(json!({"schema": {"type": "struct"}, "payload": {"id": 7}}), Value::Null),
        message(Value::Null, Value::Null),
    ];
    let found = changes(&contract(Format::DebeziumJson, "id"), &messages);
    let ops: Vec<&str> = found.iter().map(|change| change["op"].as_str().or(change.as_str()).unwrap()).collect();
    assert_eq!(ops, ["u", "c", "d", "u", "x", "c", "x", "tombstone"]);
    assert_eq!(found[1]["after"], json!({"id": 7, "a": 1}));
    assert_eq!(found[1]["token"], token(&[0, 255]));
    assert_eq!(found[1]["source_time"], "2026-01-02T03:04:05.678Z");
    assert_eq!((&found[2]["after"], &found[2]["before"]), (&json!({"id": 7}), &json!({"id": 7, "a": 1})));
    assert_eq!(found[5]["token"], token(&[0, 255]));
    assert_eq!(found[6]["after"], json!({"id": 7}));
}

#[test]
fn a_delete_without_the_row_has_its_key_from_the_message_key() {
    let delete = |before: Value| message(json!({"id": 7}), json!({"op": "d", "before": before, "source": {}}));
    for before in [Value::Null, json!({}), json!({"id": null})] {
        let found = changes(&contract(Format::DebeziumJson, "id"), &[delete(before)]).remove(0);
        assert_eq!((&found["op"], &found["after"]), (&json!("d"), &json!({"id": 7})));
    }
}

#[test]
fn dms_messages_become_changes() {
    let messages: Vec<Message> =
        DMS.lines().map(|line| message(Value::Null, serde_json::from_str(line).unwrap())).collect();
    let found = changes(&contract(Format::DmsJson, "car_id"), &messages);
    let ops: Vec<&str> = found.iter().map(|change| change["op"].as_str().or(change.as_str()).unwrap()).collect();
    assert_eq!(ops, ["control", "r", "r", "c", "u", "u", "d", "control", "control"]);
    assert_eq!((&found[1]["snapshot"], &found[1]["epoch"]), (&json!("load"), &json!("dms")));
    // When a message was made is its place, a load's too.
    let tokens: Vec<&str> = found.iter().filter_map(|change| change["token"].as_str()).collect();
    assert!(tokens.len() == 6 && tokens.is_sorted(), "{tokens:?}");
    assert_eq!(tokens[2], token(&[1_795_136_297_983_670, 1]));
    assert_eq!(found[3]["source_time"], "2026-11-20T00:58:17.974340Z");
    // A key change is one update; the old key stands in the image before it.
    assert_eq!((&found[5]["after"]["car_id"], &found[5]["before"]["car_id"]), (&json!(33), &json!(3)));
    assert_eq!(found[6]["after"], json!({"car_id": 2}));

    let (version, decoded) = decode(&contract(Format::DmsJson, "car_id"), &messages);
    assert_eq!((decoded.rows.num_rows(), decoded.dead.len(), decoded.skipped[&Skip::Control]), (6, 0, 3));
    assert!(!version.columns.iter().any(|column| column.name.contains("metadata")));
}

#[test]
fn a_dms_message_that_does_not_say_when_it_was_made_has_no_place() {
    let change = |extra: Value| {
        let mut metadata = json!({"operation": "UPDATE", "record-type": "data"});
        metadata.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        message(Value::Null, json!({"data": {"id": 1}, "metadata": metadata}))
    };
    let made = json!({"timestamp": "1970-01-01T00:00:01Z", "commit-timestamp": "1970-01-01T00:00:00Z",
                      "transaction-id": 9, "transaction-record-id": 2});
    let messages = [change(made), change(json!({"timestamp": "soon"})), change(json!({}))];
    let found = changes(&contract(Format::DmsJson, "id"), &messages);
    assert_eq!((&found[0]["epoch"], &found[0]["token"]), (&json!("dms"), &json!(token(&[1_000_000, 2]))));
    assert_eq!(found[0]["source_time"], "1970-01-01T00:00:00Z");
    for change in &found[1..] {
        assert_eq!((change.get("epoch"), change.get("token")), (None, None));
    }
}

#[test]
fn several_tables_share_a_topic() {
    let of = |table: &str| {
        let path = Path::Value(vec!["metadata".into(), "table-name".into()]);
        let condition = crate::schema::Match { path, values: vec![table.to_owned()] };
        Contract { matches: vec![condition], ..contract(Format::DmsJson, "id") }
    };
    let change = |table: &str| {
        let metadata = json!({"operation": "insert", "record-type": "data", "table-name": table});
        message(Value::Null, json!({"data": {"id": 1}, "metadata": metadata}))
    };
    let messages = [change("cars"), change("devices"), message(Value::Null, Value::Null)];
    let found = changes(&of("devices"), &messages);
    assert_eq!((&found[0], &found[1]["op"], &found[2]), (&json!("not_matched"), &json!("c"), &json!("tombstone")));

    let garbage = Message { value: Some("{".to_owned()), ..message(Value::Null, Value::Null) };
    let (_, decoded) = decode(&of("cars"), &[change("cars"), garbage]);
    assert_eq!((decoded.rows.num_rows(), decoded.dead.len()), (1, 0), "nobody knows whose that is");
    assert_eq!(decoded.skipped[&Skip::NotMatched], 1);
}

#[test]
fn what_is_no_change_is_refused() {
    let debezium = contract(Format::DebeziumJson, "id");
    let dms = contract(Format::DmsJson, "id");
    for (contract, value, why) in [
        (&debezium, json!({"op": "z", "after": {"id": 1}}), "`op` is `z`, not one of c, u, d, r, t and m"),
        (&debezium, json!({"op": "c", "after": null, "source": {}}), "a change of kind `c` without `after`"),
        (&debezium, json!({"__op": "c"}), "a row without columns"),
        (&dms, json!({"data": {"id": 1}}), "there is no `metadata`"),
        (
            &dms,
            json!({"data": {"id": 1}, "metadata": {"operation": "upsert"}}),
            "`metadata.operation` is `upsert`, not load, insert, update or delete",
        ),
        (&dms, json!({"metadata": {"operation": "insert"}}), "insert without `data`"),
    ] {
        let found = changes(contract, &[message(Value::Null, value)]).remove(0);
        assert_eq!((&found["refused"], &found["why"]), (&json!("not_a_change"), &json!(why)));
    }
    for (text, reason) in [("[]", "not_an_object"), ("{", "not_json"), ("{} {}", "not_json"), ("7", "not_an_object")] {
        let garbage = Message { value: Some(text.to_owned()), ..message(Value::Null, Value::Null) };
        assert_eq!(changes(&debezium, &[garbage]).remove(0)["refused"], reason, "{text}");
    }
}

#[test]
fn avro_envelopes_are_read_with_what_their_schema_says() {
    let named = |kind: &str, name: &str| json!({"type": kind, "connect.name": name});
    let decimal = json!({"type": "record", "name": "VariableScaleDecimal", "namespace": "io.debezium.data",
                         "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}]});
    let bits = json!({"type": "bytes", "connect.name": "io.debezium.data.Bits", "connect.parameters": {"length": "4"}});
    let fields = [
        ("id", json!("long")),
        ("since", named("int", "io.debezium.time.Date")),
        ("at", named("long", "io.debezium.time.MicroTimestamp")),
        ("price", json!({"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2})),
        ("odo", decimal),
        ("bits", bits),
        ("zoned", named("string", "io.debezium.time.ZonedTimestamp")),
        ("big", json!("string")),
    ];
    let fields: Vec<Value> = fields.iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect();
    let row = json!({"type": "record", "name": "Value", "fields": fields});
    let source = json!({"type": "record", "name": "Source", "fields": [{"name": "lsn", "type": "long"}, {"name": "name", "type": "string"}]});
    let envelope = json!({"type": "record", "name": "Envelope", "fields": [
        {"name": "before", "type": ["null", row]}, {"name": "after", "type": ["null", "Value"]},
        {"name": "source", "type": source}, {"name": "op", "type": "string"}]});

    let long = |value: i64| {
        let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
        let mut bytes = Vec::new();
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    };
    let sized = |bytes: &[u8]| [long(bytes.len() as i64), bytes.to_vec()].concat();
    let body = [
        long(0),
        long(1),
        long(7),
        long(20_455),
        long(1_767_323_045_678_901),
        sized(&[0x12, 0xd6, 0x87]),
        long(1),
        sized(&[0x5f]),
        sized(&[5]),
        sized(b"2026-01-02T03:04:05Z"),
        sized(b"__debezium_unavailable_value"),
        long(255),
        sized(b"fleet"),
        sized(b"u"),
    ];
    let payload = [&[0, 0, 0, 0, 9][..], &body.concat()].concat();
    let text = SchemaText { kind: "AVRO".to_owned(), text: envelope.to_string(), references: vec![] };
    let key = json!({"type": "record", "name": "Key", "fields": [{"name": "id", "type": "long"}]});
    let key = SchemaText { kind: "AVRO".to_owned(), text: key.to_string(), references: vec![] };
    let parse = |text| Arc::new(WriterSchema::parse(text).unwrap());
    let schemas: WriterSchemas = [(9, parse(&text)), (8, parse(&key))].into_iter().collect();
    let mut builder = RecordsBuilder::new(0);
    let record =
        Record { offset: 0, timestamp_us: 1_767_323_046_000_000, key: None, payload: Some(&payload), headers: &[] };
    builder.push(record);
    // A tombstone whose key no schema explains says nothing.
    builder.push(Record { offset: 1, key: Some(&[0, 0, 0, 0, 1, 2]), payload: None, ..record });
    builder.push(Record { offset: 2, key: Some(&[0, 0, 0, 0, 8, 14]), payload: None, ..record });
    let records = builder.finish("fleet".into(), 0, 0).with_schemas(schemas);
    assert_eq!(records.schema_ids(Format::DebeziumAvro).into_iter().collect::<Vec<_>>(), [1, 8, 9]);
    assert_eq!(records.schema_ids(Format::Avro).into_iter().collect::<Vec<_>>(), [9]);

    let contract = contract(Format::DebeziumAvro, "id").into_changes();
    let version = infer_first(&contract, &[&records]);
    let decoded = Decoder::new(Arc::new(contract), Arc::new(version.clone())).decode(&records).unwrap();
    assert_eq!(
        (decoded.dead.len(), decoded.rescued, decoded.skipped[&Skip::Tombstone]),
        (0, 0, 1),
        "{:?}",
        decoded.dead
    );
    let kinds: Vec<(&str, &str)> =
        version.columns.iter().map(|column| (column.name.as_str(), column.kind.word())).collect();
    for column in [
        ("id", "bigint"),
        ("since", "date"),
        ("at", "timestamp"),
        ("price", "string"),
        ("odo", "string"),
        ("zoned", "timestamp"),
        ("big", "string"),
    ] {
        assert!(kinds.contains(&column), "{column:?}: {kinds:?}");
    }
    let rows = crate::decode::tests::rows_of(&decoded.rows);
    let tombstone = |name: &str| rows[1].2.get(name).map(String::as_str);
    assert_eq!((tombstone("_op"), tombstone("id")), (Some("x"), Some("7")));
    let row = &rows[0].2;
    let cell = |name: &str| row.get(name).map(String::as_str);
    assert_eq!(
        (cell("price"), cell("odo"), cell("bits"), cell("big")),
        (Some("12345.67"), Some("9.5"), Some("0101"), None)
    );
    assert_eq!(
        (cell("_op"), cell("_token"), cell("_unchanged")),
        (Some("u"), Some(token(&[0, 255]).as_str()), Some("[big]"))
    );
}
