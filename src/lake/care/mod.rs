//! Care for tables that are written in small pieces for years: many small files become few large ones, what is older than
//! the lake's history goes, and nobody has to think of it.
//!
//! * `tiers`: which files are merged, `merge`: how their rows become one file, in the table's order.
//! * `log`: table versions older than the history, and the files that only those have, are deleted.
//! * `restore`: a table becomes what it was.
//! * `retention`: whole partitions whose rows are older than a table keeps them.
//!
//! Each of them works on a handle of its own, beside the task that writes to the table. Every commit that takes a file away
//! carries `millpond/rewrite` (`commit::rewrite`), so that of two that saw the same files one fails; and each is a whole:
//! what a kill leaves is files that no commit names, and the next look finds the same need again.

#[cfg(test)]
mod bench;
mod log;
mod merge;
mod restore;
mod retention;
mod tiers;

use chrono::{DateTime, Utc};
use deltalake_core::kernel::LogicalFileView;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt};

pub use log::{
    Expired, History, LogEntry, Readable, Vacuumed, changed_partitions, checkpoint_if_due, expire, has_files, history,
    numbers_at, positions_at, readable, vacuum, version_at,
};
pub(super) use merge::with_partition;
pub use merge::{Layout, Merged, Pace, merge};
pub use restore::{Restored, restore};
pub use retention::{Retained, retain};
pub use tiers::{Need, plan};

use super::table::TableError;
use super::txns::TxnError;
use super::{Lake, OWN, Snapshot};

/// A data file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Its path in the table's folder, as the log writes it.
    pub path: String,
    /// The values of the partition columns, as `column=value`, several with `/` between them; empty without any.
    pub partition: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// When it was written, by the writer's clock.
    pub modified_at: DateTime<Utc>,
}

/// When files that no commit names were last looked for, by the store's clock; `None` if they never were.
pub async fn last_vacuum(lake: &Lake) -> Result<Option<DateTime<Utc>>, TableError> {
    match lake.stores().data().head(&vacuum_mark()).await {
        Ok(found) => Ok(Some(found.last_modified)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(TxnError::from(error).into()),
    }
}

/// Notes that they were looked for now.
pub async fn note_vacuum(lake: &Lake) -> Result<(), TableError> {
    lake.stores().data().put(&vacuum_mark(), bytes::Bytes::new().into()).await.map_err(TxnError::from)?;
    Ok(())
}

fn vacuum_mark() -> Path {
    Path::from(OWN).join("vacuumed")
}

/// The files of a table.
pub fn data_files(snapshot: &Snapshot) -> Vec<DataFile> {
    snapshot.log_data().iter().map(|file| data_file(&file)).collect()
}

fn data_file(file: &LogicalFileView) -> DataFile {
    let mut values: Vec<(String, Option<String>)> = file.partition_values_map().into_iter().collect();
    values.sort();
    let values: Vec<String> = values
        .into_iter()
        .map(|(column, value)| format!("{column}={}", value.as_deref().unwrap_or("__HIVE_DEFAULT_PARTITION__")))
        .collect();
    DataFile {
        path: file.path().into_owned(),
        partition: values.join("/"),
        rows: file.num_records().unwrap_or(0) as u64,
        bytes: file.size().unsigned_abs(),
        modified_at: DateTime::from_timestamp_millis(file.modification_time()).unwrap_or_default(),
    }
}
