//! Schemas and payloads one by one: what they become, what corrupt ones say, and what the decoder makes of them.

mod random;

use std::sync::Arc;

use arrow::array::AsArray as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    decode::{Decoded, Decoder, Records, Skip, tests::records},
    schema::{
        ArrayContract, ArrayShape, ColumnContract, ColumnType, Contract, Element, Match, SchemaVersion, fixed,
        infer_first, tests::contract,
    },
};

fn avro(schema: &Value) -> WriterSchema {
    let text = SchemaText { kind: "AVRO".into(), text: schema.to_string(), references: vec![] };
    WriterSchema::parse(&text).unwrap_or_else(|why| panic!("{schema}: {why}"))
}

fn proto(text: &str) -> WriterSchema {
    let text = SchemaText { kind: "PROTOBUF".into(), text: text.into(), references: vec![] };
    WriterSchema::parse(&text).unwrap_or_else(|why| panic!("{why}"))
}

fn schemas(schemas: impl IntoIterator<Item = (u32, WriterSchema)>) -> WriterSchemas {
    schemas.into_iter().map(|(id, schema)| (id, Arc::new(schema))).collect()
}

/// A payload in the wire format.
fn wire(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], body].concat()
}

fn json_of(format: Format, schema: WriterSchema, body: &[u8]) -> Result<String, Fault> {
    let mut json = String::from("left over");
    read(format, &wire(7, body), &schemas([(7, schema)]), &mut json).map(|(text, _)| text.to_owned())
}

fn leaves(schema: &WriterSchema) -> Vec<(&str, ColumnType)> {
    let shape = match &schema.0 {
        Known::Avro(shape) => shape,
        Known::Protobuf(messages) => &messages[&vec![0]],
        other => panic!("{other:?}"),
    };
    shape.leaves.iter().map(|leaf| (leaf.text.as_str(), leaf.kinds.column_type())).collect()
}

/// Decodes as ingest does: a first schema version from the records, then the records.
fn decode_all(contract: &Contract, windows: &[Records]) -> (SchemaVersion, Vec<Decoded>) {
    let version = infer_first(contract, &windows.iter().collect::<Vec<_>>());
    let mut decoder = Decoder::new(Arc::new(contract.clone()), Arc::new(version.clone()));
    (version, windows.iter().map(|records| decoder.decode(records).unwrap()).collect())
}

fn avro_contract() -> Contract {
    Contract { format: Format::Avro, ..contract() }
}

proptest! {
    #[test]
    fn corrupt_protobuf_is_a_fault_or_a_message(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        match json_of(Format::Protobuf, proto(CAR), &bytes) {
            Ok(json) => drop(serde_json::from_str::<Value>(&json).unwrap()),
            Err(fault) => prop_assert_eq!(fault.reason, Reason::NotProtobuf),
        }
    }

    #[test]
    fn no_schema_text_makes_the_parsers_panic(text in "\\PC{0,60}", kind in prop::sample::select(&["AVRO", "PROTOBUF"][..])) {
        let _ = WriterSchema::parse(&SchemaText { kind: kind.into(), text, references: vec![] });
    }
}

