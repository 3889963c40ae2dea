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
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::open_table;
use crate::decode::{raw_schema, records_of};
use crate::error::{Error, Kind};
use crate::lake::{Lake, PUBLIC, Positions, RecordSet, Table, TopicPartition, rows_between};
use crate::schema::{Contract, conform};
use crate::source::{Delivery, Watermarks};
use crate::task::{Budget, Shutdown};

/// So many offsets are read at first …
const FIRST: i64 = 256;
/// … and then as many as are about so many bytes.
const BYTES: i64 = 8 << 20;
/// Pause before the lake is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Records of one partition that Kafka does not hold.
#[derive(Debug, Clone)]
pub struct Span {
    lane: TopicPartition,
    from: i64,
    to: i64,
}

/// A table that misses records which Kafka does not hold any more.
pub struct Missing {
    /// Its name.
    pub table: String,
    spans: Vec<Span>,
    /// Raw tables that may have them.
    raw: Vec<String>,
    sender: mpsc::Sender<Delivery>,
}

/// What a table that stands at `positions` misses of what Kafka holds, and who may have it; the sender back if it misses nothing,
/// or nobody may.
pub fn missing(
    contract: &Contract,
    contracts: &[Arc<Contract>],
    positions: &Positions,
    held: &BTreeMap<String, BTreeMap<i32, Watermarks>>,
    sender: mpsc::Sender<Delivery>,
) -> Result<Missing, mpsc::Sender<Delivery>> {
    let low = |lane: &TopicPartition| Some(held.get(&*lane.topic)?.get(&lane.partition)?.low);
    let span = |(lane, from): (&TopicPartition, &i64)| {
        let to = low(lane).filter(|low| from < low)?;
        Some(Span { lane: lane.clone(), from: *from, to })
    };
    let spans: Vec<Span> = positions.iter().filter_map(span).collect();
    let shares =
        |other: &&Arc<Contract>| spans.iter().any(|span| other.topics.iter().any(|topic| **topic == *span.lane.topic));
    // One that takes only some of the topic's records keeps only those.
    let usable =
        contracts.iter().filter(shares).filter(|other| other.table == contract.table || other.matches.is_empty());
    let raw: Vec<String> = usable.filter_map(|other| other.raw_table()).collect();
    match spans.is_empty() || raw.is_empty() {
        true => Err(sender),
        false => Ok(Missing { table: contract.table.clone(), spans, raw, sender }),
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All is handed out.
    Done,
    /// Some of it is nowhere.
    Torn,
    Stopped,
}

impl Missing {
    /// Hands the records to the table, if all of them are there.
    pub async fn hand_out(self, lake: &Lake, budget: &Budget, stop: &Shutdown) -> End {
        let mut sources = Vec::new();
        for span in &self.spans {
            match self.raw_with(lake, span).await {
                Ok(Some(raw)) => sources.push((span.clone(), raw)),
                Ok(None) => return End::Torn,
                Err(error) => {
                    warn!(table = self.table, error = %error, "raw records cannot be read");
                    return End::Torn;
                }
            }
        }
        for (Span { lane, from, to }, raw) in sources {
            let (table, topic, partition, raw_table) = (&self.table, &*lane.topic, lane.partition, &**raw.name());
            info!(table, topic, partition, from, to, raw_table, "kafka has lost records, they are read from the lake");
            let (mut next, mut at_once) = (from, FIRST);
            while next < to {
                let end = to.min(next + at_once);
                let delivery = match records(&raw, &lane, (next, end), budget).await {
                    Ok(delivery) => delivery,
                    Err(error) => {
                        warn!(table, error = %error, "records not read from the lake, trying again");
                        if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                            return End::Stopped;
                        }
                        continue;
                    }
                };
                // As many the next time as make a batch of about this size.
                let bytes = delivery.records.size_bytes().max(1);
                at_once = (at_once * BYTES / bytes as i64).clamp(1, at_once * 4);
                if stop.run_until_cancelled(budget.room()).await.is_none() {
                    return End::Stopped;
                }
                match stop.run_until_cancelled(self.sender.send(delivery)).await {
                    Some(Ok(())) => next = end,
                    _ => return End::Stopped,
                }
            }
        }
        End::Done
    }

    /// A raw table that has all records of a span.
    async fn raw_with(&self, lake: &Lake, span: &Span) -> crate::error::Result<Option<Table>> {
        for name in &self.raw {
            let Some(raw) = open_table(lake, PUBLIC, name).await? else { continue };
            let has_all = RecordSet::has_all(&raw, &span.lane, span.from..span.to).await;
            if has_all.map_err(super::unreadable)? {
                return Ok(Some(raw));
            }
        }
        Ok(None)
    }
}

async fn records(
    raw: &Table,
    lane: &TopicPartition,
    (from, to): (i64, i64),
    budget: &Budget,
) -> crate::error::Result<Delivery> {
    let broken = |error: &dyn std::fmt::Display| {
        Error::new(Kind::Unavailable, format!("table {} cannot be read: {error}", raw.name()))
    };
    let rows = rows_between(raw, lane, from..to, None).map_err(|error| broken(&error))?;
    let rows: Vec<RecordBatch> = rows.try_collect().await.map_err(|error| broken(&error))?;
    let rows: std::result::Result<Vec<RecordBatch>, _> = rows.iter().map(|rows| conform(rows, &raw_schema())).collect();
    let rows = rows.and_then(|rows| concat_batches(&raw_schema(), &rows)).map_err(|error| broken(&error))?;
    let found = records_of(&rows).map_err(|error| broken(&error))?;
    let mut found = found.into_iter().filter(|found| (found.start, found.end) == (from, to));
    let records = found.next().ok_or_else(|| broken(&"records are missing"))?;
    let charge = budget.charge(records.size_bytes());
    Ok(Delivery { records, charge, received_at: Instant::now() })
}
