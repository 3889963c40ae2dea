//! `system.queries` and `system.alerts_active`: what runs, and what it says now.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use super::Streams;
use super::work::Work;
use crate::engine::catalog::{micros, numbers, schema, texts, timestamps};
use crate::stream::{Counters, Phase};

/// `system.queries`: a row per rule; counts are since it was planned first. Times are from Kafka to where all rules
/// of the stream had looked at the rows and what they raised was handed to the sinks, per batch, of the last two minutes.
pub fn queries_schema() -> SchemaRef {
    schema(&[
        ("query_name", DataType::Utf8),
        ("kind", DataType::Utf8),
        ("class", DataType::Utf8),
        ("stream", DataType::Utf8),
        ("look_ups", DataType::Utf8),
        ("state", DataType::Utf8),
        ("error", DataType::Utf8),
        ("rows", DataType::Int64),
        ("rows_true", DataType::Int64),
        ("rows_unknown", DataType::Int64),
        ("rows_failed", DataType::Int64),
        ("last_row_error", DataType::Utf8),
        ("pending", DataType::Int64),
        ("firing", DataType::Int64),
        ("fired", DataType::Int64),
        ("p50_us", DataType::Int64),
        ("p99_us", DataType::Int64),
        ("p999_us", DataType::Int64),
        ("rule_hash", DataType::Utf8),
    ])
}

/// The rows of `system.queries`.
pub fn queries(streams: &Streams) -> Result<RecordBatch, ArrowError> {
    let work = streams.work.lock();
    let text = |of: &dyn Fn(&Work) -> Option<String>| {
        let values: Vec<Option<String>> = work.values().map(of).collect();
        texts(values.iter().map(Option::as_deref))
    };
    let count = |of: fn(&Counters) -> u64| {
        numbers(work.values().map(|work| Some(of(work.evaluation.counters()) as i64)).collect::<Vec<_>>())
    };
    let phases = |is: fn(&Phase<crate::stream::Row>) -> bool| {
        let of = |work: &Work| work.evaluation.life().instances().filter(|(_, instance)| is(&instance.phase)).count();
        numbers(work.values().map(|work| Some(of(work) as i64)).collect::<Vec<_>>())
    };
    let progress = streams.progress.lock();
    let quantile = |share: f64| {
        let of = |work: &Work| Some(progress.get(&work.feed()?)?.quantile_us(share)? as i64);
        numbers(work.values().map(of).collect::<Vec<_>>())
    };
    let look_ups = |work: &Work| {
        let plan = work.evaluation.plan().ok()?;
        let how = |(table, by_key): (String, bool)| {
            format!("{table} {}", if by_key { "by key" } else { "by an index in memory" })
        };
        let all: Vec<String> = plan.query().look_ups().into_iter().map(how).collect();
        (!all.is_empty()).then(|| all.join(", "))
    };
    let class = |work: &Work| Some(work.evaluation.plan().ok()?.class(work.evaluation.rule()).to_owned());
    let error = |work: &Work| Some(work.evaluation.plan().err()?.headline().to_owned());
    RecordBatch::try_new(
        queries_schema(),
        vec![
            text(&|work| Some(work.evaluation.rule().name.clone())),
            text(&|_| Some("alert".to_owned())),
            text(&class),
            text(&|work| work.stream.clone()),
            text(&look_ups),
            text(&|work| Some(if work.evaluation.plan().is_ok() { "running" } else { "waiting" }.to_owned())),
            text(&error),
            count(|counters| counters.rows),
            count(|counters| counters.held),
            count(|counters| counters.unknown),
            count(|counters| counters.failed),
            text(&|work| work.evaluation.counters().last_error.clone()),
            phases(|phase| matches!(phase, Phase::Pending { .. })),
            phases(|phase| matches!(phase, Phase::Firing(_))),
            count(|counters| counters.fired),
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            text(&|work| Some(work.evaluation.rule().hash.clone())),
        ],
    )
}

/// `system.alerts_active`: a row per key of which a condition holds, and not for long enough yet (`pending`), or which
/// fires.
pub fn active_schema() -> SchemaRef {
    schema(&[
        ("rule", DataType::Utf8),
        ("key", DataType::Utf8),
        ("state", DataType::Utf8),
        ("alert_id", DataType::Utf8),
        ("severity", DataType::Utf8),
        ("starts_at", micros()),
        ("fired_at", micros()),
        ("values", DataType::Utf8),
        ("cause_topic", DataType::Utf8),
        ("cause_partition", DataType::Int64),
        ("cause_offset", DataType::Int64),
        ("silenced_until", micros()),
    ])
}

/// The rows of `system.alerts_active`.
pub fn active(streams: &Streams) -> Result<RecordBatch, ArrowError> {
    let work = streams.work.lock();
    let mut rows = Vec::new();
    for work in work.values() {
        let rule = work.evaluation.rule();
        for (key, instance) in work.evaluation.life().instances() {
            let (id, since, fired_at, cause, row) = match &instance.phase {
                Phase::Quiet => continue,
                Phase::Pending { since, cause, row } => (None, *since, None, cause, row),
                Phase::Firing(alert) => {
                    (Some(alert.id.clone()), alert.starts_at, Some(alert.fired_at), &alert.cause, &alert.row)
                }
            };
            let values = serde_json::to_string(row).unwrap_or_default();
            let silenced = streams.silenced_until(&rule.name, key).map(|until| until.timestamp_micros());
            rows.push((rule, key.to_string(), id, since, fired_at, cause.clone(), values, silenced));
        }
    }
    rows.sort_by(|one, other| (&one.0.name, &one.1).cmp(&(&other.0.name, &other.1)));
    let state = |fired_at: Option<i64>| if fired_at.is_some() { "firing" } else { "pending" };
    RecordBatch::try_new(
        active_schema(),
        vec![
            texts(rows.iter().map(|row| Some(row.0.name.as_str()))),
            texts(rows.iter().map(|row| Some(row.1.as_str()))),
            texts(rows.iter().map(|row| Some(state(row.4)))),
            texts(rows.iter().map(|row| row.2.as_deref())),
            texts(rows.iter().map(|row| Some(row.0.severity.word()))),
            timestamps(rows.iter().map(|row| Some(row.3))),
            timestamps(rows.iter().map(|row| row.4)),
            texts(rows.iter().map(|row| Some(row.6.as_str()))),
            texts(rows.iter().map(|row| Some(&*row.5.topic))),
            numbers(rows.iter().map(|row| Some(i64::from(row.5.partition)))),
            numbers(rows.iter().map(|row| Some(row.5.offset))),
            timestamps(rows.iter().map(|row| row.7)),
        ],
    )
}
