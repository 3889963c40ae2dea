//! An event as a message: a sentence for people, fields for programs, and an id that is the same if it is told again.

use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

use super::desk::Told;
use super::event::{Change, DeadLetters, Event, RecordAt, SchemaChange, Trouble, TroubleWith};
use crate::deliver::{Message, MessageKind};

/// Columns named in the sentence; the fields name more.
const COLUMNS_SAID: usize = 5;

/// The message that tells of an event.
pub(super) fn message(told: &Told) -> Message {
    let event = &told.event;
    let mut payload = Map::new();
    payload.insert("event".into(), event.kind().word().into());
    payload.insert("message".into(), sentence(event).into());
    payload.insert("at".into(), told.at.to_rfc3339_opts(SecondsFormat::Millis, true).into());
    payload.insert("events".into(), told.events.into());
    payload.extend(fields(event));
    let key = event.subject().to_owned();
    Message { id: id(event), kind: MessageKind::News, key, at: told.at, payload }
}

fn id(event: &Event) -> String {
    let (word, subject) = (event.kind().word(), event.subject());
    match event {
        Event::SchemaChange(change) => format!("{word}/{subject}/{}-{}", change.before, change.after),
        Event::DeadLetters(DeadLetters { first: RecordAt { topic, partition, offset }, .. }) => {
            format!("{word}/{subject}/{topic}/{partition}/{offset}")
        }
        Event::Trouble(trouble) => {
            let state = if trouble.over { "over" } else { "begun" };
            format!("{word}/{subject}/{}/{state}", trouble.since.timestamp_millis())
        }
    }
}

fn sentence(event: &Event) -> String {
    match event {
        Event::SchemaChange(change) => {
            let mut said: Vec<String> = change.changes.iter().take(COLUMNS_SAID).map(said).collect();
            let more = change.more + change.changes.len().saturating_sub(COLUMNS_SAID) as u64;
            if more > 0 {
                said.push(format!("and {more} more"));
            }
            format!("{}: {} (schema version {})", change.table, said.join(", "), change.after)
        }
        Event::DeadLetters(DeadLetters { table, count: 1, message, .. }) => {
            format!("{table}: a record could not become a row: {message}")
        }
        Event::DeadLetters(DeadLetters { table, count, message, .. }) => {
            format!("{table}: {count} records could not become rows; the first: {message}")
        }
        Event::Trouble(Trouble { with, reason, over, .. }) => {
            let (what, works, fails) = match with {
                TroubleWith::Topic(topic) => (format!("topic {topic}"), "is read again", "is not read"),
                TroubleWith::Lake => ("the lake".to_owned(), "takes rows again", "takes no rows"),
                TroubleWith::Sink(sink) => (format!("sink {sink}"), "takes messages again", "takes no messages"),
                TroubleWith::Query(name) => (format!("table {name}"), "is made anew again", "could not be made anew"),
            };
            if *over { format!("{what} {works}") } else { format!("{what} {fails}: {reason}") }
        }
    }
}

fn said(change: &Change) -> String {
    let Change { change, column, column_type, .. } = change;
    match *change {
        "add" => format!("new column {column} ({column_type})"),
        "widen" => format!("{column} is now {column_type}"),
        other => format!("{other} of {column}"),
    }
}

