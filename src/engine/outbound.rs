//! `system.news` and `system.sinks`: what was told, and what became of it.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use super::catalog::{micros, numbers, schema, texts, timestamps};
use crate::deliver::{Counters, Message, Sinks};
use crate::news::News;

/// `system.news`: the newest messages, as they were sent.
pub fn news_schema() -> SchemaRef {
    schema(&[
        ("at", micros()),
        ("event", DataType::Utf8),
        ("subject", DataType::Utf8),
        ("message", DataType::Utf8),
        ("details", DataType::Utf8),
        ("id", DataType::Utf8),
    ])
}

pub fn news(news: &News) -> Result<RecordBatch, ArrowError> {
    let told = news.recent();
    let text = |message: &'_ Message, field: &str| Some(message.payload.get(field)?.as_str()?.to_owned());
    let texts_of = |field: &str| told.iter().map(|message| text(message, field)).collect::<Vec<_>>();
    let details: Vec<String> =
        told.iter().map(|message| serde_json::to_string(&message.payload).unwrap_or_default()).collect();
    let (events, messages) = (texts_of("event"), texts_of("message"));
    RecordBatch::try_new(
        news_schema(),
        vec![
            timestamps(told.iter().map(|message| Some(message.at.timestamp_micros()))),
            texts(events.iter().map(Option::as_deref)),
            texts(told.iter().map(|message| Some(message.key.as_str()))),
            texts(messages.iter().map(Option::as_deref)),
            texts(details.iter().map(|details| Some(details.as_str()))),
            texts(told.iter().map(|message| Some(message.id.as_str()))),
        ],
    )
}

/// `system.sinks`: a row per sink; counts are since the process started.
pub fn sinks_schema() -> SchemaRef {
    schema(&[
        ("sink_name", DataType::Utf8),
        ("type", DataType::Utf8),
        ("target", DataType::Utf8),
        ("pending", DataType::Int64),
        ("pending_bytes", DataType::Int64),
        ("stored", DataType::Int64),
        ("delivered", DataType::Int64),
        ("refused", DataType::Int64),
        ("dropped", DataType::Int64),
        ("failing_since", micros()),
        ("last_error", DataType::Utf8),
    ])
}

pub fn sinks(sinks: &Sinks) -> Result<RecordBatch, ArrowError> {
    let statuses = sinks.statuses();
    let count = |pick: fn(&Counters) -> u64| {
        numbers(statuses.iter().map(|sink| Some(pick(&sink.counters) as i64)).collect::<Vec<_>>())
    };
    RecordBatch::try_new(
        sinks_schema(),
        vec![
            texts(statuses.iter().map(|sink| Some(sink.name.as_str()))),
            texts(statuses.iter().map(|sink| Some(sink.kind))),
            texts(statuses.iter().map(|sink| Some(sink.target.as_str()))),
            count(|counters| counters.pending),
            count(|counters| counters.pending_bytes),
            count(|counters| counters.stored),
            count(|counters| counters.delivered),
            count(|counters| counters.refused),
            count(|counters| counters.dropped),
            timestamps(statuses.iter().map(|sink| Some(sink.counters.failing_since?.timestamp_micros()))),
            texts(statuses.iter().map(|sink| sink.counters.last_error.as_deref())),
        ],
    )
}
