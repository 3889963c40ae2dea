//! `system.queries` and `system.alerts_active`: what runs, and what it says now.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use super::Streams;
use super::work::{Feed, Load, Progress, Work};
use crate::engine::catalog::{EngineCatalog, micros, numbers, schema, texts, timestamps};
use crate::engine::lanes::end;
use crate::engine::stream_queries::Status;
use crate::engine::table_queries;
use crate::lake::TopicPartition;
use crate::query::By;
use crate::stream::{Counters, Phase, Plan};

/// `system.queries`: a row per rule and stream query; counts are since it was planned first. Times are from Kafka to where
/// all rules of the stream had looked at the rows and what they raised was handed to the sinks, or to where a stream query's
/// rows can be seen, per batch, of the last two minutes. `kept_rows` are what a rule may look back at, or groups of windows
/// that are not over. `ns_per_row` is the time that looking at a row took,
/// on average, waiting for a processor included.
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
        ("rows_late", DataType::Int64),
        ("rows_waiting", DataType::Int64),
        ("rows_per_second", DataType::Int64),
        ("ns_per_row", DataType::Int64),
        ("last_row_error", DataType::Utf8),
        ("pending", DataType::Int64),
        ("firing", DataType::Int64),
        ("fired", DataType::Int64),
        ("kept_rows", DataType::Int64),
        ("kept_bytes", DataType::Int64),
        ("p50_us", DataType::Int64),
        ("p99_us", DataType::Int64),
        ("p999_us", DataType::Int64),
        ("rule_hash", DataType::Utf8),
    ])
}

/// A row of `system.queries`.
struct Query {
    name: String,
    kind: &'static str,
    class: Option<&'static str>,
    stream: Option<String>,
    look_ups: Vec<(String, By)>,
    state: &'static str,
    error: Option<String>,
    counters: Counters,
    /// Rows that came too late to be put in the order of their times, if they are.
    late: Option<u64>,
    /// Rows that have come, and were not looked at.
    waiting: u64,
    load: Load,
    /// Keys whose alerts are pending and firing; a stream query has none.
    alerts: Option<(usize, usize)>,
    /// Rows that it may look back at, or groups of windows, and their bytes, if it keeps any.
    kept: Option<(usize, usize)>,
    quantiles_us: [Option<u64>; 3],
    hash: String,
}

/// The class of rules that follow no stream.
pub(super) const SCHEDULED: &str = "scheduled";

const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

impl Query {
    fn of_rule(name: &str, work: &Work, progress: &BTreeMap<Feed, Progress>) -> Self {
        let (plan, rule) = (work.evaluation.plan(), work.evaluation.rule());
        let phases = |is: fn(&Phase<crate::stream::Row>) -> bool| {
            work.evaluation.life().instances().filter(|(_, instance)| is(&instance.phase)).count()
        };
        let progress = work.feed().and_then(|feed| progress.get(&feed));
        let latency = progress.map(|progress| &progress.latency);
        let (runs, error) = match &work.scheduled {
            Some(scheduled) => (scheduled.error.is_none(), scheduled.error.clone()),
            None => (plan.is_ok(), plan.err().map(|error| error.headline().to_owned())),
        };
        Self {
            name: name.to_owned(),
            kind: "alert",
            class: work.scheduled.as_ref().map(|_| SCHEDULED).or(plan.ok().map(|plan| plan.class(rule))),
            stream: work.stream.clone(),
            look_ups: plan.map(|plan| plan.query().look_ups()).unwrap_or_default(),
            state: if runs { "running" } else { "waiting" },
            error,
            counters: work.evaluation.counters().clone(),
            late: progress.filter(|_| plan.is_ok_and(Plan::ordered)).map(|progress| progress.late),
            waiting: progress.map_or(0, |progress| progress.waiting as u64),
            load: work.load.clone(),
            alerts: Some((
                phases(|phase| matches!(phase, Phase::Pending { .. })),
                phases(|phase| matches!(phase, Phase::Firing(_))),
            )),
            kept: plan.ok().and_then(|plan| plan.query().memory()).map(|_| {
                let kept = work.evaluation.kept();
                (kept.rows(), kept.bytes())
            }),
            quantiles_us: QUANTILES.map(|share| latency?.quantile_us(share)),
            hash: rule.hash.clone(),
        }
    }