fn fields(event: &Event) -> Map<String, Value> {
    let fields = match event {
        Event::SchemaChange(SchemaChange { table, before, after, changes, more, rows }) => json!({
            "table": table,
            "schema_version": {"before": before, "after": after},
            "changes": changes.iter().map(fields_of).collect::<Vec<_>>(),
            "more_changes": more,
            "first": changes.iter().find_map(|change| change.first.as_ref()).map(place),
            "sample": changes.iter().find_map(|change| change.sample.as_ref()),
            "rows": rows,
        }),
        Event::DeadLetters(DeadLetters { table, count, reason, message, first }) => json!({
            "table": table, "count": count, "reason": reason, "detail": message, "first": place(first),
        }),
        Event::Trouble(Trouble { with, tables, reason, since, over }) => {
            let state = if *over { "over" } else { "begun" };
            let since = since.to_rfc3339_opts(SecondsFormat::Millis, true);
            let mut fields = json!({"state": state, "since": since, "reason": reason, "tables": tables});
            match with {
                TroubleWith::Topic(topic) => fields["topic"] = topic.as_str().into(),
                TroubleWith::Sink(sink) => fields["sink"] = sink.as_str().into(),
                TroubleWith::Query(name) => fields["query"] = name.as_str().into(),
                TroubleWith::Lake => {}
            }
            fields
        }
    };
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn fields_of(change: &Change) -> Value {
    let Change { change, column, column_type, path, first, sample } = change;
    let first = first.as_ref().map(place);
    json!({"change": change, "column": column, "type": column_type, "path": path, "first": first, "sample": sample})
}

fn place(at: &RecordAt) -> Value {
    json!({"topic": at.topic, "partition": at.partition, "offset": at.offset})
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn told(event: Event) -> Message {
        message(&Told { event, events: 2, at: DateTime::from_timestamp(1_795_348_800, 0).unwrap() })
    }

    #[test]
    fn a_schema_change_says_what_changed_and_where_it_was_first_seen() {
        let first = RecordAt { topic: "fleet.telemetry".into(), partition: 2, offset: 41 };
        let change = |column: &str| Change {
            change: "add",
            column: column.into(),
            column_type: "double".into(),
            path: format!("tire.{column}"),
            first: Some(first.clone()),
            sample: Some("2.4".into()),
        };
        let changes = vec![change("fl"), change("fr")];
        let table = "telemetry".to_owned();
        let event = SchemaChange { table, before: 3, after: 4, changes, more: 7, rows: 1_000 };
        let message = told(Event::SchemaChange(event));
        assert_eq!((message.id.as_str(), message.key.as_str()), ("schema_change/telemetry/3-4", "telemetry"));
        let place = json!({"topic": "fleet.telemetry", "partition": 2, "offset": 41});
        let listed = |column: &str| {
            json!({
                "change": "add", "column": column, "type": "double", "path": format!("tire.{column}"),
                "first": place, "sample": "2.4",
            })
        };
        assert_eq!(
            Value::Object(message.payload),
            json!({
                "event": "schema_change",
                "message": "telemetry: new column fl (double), new column fr (double), and 7 more (schema version 4)",
                "at": "2026-11-22T12:00:00.000Z",
                "events": 2,
                "table": "telemetry",
                "schema_version": {"before": 3, "after": 4},
                "changes": [listed("fl"), listed("fr")],
                "more_changes": 7,
                "first": place,
                "sample": "2.4",
                "rows": 1_000,
            })
        );
    }

    #[test]
    fn each_event_is_one_sentence() {
        let dead = |count| {
            Event::DeadLetters(DeadLetters {
                table: "telemetry".into(),
                count,
                reason: "not_json".into(),
                message: "no JSON at byte 3".into(),
                first: RecordAt { topic: "t".into(), partition: 0, offset: 9 },
            })
        };
        let trouble = |with, over| {
            let since = DateTime::from_timestamp_millis(1_795_348_800_123).unwrap();
            Event::Trouble(Trouble { with, tables: Vec::new(), reason: "no broker answers".into(), since, over })
        };
        let topic = || TroubleWith::Topic("fleet".into());
        for (event, id, sentence) in [
            (dead(1), "dead_letter/telemetry/t/0/9", "telemetry: a record could not become a row: no JSON at byte 3"),
            (
                dead(50),
                "dead_letter/telemetry/t/0/9",
                "telemetry: 50 records could not become rows; the first: no JSON at byte 3",
            ),
            (
                trouble(topic(), false),
                "source_stalled/fleet/1795348800123/begun",
                "topic fleet is not read: no broker answers",
            ),
            (trouble(topic(), true), "source_stalled/fleet/1795348800123/over", "topic fleet is read again"),
            (
                trouble(TroubleWith::Lake, false),
                "lake_stalled/lake/1795348800123/begun",
                "the lake takes no rows: no broker answers",
            ),
            (
                trouble(TroubleWith::Sink("ops".into()), true),
                "sink_failing/ops/1795348800123/over",
                "sink ops takes messages again",
            ),
        ] {
            let message = told(event);
            assert_eq!((message.id.as_str(), message.payload["message"].as_str().unwrap()), (id, sentence));
        }
    }
}
