//! Rows of records that were decoded again, in the place of those that the records had.
//!
//! They are written first, as files that no commit names ([`Shadow`]); then each table is switched by one commit, which takes
//! away the files that hold rows of these records and adds the new ones. What else such a file holds is written anew, so
//! rows of records that were not read again stay as they were. Whoever feeds the table goes on meanwhile: its rows
//! are of later records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use deltalake_core::kernel::{Add, LogicalFileView, Transaction};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use roaring::RoaringTreemap;

use super::care::with_partition;
use super::commit::{self, CommitError};
use super::file_rows::rows_of;
use super::flush::evolve;
use super::identity::{RECORD, RecordId, bounds, record_ids};
use super::made::{self, Piece};
use super::positions::{Positions, TopicPartition};
use super::table::{REMADE, Table, TableError, retry_app_id};
use super::txns::TxnError;
use crate::schema::fixed;
use crate::task::{Charge, Shutdown, failpoint};

/// Kafka records, by their offsets.
#[derive(Debug, Clone, Default)]
pub struct RecordSet(BTreeMap<TopicPartition, RoaringTreemap>);

impl RecordSet {
    /// Adds one.
    pub fn insert(&mut self, lane: &TopicPartition, offset: i64) {
        let Ok(offset) = u64::try_from(offset) else { return };
        match self.0.get_mut(lane) {
            Some(offsets) => _ = offsets.insert(offset),
            None => _ = self.0.entry(lane.clone()).or_default().insert(offset),
        }
    }

    /// Whether it is among them.
    pub fn contains(&self, (lane, offset): &RecordId) -> bool {
        let offsets = self.0.get(lane);
        offsets.zip(u64::try_from(*offset).ok()).is_some_and(|(offsets, offset)| offsets.contains(offset))
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.values().map(RoaringTreemap::len).sum()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if all of them lie below `positions`.
    fn is_below(&self, positions: &Positions) -> bool {
        let ends = self.0.iter().filter_map(|(lane, offsets)| Some((lane, offsets.max()?)));
        ends.into_iter().all(|(lane, last)| {
            positions
                .get(lane)
                .and_then(|position| u64::try_from(*position).ok())
                .is_some_and(|position| last < position)
        })
    }

    fn found_in(&self, batch: &RecordBatch) -> Result<BooleanArray, TableError> {
        Ok(record_ids(batch)?.iter().map(|record| Some(self.contains(record))).collect())
    }

    /// Whether `table` has rows of all records of one partition with offsets in `range`. (False, too, if no record has one of
    /// these offsets: nobody can tell.)
    pub async fn has_all(table: &Table, lane: &TopicPartition, range: Range<i64>) -> Result<bool, TableError> {
        let held = Self::in_rows(rows_between(table, lane, range.clone(), Some(&RECORD))?).await?;
        Ok(held.len() == range.end.abs_diff(range.start))
    }

    /// The records that `table` has rows of.
    pub async fn of(table: &Table) -> Result<Self, TableError> {
        let files = table.snapshot()?.log_data().iter().collect();
        Self::in_rows(rows_of_all(table, files, Some(&RECORD))).await
    }

    async fn in_rows(mut rows: BoxStream<'static, Result<RecordBatch, TableError>>) -> Result<Self, TableError> {
        let mut held = Self::default();
        while let Some(batch) = rows.try_next().await? {
            record_ids(&batch)?.iter().for_each(|(lane, offset)| held.insert(lane, *offset));
        }
        Ok(held)
    }
}

/// New rows of a table that nobody sees yet.
pub struct Shadow {
    table: Table,
    key: Vec<String>,
    piece: Option<(SchemaRef, Piece, Vec<Charge>)>,
    adds: Vec<Add>,
    rows: u64,
}

/// What became of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switched {
    /// Rows that are not in it any more …
    pub gone: u64,
    /// … and those in their place.
    pub rows: u64,
}

/// What a file of a table has to do with a set of records.
enum Looked {
    /// It has no row of them.
    Stays,
    /// It has so many; its other rows are in these files.
    Goes(u64, Vec<Add>),
}

