//! What ingest sees, as events for the news.

use std::sync::Arc;

use crate::decode::DeadLetter;
use crate::news::{Change, DeadLetters, Event, RecordAt, SchemaChange};
use crate::schema::{Found, SchemaVersion};

/// From `before` to `after`, because of what was `found` in `topic`; the table has `rows` rows by now.
pub fn schema_change(
    table: &str,
    before: &SchemaVersion,
    after: &SchemaVersion,
    found: &[Found],
    topic: &Arc<str>,
    rows: u64,
) -> Event {
    let changed = after.columns.iter().filter_map(|column| {
        let change = match before.columns.iter().find(|old| old.name == column.name) {
            None => "add",
            Some(old) if old.kind != column.kind => "widen",
            Some(_) => return None,
        };
        let find = found.iter().find(|find| find.path == column.path);
        Some(Change {
            change,
            column: column.name.clone(),
            column_type: column.kind.word().to_owned(),
            path: column.path.to_string(),
            first: find.map(|find| at(topic, find.partition, find.offset)),
            sample: find.map(|find| find.sample.clone()),
        })
    });
    Event::SchemaChange(SchemaChange {
        table: table.to_owned(),
        before: before.number,
        after: after.number,
        changes: changed.collect(),
        more: 0,
        rows,
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