#[test]
fn avro_schemas_name_each_other() {
    let place = r#"{"type": "record", "name": "Place", "namespace": "fleet.geo", "fields": [
        {"name": "lat", "type": "double"}, {"name": "next", "type": ["null", "Place"]}]}"#;
    let trip = r#"{"type": "record", "name": "fleet.Trip", "fields": [
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "again", "type": "Kind"},
        {"name": "from", "type": "fleet.geo.Place"},
        {"name": "odd key", "type": {"type": {"type": "long"}}}]}"#;
    let text = SchemaText {
        kind: "AVRO".into(),
        text: trip.into(),
        references: vec![("fleet.geo.Place".into(), place.into())],
    };
    let schema = WriterSchema::parse(&text).unwrap();
    let expected = [
        ("kind", ColumnType::String),
        ("again", ColumnType::String),
        ("from.lat", ColumnType::Double),
        ("[\"odd key\"]", ColumnType::Int64),
    ];
    assert_eq!(leaves(&schema), expected);
    let body = [&[2, 0][..], &1.5_f64.to_le_bytes(), &[2], &2.0_f64.to_le_bytes(), &[0, 5]].concat();
    let json = r#"{"kind":"B","again":"A","from":{"lat":1.5,"next":{"lat":2.0,"next":null}},"odd key":-3}"#;
    assert_eq!(json_of(Format::Avro, schema, &body).unwrap(), json);

    for (text, why) in [
        ("{", "not JSON"),
        ("\"fleet.geo.Place\"", "`fleet.geo.Place` is no type"),
        ("{\"type\": \"record\", \"name\": \"R\"}", "record `R`: has no fields"),
        ("{\"type\": \"array\"}", "array without `items`"),
        ("{\"type\": \"fixed\", \"name\": \"F\", \"size\": -1}", "`size` of a fixed is no size"),
        ("7", "`7` is no type"),
    ] {
        let text = SchemaText { kind: "AVRO".into(), text: text.into(), references: vec![] };
        let error = WriterSchema::parse(&text).unwrap_err();
        assert!(error.starts_with(why), "{error}");
    }
}

