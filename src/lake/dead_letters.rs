//! `system.dead_letters`: a log of what happened to records that could not become rows, which all tables of the lake
//! share. It owns no position: what a crash or a lost answer makes a commit repeat is left out by identity.

use std::sync::Arc;

use arc_swap::ArcSwap;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use deltalake_core::kernel::EagerSnapshot;
use futures::future::BoxFuture;
use tokio::sync::Mutex;

use super::commit::{self, CommitError};
use super::flush::evolve;
use super::identity::{RECORD, RecordId, below, leave_out, record_ids};
use super::positions::Positions;
use super::table::{Table, TableError};
use crate::task::Shutdown;

/// Version of the table's columns: 0 had no `event_at`.
pub const DEAD_LETTERS_VERSION: u32 = 1;

/// Columns that identify an event: what happened, to whose record.
const EVENT: &str = "event";
const FED: &str = "table_name";
/// An event that is null.
const DEAD: &str = "dead";

/// What happened, in which table, to which record.
type Identity = (String, String, RecordId);

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

    /// Reads what somebody else has done to the table.
    pub async fn refresh(&self) -> Result<(), TableError> {
        let mut table = self.table.lock().await;
        table.refresh().await?;
        self.snapshot.store(table.snapshot()?);
        Ok(())
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
        evolve(&mut table, &self.schema, DEAD_LETTERS_VERSION, stop).await?;
        commit::commit_side(&mut table, fed, rows, ends, stop, without_held_below).await?;
        self.snapshot.store(table.snapshot()?);
        Ok(())
    }

    /// Logs what happened to dead letters of table `fed`, each event once, however often it is said.
    pub async fn log(&self, fed: &str, events: RecordBatch, stop: &Shutdown) -> Result<(), CommitError> {
        let mut table = self.table.lock().await;
        evolve(&mut table, &self.schema, DEAD_LETTERS_VERSION, stop).await?;
        commit::commit_once(&mut table, &format!("{fed}/events"), events, stop, without_held).await?;
        self.snapshot.store(table.snapshot()?);
        Ok(())
    }
}

/// `rows` without those that `table` holds already.
fn without_held_below<'a>(
    table: &'a Table,
    own: &'a Positions,
    rows: &'a RecordBatch,
) -> BoxFuture<'a, Result<RecordBatch, TableError>> {
    Box::pin(without_events(table, rows, below(own)))
}

/// `rows` without those that `table` holds already, wherever they lie.
fn without_held<'a>(
    table: &'a Table,
    _: &'a Positions,
    rows: &'a RecordBatch,
) -> BoxFuture<'a, Result<RecordBatch, TableError>> {
    Box::pin(without_events(table, rows, |_| true))
}

/// `rows` without those that `table` holds; only those of records that `may_be_held` are looked for.
async fn without_events(
    table: &Table,
    rows: &RecordBatch,
    may_be_held: impl Fn(&RecordId) -> bool + Send,
) -> Result<RecordBatch, TableError> {
    let columns = [&[EVENT, FED][..], &RECORD].concat();
    leave_out(table, rows, &columns, identities, |(_, _, record)| record, may_be_held).await
}

fn identities(batch: &RecordBatch) -> Result<Vec<Identity>, TableError> {
    let text = |name: &str, row: usize| {
        let column = batch.column_by_name(name).map(|column| column.as_string::<i32>());
        column.filter(|column| column.is_valid(row)).map_or("", |column| column.value(row))
    };
    let event = |row| Some(text(EVENT, row)).filter(|event| !event.is_empty()).unwrap_or(DEAD);
    let records = record_ids(batch)?.into_iter().enumerate();
    Ok(records.map(|(row, record)| (event(row).to_owned(), text(FED, row).to_owned(), record)).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray, new_null_array};
    use arrow::datatypes::{DataType, Field, Schema};
    use object_store::memory::InMemory;

    use super::*;
    use crate::lake::identity::scan;
    use crate::lake::positions::TopicPartition;
    use crate::lake::store::testing::stores;
    use crate::lake::{Lake, SYSTEM};

    fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
        let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), true);
        Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
    }

    fn newer() -> SchemaRef {
        use DataType::{Int32, Int64, Utf8};
        let columns = [(FED, Utf8), (RECORD[0], Utf8), (RECORD[1], Int32), (RECORD[2], Int32), (RECORD[3], Int64)];
        schema(&[&columns[..], &[(EVENT, Utf8), ("event_at", Int64)]].concat())
    }

    fn events(event: &str, offsets: &[i64]) -> RecordBatch {
        let n = offsets.len();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["cars"; n])),
            Arc::new(StringArray::from(vec!["t"; n])),
            Arc::new(Int32Array::from(vec![0; n])),
            Arc::new(Int32Array::from(vec![0; n])),
            Arc::new(Int64Array::from(offsets.to_vec())),
            Arc::new(StringArray::from(vec![event; n])),
            new_null_array(&DataType::Int64, n),
        ];
        RecordBatch::try_new(newer(), columns).unwrap()
    }

    fn nothing_held<'a>(
        _: &'a Table,
        _: &'a Positions,
        rows: &'a RecordBatch,
    ) -> BoxFuture<'a, Result<RecordBatch, TableError>> {
        Box::pin(async { Ok(rows.clone()) })
    }

    /// A lake made before the log of events goes on: its letters have no event.
    #[tokio::test]
    async fn an_older_table_gets_the_new_columns_and_keeps_each_event_once() {
        let lake = Lake::new(stores(Arc::new(InMemory::new())));
        let older = schema(
            &newer().fields()[..5].iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect::<Vec<_>>(),
        );
        let lane = TopicPartition { topic: "t".into(), incarnation: 0, partition: 0 };
        let mut table = commit::create(&lake, SYSTEM, "dead_letters", &older, &[], 0, &Positions::new()).await.unwrap();
        let (old_letter, stop) = (events("dead", &[4]).project(&[0, 1, 2, 3, 4]).unwrap(), Shutdown::new());
        let ends = |end| Positions::from([(lane.clone(), end)]);
        commit::commit_side(&mut table, "cars", old_letter, ends(5), &stop, nothing_held).await.unwrap();

        let letters = DeadLetters::new(table, newer()).unwrap();
        // The window is read again after a crash: 4 is there, without an event.
        letters.append("cars", &[events("dead", &[4, 6])], ends(7), &stop).await.unwrap();
        letters.log("cars", events("retried", &[4, 6]), &stop).await.unwrap();
        letters.log("cars", events("retried", &[6]), &stop).await.unwrap();
        letters.log("cars", events("discarded", &[6]), &stop).await.unwrap();

        let table = letters.table.lock().await;
        assert_eq!(table.schema_version(), DEAD_LETTERS_VERSION);
        assert!(table.arrow_schema().unwrap().column_with_name("event_at").is_some());
        let mut found = Vec::new();
        let wanted = [(lane.clone(), 4), (lane.clone(), 6)];
        scan(&table, &[&[EVENT, FED][..], &RECORD].concat(), &wanted, |batch| {
            found.extend(identities(batch)?.into_iter().map(|(event, _, (_, offset))| (offset, event)));
            Ok(())
        })
        .await
        .unwrap();
        found.sort();
        let found: Vec<_> = found.iter().map(|(offset, event)| (*offset, event.as_str())).collect();
        assert_eq!(found, [(4, "dead"), (4, "retried"), (6, "dead"), (6, "discarded"), (6, "retried")]);
    }
}
