//! Which records a Delta table holds: what a commit that may repeat another leaves out.
//!
//! Only files whose statistics do not rule the wanted offsets out are read, and of those only the named columns.

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::error::ArrowError;
use futures::TryStreamExt;
use serde::Deserialize;
use std::collections::HashSet;
use std::hash::Hash;

use super::file_rows::rows_of;
use super::positions::{Positions, TopicPartition};
use super::table::{Table, TableError};

/// A Kafka record.
pub type RecordId = (TopicPartition, i64);

/// The columns that name a record, in every table that is fed by Kafka.
pub(super) const RECORD: [&str; 4] = ["_topic", "_incarnation", "_partition", "_offset"];

/// The record of each row of `batch`, which has the columns of [`RECORD`].
pub fn record_ids(batch: &RecordBatch) -> Result<Vec<RecordId>, ArrowError> {
    let column = |name: &str| {
        let missing = || ArrowError::SchemaError(format!("column {name} is missing"));
        batch.column_by_name(name).ok_or_else(missing)
    };
    let topic = column(RECORD[0])?.as_string::<i32>();
    let incarnation = column(RECORD[1])?.as_primitive::<Int32Type>();
    let partition = column(RECORD[2])?.as_primitive::<Int32Type>();
    let offset = column(RECORD[3])?.as_primitive::<Int64Type>();
    let record = |at: usize| {
        let lane = TopicPartition {
            topic: topic.value(at).into(),
            incarnation: incarnation.value(at).cast_unsigned(),
            partition: partition.value(at),
        };
        (lane, offset.value(at))
    };
    Ok((0..batch.num_rows()).map(record).collect())
}

/// Hands `visit` the `columns` of all rows of `table` that may be of `wanted` records, and of some others.
pub(super) async fn scan(
    table: &Table,
    columns: &[&str],
    wanted: &[RecordId],
    mut visit: impl FnMut(&RecordBatch) -> Result<(), TableError> + Send,
) -> Result<(), TableError> {
    let mut offsets: Vec<i64> = wanted.iter().map(|(_, offset)| *offset).collect();
    offsets.sort_unstable();
    let snapshot = table.snapshot()?;
    for file in snapshot.log_data().iter().filter(|file| may_hold(file.stats().as_deref(), &offsets)) {
        let mut batches = rows_of(table, &file, Some(columns)).await?;
        while let Some(batch) = batches.try_next().await? {
            visit(&batch)?;
        }
    }
    Ok(())
}

/// `rows` without those that `table` holds already, by what `identities` makes of their `columns`; only those of records
/// that `may_be_held` are looked for, each record being the part `record` of an identity.
pub(super) async fn leave_out<I: Eq + Hash + Send + Sync>(
    table: &Table,
    rows: &RecordBatch,
    columns: &[&str],
    identities: fn(&RecordBatch) -> Result<Vec<I>, TableError>,
    record: fn(&I) -> &RecordId,
    may_be_held: impl Fn(&RecordId) -> bool + Send,
) -> Result<RecordBatch, TableError> {
    let wanted = identities(rows)?;
    let asked: Vec<RecordId> = wanted.iter().map(record).filter(|record| may_be_held(record)).cloned().collect();
    if asked.is_empty() {
        return Ok(rows.clone());
    }
    // Of a file that holds one of them all rows are read: a merged one has those of a day.
    let sought: HashSet<&I> = wanted.iter().filter(|id| may_be_held(record(id))).collect();
    let mut held: HashSet<I> = HashSet::new();
    scan(table, columns, &asked, |batch| {
        held.extend(identities(batch)?.into_iter().filter(|id| sought.contains(id)));
        Ok(())
    })
    .await?;
    let keep: BooleanArray = wanted.iter().map(|id| Some(!(may_be_held(record(id)) && held.contains(id)))).collect();
    Ok(filter_record_batch(rows, &keep)?)
}

/// True of records below a table's `own` positions: what lies at or above them cannot be there.
pub(super) fn below(own: &Positions) -> impl Fn(&RecordId) -> bool + Send + '_ {
    move |(lane, offset)| own.get(lane).is_some_and(|position| offset < position)
}

/// Whether a file may hold one of `offsets`, which are sorted.
fn may_hold(stats: Option<&str>, offsets: &[i64]) -> bool {
    let Some((least, greatest)) = bounds(stats) else { return true };
    let first = offsets.partition_point(|offset| *offset < least);
    offsets.get(first).is_some_and(|offset| *offset <= greatest)
}

/// The least and the greatest offset of a file, if its statistics tell.
pub(super) fn bounds(stats: Option<&str>) -> Option<(i64, i64)> {
    #[derive(Deserialize)]
    struct Bound {
        #[serde(rename = "_offset")]
        offset: i64,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stats {
        min_values: Bound,
        max_values: Bound,
    }
    let stats: Stats = serde_json::from_str(stats?).ok()?;
    Some((stats.min_values.offset, stats.max_values.offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_unless_its_statistics_rule_it_out() {
        let stats = r#"{"numRecords":3,"minValues":{"car":"a","_offset":10},"maxValues":{"car":"b","_offset":20}}"#;
        for (offsets, read) in
            [(&[10][..], true), (&[20], true), (&[3, 15, 99], true), (&[9, 21], false), (&[], false), (&[21], false)]
        {
            assert_eq!(may_hold(Some(stats), offsets), read, "{offsets:?}");
        }
        for unknown in [None, Some("{}"), Some(r#"{"minValues":{"_offset":1},"maxValues":{}}"#), Some("garbage")] {
            assert!(may_hold(unknown, &[5]), "{unknown:?}");
        }
    }
}