#[test]
fn corrupt_avro_names_the_place() {
    let nulls = json!({"type": "array", "items": "null"});
    let list = json!({"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]});
    for (schema, body, reason, message) in [
        (json!("string"), &[4, b'a'][..], Reason::NotAvro, "2 bytes are due, 1 are left at byte 6"),
        (json!("string"), &[1, 0], Reason::NotAvro, "a length of -1 at byte 6"),
        (json!("string"), &[4, 0xff, 0xfe], Reason::NotAvro, "a string that is not UTF-8 at byte 8"),
        (
            json!("bytes"),
            &[0xfe, 0xff, 0xff, 0xff, 0x0f],
            Reason::NotAvro,
            "2147483647 bytes are due, 0 are left at byte 10",
        ),
        (json!("long"), &[0xff; 11], Reason::NotAvro, "a number of more than 64 bits at byte 15"),
        (json!("int"), &[0xff, 0xff, 0xff, 0xff, 0x7f], Reason::NotAvro, "-17179869184 is no int at byte 10"),
        (json!("boolean"), &[2], Reason::NotAvro, "a boolean of 2 at byte 6"),
        (json!(["null"]), &[2], Reason::NotAvro, "branch 1 of 1 at byte 6"),
        (json!("null"), &[0], Reason::NotAvro, "the value is over, 1 bytes are left at byte 5"),
        (
            nulls,
            &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            Reason::TooLarge,
            "the record's text exceeds 256 MiB",
        ),
        (list, &[2; 1_000], Reason::TooDeep, "more than 128 nested values at byte 69"),
    ] {
        let fault = json_of(Format::Avro, avro(&schema), body).unwrap_err();
        assert_eq!((fault.reason, fault.message.as_str()), (reason, message), "{schema}");
    }
}

#[test]
fn payloads_of_another_kind() {
    let known = schemas([
        (1, avro(&json!("long"))),
        (2, WriterSchema::unknown()),
        (3, WriterSchema::parse(&SchemaText { kind: "JSON".into(), ..SchemaText::default() }).unwrap()),
    ]);
    let head = "the payload is not Avro with a schema id: it ";
    let tail = "; a 0 byte and a schema id should lead (Confluent's wire format)";
    for (payload, reason, message) in [
        (b"{\"a\":1}".to_vec(), Reason::NotAvro, format!("{head}looks like JSON{tail}")),
        (vec![], Reason::NotAvro, format!("{head}is empty{tail}")),
        (vec![0, 0, 0, 1], Reason::NotAvro, format!("{head}ends after 4 bytes{tail}")),
        (vec![1; 20], Reason::NotAvro, format!("{head}begins with the byte 0x01{tail}")),
        (wire(2, &[2]), Reason::UnknownSchema, "the schema registry has no schema with id 2".into()),
        (wire(9, &[2]), Reason::UnknownSchema, "the schema registry has no schema with id 9".into()),
        (wire(3, b"{}"), Reason::NotAvro, "schema 3 is of kind JSON, not AVRO".into()),
    ] {
        let fault = read(Format::Avro, &payload, &known, &mut String::new()).unwrap_err();
        assert_eq!((fault.reason, fault.message), (reason, message));
    }
    let fault = read(Format::Protobuf, &wire(1, &[0]), &known, &mut String::new()).unwrap_err();
    assert_eq!((fault.reason, fault.message.as_str()), (Reason::NotProtobuf, "schema 1 is of kind AVRO, not PROTOBUF"));
}

#[test]
fn several_writers_in_one_batch_and_columns_before_values() {
    let first = json!({"type": "record", "name": "Car", "fields": [
        {"name": "car_id", "type": "string"},
        {"name": "speed", "type": ["null", "double"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "plate", "type": ["null", "string"]}]});
    let second = json!({"type": "record", "name": "Car", "fields": [
        {"name": "car_id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "place", "type": ["null", {"type": "record", "name": "Place", "fields": [
            {"name": "lat", "type": "double"}, {"name": "built", "type": {"type": "int", "logicalType": "date"}}]}]}]});
    let old = wire(1, &[2, b'a', 0, 0, 0]);
    let new = wire(2, &[2, b'b', 0, 0]);
    let both = schemas([(1, avro(&first)), (2, avro(&second))]);
    let contract = Contract { key: vec!["car_id".into()], ..avro_contract() };
    let batch = records(0, std::slice::from_ref(&old)).with_schemas(both.clone());
    let (version, _) = decode_all(&contract, &[batch]);
    let shape = |version: &SchemaVersion| -> Vec<(String, ColumnType)> {
        version.columns.iter().map(|column| (column.name.clone(), column.kind)).collect()
    };
    let mut expected = vec![
        ("car_id".to_owned(), ColumnType::String),
        ("speed".to_owned(), ColumnType::Double),
        ("at".to_owned(), ColumnType::Timestamp),
        ("plate".to_owned(), ColumnType::String),
    ];
    assert_eq!(shape(&version), expected);

    let mixed = records(1, &[new.clone(), old, new]).with_schemas(both);
    let mut decoder = Decoder::new(Arc::new(contract.clone()), Arc::new(version.clone()));
    let decoded = decoder.decode(&mixed).unwrap();
    assert_eq!((decoded.rows.num_rows(), decoded.dead.len()), (3, 0));
    let next = version.evolve(&contract, &decoded.found).unwrap();
    expected.push(("place_lat".to_owned(), ColumnType::Double));
    expected.push(("place_built".to_owned(), ColumnType::Date));
    assert_eq!(shape(&next), expected);
    let decoded = Decoder::new(Arc::new(contract), Arc::new(next)).decode(&mixed).unwrap();
    assert!(decoded.found.is_empty());
}

