//! Records that Kafka has lost before a table could read them, from what the lake keeps of them as they came.
//!
//! A table may be behind what Kafka still holds: it was paused or restored, or the process was away too long. If a raw table
//! of its topic has each of the offsets in between, they are handed to the table as if Kafka had sent them, and then it
//! reads on. If one is missing nobody can tell whether there ever was such a record: then the table stops, as without.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::open_table;
use crate::decode::{raw_schema, records_of};
use crate::error::{Error, Kind, Result};
use crate::lake::{Lake, PUBLIC, Positions, RecordSet, Table, TopicPartition, rows_between};
use crate::schema::{Contract, conform};
use crate::source::{Delivery, Watermarks};
use crate::task::{Budget, Shutdown};

/// Offsets that are read at once.
const AT_ONCE: i64 = 20_000;
/// Pause while there is no room, and before the lake is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Records of one partition that Kafka does not hold, and the table that does.
pub struct Span {
    raw: Table,
    lane: TopicPartition,
    from: i64,
    to: i64,
}

/// What a table that stands at `positions` misses of what Kafka holds, if the lake has all of that; nothing if it misses
/// nothing, or not all of it is there.
pub async fn missing(
    lake: &Lake,
    contract: &Contract,
    contracts: &[Arc<Contract>],
    positions: &Positions,
    held: &BTreeMap<String, BTreeMap<i32, Watermarks>>,
) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for (lane, from) in positions {
        let low = held.get(&*lane.topic).and_then(|held| held.get(&lane.partition)).map(|held| held.low);
        let Some(to) = low.filter(|low| from < low) else { continue };
        let Some(raw) = raw_with(lake, contract, contracts, lane, (*from, to)).await? else { return Ok(Vec::new()) };
        spans.push(Span { raw, lane: lane.clone(), from: *from, to });
    }
    Ok(spans)
}

/// A raw table that has all records of a partition between two offsets.
async fn raw_with(
    lake: &Lake,
    contract: &Contract,
    contracts: &[Arc<Contract>],
    lane: &TopicPartition,
    (from, to): (i64, i64),
) -> Result<Option<Table>> {
    let of_topic = contracts.iter().filter(|other| other.topics.iter().any(|topic| **topic == *lane.topic));
    // One that takes only some of the topic's records keeps only those.
    let usable = of_topic.filter(|other| other.table == contract.table || other.matches.is_empty());
    for name in usable.filter_map(|other| other.raw_table()) {
        let Some(raw) = open_table(lake, PUBLIC, &name).await? else { continue };
        if RecordSet::has_all(&raw, lane, from..to).await.map_err(super::unreadable)? {
            return Ok(Some(raw));
        }
    }
    Ok(None)
}

/// Hands the records of `spans` to the table at the other end of `sender`; false if stopped before.
pub async fn hand_out(
    name: &str,
    spans: Vec<Span>,
    sender: mpsc::Sender<Delivery>,
    budget: &Budget,
    stop: &Shutdown,
) -> bool {
    for Span { raw, lane, from, to } in spans {
        let (topic, partition, raw_table) = (&*lane.topic, lane.partition, &**raw.name());
        info!(
            table = name,
            topic, partition, from, to, raw_table, "kafka has lost records, they are read from the lake"
        );
        let mut next = from;
        while next < to {
            let end = to.min(next + AT_ONCE);
            let delivery = match records(&raw, &lane, (next, end), budget).await {
                Ok(delivery) => delivery,
                Err(error) => {
                    warn!(table = name, error = %error, "records not read from the lake, trying again");
                    if stop.run_until_cancelled(tokio::time::sleep(PAUSE * 10)).await.is_none() {
                        return false;
                    }
                    continue;
                }
            };
            while !budget.wait_for_room(Duration::ZERO) {
                if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                    return false;
                }
            }
            match stop.run_until_cancelled(sender.send(delivery)).await {
                Some(Ok(())) => next = end,
                _ => return false,
            }
        }
    }
    true
}

async fn records(raw: &Table, lane: &TopicPartition, (from, to): (i64, i64), budget: &Budget) -> Result<Delivery> {
    let broken = |error: &dyn std::fmt::Display| {
        Error::new(Kind::Unavailable, format!("table {} cannot be read: {error}", raw.name()))
    };
    let rows = rows_between(raw, lane, from..to, None).await.map_err(|error| broken(&error))?;
    let rows: std::result::Result<Vec<RecordBatch>, _> = rows.iter().map(|rows| conform(rows, &raw_schema())).collect();
    let rows = rows.and_then(|rows| concat_batches(&raw_schema(), &rows)).map_err(|error| broken(&error))?;
    let found = records_of(&rows).map_err(|error| broken(&error))?;
    let mut found = found.into_iter().filter(|found| (found.start, found.end) == (from, to));
    let records = found.next().ok_or_else(|| broken(&"records are missing"))?;
    let charge = budget.charge(records.size_bytes());
    Ok(Delivery { records, charge, received_at: Instant::now() })
}
