//! Avro against an encoder that builds bytes and JSON side by side from a random schema.

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{avro, avro_contract, decode_all, json_of, schemas, wire};
use crate::{
    decode::{Reason, tests::records},
    schema::Format,
};

/// A random Avro type.
#[derive(Debug, Clone)]
enum Type {
    Plain(&'static str),
    Logical(&'static str, &'static str),
    Decimal(u32),
    Fixed(usize),
    Enum(usize),
    Array(Box<Type>),
    Map(Box<Type>),
    Optional(Box<Type>),
    Union(Vec<Type>),
    Record(Vec<Type>),
}

const PLAIN: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
const LOGICAL: [(&str, &str); 6] = [
    ("int", "date"),
    ("int", "time-millis"),
    ("long", "timestamp-millis"),
    ("long", "timestamp-micros"),
    ("long", "local-timestamp-micros"),
    ("string", "uuid"),
];

/// With `unions`, of anything; otherwise only with null.
fn any_type(unions: bool) -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![
        4 => prop::sample::select(&PLAIN[..]).prop_map(Type::Plain),
        2 => prop::sample::select(&LOGICAL[..]).prop_map(|(base, logical)| Type::Logical(base, logical)),
        1 => (0..20u32).prop_map(Type::Decimal),
        1 => (0..20usize).prop_map(Type::Fixed),
        1 => (1..4usize).prop_map(Type::Enum),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            1 => inner.clone().prop_map(|item| Type::Array(item.into())),
            1 => inner.clone().prop_map(|item| Type::Map(item.into())),
            2 => inner.clone().prop_map(|item| Type::Optional(item.into())),
            1 => prop::collection::vec(inner.clone(), 1..if unions { 4 } else { 2 }).prop_map(Type::Union),
            3 => prop::collection::vec(inner, 0..5).prop_map(Type::Record),
        ]
    })
}

fn any_record() -> impl Strategy<Value = Type> {
    prop::collection::vec(any_type(false), 1..6).prop_map(Type::Record)
}

impl Type {
    /// The schema; `names` makes names of types unique.
    fn schema(&self, names: &mut u32) -> Value {
        let mut name = || {
            *names += 1;
            format!("T{names}")
        };
        match self {
            Type::Plain(name) => json!(name),
            Type::Logical(base, logical) => json!({"type": base, "logicalType": logical}),
            Type::Decimal(scale) => {
                json!({"type": "bytes", "logicalType": "decimal", "precision": 40, "scale": scale})
            }
            Type::Fixed(size) => json!({"type": "fixed", "name": name(), "size": size}),
            Type::Enum(symbols) => {
                let symbols: Vec<_> = (0..*symbols).map(|symbol| format!("S{symbol}")).collect();
                json!({"type": "enum", "name": name(), "symbols": symbols})
            }
            Type::Array(item) => json!({"type": "array", "items": item.schema(names)}),
            Type::Map(value) => json!({"type": "map", "values": value.schema(names)}),
            Type::Optional(inner) => json!(["null", inner.schema(names)]),
            Type::Union(branches) => branches.iter().map(|branch| branch.schema(names)).collect(),
            Type::Record(fields) => {
                let name = name();
                let field =
                    |(at, field): (usize, &Type)| json!({"name": format!("f{at}"), "type": field.schema(names)});
                let fields: Vec<_> = fields.iter().enumerate().map(field).collect();
                json!({"type": "record", "name": name, "fields": fields})
            }
        }
    }

