//! Reads every `txn` action of a Delta table: all of a table's positions in one pass over its log.
//!
//! The kernel answers for one application id at a time and replays the log for each; a table has as many
//! ids as its topics have partitions.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;

use super::store::reason;

/// Application id → version.
pub type Txns = BTreeMap<String, i64>;

/// How many log entries are fetched at once.
const PARALLEL_READS: usize = 16;

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// The store failed.
    #[error("{}", reason(.0))]
    Store(#[from] object_store::Error),
    /// A log entry is not what the protocol says.
    #[error("unreadable log entry {0}: {1}")]
    Entry(Path, String),
}

#[derive(Deserialize)]
struct Line {
    txn: Option<Txn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
    version: i64,
}

#[derive(Deserialize)]
struct LastCheckpoint {
    version: u64,
}

/// All `txn`s of the table at `store`'s root as of table version `upto`, its newest.
pub async fn read_all(store: &dyn ObjectStore, upto: u64) -> Result<Txns, TxnError> {
    let log = Path::from("_delta_log");
    let hint = match store.get(&log.join("_last_checkpoint")).await {
        Ok(found) => {
            let bytes = found.bytes().await?;
            serde_json::from_slice::<LastCheckpoint>(&bytes).ok().map(|hint| hint.version).filter(|at| *at <= upto)
        }
        Err(object_store::Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(checkpoint) = hint {
        let parts = parts(store, checkpoint).await?;
        if !parts.is_empty() {
            return read_parts(store, &parts, checkpoint, upto).await;
        }
    }
    // A kill between a checkpoint and its mention leaves none, or one that is gone by now.
    read_from(store, newest_checkpoint(store, upto).await?, upto).await
}

/// The same as of any table version `upto`; `checkpoint` is the newest that is no later.
pub async fn read_from(store: &dyn ObjectStore, checkpoint: Option<u64>, upto: u64) -> Result<Txns, TxnError> {
    match checkpoint {
        Some(checkpoint) => read_parts(store, &parts(store, checkpoint).await?, checkpoint, upto).await,
        None => {
            let mut txns = Txns::new();
            read_commits(store, 0, upto, &mut txns).await?;
            Ok(txns)
        }
    }
}

async fn newest_checkpoint(store: &dyn ObjectStore, upto: u64) -> Result<Option<u64>, TxnError> {
    let mut listed = store.list(Some(&Path::from("_delta_log")));
    let mut newest = None;
    while let Some(found) = listed.try_next().await? {
        let name = found.location.filename().and_then(|name| name.split_at_checked(20));
        if let Some((version, rest)) = name
            && rest.starts_with(".checkpoint")
            && rest.ends_with(".parquet")
            && let Ok(version) = version.parse::<u64>()
            && version <= upto
        {
            newest = newest.max(Some(version));
        }
    }
    Ok(newest)
}

/// The files of a checkpoint. Classic and multi-part ones alike are `<version>.checkpoint….parquet`; a V2 checkpoint keeps
/// its txns in the top file, too.
async fn parts(store: &dyn ObjectStore, checkpoint: u64) -> Result<Vec<Path>, TxnError> {
    let log = Path::from("_delta_log");
    let before = log.clone().join(format!("{checkpoint:020}.checkpoint"));
    let until = format!("{checkpoint:020}.json");
    let mut listed = store.list_with_offset(Some(&log), &before);
    let mut parts = Vec::new();
    while let Some(found) = listed.try_next().await? {
        let name = found.location.filename().unwrap_or_default();
        if name < until.as_str() && name.ends_with(".parquet") {
            parts.push(found.location);
        }
    }
    Ok(parts)
}

async fn read_parts(store: &dyn ObjectStore, parts: &[Path], checkpoint: u64, upto: u64) -> Result<Txns, TxnError> {
    let mut txns = Txns::new();
    for part in parts {
        let bytes = store.get(part).await?.bytes().await?;
        read_checkpoint(part, bytes, &mut txns)?;
    }
    read_commits(store, checkpoint + 1, upto, &mut txns).await?;
    Ok(txns)
}

/// Adds what the commits `from..=upto` set.
pub async fn read_commits(store: &dyn ObjectStore, from: u64, upto: u64, txns: &mut Txns) -> Result<(), TxnError> {
    let mut entries = futures::stream::iter(from..=upto)
        .map(|version| {
            let path = Path::from("_delta_log").join(format!("{version:020}.json"));
            async move { Ok::<_, TxnError>((store.get(&path).await?.bytes().await?, path)) }
        })
        .buffered(PARALLEL_READS);
    while let Some((bytes, path)) = entries.try_next().await? {
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"txn\"")) {
            let line: Line =
                serde_json::from_slice(line).map_err(|error| TxnError::Entry(path.clone(), error.to_string()))?;
            if let Some(txn) = line.txn {
                txns.insert(txn.app_id, txn.version);
            }
        }
    }
    Ok(())
}

fn read_checkpoint(path: &Path, bytes: bytes::Bytes, txns: &mut Txns) -> Result<(), TxnError> {
    let fault = |error: &dyn std::fmt::Display| TxnError::Entry(path.clone(), error.to_string());
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| fault(&error))?;
    let columns = builder.parquet_schema().columns().iter().enumerate();
    let wanted: Vec<usize> =
        columns.filter(|(_, column)| column.path().string().starts_with("txn.")).map(|(at, _)| at).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mask = ProjectionMask::leaves(builder.parquet_schema(), wanted);
    let reader = builder.with_projection(mask).build().map_err(|error| fault(&error))?;
    for batch in reader {
        let batch: RecordBatch = batch.map_err(|error| fault(&error))?;
        let Some(column) = batch.column_by_name("txn").and_then(|column| column.as_struct_opt()) else { continue };
        let (Some(ids), Some(versions)) = (column.column_by_name("appId"), column.column_by_name("version")) else {
            continue;
        };
        let (Some(ids), Some(versions)) = (ids.as_string_opt::<i32>(), versions.as_primitive_opt::<Int64Type>()) else {
            continue;
        };
        for row in 0..batch.num_rows() {
            if column.is_valid(row) && ids.is_valid(row) && versions.is_valid(row) {
                txns.insert(ids.value(row).to_owned(), versions.value(row));
            }
        }
    }
    Ok(())
}
