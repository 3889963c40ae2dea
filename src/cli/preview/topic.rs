//! The newest records of a topic, for whoever wants to see what is in it. Nothing is committed anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::cli::produce::no_topic;
use crate::decode::Records;
use crate::error::{Error, Kind, Result};
use crate::schema::Format;
use crate::source::{Consumer, Kafka, Reader, Registry, Watermarks};
use crate::task::{Budget, Shutdown};

/// Batches that wait to be looked at.
const BATCHES: usize = 16;
/// How long nothing may come while something is missing.
const PATIENCE: Duration = Duration::from_secs(10);
/// What looking at records may hold of them.
pub(super) const MOST_BYTES: usize = 1 << 30;

/// The newest records of `topic`, `limit` at most, spread over its partitions, and how many it holds in all.
pub(super) async fn newest(
    kafka: Kafka,
    registry: Option<(Registry, Format)>,
    topic: &str,
    limit: usize,
) -> Result<(Vec<Records>, u64)> {
    let (asked, name) = (kafka.clone(), topic.to_owned());
    let held = tokio::task::spawn_blocking(move || -> Result<_> {
        let partitions = asked.partitions(&name)?.ok_or_else(|| no_topic(&name))?;
        asked.watermarks(&name, &partitions)
    });
    let held = held.await.map_err(|error| Error::new(Kind::Internal, "asking kafka failed").because(error))??;
    let all = held.values().map(|held| (held.high - held.low).cast_unsigned()).sum();
    let mut positions = starts(&held, limit as u64);
    let ends: BTreeMap<i32, i64> = held.iter().map(|(partition, held)| (*partition, held.high)).collect();

    let (sender, mut deliveries) = mpsc::channel(BATCHES);
    let consumer = Consumer { name: "preview".to_owned(), positions: positions.clone(), sender };
    let (held, budget) = (BTreeMap::new(), Budget::new(MOST_BYTES));
    let reader = Reader::start(&kafka, topic, 0, vec![consumer], &held, budget, &Shutdown::new())?;
    let (mut batches, mut bytes) = (Vec::new(), 0);
    while positions.iter().any(|(partition, position)| *position < ends[partition]) && bytes < MOST_BYTES {
        let Ok(Some(delivery)) = tokio::time::timeout(PATIENCE, deliveries.recv()).await else {
            let status = reader.status().shared;
            let reason = status.error.unwrap_or_else(|| format!("nothing came within {} s", PATIENCE.as_secs()));
            return Err(
                Error::new(Kind::Unavailable, format!("topic \"{topic}\" cannot be read to its end")).because(reason)
            );
        };
        let records = delivery.records;
        positions.insert(records.partition, records.end);
        // What came since the topic's end was asked for is not looked at.
        let records = records.below_position(ends.get(&records.partition).copied().unwrap_or(0));
        bytes += records.size_bytes();
        batches.push(match &registry {
            Some((registry, format)) => registry.with_schemas(records, *format).await.map_err(|(_, trouble)| {
                Error::new(Kind::Unavailable, "the schemas of the records cannot be had").because(trouble)
            })?,
            None => records,
        });
    }
    Ok((batches, all))
}

/// Where to begin in each partition to see `limit` records in all: of small partitions everything, of the others
/// alike many.
fn starts(held: &BTreeMap<i32, Watermarks>, limit: u64) -> BTreeMap<i32, i64> {
    let mut smallest: Vec<_> = held.iter().collect();
    smallest.sort_by_key(|(partition, held)| (held.high - held.low, **partition));
    let (mut left, mut partitions) = (limit, smallest.len() as u64);
    let start = |(partition, held): (&i32, &Watermarks)| {
        let share = (left / partitions).min((held.high - held.low).cast_unsigned());
        (left, partitions) = (left - share, partitions - 1);
        (*partition, held.high - share.cast_signed())
    };
    smallest.into_iter().map(start).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_many_as_asked_for_are_looked_at_and_each_partition_has_its_share(
            sizes in prop::collection::vec((0..50_i64, 0..1_000_i64), 1..12),
            limit in 0..3_000_u64,
        ) {
            let held: BTreeMap<i32, Watermarks> = (0..)
                .zip(&sizes)
                .map(|(partition, (low, size))| (partition, Watermarks { low: *low, high: low + size }))
                .collect();
            let starts = starts(&held, limit);
            let taken: Vec<i64> = held.iter().map(|(partition, held)| held.high - starts[partition]).collect();
            let all: i64 = sizes.iter().map(|(_, size)| size).sum();
            prop_assert_eq!(taken.iter().sum::<i64>(), all.min(limit.cast_signed()));
            let least = (limit / sizes.len() as u64).cast_signed();
            prop_assert!(taken.iter().zip(&sizes).all(|(taken, (_, size))| (least.min(*size)..=*size).contains(taken)));
        }
    }
}
