//! What ingest sees, as events for the news.

use std::sync::Arc;

use crate::decode::DeadLetter;
use crate::news::{Change, DeadLetters, Event, RecordAt, SchemaChange};
use crate::schema::{Found, SchemaVersion};

/// From `before` to `after`, because of what was `found`; the table has `rows` rows by now. Nothing if people see no
/// difference.
pub fn schema_change(
    table: &str,
    before: &SchemaVersion,
    after: &SchemaVersion,
    found: &[Found],
    rows: u64,
) -> Option<Event> {
    let changed = after.columns.iter().filter_map(|column| {
        let change = match before.columns.iter().find(|old| old.name == column.name) {
            None if column.widens.is_some() => "widen",
            None => "add",
            Some(_) => return None,
        };
        let find = found.iter().find(|find| find.path == column.path);
        Some(Change {
            change,
            column: column.logical().to_owned(),
            column_type: column.kind.word().to_owned(),
            path: column.path.to_string(),
            first: find.map(|find| at(&find.topic, find.partition, find.offset)),
            sample: find.map(|find| find.sample.clone()),
        })
    });
    let changes: Vec<Change> = changed.collect();
    (!changes.is_empty()).then(|| {
        let (table, before, after) = (table.to_owned(), before.number, after.number);
        Event::SchemaChange(SchemaChange { table, before, after, changes, more: 0, rows })
    })
}

/// The dead letters of a batch; nothing if there are none.
pub fn dead_letters(table: &str, dead: &[DeadLetter]) -> Option<Event> {
    let first = dead.first()?;
    Some(Event::DeadLetters(DeadLetters {
        table: table.to_owned(),
        count: dead.len() as u64,
        reason: first.reason.code().to_owned(),
        message: first.message.clone(),
        first: at(&first.topic, first.partition, first.offset),
    }))
}

fn at(topic: &Arc<str>, partition: i32, offset: i64) -> RecordAt {
    RecordAt { topic: topic.to_string(), partition, offset }
}
