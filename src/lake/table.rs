//! A Delta table as the one writer holds it: the snapshot, its positions, staging of data files.
//!
//! Committing is in `commit`; reading with SQL is the query room's, over [`crate::lake::View`].

use futures::future::BoxFuture;
use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};
use deltalake_core::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake_core::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake_core::kernel::{Add, EagerSnapshot, StructType};
use deltalake_core::table::config::TablePropertiesExt;
use deltalake_core::{DeltaTable, DeltaTableError};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterPropertiesBuilder;
use tracing::{debug, warn};

use super::Lake;
use super::layout::{self, Compression};
use super::positions::{Positions, TopicPartition};
use super::store::reason;
use super::txns::{self, TxnError, Txns};
use crate::schema::conform;

/// Table property that names the schema version of the table's newest rows.
pub const SCHEMA_VERSION_PROPERTY: &str = "millpond.schema_version";

/// A checkpoint of a table's log is written each time this many table versions were added.
pub const CHECKPOINT_EVERY: u64 = 64;

/// Rows handed to the file writer at once: so many …
const STAGE_ROWS: usize = 32 * 1024;
/// … or so many bytes, since they are copied to be split by day.
const STAGE_BYTES: usize = 4 * 1024 * 1024;

/// Why a table could not be read or written: in one line, whatever the libraries say (their words are in the debug
/// form).
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The Delta library or the store failed.
    #[error("{}", reason(.0))]
    Delta(#[from] DeltaTableError),
    /// The kernel refused.
    #[error("{}", reason(.0))]
    Kernel(#[from] deltalake_core::kernel::Error),
    /// The log's positions could not be read.
    #[error(transparent)]
    Txns(#[from] TxnError),
    /// A schema has no form on the other side.
    #[error("schema of {table}: {reason}")]
    Schema {
        /// Table name.
        table: String,
        /// What does not fit.
        reason: String,
    },
    /// Rows do not fit the table.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// A moment in a table's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Past {
    /// At a table version.
    Version(u64),
    /// As of a time: the newest table version that was committed by then.
    Time(DateTime<Utc>),
}

impl std::fmt::Display for Past {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(version) => write!(f, "at table version {version}"),
            Self::Time(time) => write!(f, "at {}", time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
        }
    }
}

/// A Delta table, its newest known snapshot and the `txn`s in it.
#[derive(Clone)]
pub struct Table {
    name: Arc<str>,
    pub(super) delta: DeltaTable,
    pub(super) txns: Txns,
    data: Arc<dyn ObjectStore>,
    compression: Compression,
}

impl Table {
    /// Opens the table `folder/name`; `None` if there is none.
    pub(super) fn open<'a>(
        lake: &'a Lake,
        folder: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Self>, TableError>> {
        Box::pin(async move {
            let Some(mut table) = Self::unread(lake, folder, name).await? else { return Ok(None) };
            table.delta.load().await?;
            table.txns = txns::read_all(table.log().as_ref(), table.version()).await?;
            Ok(Some(table))
        })
    }

    /// Opens the table as it was at a table version, for reading only: without its transactions.
    pub(super) fn open_past<'a>(
        lake: &'a Lake,
        folder: &'a str,
        name: &'a str,
        version: u64,
    ) -> BoxFuture<'a, Result<Option<Self>, TableError>> {
        Box::pin(async move {
            let Some(mut table) = Self::unread(lake, folder, name).await? else { return Ok(None) };
            table.delta.load_version(version).await?;
            Ok(Some(table))
        })
    }

    async fn unread(lake: &Lake, folder: &str, name: &str) -> Result<Option<Self>, TableError> {
        let (log_store, data) = lake.table_stores(folder, name)?;
        if !log_store.is_delta_table_location().await? {
            return Ok(None);
        }
        let (delta, compression) = (DeltaTable::new(log_store), lake.compression);
        Ok(Some(Self { name: name.into(), delta, txns: Txns::new(), data, compression }))
    }

    /// Table name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Newest known table version.
    pub fn version(&self) -> u64 {
        self.delta.version().unwrap_or(0)
    }

    /// The snapshot at [`Table::version`].
    pub fn snapshot(&self) -> Result<Arc<EagerSnapshot>, TableError> {
        Ok(Arc::new(self.delta.snapshot()?.snapshot().clone()))
    }

    /// Number of data files.
    pub fn files(&self) -> usize {
        self.delta.snapshot().map_or(0, |state| state.log_data().num_files())
    }

    /// Number of its rows, as far as its files say.
    pub fn rows(&self) -> Result<u64, TableError> {
        let snapshot = self.snapshot()?;
        Ok(snapshot.log_data().iter().filter_map(|file| file.num_records()).map(|rows| rows as u64).sum())
    }

    /// The table's positions at [`Table::version`], of topics that feed the table `fed` (its own name, or for
    /// side tables the name of the table the window belongs to).
    pub fn positions_of(&self, fed: &str) -> Positions {
        positions(fed, &self.txns)
    }

    /// The number that the transactions of `app_id` stand at; `None` if there was none.
    pub fn number(&self, app_id: &str) -> Option<i64> {
        self.txns.get(app_id).copied()
    }

    /// How many commits brought rows from below the positions: dead letters that were tried again.
    pub fn retries(&self) -> u64 {
        self.number(&retry_app_id(&self.name)).and_then(|number| number.try_into().ok()).unwrap_or(0)
    }

    /// How often rows below the positions were replaced: a restore, a replay. Whoever has taken rows from the table begins anew.
    pub fn remade(&self) -> i64 {
        self.number(REMADE).unwrap_or(0)
    }

    /// The table's schema.
    pub fn arrow_schema(&self) -> Result<SchemaRef, TableError> {
        let schema: Schema = self
            .delta
            .snapshot()?
            .schema()
            .as_ref()
            .try_into_arrow()
            .map_err(|error: ArrowError| self.schema_error(&error))?;
        Ok(Arc::new(schema))
    }

    /// Whether the table's columns are these.
    pub fn has_columns(&self, schema: &SchemaRef) -> Result<bool, TableError> {
        Ok(*self.delta.snapshot()?.schema() == self.delta_schema(schema)?)
    }

    /// Columns in Delta's form.
    pub(super) fn delta_schema(&self, schema: &SchemaRef) -> Result<StructType, TableError> {
        schema.as_ref().try_into_kernel().map_err(|error: ArrowError| self.schema_error(&error))
    }

    /// The schema version that the table's properties name; 0 before the first.
    pub fn schema_version(&self) -> u32 {
        let configured = |state: &deltalake_core::table::state::DeltaTableState| {
            state.metadata().configuration().get(SCHEMA_VERSION_PROPERTY)?.parse().ok()
        };
        self.delta.snapshot().ok().and_then(configured).unwrap_or(0)
    }

    /// Reads what has been committed since, positions included.
    pub fn refresh<'a>(&'a mut self) -> BoxFuture<'a, Result<(), TableError>> {
        Box::pin(async move {
            match self.catch_up().await {
                Ok(()) => Ok(()),
                // The commits since may have expired meanwhile: then it begins with the newest checkpoint.
                Err(_) => self.reopen().await,
            }
        })
    }

    async fn catch_up(&mut self) -> Result<(), TableError> {
        // Both or neither: positions must never be older than the snapshot they are compared with.
        let (mut delta, mut txns) = (self.delta.clone(), self.txns.clone());
        delta.update_state().await?;
        let version = delta.version().unwrap_or(0);
        if version > self.version() {
            txns::read_commits(self.log().as_ref(), self.version() + 1, version, &mut txns).await?;
        }
        (self.delta, self.txns) = (delta, txns);
        Ok(())
    }

    /// False if another engine has made it, which may mean things by it that Millpond does not know.
    pub fn is_ours(&self) -> bool {
        let has_version = |state: &deltalake_core::table::state::DeltaTableState| {
            state.metadata().configuration().contains_key(SCHEMA_VERSION_PROPERTY)
        };
        self.delta.snapshot().is_ok_and(has_version)
    }

    /// False if somebody has deleted the table since: its newest known commit is not there.
    pub async fn is_there(&self) -> Result<bool, TableError> {
        let path = object_store::path::Path::from("_delta_log").join(format!("{:020}.json", self.version()));
        match self.log().head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(TxnError::from(error).into()),
        }
    }

    /// When the newest commit was made, by the store's clock.
    pub async fn committed_at(&self) -> Result<DateTime<Utc>, TableError> {
        let path = object_store::path::Path::from("_delta_log").join(format!("{:020}.json", self.version()));
        Ok(self.log().head(&path).await.map_err(TxnError::from)?.last_modified)
    }

    /// Writes a checkpoint of the log at [`Table::version`].
    pub fn checkpoint<'a>(&'a self) -> BoxFuture<'a, Result<(), TableError>> {
        Box::pin(async move { Ok(deltalake_core::checkpoints::create_checkpoint(&self.delta, None).await?) })
    }

    /// Opens the table anew, so that it starts from the newest checkpoint.
    pub fn reopen<'a>(&'a mut self) -> BoxFuture<'a, Result<(), TableError>> {
        Box::pin(async move {
            let mut delta = DeltaTable::new(self.delta.log_store());
            delta.load().await?;
            let txns = txns::read_all(self.log().as_ref(), delta.version().unwrap_or(0)).await?;
            (self.delta, self.txns) = (delta, txns);
            Ok(())
        })
    }

    /// Writes a checkpoint if one is due since the version `last`, and starts from it. What fails is tried again with the
    /// next one that is due.
    pub async fn checkpoint_when_due(&mut self, last: &mut u64) {
        if self.version() < *last + CHECKPOINT_EVERY {
            return;
        }
        *last = self.version();
        let written = match self.checkpoint().await {
            Ok(()) => self.reopen().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.warn("checkpoint not written, trying again later", &error);
        }
    }

    /// Writes `batches`, brought to `schema`, as data files that no commit names yet.
    pub fn stage<'a>(
        &'a self,
        batches: &'a [RecordBatch],
        schema: &'a SchemaRef,
    ) -> BoxFuture<'a, Result<Vec<Add>, TableError>> {
        Box::pin(async move {
            if batches.is_empty() {
                return Ok(Vec::new());
            }
            let state = self.delta.snapshot()?;
            let partitions = state.metadata().partition_columns().to_vec();
            let properties = self.properties(schema, &[], 1).build();
            let config = WriterConfig::new(
                Arc::clone(schema),
                partitions,
                Some(properties),
                None,
                Some(8 * 1024),
                state.table_config().num_indexed_cols(),
                None,
            );
            let mut writer = DeltaWriter::new(Arc::clone(&self.data), config);
            // Splitting by partition costs per batch, and natural batches are small: join them first.
            let mut joined: Vec<RecordBatch> = Vec::new();
            let (mut rows, mut bytes) = (0, 0);
            for (at, batch) in batches.iter().enumerate() {
                rows += batch.num_rows();
                bytes += batch.get_array_memory_size();
                joined.push(conform(batch, schema)?);
                if rows >= STAGE_ROWS || bytes >= STAGE_BYTES || at + 1 == batches.len() {
                    writer.write(&concat_batches(schema, &joined)?).await?;
                    joined.clear();
                    (rows, bytes) = (0, 0);
                }
            }
            Ok(writer.close().await?)
        })
    }

    /// How a data file of these columns is written, as [`layout::properties`] has it.
    pub(super) fn properties(&self, schema: &Schema, key: &[String], zstd_level: i32) -> WriterPropertiesBuilder {
        layout::properties(schema, key, self.compression, zstd_level)
    }

    /// Says that something failed which will be tried again: in short, and for who debugs in the libraries' words.
    pub fn warn(&self, what: &'static str, error: &TableError) {
        warn!(table = %self.name, error = %error, "{what}");
        debug!(table = %self.name, error = ?error, "{what}");
    }

    /// The object store with the table's folder as root.
    pub fn data(&self) -> &Arc<dyn ObjectStore> {
        &self.data
    }

    fn log(&self) -> Arc<dyn ObjectStore> {
        self.delta.log_store().object_store(None)
    }

    pub(super) fn schema_error(&self, reason: &dyn std::fmt::Display) -> TableError {
        TableError::Schema { table: self.name.to_string(), reason: reason.to_string() }
    }
}

