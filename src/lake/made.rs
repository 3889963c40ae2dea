//! Tables that are written in whole pieces, by numbers of their own instead of positions: a file that is imported, a run of a
//! scheduled query. What makes a piece is staged first, then one commit has it, with the numbers that say that it is there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::row::{OwnedRow, RowConverter, SortField};
use deltalake_core::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake_core::kernel::{Add, Transaction};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::file::properties::WriterPropertiesBuilder;
use tracing::debug;

use super::commit::machine::Outcome;
use super::commit::{self, CommitError, Replacement};
use super::file_rows::rows_of;
use super::layout;
use super::positions::Positions;
use super::store::reason;
use super::table::{Table, TableError};
use super::{FILES, Lake, PUBLIC};
use crate::schema::conform;
use crate::task::Shutdown;

/// A file gets so large at most, and a little more.
const FILE_BYTES: u64 = 128 << 20;
/// What an allocation takes beside its bytes, and a place in a set.
const ALLOCATED: usize = 32;
/// Rows of a file that are read at once.
const BATCH_ROWS: usize = 8 * 1024;

/// How the application id of a file begins.
pub const FILE: &str = "file/";
/// How the application id of a source begins: its number is one more than the table version that rows were made from.
pub const SOURCE: &str = "source/";
/// The number of the newest run of the query that makes the rows.
pub const RUN: &str = "run";
/// The text of the query that made the rows: a number made of its hash.
pub const TEXT: &str = "query";

/// Numbers of a table by their application ids: what it has.
pub type Numbers = BTreeMap<String, i64>;

/// A table that is written in pieces.
#[derive(Clone)]
pub struct MadeTable {
    table: Table,
}

/// Rows of a piece as they are written.
pub struct Piece {
    writer: DeltaWriter,
    data: Arc<dyn ObjectStore>,
    schema: SchemaRef,
    /// Rows so far.
    pub rows: u64,
}

/// A piece that is written, and that no commit names yet.
#[derive(Debug)]
pub struct Staged {
    adds: Vec<Add>,
    data: Arc<dyn ObjectStore>,
    /// Its rows.
    pub rows: u64,
}

impl Staged {
    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.adds.iter().map(|add| add.size.unsigned_abs()).sum()
    }

    /// Puts another piece behind it.
    pub fn append(&mut self, mut other: Self) {
        self.adds.append(&mut other.adds);
        self.rows += other.rows;
    }

    pub(super) fn into_adds(self) -> Vec<Add> {
        self.adds
    }

    /// Deletes its files: it is not committed, and will not be.
    pub async fn discard(self) {
        delete(&*self.data, &self.adds).await;
    }
}

/// Deletes files that no commit names; what fails is left for a vacuum.
pub(super) async fn delete(data: &dyn ObjectStore, adds: &[Add]) {
    for add in adds {
        let Ok(path) = Path::from_url_path(&add.path) else { continue };
        if let Err(error) = data.delete(&path).await {
            debug!(%path, error = %reason(&error), "file not deleted");
        }
    }
}

/// Rows that a piece replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaces {
    /// All; the columns are these from now on.
    All(SchemaRef),
    /// Those whose value of the partition column is one of these.
    Partitions(String, BTreeSet<Option<String>>),
}

/// The numbers of the pieces that `table` has.
pub(super) fn numbers(table: &Table) -> Numbers {
    let is_of_piece = |id: &String| id.starts_with(FILE) || id.starts_with(SOURCE) || id == FILES || id == TEXT;
    table.txns.iter().filter(|(id, _)| is_of_piece(id)).map(|(id, number)| (id.clone(), *number)).collect()
}

impl MadeTable {
    /// The table `name`; `None` if there is none.
    pub async fn open(lake: &Lake, name: &str) -> Result<Option<Self>, TableError> {
        Ok(lake.open(PUBLIC, name).await?.map(|table| Self { table }))
    }

    /// The table `name`, made with these columns if there is none.
    pub async fn make(lake: &Lake, name: &str, schema: &SchemaRef, partition_by: &[&str]) -> Result<Self, TableError> {
        let table = commit::create(lake, PUBLIC, name, schema, partition_by, 1, &Positions::new()).await?;
        Ok(Self { table })
    }

    /// The table itself.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The number that `app_id` stands at; 0 if there was none.
    pub fn number(&self, app_id: &str) -> i64 {
        self.table.number(app_id).unwrap_or(0)
    }

    /// True once something was taken in: whoever made it may have been killed before.
    pub fn has_pieces(&self) -> bool {
        !numbers(&self.table).is_empty()
    }