#[test]
fn a_union_declares_what_all_its_branches_hold() {
    let place = json!({"type": "record", "name": "Place", "fields": [{"name": "lat", "type": "double"}]});
    let zone = json!({"type": "record", "name": "Zone", "fields": [{"name": "lat", "type": "int"}, {"name": "id", "type": "int"}]});
    let fields: Vec<Value> = [
        ("either", json!(["int", "null", "string"])),
        ("number", json!(["null", "int", "float"])),
        ("list", json!(["string", {"type": "array", "items": "string"}])),
        ("where", json!(["null", place, zone, "boolean"])),
    ]
    .map(|(name, kind)| json!({"name": name, "type": kind}))
    .to_vec();
    let schema = json!({"type": "record", "name": "R", "fields": fields});
    let bodies: [&[u8]; 2] =
        [&[0, 14, 2, 6, 2, 2, 0, 0, 4, 0, 8], &[4, 2, b'x', 4, 0, 0, 0x80, 0x3f, 0, 2, b'y', 6, 1]];
    let payloads = bodies.map(|body| wire(1, body));
    let batch = records(0, &payloads).with_schemas(schemas([(1, avro(&schema))]));
    let (version, decoded) = decode_all(&avro_contract(), &[batch]);
    let columns: Vec<_> = version.columns.iter().map(|column| (column.name.as_str(), column.kind)).collect();
    let expected = [
        ("either", ColumnType::String),
        ("number", ColumnType::Double),
        ("list", ColumnType::Json),
        ("where_lat", ColumnType::Double),
        ("where_id", ColumnType::Int64),
        ("where", ColumnType::Boolean),
    ];
    assert_eq!(columns, expected);
    assert_eq!((decoded[0].rescued, decoded[0].dead.len()), (0, 0), "{:?}", decoded[0].dead);
    assert_eq!(decoded[0].rows["either"].as_string::<i32>().iter().collect::<Vec<_>>(), [Some("7"), Some("x")]);
    assert_eq!(decoded[0].rows["where"].as_boolean().iter().collect::<Vec<_>>(), [None, Some(true)]);
}