/// Those of `txns` that are positions of the table `fed`.
pub(super) fn positions(fed: &str, txns: &Txns) -> Positions {
    let parse = |(app, version): (&String, &i64)| Some((TopicPartition::from_app_id(fed, app)?, *version));
    txns.iter().filter_map(parse).collect()
}

/// The rows of a Parquet file of table `name`; `None` if it is not there.
pub(super) async fn parquet_rows(
    store: &dyn ObjectStore,
    path: &Path,
    name: &str,
) -> Result<Option<Vec<RecordBatch>>, TableError> {
    let bytes = match store.get(path).await {
        Ok(found) => found.bytes().await.map_err(TxnError::from)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(TxnError::from(error).into()),
    };
    let fault = |error: ParquetError| TableError::Schema { table: name.to_owned(), reason: error.to_string() };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(fault)?.build().map_err(fault)?;
    Ok(Some(reader.collect::<Result<_, _>>()?))
}

/// The application id whose number [`Table::remade`] tells.
pub(super) const REMADE: &str = "millpond/remade";

/// The application id whose number each such commit to the table `name` raises.
pub(super) fn retry_app_id(name: &str) -> String {
    format!("{name}/retry")
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Int32Array};
    use arrow::datatypes::{DataType, Field, Int64Type};

    use super::*;

    fn numbers() -> RecordBatch {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    }

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), true);
        Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
    }

    #[test]
    fn columns_are_found_by_name_cast_and_made_null() {
        let wanted = schema(&[("b", DataType::Utf8), ("a", DataType::Int64)]);
        let batch = conform(&numbers(), &wanted).unwrap();
        assert_eq!(batch.schema_ref(), &wanted);
        assert_eq!(batch.column(0).null_count(), 3);
        assert_eq!(batch.column(1).as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    }

    #[test]
    fn rows_are_counted_without_a_column() {
        assert_eq!(conform(&numbers(), &schema(&[])).unwrap().num_rows(), 3);
    }
}
