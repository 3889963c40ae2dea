//! The types that Kafka Connect's JSON converter writes beside each payload (`schemas.enable`).
//!
//! A connector repeats its schema in every message, so the last ones are kept with their text: telling that a schema is
//! known is comparing bytes.

use std::collections::HashMap;

use serde_json::Value;

use super::form::Meaning;
use crate::decode::writer::Leaf;
use crate::schema::{Observed, change};

/// Schemas that are kept: those of several tables may take turns on one topic, and of a table before and after a change.
const KEPT: usize = 32;

/// What a schema says about a row's fields.
#[derive(Debug, Default)]
pub(super) struct Types {
    meanings: HashMap<String, Meaning>,
    /// The fields that can be columns.
    pub leaves: Vec<Leaf>,
}

impl Types {
    /// What the values of a field mean, if the schema knows the field.
    pub fn meaning(&self, field: &str) -> Option<&Meaning> {
        self.meanings.get(field)
    }

    /// Reads the schema of a payload; of one that is none, nothing is known.
    fn parse(text: &str) -> Self {
        let schema: Value = serde_json::from_str(text).unwrap_or_default();
        let field = |name: &str| fields(&schema).find(|field| name_of(field) == Some(name));
        let enveloped = field("op").is_some() || field(change::BEFORE).is_some();
        let row = if enveloped { field(change::AFTER).or_else(|| field(change::BEFORE)) } else { Some(&schema) };
        let mut types = Self::default();
        for field in row.into_iter().flat_map(fields) {
            let Some(name) = name_of(field).filter(|name| enveloped || !name.starts_with("__")) else { continue };
            let (meaning, kinds) = meaning_of(field);
            let path = vec![change::AFTER.to_owned(), name.to_owned()];
            types.leaves.extend(kinds.map(|kinds| Leaf::new(path, kinds)));
            types.meanings.insert(name.to_owned(), meaning);
        }
        types
    }
}

fn fields(schema: &Value) -> impl Iterator<Item = &Value> {
    schema.get("fields").and_then(Value::as_array).into_iter().flatten()
}

fn name_of(field: &Value) -> Option<&str> {
    field.get("field").and_then(Value::as_str)
}

/// What the values of a field mean, and which kinds of JSON they are written as; of none, if its members are columns.
fn meaning_of(field: &Value) -> (Meaning, Option<Observed>) {
    let word = |key: &str| field.get(key).and_then(Value::as_str).unwrap_or_default();
    let parameter = |key: &str| field.pointer(&format!("/parameters/{key}")).and_then(Value::as_str)?.parse().ok();
    let (date, time, text) = (Some(Observed::DATE), Some(Observed::TIMESTAMP), Some(Observed::STRING));
    match word("name") {
        "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" => (Meaning::Date, date),
        "io.debezium.time.IsoDate" => (Meaning::IsoDate, date),
        "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time" => (Meaning::Time(1_000_000), text),
        "io.debezium.time.MicroTime" => (Meaning::Time(1_000), text),
        "io.debezium.time.NanoTime" => (Meaning::Time(1), text),
        "io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp" => {
            (Meaning::Timestamp(1_000_000), time)
        }
        "io.debezium.time.MicroTimestamp" => (Meaning::Timestamp(1_000), time),
        "io.debezium.time.NanoTimestamp" => (Meaning::Timestamp(1), time),
        "io.debezium.time.ZonedTimestamp" | "io.debezium.time.IsoTimestamp" => (Meaning::Plain, time),
        "org.apache.kafka.connect.data.Decimal" => (Meaning::Decimal(parameter("scale").unwrap_or(0)), text),
        "io.debezium.data.VariableScaleDecimal" => (Meaning::VariableDecimal, text),
        "io.debezium.data.Bits" => (Meaning::Bits(parameter("length").unwrap_or(1)), text),
        _ => match word("type") {
            "boolean" => (Meaning::Plain, Some(Observed::BOOLEAN)),
            "int8" | "int16" | "int32" | "int64" => (Meaning::Plain, Some(Observed::INTEGER)),
            "float" | "double" | "float32" | "float64" => (Meaning::Plain, Some(Observed::REAL)),
            "string" | "bytes" => (Meaning::Plain, text),
            "array" => {
                let (inner, kinds) = field.get("items").map_or((Meaning::Plain, None), meaning_of);
                let scalars = kinds.filter(|kinds| kinds.scalars() == *kinds);
                (Meaning::List(Box::new(inner)), Some(scalars.map_or(Observed::NESTED, list_of)))
            }
            _ => (Meaning::Plain, None),
        },
    }
}

/// Lists hold no dates or timestamps: those stay text.
fn list_of(kinds: Observed) -> Observed {
    let times = kinds.has(Observed::DATE.and(Observed::TIMESTAMP));
    Observed::list_of(if times { Observed::STRING } else { kinds })
}

/// The schemas met last, the newest at the end.
#[derive(Debug, Default)]
pub(super) struct Cache {
    known: Vec<(Box<str>, Types)>,
    /// True if the message at hand has a schema: the last one.
    has: bool,
}

impl Cache {
    /// Begins a message, whose schema has this text.
    pub fn begin(&mut self, text: Option<&str>) {
        self.has = text.is_some();
        let Some(text) = text else { return };
        match self.known.iter().rposition(|(known, _)| **known == *text) {
            Some(at) if at + 1 == self.known.len() => {}
            Some(at) => {
                let known = self.known.remove(at);
                self.known.push(known);
            }
            None => {
                if self.known.len() == KEPT {
                    self.known.remove(0);
                }
                self.known.push((text.into(), Types::parse(text)));
            }
        }
    }

    /// The types of the message at hand, if it has a schema.
    pub fn current(&self) -> Option<&Types> {
        self.known.last().filter(|_| self.has).map(|(_, types)| types)
    }
}
