//! Tables beside a main one: child tables, records as they came. They get the rows of the same windows but own no
//! position, because two Delta tables cannot commit together: they are written first, and what a crash makes them
//! repeat is left out by identity.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use futures::future::BoxFuture;

use super::commit::{self, CommitError};
use super::flush::evolve;
use super::identity::{RECORD, RecordId, below, leave_out, record_ids};
use super::positions::Positions;
use super::table::{Table, TableError};
use super::view::View;
use crate::schema::conform;
use crate::task::Shutdown;

/// What a window holds for a table beside the main one.
#[derive(Debug)]
pub struct SideRows {
    schema: SchemaRef,
    schema_version: u32,
    rows: Vec<RecordBatch>,
}

impl SideRows {
    /// Nothing yet, in the columns that `view` has by now.
    pub(super) fn of(view: &View) -> Self {
        Self { schema: view.schema.clone(), schema_version: view.schema_version, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, rows: &RecordBatch) {
        if rows.num_rows() > 0 {
            self.rows.push(rows.clone());
        }
    }

    /// The schema version it was frozen at; no row has a later one.
    pub fn schema_version(&self) -> u32 {
        self.schema_version
    }

    /// Appends what `table` does not hold yet; the window ends at `ends`.
    pub(super) async fn append(self, table: &mut Table, ends: Positions, stop: &Shutdown) -> Result<(), CommitError> {
        evolve(table, &self.schema, self.schema_version, stop).await?;
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = self.rows.iter().map(|rows| conform(rows, &self.schema)).collect::<Result<Vec<_>, _>>()?;
        let rows = concat_batches(&self.schema, &rows)?;
        let name = table.name().to_string();
        commit::commit_side(table, &name, rows, ends, stop, without_held_below).await?;
        Ok(())
    }
}

/// `rows` without those of records that `table` holds already.
fn without_held_below<'a>(
    table: &'a Table,
    own: &'a Positions,
    rows: &'a RecordBatch,
) -> BoxFuture<'a, Result<RecordBatch, TableError>> {
    Box::pin(without_records(table, rows, below(own)))
}

/// `rows` without those of records that `table` holds already; only those that `may_be_held` are looked for. A record's
/// rows are in one commit, so it is held as a whole or not at all.
pub(super) async fn without_records(
    table: &Table,
    rows: &RecordBatch,
    may_be_held: impl Fn(&RecordId) -> bool + Send,
) -> Result<RecordBatch, TableError> {
    leave_out(table, rows, &RECORD, |batch| Ok(record_ids(batch)?), |record| record, may_be_held).await
}
