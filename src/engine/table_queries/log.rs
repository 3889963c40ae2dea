//! `system.query_runs`: each run of a query, and what came of it.

use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use chrono::{DateTime, Utc};

use super::Why;
use super::run::Made;
use crate::engine::catalog::{micros, numbers, schema, texts, timestamps};
use crate::error::{Error, Result};
use crate::stream::TableQuery;

/// The table's name.
pub const QUERY_RUNS: &str = "query_runs";
/// The columns of `system.query_runs`.
pub fn runs_schema() -> SchemaRef {
    schema(&[
        ("query_name", DataType::Utf8),
        ("run", DataType::Int64),
        ("state", DataType::Utf8),
        ("mode", DataType::Utf8),
        ("asked_by", DataType::Utf8),
        ("due_at", micros()),
        ("started_at", micros()),
        ("ended_at", micros()),
        ("attempt", DataType::Int32),
        ("partitions", DataType::Int64),
        ("first_partition", DataType::Utf8),
        ("last_partition", DataType::Utf8),
        ("rows", DataType::Int64),
        ("bytes", DataType::Int64),
        ("table_version", DataType::Int64),
        ("error", DataType::Utf8),
    ])
}

/// The row of a run.
pub fn row(
    query: &TableQuery,
    why: &Why,
    (began, attempt): (DateTime<Utc>, usize),
    made: &Result<Made>,
) -> Result<RecordBatch, ArrowError> {
    let (asked_by, due) = match why {
        Why::Due(due) => ("schedule", Some(due.timestamp_micros())),
        Why::Asked(_) => ("hand", None),
    };
    let found = made.as_ref().ok();
    let parts = found.and_then(|made| made.parts.as_ref());
    let number = |of: fn(&Made) -> Option<i64>| numbers([found.and_then(of)]);
    let attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
    let hint = |error: &Error| error.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
    let error = made.as_ref().err().map(|error| format!("{}{}", error.headline(), hint(error)));
    RecordBatch::try_new(
        runs_schema(),
        vec![
            texts([Some(query.name.as_str())]),
            number(|made| Some(made.run)),
            texts([Some(if found.is_some() { "succeeded" } else { "failed" })]),
            texts([found.map(Made::mode)]),
            texts([Some(asked_by)]),
            timestamps([due]),
            timestamps([Some(began.timestamp_micros())]),
            timestamps([Some(Utc::now().timestamp_micros())]),
            Arc::new(Int32Array::from(vec![attempt])),
            numbers([parts.map(|parts| parts.len() as i64)]),
            texts([parts.and_then(|parts| parts.first()).map(String::as_str)]),
            texts([parts.and_then(|parts| parts.last()).map(String::as_str)]),
            number(|made| Some(made.rows as i64)),
            number(|made| Some(made.bytes as i64)),
            number(|made| made.table_version.map(|version| version as i64)),
            texts([error.as_deref()]),
        ],
    )
}