    fn of_stream(status: &Status, catalog: &EngineCatalog) -> Self {
        let ends = status.stream.as_ref().and_then(|stream| Some(end(&catalog.fed().tables.get(stream)?.pin())));
        let left = |(lane, end): (&TopicPartition, &i64)| u64::try_from(end - status.seen.get(lane)?).ok();
        let behind = || ends.iter().flatten().filter_map(left).sum();
        let waiting = status.timed.map_or_else(behind, |timed| timed.waiting as u64);
        let runs = status.stream.is_some() && status.error.is_none();
        Self {
            name: status.query.name.clone(),
            kind: "stream",
            class: status.class,
            stream: status.stream.clone(),
            look_ups: status.look_ups.clone(),
            state: if runs { "running" } else { "waiting" },
            error: status.error.clone(),
            counters: status.counters.clone(),
            late: status.timed.map(|timed| timed.late),
            waiting,
            load: status.load.clone(),
            alerts: None,
            kept: status.timed.map(|timed| timed.kept),
            quantiles_us: QUANTILES.map(|share| status.latency.quantile_us(share)),
            hash: status.query.hash.clone(),
        }
    }

    fn of_table(status: &table_queries::Status) -> Self {
        Self {
            name: status.query.name.clone(),
            kind: "table",
            class: Some(if status.query.partition_by.is_some() { "incremental" } else { "full" }),
            stream: None,
            look_ups: Vec::new(),
            state: match (&status.running_since, &status.error) {
                (Some(_), _) => "running",
                (None, Some(_)) => "failed",
                (None, None) => "waiting",
            },
            error: status.error.clone(),
            counters: Counters { rows: status.rows, ..Counters::default() },
            late: None,
            waiting: 0,
            load: Load::default(),
            alerts: None,
            kept: None,
            quantiles_us: [None; 3],
            hash: status.query.hash.clone(),
        }
    }

    fn look_ups(&self) -> Option<String> {
        let how = |(table, by): &(String, By)| match by {
            By::Key => format!("{table} by key"),
            By::Index => format!("{table} by an index in memory"),
            By::Comparison => format!("{table} by comparison with all rows"),
        };
        let all: Vec<String> = self.look_ups.iter().map(how).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

/// The rows of `system.queries`.
pub fn queries(catalog: &EngineCatalog) -> Result<RecordBatch, ArrowError> {
    let streams = &catalog.streams;
    let mut rows = catalog.stream_queries.each(|status| Query::of_stream(status, catalog));
    rows.extend(catalog.table_queries.each(Query::of_table));
    {
        let (work, progress) = (streams.work.lock(), streams.progress.lock());
        rows.extend(work.iter().map(|(name, work)| Query::of_rule(name, work, &progress)));
    }
    for row in &mut rows {
        row.stream = row.stream.take().map(|stream| catalog.table_of(&stream));
        row.look_ups.iter_mut().for_each(|(table, _)| *table = catalog.table_of(table));
    }
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    let text = |of: fn(&Query) -> Option<&str>| texts(rows.iter().map(of));
    let look_ups: Vec<Option<String>> = rows.iter().map(Query::look_ups).collect();
    let count = |of: fn(&Query) -> Option<u64>| numbers(rows.iter().map(|row| of(row).map(u64::cast_signed)));
    RecordBatch::try_new(
        queries_schema(),
        vec![
            text(|row| Some(&row.name)),
            text(|row| Some(row.kind)),
            text(|row| row.class),
            text(|row| row.stream.as_deref()),
            texts(look_ups.iter().map(Option::as_deref)),
            text(|row| Some(row.state)),
            text(|row| row.error.as_deref()),
            count(|row| Some(row.counters.rows)),
            count(|row| Some(row.counters.held)),
            count(|row| Some(row.counters.unknown)),
            count(|row| Some(row.counters.failed)),
            count(|row| row.late),
            count(|row| Some(row.waiting)),
            count(|row| Some(row.load.rows_per_second())),
            count(|row| row.load.ns_per_row()),
            text(|row| row.counters.last_error.as_deref()),
            count(|row| row.alerts.map(|(pending, _)| pending as u64)),
            count(|row| row.alerts.map(|(_, firing)| firing as u64)),
            count(|row| row.alerts.map(|_| row.counters.fired)),
            count(|row| row.kept.map(|(rows, _)| rows as u64)),
            count(|row| row.kept.map(|(_, bytes)| bytes as u64)),
            count(|row| row.quantiles_us[0]),
            count(|row| row.quantiles_us[1]),
            count(|row| row.quantiles_us[2]),
            text(|row| Some(&row.hash)),
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
