//! `system.dead_letters`: a side table that all tables of the lake share. It owns no position: what is
//! below its own `txn` of a table (after a crash or a lost answer) is left out by identity.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use deltalake_core::kernel::EagerSnapshot;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::sync::Mutex;

use super::commit::{self, CommitError};
use super::positions::{Positions, TopicPartition};
use super::table::{Table, TableError};
use super::txns::TxnError;
use crate::task::Shutdown;

/// Columns that identify a dead letter, in this order: table, topic, incarnation, partition, offset, row.
pub const IDENTITY: [&str; 6] = ["table_name", "_topic", "_incarnation", "_partition", "_offset", "_row"];

type Identity = (String, TopicPartition, i64, i32);

/// The dead letters of the lake. One commit at a time.
pub struct DeadLetters {
    schema: SchemaRef,
    table: Mutex<Table>,
    snapshot: ArcSwap<EagerSnapshot>,
}

impl DeadLetters {
    /// Over the opened Delta table; `schema` is that of the batches to append.
    pub fn new(table: Table, schema: SchemaRef) -> Result<Self, TableError> {
        let snapshot = ArcSwap::new(table.snapshot()?);
        Ok(Self { schema, table: Mutex::new(table), snapshot })
    }

    /// The newest committed snapshot.
    pub fn snapshot(&self) -> Arc<EagerSnapshot> {
        self.snapshot.load_full()
    }

    /// Appends the dead letters of a window of table `fed` that ends at `ends`.
    pub async fn append(
        &self,
        fed: &str,
        batches: &[RecordBatch],
        ends: Positions,
        stop: &Shutdown,
    ) -> Result<(), CommitError> {
        let rows = concat_batches(&self.schema, batches).map_err(TableError::from)?;
        let mut table = self.table.lock().await;
        commit::commit_side(&mut table, fed, rows, ends, stop, leave_out).await?;
        self.snapshot.store(table.snapshot()?);
        Ok(())
    }
}

/// `rows` without those that `table` holds already. Rows at or above its own position cannot be there.
async fn leave_out(table: &Table, own: &Positions, rows: &RecordBatch) -> Result<RecordBatch, TableError> {
    let wanted = identities(table, rows)?;
    let below = |id: &Identity| own.get(&id.1).is_some_and(|position| id.2 < *position);
    if !wanted.iter().any(below) {
        return Ok(rows.clone());
    }
    let held = read_identities(table).await?;
    let keep: BooleanArray = wanted.iter().map(|id| Some(!(below(id) && held.contains(id)))).collect();
    Ok(filter_record_batch(rows, &keep)?)
}

async fn read_identities(table: &Table) -> Result<HashSet<Identity>, TableError> {
    let fault = |error: parquet::errors::ParquetError| table.schema_error(&error);
    let snapshot = table.snapshot()?;
    let files: Vec<String> = snapshot.log_data().iter().map(|file| file.path().to_string()).collect();
    let mut held = HashSet::new();
    for file in files {
        let path = Path::from_url_path(&file).map_err(|error| table.schema_error(&error))?;
        let bytes = table.data().get(&path).await.map_err(TxnError::from)?.bytes().await.map_err(TxnError::from)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(fault)?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), IDENTITY);
        for batch in builder.with_projection(mask).build().map_err(fault)? {
            held.extend(identities(table, &batch?)?);
        }
    }
    Ok(held)
}

fn identities(table: &Table, batch: &RecordBatch) -> Result<Vec<Identity>, TableError> {
    let column =
        |name: &str| batch.column_by_name(name).ok_or_else(|| table.schema_error(&format!("column {name} is missing")));
    let fed = column(IDENTITY[0])?.as_string::<i32>();
    let topic = column(IDENTITY[1])?.as_string::<i32>();
    let incarnation = column(IDENTITY[2])?.as_primitive::<Int32Type>();
    let partition = column(IDENTITY[3])?.as_primitive::<Int32Type>();
    let offset = column(IDENTITY[4])?.as_primitive::<Int64Type>();
    let row = column(IDENTITY[5])?.as_primitive::<Int32Type>();
    let identity = |at: usize| {
        let lane = TopicPartition {
            topic: topic.value(at).into(),
            incarnation: incarnation.value(at).unsigned_abs(),
            partition: partition.value(at),
        };
        (fed.value(at).to_owned(), lane, offset.value(at), row.value(at))
    };
    Ok((0..batch.num_rows()).map(identity).collect())
}