impl Shadow {
    /// None yet, of `table`, whose rows are looked up by `key`.
    pub fn of(table: Table, key: &[String]) -> Self {
        Self { table, key: key.to_vec(), piece: None, adds: Vec::new(), rows: 0 }
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Adds rows; `charge` is what they hold in memory.
    pub async fn write(&mut self, rows: &RecordBatch, charge: Charge) -> Result<(), TableError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        // Columns may have come.
        if self.piece.as_ref().is_some_and(|(schema, ..)| *schema != rows.schema()) {
            self.finish().await?;
        }
        let (_, piece, charges) = self.piece.get_or_insert_with(|| {
            let piece = Piece::of(&self.table, &rows.schema(), &[fixed::DAY.to_owned()], &self.key);
            (rows.schema(), piece, Vec::new())
        });
        piece.write(rows).await?;
        charges.push(charge);
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    /// What rows hold in memory until [`Self::finish`].
    pub fn held_bytes(&self) -> usize {
        self.piece.iter().flat_map(|(_, _, charges)| charges).map(Charge::bytes).sum()
    }

    /// Gives the rows up.
    pub async fn discard(mut self) {
        if let Some((_, piece, _)) = self.piece.take() {
            piece.abort().await;
        }
        made::delete(&**self.table.data(), &self.adds).await;
    }

    /// Closes the files that are being written.
    pub async fn finish(&mut self) -> Result<(), TableError> {
        if let Some((_, piece, _charges)) = self.piece.take() {
            self.adds.extend(piece.finish().await?.into_adds());
        }
        Ok(())
    }

    /// Puts the rows in the place of those that `records` have in the table, which gets the columns of this version first.
    /// `owns_positions`: it is the table's positions that say where its stream goes on; `None` if they lie before one of
    /// the records by now, which would come again.
    pub async fn switch(
        mut self,
        records: &RecordSet,
        (schema, schema_version): (&SchemaRef, u32),
        owns_positions: bool,
        stop: &Shutdown,
    ) -> Result<Option<(Table, Switched)>, CommitError> {
        self.finish().await?;
        let table = &mut self.table;
        table.refresh().await?;
        evolve(table, schema, schema_version, stop).await?;
        let name = table.name().to_string();
        let mut looked: HashMap<String, Looked> = HashMap::new();
        loop {
            if owns_positions && !records.is_below(&table.positions_of(&name)) {
                return Ok(None);
            }
            let snapshot = table.snapshot()?;
            let (mut gone, mut adds, mut switched) =
                (BTreeSet::new(), self.adds.clone(), Switched { gone: 0, rows: self.rows });
            for file in snapshot.log_data().iter() {
                let path = file.path().into_owned();
                if !looked.contains_key(&path) {
                    let found = look(table, &file, records, &self.key).await?;
                    looked.insert(path.clone(), found);
                }
                if let Some(Looked::Goes(rows, others)) = looked.get(&path) {
                    switched.gone += rows;
                    adds.extend(others.iter().cloned());
                    gone.insert(path);
                }
            }
            if gone.is_empty() && adds.is_empty() {
                return Ok(Some((self.table, switched)));
            }
            let operation = DeltaOperation::Write { mode: SaveMode::Overwrite, partition_by: None, predicate: None };
            // Of a retry of dead letters and this only one lands: the other looks again at what is there.
            let counter = retry_app_id(&name);
            let turn = Transaction::new(&counter, table.number(&counter).unwrap_or(0) + 1);
            let txns = vec![turn, Transaction::new(REMADE, table.remade() + 1)];
            failpoint::hit("replay_after_stage");
            if let Some(oldest) = self.adds.first() {
                // Files that no commit names go after a day.
                let path = Path::from_url_path(&oldest.path).map_err(|error| table.schema_error(&error))?;
                table.data().head(&path).await.map_err(TxnError::from).map_err(TableError::from)?;
            }
            if commit::commit_rewrite(table, &gone, &adds, &operation, txns, stop).await? {
                failpoint::hit("replay_after_switch");
                return Ok(Some((self.table, switched)));
            }
            table.refresh().await?;
        }
    }
}

/// The rows of `table` that are of records of one partition, with offsets in `range`; only these `columns`, or all.
pub fn rows_between(
    table: &Table,
    lane: &TopicPartition,
    range: Range<i64>,
    columns: Option<&'static [&'static str]>,
) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
    let overlaps = |(least, greatest): (i64, i64)| least < range.end && range.start <= greatest;
    let may_have = |file: &LogicalFileView| bounds(file.stats().as_deref()).is_none_or(overlaps);
    let files: Vec<LogicalFileView> = table.snapshot()?.log_data().iter().filter(may_have).collect();
    let (lane, range) = (lane.clone(), range.clone());
    let only = move |batch: RecordBatch| {
        let is_meant = |(of, offset): &RecordId| *of == lane && range.contains(offset);
        let is_meant = record_ids(&batch)?.iter().map(|record| Some(is_meant(record))).collect();
        Ok(filter_record_batch(&batch, &is_meant)?)
    };
    Ok(rows_of_all(table, files, columns).map(move |batch| only(batch?)).boxed())
}

/// The rows of files, one after the other.
fn rows_of_all(
    table: &Table,
    files: Vec<LogicalFileView>,
    columns: Option<&'static [&'static str]>,
) -> BoxStream<'static, Result<RecordBatch, TableError>> {
    let table = table.clone();
    let opened = stream::iter(files).then(move |file| {
        let table = table.clone();
        async move { rows_of(&table, &file, columns).await }
    });
    opened.try_flatten().boxed()
}

async fn look(
    table: &Table,
    file: &LogicalFileView,
    records: &RecordSet,
    key: &[String],
) -> Result<Looked, TableError> {
    let (mut found, mut others) = (0, 0);
    let mut rows = rows_of(table, file, Some(&RECORD)).await?;
    while let Some(batch) = rows.try_next().await? {
        let of_them = records.found_in(&batch)?.true_count();
        found += of_them;
        others += batch.num_rows() - of_them;
    }
    if found == 0 {
        return Ok(Looked::Stays);
    }
    if others == 0 {
        return Ok(Looked::Goes(found as u64, Vec::new()));
    }
    let (schema, values) = (table.arrow_schema()?, file.partition_values_map());
    let mut piece = Piece::of(table, &schema, &[fixed::DAY.to_owned()], key);
    let mut rows = rows_of(table, file, None).await?;
    while let Some(batch) = rows.try_next().await? {
        let others = arrow::compute::not(&records.found_in(&batch)?)?;
        let batch = with_partition(&batch, &schema, &values)?;
        piece.write(&filter_record_batch(&batch, &others)?).await?;
    }
    Ok(Looked::Goes(found as u64, piece.finish().await?.into_adds()))
}

/// All rows of a table, the oldest files first, in the columns that its files have.
pub fn all_rows(table: &Table) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
    let snapshot = table.snapshot()?;
    let mut files: Vec<LogicalFileView> = snapshot.log_data().iter().collect();
    files.sort_by_key(|file| (file.modification_time(), file.path().into_owned()));
    Ok(rows_of_all(table, files, None))
}

#[cfg(test)]
mod tests;
