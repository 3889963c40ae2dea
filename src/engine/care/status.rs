//! What care says about itself and about tables: counters, `system.files`, `system.history`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use parking_lot::Mutex;

use super::super::catalog::{EngineCatalog, micros, numbers, schema, texts, timestamps};
use super::super::feed::{DEAD_LETTERS, SCHEMA_VERSIONS};
use super::super::streams::ALERTS;
use super::Done;
use crate::error::{Error, Kind, Result};
use crate::lake::care::{self, DataFile, LogEntry, Merged, data_files};
use crate::lake::{PUBLIC, SYSTEM, Snapshot};

/// Entries of each table's log that `system.history` shows …
const ENTRIES: usize = 100;
/// … and of the one table that is asked for.
const ENTRIES_OF_ONE: usize = 10_000;

/// What was done for a table since the start.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Merges.
    pub merges: u64,
    /// Files that they took away.
    pub merged_files: u64,
    /// Bytes that they wrote.
    pub written_bytes: u64,
    /// Data files that were deleted.
    pub deleted_files: u64,
    /// Rows that were older than the table keeps them.
    pub retired_rows: u64,
    /// Why the last step failed; nothing if it did not.
    pub error: Option<String>,
}

/// What care has done, by table.
#[derive(Debug, Default)]
pub struct CareStatus {
    tables: Mutex<BTreeMap<String, Counted>>,
}

impl CareStatus {
    /// By table, what was done.
    pub fn all(&self) -> BTreeMap<String, Counted> {
        self.tables.lock().clone()
    }

    pub(super) fn merged(&self, table: &str, merged: &Merged) {
        self.count(table, |counted| {
            counted.merges += 1;
            counted.merged_files += merged.files;
            counted.written_bytes += merged.into_bytes;
        });
    }

    pub(super) fn deleted(&self, table: &str, done: &Done) {
        self.count(table, |counted| {
            counted.deleted_files += done.deleted_files;
            counted.retired_rows += done.rows;
        });
    }

    pub(super) fn failed(&self, table: &str, error: String) {
        self.tables.lock().entry(table.to_owned()).or_default().error = Some(error);
    }

    fn count(&self, table: &str, add: impl FnOnce(&mut Counted)) {
        let mut tables = self.tables.lock();
        let counted = tables.entry(table.to_owned()).or_default();
        add(counted);
        counted.error = None;
    }
}

/// The columns of `system.files`.
pub fn files_schema() -> SchemaRef {
    schema(&[
        ("table_name", DataType::Utf8),
        ("path", DataType::Utf8),
        ("partition", DataType::Utf8),
        ("rows", DataType::Int64),
        ("bytes", DataType::Int64),
        ("modified_at", micros()),
    ])
}

/// The data files of all tables that the lake has and whose files are known.
pub fn files(catalog: &EngineCatalog) -> Result<RecordBatch, ArrowError> {
    let mut files: Vec<(String, DataFile)> = Vec::new();
    let mut add = |table: String, snapshot: Option<Arc<Snapshot>>| {
        let found = snapshot.map(|snapshot| data_files(&snapshot)).unwrap_or_default();
        files.extend(found.into_iter().map(|file| (table.clone(), file)));
    };
    let (fed, kept) = (catalog.fed(), catalog.kept.load_full());
    for (name, live) in fed.tables.iter().filter(|(name, _)| !kept.contains_key(*name)) {
        add(name.clone(), live.pin().committed.clone());
    }
    for (name, kept) in kept.iter() {
        add(name.clone(), kept.flushed.lock().as_ref().map(|flushed| Arc::clone(&flushed.snapshot)));
    }
    add(format!("{SYSTEM}.{DEAD_LETTERS}"), catalog.dead_letters.get().map(|letters| letters.snapshot()));
    add(format!("{SYSTEM}.{ALERTS}"), catalog.streams.alerts().and_then(|(snapshot, _)| snapshot));
    RecordBatch::try_new(
        files_schema(),
        vec![
            texts(files.iter().map(|(table, _)| Some(table.as_str()))),
            texts(files.iter().map(|(_, file)| Some(file.path.as_str()))),
            texts(files.iter().map(|(_, file)| Some(file.partition.as_str()).filter(|value| !value.is_empty()))),
            numbers(files.iter().map(|(_, file)| Some(file.rows.cast_signed()))),
            numbers(files.iter().map(|(_, file)| Some(file.bytes.cast_signed()))),
            timestamps(files.iter().map(|(_, file)| Some(file.modified_at.timestamp_micros()))),
        ],
    )
}

/// The columns of `system.history`.
pub fn history_schema() -> SchemaRef {
    schema(&[
        ("table_name", DataType::Utf8),
        ("table_version", DataType::Int64),
        ("committed_at", micros()),
        ("operation", DataType::Utf8),
        ("files_added", DataType::Int64),
        ("rows_added", DataType::Int64),
        ("bytes_added", DataType::Int64),
        ("files_removed", DataType::Int64),
        ("bytes_removed", DataType::Int64),
        ("readable", DataType::Boolean),
        ("engine", DataType::Utf8),
    ])
}

/// What the tables' logs tell, newest first: of the table `only`, or of all.
pub async fn history(catalog: Arc<EngineCatalog>, only: Option<String>) -> Result<RecordBatch> {
    let mut rows: Vec<(String, bool, LogEntry)> = Vec::new();
    if let Some(lake) = &catalog.lake {
        let system = [DEAD_LETTERS, ALERTS, SCHEMA_VERSIONS].map(|name| (SYSTEM, name.to_owned()));
        let mut names: Vec<String> = catalog.fed().tables.keys().chain(catalog.kept.load().keys()).cloned().collect();
        names.sort();
        names.dedup();
        for (folder, name) in names.into_iter().map(|name| (PUBLIC, name)).chain(system) {
            let shown = if folder == PUBLIC { name.clone() } else { format!("{folder}.{name}") };
            if only.as_ref().is_some_and(|only| *only != shown) {
                continue;
            }
            let most = if only.is_some() { ENTRIES_OF_ONE } else { ENTRIES };
            let told = care::history(lake, folder, &name, most).await.map_err(|error| {
                Error::new(Kind::Unavailable, format!("the log of table {shown} cannot be read")).because(error)
            })?;
            let is_readable = |entry: &LogEntry| told.oldest.is_some_and(|oldest| entry.version >= oldest);
            rows.extend(told.entries.into_iter().map(|entry| (shown.clone(), is_readable(&entry), entry)));
        }
    }
    let number = |pick: fn(&LogEntry) -> u64| numbers(rows.iter().map(|(.., entry)| Some(pick(entry).cast_signed())));
    RecordBatch::try_new(
        history_schema(),
        vec![
            texts(rows.iter().map(|(table, ..)| Some(table.as_str()))),
            number(|entry| entry.version),
            timestamps(rows.iter().map(|(.., entry)| Some(entry.at.timestamp_micros()))),
            texts(rows.iter().map(|(.., entry)| Some(entry.operation.as_str()))),
            number(|entry| entry.files_added),
            number(|entry| entry.rows_added),
            number(|entry| entry.bytes_added),
            number(|entry| entry.files_removed),
            number(|entry| entry.bytes_removed),
            Arc::new(BooleanArray::from_iter(rows.iter().map(|(_, readable, _)| Some(*readable)))),
            texts(rows.iter().map(|(.., entry)| entry.engine.as_deref())),
        ],
    )
    .map_err(|error| Error::new(Kind::Internal, "system.history cannot be made").because(error))
}
