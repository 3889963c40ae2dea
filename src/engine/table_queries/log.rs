//! `system.query_runs`: each run of a query, and what came of it.

use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tracing::warn;

use super::run::Made;
use super::{TableQueries, Why};
use crate::engine::catalog::{micros, numbers, schema, texts, timestamps};
use crate::engine::make::{Wanted, make};
use crate::error::{Error, Result};
use crate::lake::{Lake, Positions, SYSTEM, Table, append_rows};
use crate::stream::TableQuery;
use crate::task::Shutdown;

/// The table's name.
pub const QUERY_RUNS: &str = "query_runs";
/// The number of its last row.
const NUMBER: &str = "query_runs";

/// Writes down what runs did.
pub struct RunLog {
    lake: Lake,
    queries: Arc<TableQueries>,
    table: Mutex<Option<(Table, u64)>>,
    abort: Shutdown,
}

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

impl RunLog {
    /// Of the tables of `lake`; what it has is shown by `queries`.
    pub fn new(lake: &Lake, queries: &Arc<TableQueries>, abort: &Shutdown) -> Self {
        Self { lake: lake.clone(), queries: Arc::clone(queries), table: Mutex::new(None), abort: abort.clone() }
    }

    /// Shows what there is, if there is any.
    pub async fn open(&self) {
        match self.lake.open(SYSTEM, QUERY_RUNS).await {
            Ok(Some(table)) => {
                self.show(&table);
                let version = table.version();
                *self.table.lock().await = Some((table, version));
            }
            Ok(None) => {}
            Err(error) => warn!(error = %error, "the log of runs cannot be read"),
        }
    }

    fn show(&self, table: &Table) {
        if let Ok(snapshot) = table.snapshot() {
            *self.queries.runs.lock() = Some(snapshot);
        }
    }

    /// Writes down a run, however long the store is away.
    pub async fn add(
        &self,
        query: &TableQuery,
        why: &Why,
        (began, attempt): (DateTime<Utc>, usize),
        made: &Result<Made>,
    ) {
        let Ok(row) = row(query, why, (began, attempt), made) else { return };
        let mut table = self.table.lock().await;
        if table.is_none() {
            let (schema, positions) = (runs_schema(), Positions::new());
            let wanted = Wanted { schema: &schema, schema_version: 1, partition_by: &[], positions: &positions };
            let told =
                |error: &crate::lake::TableError| warn!(error = %error, "the log of runs not made, trying again");
            match make(&self.lake, SYSTEM, QUERY_RUNS, wanted, told).await {
                Ok(made) => *table = Some((made, 0)),
                Err(error) => warn!(error = %error, "a run is not written down"),
            }
        }
        let Some((table, checkpoint)) = &mut *table else { return };
        let before = table.number(NUMBER).unwrap_or(0);
        match append_rows(table, NUMBER, &row, (before, before + 1), &self.abort).await {
            Ok(_) => {
                table.checkpoint_when_due(checkpoint).await;
                self.show(table);
            }
            Err(error) => warn!(query = query.name, error = %error, "a run is not written down"),
        }
    }
}

fn row(
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
    let error = made.as_ref().err().map(Error::to_string);
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
