//! Database changes as one flat form of JSON text, which the decoder then reads like any other payload: names, types,
//! rescue and dead letters are the same as for events.
//!
//! ```text
//! {"op":"u","source_time":"…","epoch":"…","token":"…","snapshot":"…","run":"…","unchanged":["…"],"after":{…},"before":{…}}
//! ```
//!
//! | `op` | what happened | `after` holds |
//! |---|---|---|
//! | `c`, `u` | a row was inserted, updated | the row |
//! | `r` | a row was read by a snapshot or a full load | the row |
//! | `d` | a row was deleted | its key |
//! | `t` | the table was emptied | nothing: the record has no key |
//! | `x` | the topic's record of this key was deleted (a tombstone) | the key |
//!
//! * `token` orders changes of one `epoch`: fixed-width hexadecimal numbers, so that texts compare as the numbers do. It
//!   is absent where the source tells no position; then only the offset orders.
//! * `unchanged` lists columns that a change does not tell (Debezium leaves out large values that were not touched).
//! * `before` is written as it came. Of Debezium's only the key can be trusted: without REPLICA IDENTITY FULL the rest
//!   is invented.
//! * Values get the form that the database's type asks for ([`form`]): from Debezium's schema beside the payload, from
//!   the Avro schema, or from what the contract declares. Nothing is guessed.

mod connect;
mod debezium;
mod dms;
mod form;
mod members;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use self::form::{Meaning, write_value};
use self::members::Members;
use super::{
    Reason, Record, Records, Skip,
    scan::{Fault, Kind, Slot},
    walk::content,
    writer::{Leaf, Shape, text},
};
use crate::schema::{ColumnType, Contract, Format, Path, change, derive_name, push_json_string};

/// Reads the changes of one table.
#[derive(Debug)]
pub(super) struct Changes {
    dialect: Dialect,
    contract: Declared,
    /// Conditions on the message as it came.
    conditions: Vec<(Vec<String>, Vec<String>)>,
    types: connect::Cache,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Debezium,
    Dms,
}

/// What a message became.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The text holds a change, of a row if `keyed`.
    Change { keyed: bool },
    /// It tells of no row.
    Skipped(Skip),
}

impl Changes {
    /// `None` if the payloads of `contract` are no changes.
    pub fn new(contract: &Contract) -> Option<Self> {
        let dialect = match contract.format {
            Format::DebeziumJson | Format::DebeziumAvro => Dialect::Debezium,
            Format::DmsJson => Dialect::Dms,
            Format::Json | Format::Avro | Format::Protobuf => return None,
        };
        let inside = |one: &crate::schema::Match| match &one.path {
            Path::Value(parts) => Some((parts.clone(), one.values.clone())),
            _ => None,
        };
        Some(Self {
            dialect,
            contract: Declared::new(contract),
            conditions: contract.matches.iter().filter_map(inside).collect(),
            types: connect::Cache::default(),
        })
    }

    /// True if a message must be read to know whether it is the table's.
    pub fn reads_payload(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Writes the change that a message holds to `out`, which is empty. `payload` and `key` are JSON text; the key's may
    /// be no JSON, and a message without a payload is a tombstone.
    pub fn read(
        &mut self,
        record: &Record<'_>,
        payload: Option<&str>,
        key: Option<&str>,
        out: &mut String,
    ) -> Result<Outcome, Fault> {
        match (self.dialect, payload) {
            (Dialect::Debezium, payload) => self.debezium(record, payload, key, out),
            (Dialect::Dms, Some(payload)) => self.dms(payload, out),
            (Dialect::Dms, None) => Ok(Outcome::Skipped(Skip::Tombstone)),
        }
    }

    /// The columns that the schema beside the last payload declares.
    pub fn leaves(&self) -> &[Leaf] {
        self.types.current().map_or(&[], |types| &types.leaves)
    }

    /// True if the message meets all conditions.
    fn is_wanted(&self, members: &Members<'_>) -> bool {
        self.conditions.iter().all(|(parts, values)| {
            members.at_path(parts).is_some_and(|(slot, text)| {
                let scalar = !matches!(slot.kind, Kind::Absent | Kind::Null | Kind::Nested);
                scalar && values.iter().any(|value| *value == content(slot, text))
            })
        })
    }
}

/// The columns that a writer's schema declares for the rows of its changes.
pub(super) fn leaves_of(shape: &Shape) -> Vec<Leaf> {
    let enveloped = shape.leaves.iter().any(|leaf| leaf.path.first().is_some_and(|part| part == change::AFTER));
    let leaves = shape.leaves.iter();
    if enveloped {
        return leaves.filter(|leaf| leaf.path.len() > 1 && leaf.path[0] == change::AFTER).cloned().collect();
    }
    let of_row = leaves.filter(|leaf| leaf.path.first().is_some_and(|part| !part.starts_with("__")));
    of_row.map(|leaf| Leaf::new([&[change::AFTER.to_owned()], &leaf.path[..]].concat(), leaf.kinds)).collect()
}

/// What the contract says about the fields of a row.
#[derive(Debug)]
struct Declared {
    keys: Vec<String>,
    /// By the name of the column, and by the field that feeds it if the contract names one.
    columns: Vec<(String, Option<String>, Meaning, Option<ColumnType>)>,
    /// What is known of a field.
    fields: HashMap<String, Field>,
}

/// What the contract says about one field.
#[derive(Debug, Clone, PartialEq)]
struct Field {
    is_key: bool,
    meaning: Meaning,
    wanted: Option<ColumnType>,
}

impl Declared {
    fn new(contract: &Contract) -> Self {
        let field = |path: &Path| match path {
            Path::Value(parts) if parts.len() == 2 && parts[0] == change::AFTER => Some(parts[1].clone()),
            _ => None,
        };
        let column = |column: &crate::schema::ColumnContract| {
            let meaning = column.scale.map_or(Meaning::Plain, |scale| Meaning::Decimal(scale.into()));
            (column.name.clone(), column.path.as_ref().and_then(field), meaning, column.kind)
        };
        let columns = contract.columns.iter().map(column).collect();
        Self { keys: contract.key.clone(), columns, fields: HashMap::new() }
    }