#[test]
fn what_a_column_cannot_hold_is_rescued() {
    let schema = json!({"type": "record", "name": "R", "fields": [
        {"name": "real", "type": "double"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]});
    let mut body = f64::NAN.to_le_bytes().to_vec();
    body.extend([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    let batch = records(0, &[wire(1, &body)]).with_schemas(schemas([(1, avro(&schema))]));
    let (_, decoded) = decode_all(&avro_contract(), &[batch]);
    let rescued = decoded[0].rows[fixed::RESCUED].as_string::<i32>().value(0);
    assert_eq!(rescued, r#"{"real":"NaN","at":9223372036854775807}"#);
    assert!(decoded[0].rows["real"].is_null(0) && decoded[0].rows["at"].is_null(0));
}

#[test]
fn a_declared_json_column_takes_its_members() {
    let schema = json!({"type": "record", "name": "R", "fields": [{"name": "all", "type":
        {"type": "record", "name": "S", "fields": [{"name": "x", "type": "int"}]}}]});
    let column = ColumnContract { name: "all".into(), kind: Some(ColumnType::Json), ..ColumnContract::default() };
    let contract = Contract { columns: vec![column], ..avro_contract() };
    let batch = records(0, &[wire(1, &[2])]).with_schemas(schemas([(1, avro(&schema))]));
    let (version, decoded) = decode_all(&contract, &[batch]);
    assert_eq!(version.columns.len(), 1, "{version:?}");
    assert_eq!((decoded[0].rescued, decoded[0].found.len()), (0, 0));
}

#[test]
fn what_the_contract_says_of_a_field_goes_before_its_writer() {
    let array = |items: Value| json!({"type": "array", "items": items});
    let record = |fields: &[(&str, Value)]| {
        let fields: Vec<_> = fields.iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect();
        json!({"type": "record", "name": format!("R{}", fields.len()), "fields": fields})
    };
    let inner = record(&[("x", json!("int"))]);
    let ours = record(&[
        ("kind", json!("string")),
        ("gone", inner.clone()),
        ("tags", array(json!(["null", "string"]))),
        ("at", array(json!({"type": "long", "logicalType": "timestamp-millis"}))),
        ("parts", array(json!("R1"))),
        ("nothing", array(json!("null"))),
        ("best", array(json!("double"))),
    ]);
    let theirs = record(&[("kind", json!("string")), ("other", json!("long"))]);
    let contract = Contract {
        matches: vec![Match { path: "kind".parse().unwrap(), values: vec!["a".into()] }],
        dropped: vec![vec!["gone".into()]],
        arrays: vec![ArrayContract { path: vec!["best".into()], shape: ArrayShape::First }],
        ..avro_contract()
    };
    let row = [&[2, b'a', 2, 0, 0, 0, 0, 2][..], &1.5_f64.to_le_bytes(), &[0]].concat();
    let batch = records(0, &[wire(2, &[2, b'b', 2]), wire(1, &row)]);
    let batch = batch.with_schemas(schemas([(1, avro(&ours)), (2, avro(&theirs))]));
    let (version, decoded) = decode_all(&contract, &[batch]);
    let columns: Vec<_> = version.columns.iter().map(|column| (column.name.as_str(), column.kind)).collect();
    let strings = ColumnType::List(Element::String);
    let expected = [
        ("kind", ColumnType::String),
        ("tags", strings),
        ("at", strings),
        ("parts", ColumnType::Json),
        ("nothing", ColumnType::Json),
        ("best", ColumnType::Double),
    ];
    assert_eq!(columns, expected);
    assert_eq!((decoded[0].rows.num_rows(), decoded[0].rescued, decoded[0].found.len()), (1, 0, 0));
    assert_eq!(decoded[0].skipped, [(Skip::NotMatched, 1)].into());
}

#[test]
fn schemas_without_end_end() {
    let wide = |inner: Value| {
        let fields: Vec<_> = (0..100).map(|at| json!({"name": format!("f{at}"), "type": inner})).collect();
        fields
    };
    // A type used a hundred times in a type used a hundred times in …: 10^10 fields.
    let mut schema = json!({"type": "record", "name": "R0", "fields": wide(json!("int"))});
    let mut references = Vec::new();
    for level in 1..5 {
        references.push((format!("R{}", level - 1), schema.to_string()));
        let fields = wide(json!(format!("R{}", level - 1)));
        schema = json!({"type": "record", "name": format!("R{level}"), "fields": fields});
    }
    let schema =
        WriterSchema::parse(&SchemaText { kind: "AVRO".into(), text: schema.to_string(), references }).unwrap();
    assert!(leaves(&schema).len() <= MAX_FIELDS);

    let deep = (0..12).fold(
        json!("int"),
        |inner, level| json!({"type": "record", "name": format!("L{level}"), "fields": [{"name": "a", "type": inner}]}),
    );
    assert_eq!(leaves(&avro(&deep)), [("a.a.a.a.a.a.a.a", ColumnType::Json)]);
}

const CAR: &str = r#"
syntax = "proto3";
package fleet;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "confluent/meta.proto";
message Car {
  string car_id = 1;
  optional double speedKmh = 2;
  int64 odometer = 3;
  uint64 total = 4;
  bytes raw = 5;
  State state = 6;
  Place place = 7;
  repeated int32 codes = 8;
  map<string, float> sensors = 9;
  oneof power { float battery_v = 10; string fuel = 11; }
  google.protobuf.Timestamp at = 12;
  google.protobuf.Duration took = 13;
  google.protobuf.Int64Value limit = 14;
  google.protobuf.Struct more = 15;
  Car towing = 16;
  enum State { PARKED = 0; DRIVING = 1; }
  message Place { double lat = 1; double lon = 2; message Zone { int32 id = 1; } }
}
message Other { bool ok = 1 [(confluent.field_meta) = { doc: "text" }]; }
"#;

#[test]
fn protobuf_is_the_canonical_json() {
    for (body, json) in [
        (&[0][..], r#"{"car_id":"","odometer":0,"total":0,"raw":"","state":"PARKED","codes":[],"sensors":{}}"#),
        (&[2, 2], r#"{"ok":false}"#),
        (&[4, 0, 0], r#"{"lat":0.0,"lon":0.0}"#),
        (&[6, 0, 0, 0, 8, 7], r#"{"id":7}"#),
        (
            &[
                0, 10, 1, b'x', 17, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 24, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                0xff, 1, 32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 42, 2, 0xff, 0, 48, 1, 58, 9, 9,
                0, 0, 0, 0, 0, 0, 0, 0x40, 66, 2, 1, 2, 74, 8, 10, 1, b'k', 21, 0xcd, 0xcc, 0xcc, 0x3d, 85, 0, 0, 0x80,
                0x7f,
            ],
            r#"{"car_id":"x","speedKmh":1.0,"odometer":-1,"total":18446744073709551615,"raw":"/wA=","state":"DRIVING","place":{"lat":2.0,"lon":0.0},"codes":[1,2],"sensors":{"k":0.1},"battery_v":"Infinity"}"#,
        ),
        (
            &[
                0, 48, 9, 98, 6, 8, 0x80, 0xb0, 0x93, 0xaf, 6, 106, 8, 8, 3, 16, 0x80, 0xca, 0xb5, 0xee, 1, 114, 2, 8,
                5, 122, 13, 10, 11, 10, 1, b'n', 18, 6, 26, 4, b't', b'e', b'x', b't',
            ],
            "",
        ),
    ] {
        let found = json_of(Format::Protobuf, proto(CAR), body).unwrap();
        if json.is_empty() {
            let found: Value = serde_json::from_str(&found).unwrap();
            assert_eq!(found["state"], json!(9), "a number without a name");
            assert_eq!(found["at"], json!("2024-03-03T20:05:20Z"));
            assert_eq!(found["took"], json!("3.500s"));
            assert_eq!(found["limit"], json!(5));
            assert_eq!(found["more"], json!({"n": "text"}));
        } else {
            assert_eq!(found, json);
        }
    }
    for (body, message) in [
        (&[][..], "the payload ends within the message's index"),
        (&[2, 8], "the schema has no message with the index [4]"),
        (&[0x80, 2], "a message's index of 128 parts"),
        (&[1], "the payload ends within the message's index"),
        (
            &[0, 10, 5, b'x'],
            "not a message of the type `fleet.Car`: failed to decode Protobuf message: buffer underflow",
        ),
    ] {
        assert_eq!(json_of(Format::Protobuf, proto(CAR), body).unwrap_err().message, message);
    }
}

#[test]
fn protobuf_declares_its_columns() {
    use ColumnType::{Boolean, Double, Int64, String, Timestamp};
    let expected = [
        ("car_id", String),
        ("speedKmh", Double),
        ("odometer", Int64),
        ("total", Int64),
        ("raw", String),
        ("state", String),
        ("place.lat", Double),
        ("place.lon", Double),
        ("codes", ColumnType::List(Element::Int64)),
        ("battery_v", Double),
        ("fuel", String),
        ("at", Timestamp),
        ("took", String),
        ("limit", Int64),
    ];
    let schema = proto(CAR);
    assert_eq!(leaves(&schema), expected);
    let Known::Protobuf(messages) = &schema.0 else { panic!() };
    assert_eq!(messages[&vec![1]].leaves[0].kinds.column_type(), Boolean);
    assert_eq!(messages.len(), 4, "a map's entries are no message to a writer");
}

#[test]
fn protobuf_imports_what_it_refers_to() {
    let text = SchemaText {
        kind: "PROTOBUF".into(),
        text: "syntax = \"proto2\"; import \"geo/place.proto\"; message Trip { required geo.Place from = 1; }".into(),
        references: vec![(
            "geo/place.proto".into(),
            "syntax = \"proto3\"; package geo; message Place { double lat = 1; }".into(),
        )],
    };
    assert_eq!(leaves(&WriterSchema::parse(&text).unwrap()), [("from.lat", ColumnType::Double)]);
    let error = WriterSchema::parse(&SchemaText { references: vec![], ..text }).unwrap_err();
    assert!(error.contains("geo/place.proto"), "{error}");
    let broken = SchemaText { kind: "PROTOBUF".into(), text: "message {".into(), references: vec![] };
    let error = WriterSchema::parse(&broken).unwrap_err();
    assert!(!error.is_empty() && !error.contains("-.proto"), "{error}");
}
