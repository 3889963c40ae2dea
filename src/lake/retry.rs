//! Rows of dead letters that can be decoded by now, into the table that would have them: exactly once.
//!
//! They lie below the table's positions, so no position can guard them. Instead each commit raises the number of
//! `<table>/retry` by one, so of two that race from one snapshot only one lands; the other looks again, and leaves out
//! the records whose rows are there.

use arrow::array::RecordBatch;
use futures::future::BoxFuture;

use super::commit::{self, CommitError};
use super::flush::evolve;
use super::positions::Positions;
use super::side::without_records;
use super::table::{Table, TableError, retry_app_id};
use crate::task::{Shutdown, failpoint};

/// Appends those of `rows`, in the columns of `schema_version`, whose record has no row in `table` yet. All must lie
/// below the table's positions: the stream brings the others. Returns once every row is in the table.
pub async fn retry(
    table: &mut Table,
    rows: RecordBatch,
    schema_version: u32,
    stop: &Shutdown,
) -> Result<(), CommitError> {
    if rows.num_rows() > 0 {
        evolve(table, rows.schema_ref(), schema_version, stop).await?;
        let counter = retry_app_id(table.name());
        commit::commit_once(table, &counter, rows, stop, without_held).await?;
    }
    failpoint::hit("after_retry");
    Ok(())
}

fn without_held<'a>(
    table: &'a Table,
    _: &'a Positions,
    rows: &'a RecordBatch,
) -> BoxFuture<'a, Result<RecordBatch, TableError>> {
    Box::pin(without_records(table, rows, |_| true))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray};
    use arrow::datatypes::Schema;
    use object_store::memory::InMemory;

    use super::*;
    use crate::lake::identity::{RECORD, record_ids, scan};
    use crate::lake::store::testing::stores;
    use crate::lake::{Lake, PUBLIC};

    fn rows(offsets: &[i64]) -> RecordBatch {
        let columns: [(&str, ArrayRef); 4] = [
            (RECORD[0], Arc::new(StringArray::from(vec!["t"; offsets.len()]))),
            (RECORD[1], Arc::new(Int32Array::from(vec![0; offsets.len()]))),
            (RECORD[2], Arc::new(Int32Array::from(vec![3; offsets.len()]))),
            (RECORD[3], Arc::new(Int64Array::from(offsets.to_vec()))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let schema = batch.schema();
        let fields: Vec<_> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec()).unwrap()
    }

    async fn held(table: &Table) -> Vec<i64> {
        let mut held = Vec::new();
        let wanted = record_ids(&rows(&[0, 1, 2, 3, 4, 5, 6, 7])).unwrap();
        scan(table, &RECORD, &wanted, |batch| {
            held.extend(record_ids(batch)?.into_iter().map(|(_, offset)| offset));
            Ok(())
        })
        .await
        .unwrap();
        held.sort_unstable();
        held
    }

    #[tokio::test]
    async fn of_two_retries_that_race_each_row_lands_once() {
        let lake = Lake::new(stores(Arc::new(InMemory::new())));
        let schema = rows(&[]).schema();
        let mut one = commit::create(&lake, PUBLIC, "cars", &schema, &[], 1, &Positions::new()).await.unwrap();
        // Both look at the same snapshot before either commits.
        let (mut other, mut third, stop) = (one.clone(), one.clone(), Shutdown::new());
        retry(&mut one, rows(&[1, 2, 3]), 1, &stop).await.unwrap();
        retry(&mut other, rows(&[2, 3, 4, 5]), 1, &stop).await.unwrap();
        assert_eq!(held(&other).await, [1, 2, 3, 4, 5]);
        retry(&mut third, rows(&[1, 5]), 1, &stop).await.unwrap();
        retry(&mut third, rows(&[1, 5]), 1, &stop).await.unwrap();
        third.refresh().await.unwrap();
        assert_eq!(held(&third).await, [1, 2, 3, 4, 5]);
        assert_eq!(third.version(), other.version(), "nothing was left to write");
        assert_eq!(third.positions_of("cars"), Positions::new(), "the counter is no position");
    }
}