    /// A value: appends its bytes, returns its JSON.
    fn value(&self, random: &mut StdRng, out: &mut Vec<u8>) -> Value {
        match self {
            Type::Plain("null") => Value::Null,
            Type::Plain("boolean") => {
                let value: bool = random.random();
                out.push(value.into());
                json!(value)
            }
            Type::Plain("int") => {
                let value: i32 = random.random();
                long(value.into(), out);
                json!(value)
            }
            Type::Plain("long") => {
                let value = random.random::<i64>() >> random.random_range(0..64);
                long(value, out);
                json!(value)
            }
            Type::Plain("float") => {
                let value = f64::from(random.random::<i16>()) / 8.0;
                out.extend((value as f32).to_le_bytes());
                json!(value)
            }
            Type::Plain("double") => {
                let value = f64::from(random.random::<i32>()) / 8.0;
                out.extend(value.to_le_bytes());
                json!(value)
            }
            Type::Plain("bytes") => {
                let bytes: Vec<u8> = (0..random.random_range(0..9)).map(|_| random.random()).collect();
                long(bytes.len() as i64, out);
                out.extend(&bytes);
                json!(BASE64.encode(&bytes))
            }
            Type::Plain(_) => {
                let text: String = (0..random.random_range(0..9)).map(|_| random.random::<char>()).collect();
                string(&text, out);
                json!(text)
            }
            Type::Logical("string", _) => {
                let text = uuid::Uuid::from_u128(random.random()).to_string();
                string(&text, out);
                json!(text)
            }
            Type::Logical(_, "date") => {
                let days = random.random_range(-700_000..2_900_000);
                long(days, out);
                json!((chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::days(days)).format("%Y-%m-%d").to_string())
            }
            Type::Logical(_, "time-millis") => {
                let seconds = random.random_range(0..86_400);
                long(seconds * 1_000 + 250, out);
                let time = chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds);
                json!(format!("{}.25", time.format("%H:%M:%S")))
            }
            Type::Logical(_, logical) => {
                let seconds = random.random_range(-60_000_000_000..250_000_000_000);
                let unit = if logical.ends_with("millis") { 1_000 } else { 1_000_000 };
                long(seconds * unit, out);
                let time = chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds);
                let zone = if logical.starts_with("local") { "" } else { "Z" };
                json!(format!("{}{zone}", time.format("%Y-%m-%dT%H:%M:%S")))
            }
            Type::Decimal(scale) => {
                let value = random.random::<i64>() >> random.random_range(0..64);
                let bytes = value.to_be_bytes();
                long(8, out);
                out.extend(bytes);
                let digits = format!("{:0width$}", value.unsigned_abs(), width = *scale as usize + 1);
                let (whole, fraction) = digits.split_at(digits.len() - *scale as usize);
                let point = if *scale > 0 { "." } else { "" };
                json!(format!("{}{whole}{point}{fraction}", if value < 0 { "-" } else { "" }))
            }
            Type::Fixed(size) => {
                let bytes: Vec<u8> = (0..*size).map(|_| random.random()).collect();
                out.extend(&bytes);
                json!(BASE64.encode(&bytes))
            }
            Type::Enum(symbols) => {
                let symbol = random.random_range(0..*symbols);
                long(symbol as i64, out);
                json!(format!("S{symbol}"))
            }
            Type::Array(item) => {
                let items: Vec<(Vec<u8>, Value)> = parts(random, |random, out| item.value(random, out));
                Value::Array(blocks(random, items, out))
            }
            Type::Map(value) => {
                let mut number = 0;
                let entries = parts(random, |random, out| {
                    number += 1;
                    string(&format!("k \"{number}"), out);
                    (format!("k \"{number}"), value.value(random, out))
                });
                blocks(random, entries, out).into_iter().collect::<serde_json::Map<_, _>>().into()
            }
            Type::Optional(inner) => {
                let there: bool = random.random();
                long(there.into(), out);
                if there { inner.value(random, out) } else { Value::Null }
            }
            Type::Union(branches) => {
                let branch = random.random_range(0..branches.len());
                long(branch as i64, out);
                branches[branch].value(random, out)
            }
            Type::Record(fields) => {
                let fields = fields.iter().enumerate().map(|(at, field)| (format!("f{at}"), field.value(random, out)));
                fields.collect::<serde_json::Map<_, _>>().into()
            }
        }
    }
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest > 0x7f {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn string(text: &str, out: &mut Vec<u8>) {
    long(text.len() as i64, out);
    out.extend(text.as_bytes());
}

/// Up to four items, each with its bytes.
fn parts<T>(random: &mut StdRng, mut item: impl FnMut(&mut StdRng, &mut Vec<u8>) -> T) -> Vec<(Vec<u8>, T)> {
    (0..random.random_range(0..4))
        .map(|_| {
            let mut bytes = Vec::new();
            let item = item(random, &mut bytes);
            (bytes, item)
        })
        .collect()
}

/// Writes items in blocks, with and without their length in bytes; returns what they are.
fn blocks<T>(random: &mut StdRng, items: Vec<(Vec<u8>, T)>, out: &mut Vec<u8>) -> Vec<T> {
    let (mut values, mut items) = (Vec::new(), items.into_iter().peekable());
    while items.peek().is_some() {
        let block: Vec<_> = items.by_ref().take(random.random_range(1..3)).collect();
        let bytes: Vec<u8> = block.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        if random.random() {
            long(-(block.len() as i64), out);
            long(bytes.len() as i64, out);
        } else {
            long(block.len() as i64, out);
        }
        out.extend(bytes);
        values.extend(block.into_iter().map(|(_, value)| value));
    }
    out.push(0);
    values
}

/// The schema of a type, and a value of it as bytes and as JSON.
fn sample(kind: &Type, seed: u64) -> (Value, Vec<u8>, Value) {
    let mut bytes = Vec::new();
    let value = kind.value(&mut StdRng::seed_from_u64(seed), &mut bytes);
    (kind.schema(&mut 0), bytes, value)
}

proptest! {
    #[test]
    fn avro_is_the_json_of_its_value(kind in any_type(true), seed: u64) {
        let (schema, bytes, expected) = sample(&kind, seed);
        let json = json_of(Format::Avro, avro(&schema), &bytes).unwrap();
        let found: Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(found, expected, "{}", schema);
    }

    #[test]
    fn a_double_keeps_its_bits(value: f64, single: f32) {
        let json = json_of(Format::Avro, avro(&json!("double")), &value.to_le_bytes()).unwrap();
        prop_assert_eq!(json.parse::<f64>().unwrap().to_bits(), value.to_bits());
        prop_assert!(json.contains(['.', 'e']), "{}", json);
        let json = json_of(Format::Avro, avro(&json!("float")), &single.to_le_bytes()).unwrap();
        prop_assert_eq!(json.parse::<f32>().unwrap().to_bits(), single.to_bits());
    }

    #[test]
    fn every_value_fits_the_column_its_schema_declares(kind in any_record(), seeds in prop::collection::vec(any::<u64>(), 1..5)) {
        let schema = kind.schema(&mut 0);
        let payloads: Vec<_> = seeds.iter().map(|seed| wire(1, &sample(&kind, *seed).1)).collect();
        let batch = records(0, &payloads).with_schemas(schemas([(1, avro(&schema))]));
        let (version, decoded) = decode_all(&avro_contract(), &[batch]);
        prop_assert_eq!(decoded[0].dead.len(), 0);
        prop_assert_eq!(decoded[0].rows.num_rows(), payloads.len());
        // Members of maps are not declared: an array without elements there has no column yet.
        let undecided = decoded[0].found.iter().filter(|find| find.kinds().is_undecided());
        prop_assert_eq!(undecided.clone().count(), decoded[0].found.len(), "{} {:?}", schema, version);
        prop_assert_eq!(decoded[0].rescued, undecided.map(|find| find.rows).sum::<u64>(), "{} {:?}", schema, version);
    }

    #[test]
    fn corrupt_avro_is_a_fault_or_a_value(kind in any_type(true), seed: u64, flips in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4), cut in any::<Option<prop::sample::Index>>()) {
        let (schema, mut bytes, _) = sample(&kind, seed);
        prop_assume!(!bytes.is_empty());
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << (bit % 8);
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        // An array of nulls may be as long as its count says.
        prop_assume!(!schema.to_string().contains("\"items\":\"null\"") && !schema.to_string().contains("\"fields\":[]"));
        match json_of(Format::Avro, avro(&schema), &bytes) {
            Ok(json) => drop(serde_json::from_str::<Value>(&json).unwrap()),
            Err(fault) => prop_assert_eq!(fault.reason, Reason::NotAvro),
        }
    }
}