    /// True if all that it has came from files: something else made a table that is in buckets or days, or has rows without a
    /// number of a file.
    pub fn is_of_files(&self) -> bool {
        let is_parted = self.table.snapshot().is_ok_and(|table| !table.metadata().partition_columns().is_empty());
        let has_files = self.table.txns.keys().any(|id| id == FILES || id.starts_with(FILE));
        !is_parted && (has_files || self.table.files() == 0)
    }

    /// Reads what was committed since.
    pub async fn refresh(&mut self) -> Result<(), TableError> {
        self.table.refresh().await
    }

    /// Adds the columns that `schema` has and the table does not.
    pub async fn widen(&mut self, schema: &SchemaRef) -> Result<(), TableError> {
        let known = self.table.arrow_schema()?;
        if schema.fields().iter().all(|field| known.field_with_name(field.name()).is_ok()) {
            return Ok(());
        }
        let next = self.table.schema_version() + 1;
        commit::evolve(&mut self.table, schema, next).await
    }

    /// Appends a piece that has `app_id` at `number`, if it stands at `before`. False if it does not any more.
    pub async fn append(
        &mut self,
        staged: &Staged,
        app_id: &str,
        (before, number): (i64, i64),
        stop: &Shutdown,
    ) -> Result<bool, CommitError> {
        let outcome = commit::commit_number(&mut self.table, app_id, &staged.adds, before, number, stop).await;
        landed(outcome)
    }

    /// Puts a piece in the place of rows, and moves the number of `app_id` on by compare-and-swap; `others` are written
    /// with it. False if another was first.
    pub async fn replace(
        &mut self,
        staged: Staged,
        replaces: &Replaces,
        app_id: &str,
        (before, number): (i64, i64),
        others: &Numbers,
        stop: &Shutdown,
    ) -> Result<bool, CommitError> {
        let (only, schema) = match replaces {
            Replaces::All(schema) => (None, (!self.table.has_columns(schema)?).then(|| Arc::clone(schema))),
            Replaces::Partitions(column, values) => (Some((column.clone(), values.clone())), None),
        };
        let txns = others.iter().map(|(id, number)| Transaction::new(id, *number)).collect();
        let replacement = Replacement { adds: staged.adds, only, schema, txns };
        let outcome = commit::commit_replacement(&mut self.table, app_id, &replacement, before, number, stop).await;
        landed(outcome)
    }

    /// Appends a piece and takes away the rows that have one of its `keys`: files that hold some are written anew without.
    /// Numbers are moved as by [`MadeTable::append`]. Whoever upserts a table does it alone: of two that race, neither looks for
    /// keys in the rows of the other.
    pub async fn upsert(
        &mut self,
        staged: &Staged,
        keys: &Keys,
        app_id: &str,
        (before, number): (i64, i64),
        stop: &Shutdown,
    ) -> Result<bool, CommitError> {
        loop {
            if self.number(app_id) != before {
                return Ok(false);
            }
            let (gone, mut kept) = self.without(keys).await?;
            kept.extend(staged.adds.iter().cloned());
            let operation = DeltaOperation::Write { mode: SaveMode::Overwrite, partition_by: None, predicate: None };
            let txns = vec![Transaction::new(app_id, number)];
            if commit::commit_rewrite(&mut self.table, &gone, &kept, &operation, txns, stop).await? {
                return Ok(true);
            }
            self.table.refresh().await?;
        }
    }

    /// The files that have rows with one of `keys`, and files with their other rows.
    async fn without(&self, keys: &Keys) -> Result<(BTreeSet<String>, Vec<Add>), TableError> {
        let schema = self.table.arrow_schema()?;
        let (mut gone, mut kept) = (BTreeSet::new(), Vec::new());
        for file in self.table.snapshot()?.log_data().iter() {
            let columns: Vec<&str> = keys.columns.iter().map(String::as_str).collect();
            let mut rows = rows_of(&self.table, &file, Some(&columns)).await?;
            let mut has = false;
            while !has && let Some(batch) = rows.try_next().await? {
                has = keys.found_in(&conform(&batch, &schema)?)?.has_true();
            }
            if !has {
                continue;
            }
            let mut rows = rows_of(&self.table, &file, None).await?;
            let mut piece = Piece::of(&self.table, &schema, &[], &keys.columns);
            while let Some(batch) = rows.try_next().await? {
                let batch = conform(&batch, &schema)?;
                let others = arrow::compute::not(&keys.found_in(&batch)?)?;
                piece.write(&filter_record_batch(&batch, &others)?).await?;
            }
            kept.extend(piece.finish().await?.adds);
            gone.insert(file.path().into_owned());
        }
        Ok((gone, kept))
    }
}