    fn field(&mut self, name: &str) -> &Field {
        if !self.fields.contains_key(name) {
            let derived = derive_name(&[name.to_owned()], &[]);
            let column = self.columns.iter().find(|(column, field, ..)| match field {
                Some(field) => field == name,
                None => *column == derived,
            });
            let called = column.map_or(&derived, |(column, ..)| column);
            let is_key = self.keys.contains(called);
            let (meaning, wanted) =
                column.map_or((Meaning::Plain, None), |(_, _, meaning, wanted)| (meaning.clone(), *wanted));
            self.fields.insert(name.to_owned(), Field { is_key, meaning, wanted });
        }
        &self.fields[name]
    }

    /// Writes a row's members as an object, those of the key alone if `key_only`. `types` say what values mean, and
    /// members without a value that the source knows are put to `unchanged`.
    fn write_row(
        &mut self,
        row: &[(Slot, Slot)],
        text: &str,
        Rules { types, key_only }: Rules<'_>,
        unchanged: &mut Vec<String>,
        out: &mut String,
    ) -> Result<(), Fault> {
        let mut separator = '{';
        for (key, value) in row {
            let name = content(*key, text);
            let field = self.field(&name);
            if key_only && !field.is_key {
                continue;
            }
            if form::is_unavailable(*value, text) {
                unchanged.push(name.into_owned());
                continue;
            }
            let meaning = match types.and_then(|types| types.meaning(&name)) {
                Some(meaning) => meaning,
                None => &field.meaning,
            };
            out.push(std::mem::replace(&mut separator, ','));
            out.push_str(key.raw(text));
            out.push(':');
            if types.is_none() && field.wanted.is_none() && form::is_variable_decimal(*value, text) {
                let column = derive_name(&[name.into_owned()], &[]);
                let message = format!(
                    "`{column}` holds decimals, and the message does not say so: set columns.{column}.type to string or \
                     double, or have Debezium write strings (decimal.handling.mode)"
                );
                return Err(Fault { reason: Reason::UntypedValue, message });
            }
            write_value(*value, text, (meaning, field.wanted), out);
        }
        out.push_str(if separator == '{' { "{}" } else { "}" });
        Ok(())
    }
}

/// How a row is written.
#[derive(Clone, Copy)]
struct Rules<'a> {
    types: Option<&'a connect::Types>,
    key_only: bool,
}

/// What a change says beside its rows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head<'a> {
    op: &'a str,
    /// Microseconds since 1970.
    time_us: Option<i64>,
    /// A time as the source wrote it, if not in microseconds.
    time: Option<&'a str>,
    epoch: Option<String>,
    token: Option<String>,
    snapshot: Option<String>,
    run: Option<String>,
}

impl Head<'_> {
    /// Writes it as the first members of an object that `close` ends.
    fn write(&self, out: &mut String) {
        out.push_str("{\"op\":");
        push_json_string(out, self.op);
        if let Some(us) = self.time_us {
            out.push_str(",\"source_time\":");
            text::push_timestamp(out, us, 1_000, false);
        } else if let Some(time) = self.time {
            out.push_str(",\"source_time\":");
            push_json_string(out, time);
        }
        let words = [("epoch", &self.epoch), ("token", &self.token), ("snapshot", &self.snapshot), ("run", &self.run)];
        for (name, word) in words {
            if let Some(word) = word {
                out.push_str(",\"");
                out.push_str(name);
                out.push_str("\":");
                push_json_string(out, word);
            }
        }
    }
}

/// Writes the columns that a change does not tell, and the end.
fn close(unchanged: &[String], out: &mut String) {
    let mut separator = ",\"unchanged\":[";
    for name in unchanged {
        out.push_str(std::mem::replace(&mut separator, ","));
        push_json_string(out, name);
    }
    out.push_str(if unchanged.is_empty() { "}" } else { "]}" });
}

/// Numbers as text that compares as they do.
fn token(parts: &[u64]) -> String {
    parts.iter().map(|part| format!("{part:016x}")).collect::<Vec<_>>().join(".")
}

fn not_a_change(message: impl Into<String>) -> Fault {
    Fault { reason: Reason::NotAChange, message: message.into() }
}

/// The JSON text of a message key, if it has one: `json` may be needed for it.
pub(super) fn key_text<'t>(
    format: Format,
    record: &Record<'t>,
    records: &'t Records,
    json: &'t mut String,
) -> Option<&'t str> {
    let key = record.key?;
    match format {
        Format::DebeziumAvro => super::writer::read(Format::Avro, key, records.schemas(), json).ok().map(|read| read.0),
        _ => std::str::from_utf8(key).ok(),
    }
}
