//! `system.schema_versions`: gives the schema versions of all tables their numbers, and keeps what they are.
//!
//! The commit that appends the rows of a table's new versions moves `txn` `schema/<table>` from the number before them
//! to the last of them, by compare-and-swap: a number is given once. It comes before the commit that applies the
//! version to the table, and that before the first row that carries it; so a version that any row names is here.

use arrow::record_batch::RecordBatch;
use object_store::path::Path;
use tokio::sync::Mutex;

use super::commit::CommitError;
use super::commit::machine::Outcome;
use super::flush::append_rows;
use super::table::{Table, TableError, parquet_rows};
use crate::task::Shutdown;

/// The recorded schema versions of the lake. One commit at a time.
pub struct SchemaVersions {
    table: Mutex<Table>,
}

impl SchemaVersions {
    /// Over the opened Delta table.
    pub fn new(table: Table) -> Self {
        Self { table: Mutex::new(table) }
    }

    /// All rows.
    pub async fn rows(&self) -> Result<Vec<RecordBatch>, TableError> {
        read(&*self.table.lock().await).await
    }

    /// Appends `rows`, the versions of table `fed` that follow number `before`, up to `last`. Returns once the
    /// outcome is known; [`Outcome::Adopted`] says that the number is given, but not that the rows are these.
    pub async fn append(
        &self,
        fed: &str,
        before: u32,
        last: u32,
        rows: RecordBatch,
        stop: &Shutdown,
    ) -> Result<Outcome, CommitError> {
        let mut table = self.table.lock().await;
        append_rows(&mut table, &format!("schema/{fed}"), &rows, (before.into(), last.into()), stop).await
    }
}

async fn read(table: &Table) -> Result<Vec<RecordBatch>, TableError> {
    let snapshot = table.snapshot()?;
    let files: Vec<String> = snapshot.log_data().iter().map(|file| file.path().to_string()).collect();
    let mut rows = Vec::new();
    for file in files {
        let path = Path::from_url_path(&file).map_err(|error| table.schema_error(&error))?;
        let found = parquet_rows(&**table.data(), &path, table.name()).await?;
        rows.extend(found.ok_or_else(|| table.schema_error(&format!("its file {path} is gone")))?);
    }
    Ok(rows)
}