/// The resolver tells by the numbers whose commit it was: one that is there is.
fn landed(outcome: Result<Outcome, CommitError>) -> Result<bool, CommitError> {
    match outcome {
        Ok(_) => Ok(true),
        Err(CommitError::Rival { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Piece {
    /// Begins a piece of the table `name`, which need not be there yet: rows of these columns, parted by `partition_by`;
    /// `key` are those that rows will be looked up by.
    pub fn begin(
        lake: &Lake,
        name: &str,
        schema: &SchemaRef,
        partition_by: &[String],
        key: &[String],
    ) -> Result<Self, TableError> {
        let (_, data) = lake.table_stores(PUBLIC, name)?;
        let properties = layout::properties(schema, key, lake.compression, 1);
        Ok(Self::new(&data, schema, partition_by, properties))
    }

    /// The same, of a table that is there.
    pub(super) fn of(table: &Table, schema: &SchemaRef, partition_by: &[String], key: &[String]) -> Self {
        Self::new(table.data(), schema, partition_by, table.properties(schema, key, 1))
    }

    fn new(
        data: &Arc<dyn ObjectStore>,
        schema: &SchemaRef,
        partition_by: &[String],
        properties: WriterPropertiesBuilder,
    ) -> Self {
        let config = WriterConfig::new(
            Arc::clone(schema),
            partition_by.to_vec(),
            Some(properties.build()),
            NonZeroU64::new(FILE_BYTES),
            Some(BATCH_ROWS),
            Default::default(),
            None,
        );
        let (data, schema) = (Arc::clone(data), Arc::clone(schema));
        Self { writer: DeltaWriter::new(Arc::clone(&data), config), data, schema, rows: 0 }
    }

    /// Adds rows.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<(), TableError> {
        if rows.num_rows() > 0 {
            self.writer.write(&conform(rows, &self.schema)?).await?;
            self.rows += rows.num_rows() as u64;
        }
        Ok(())
    }

    /// Gives them up.
    pub async fn abort(self) {
        if let Err(error) = self.writer.abort().await {
            debug!(%error, "files not deleted");
        }
    }

    /// All rows are there.
    pub async fn finish(self) -> Result<Staged, TableError> {
        Ok(Staged { adds: self.writer.close().await?, data: self.data, rows: self.rows })
    }
}

/// Keys of rows.
#[derive(Debug)]
pub struct Keys {
    columns: Vec<String>,
    rows: RowConverter,
    found: HashSet<OwnedRow>,
    bytes: usize,
}

impl Keys {
    /// None yet, of rows with these columns.
    pub fn new(schema: &SchemaRef, columns: &[String]) -> Result<Self, TableError> {
        let field = |name: &String| Ok(SortField::new(schema.field_with_name(name)?.data_type().clone()));
        let fields = columns.iter().map(field).collect::<Result<_, arrow::error::ArrowError>>()?;
        Ok(Self { columns: columns.to_vec(), rows: RowConverter::new(fields)?, found: HashSet::new(), bytes: 0 })
    }

    fn of(&self, batch: &RecordBatch) -> Result<arrow::row::Rows, TableError> {
        let column = |name: &String| {
            let missing = || arrow::error::ArrowError::SchemaError(format!("column {name} is missing"));
            Ok(Arc::clone(batch.column_by_name(name).ok_or_else(missing)?))
        };
        let columns = self.columns.iter().map(column).collect::<Result<Vec<ArrayRef>, arrow::error::ArrowError>>()?;
        Ok(self.rows.convert_columns(&columns)?)
    }

    /// About what they take in memory.
    pub fn size_bytes(&self) -> usize {
        self.bytes
    }

    /// Adds those of rows; which of them are new.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<BooleanArray, TableError> {
        let rows = self.of(batch)?;
        self.bytes += rows.iter().map(|row| row.as_ref().len() + size_of::<OwnedRow>() + ALLOCATED).sum::<usize>();
        Ok(rows.iter().map(|row| Some(self.found.insert(row.owned()))).collect())
    }

    fn found_in(&self, batch: &RecordBatch) -> Result<BooleanArray, TableError> {
        let rows = self.of(batch)?;
        Ok(rows.iter().map(|row| Some(self.found.contains(&row.owned()))).collect())
    }
}
