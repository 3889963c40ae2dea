//! `match`: which records of a topic are the table's.

use super::{
    Record, Records,
    scan::Kind,
    walk::{Row, content},
};
use crate::schema::{Contract, Path};

/// The conditions of a contract; all of them must hold. Without any, every record is the table's.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Conditions on the topic, headers and the whole key.
    outside: Vec<(Path, Vec<String>)>,
    /// Conditions inside a JSON key, by source.
    key: Vec<(u32, Vec<String>)>,
    /// Conditions inside the payload, by source.
    payload: Vec<(u32, Vec<String>)>,
}

impl Selection {
    /// Prepares a contract's conditions; `source_of` numbers the places that values come from.
    pub fn new(contract: &Contract, mut source_of: impl FnMut(&Path) -> usize) -> Self {
        let mut selection = Self::default();
        for condition in &contract.matches {
            let values = condition.values.clone();
            match &condition.path {
                // Those are on the message as it came: `change` looks at them.
                Path::Value(_) if contract.format.is_change() => {}
                Path::Value(_) => selection.payload.push((source_of(&condition.path) as u32, values)),
                Path::Key(parts) if !parts.is_empty() => {
                    selection.key.push((source_of(&condition.path) as u32, values))
                }
                outside => selection.outside.push((outside.clone(), values)),
            }
        }
        selection
    }

    /// True if what stands outside the payload meets its conditions; `key_row` holds what was found in the key.
    pub fn wants_record(&self, record: &Record<'_>, records: &Records, key_row: &Row) -> bool {
        let outside = |(path, values): &(Path, Vec<String>)| {
            let bytes = record.bytes_at(path, records);
            bytes.is_some_and(|bytes| values.iter().any(|value| value.as_bytes() == bytes))
        };
        let key = record.key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        self.outside.iter().all(outside) && meets(&self.key, key_row, key)
    }

    /// True if a row of the payload `text` meets the conditions on it.
    pub fn wants_row(&self, row: &Row, text: &str) -> bool {
        meets(&self.payload, row, text)
    }

    /// True if a condition is on the value of a source in the payload.
    pub fn reads(&self, source: u32) -> bool {
        self.payload.iter().any(|(other, _)| *other == source)
    }

    /// True if a payload must be read to know whether a record is the table's.
    pub fn reads_payload(&self) -> bool {
        !self.payload.is_empty()
    }
}

fn meets(conditions: &[(u32, Vec<String>)], row: &Row, text: &str) -> bool {
    conditions.iter().all(|(source, values)| {
        let slot = row.slots[*source as usize];
        let scalar = !matches!(slot.kind, Kind::Absent | Kind::Null | Kind::Nested);
        scalar && values.iter().any(|value| *value == content(slot, text))
    })
}
