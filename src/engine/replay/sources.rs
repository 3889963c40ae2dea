//! Where records are read from once more: Kafka, or what is kept of them as they came.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use tokio::sync::mpsc;

use crate::decode::{Records, raw_schema, records_of};
use crate::engine::lanes::lane_of;
use crate::error::{Error, Kind, Result};
use crate::lake::{self, Positions, Table};
use crate::schema::conform;
use crate::source::{Consumer, Kafka, KafkaOptions, Reader, ReaderState};
use crate::task::{Budget, Charge, Shutdown};

/// While nothing comes it is asked this often whether something can.
const LOOK: Duration = Duration::from_secs(1);
/// Batches that wait.
const DELIVERIES: usize = 4;

/// Records, what they hold in memory, and how far that is of all.
pub struct Piece {
    /// The records.
    pub records: Records,
    /// What they hold.
    pub charge: Charge,
    /// What is read by then …
    pub read: u64,
    /// … of so much.
    pub all: u64,
}

/// Who takes the pieces.
pub type Take = mpsc::Sender<Piece>;

async fn hand(take: &Take, piece: Piece) -> Result<()> {
    take.send(piece).await.map_err(|_| Error::new(Kind::Unavailable, "nobody takes the records"))
}

/// Hands out the records that lie in `raw` as they came, those below `until`.
pub async fn from_raw(raw: &Table, until: &Positions, budget: &Budget, take: &Take) -> Result<()> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Error::new(Kind::Internal, format!("table {} cannot be read: {error}", raw.name()))
    };
    let all = raw.rows().map_err(|error| unreadable(&error))?;
    let mut read = 0;
    let mut batches = lake::all_rows(raw).map_err(|error| unreadable(&error))?;
    while let Some(batch) = batches.try_next().await.map_err(|error| unreadable(&error))? {
        let rows = conform(&batch, &raw_schema()).map_err(|error| unreadable(&error))?;
        read += rows.num_rows() as u64;
        for records in records_of(&rows).map_err(|error| unreadable(&error))? {
            let Some(end) = until.get(&lane_of(&records)) else { continue };
            let records = records.below_position(*end);
            let charge = budget.charge(records.size_bytes());
            hand(take, Piece { records, charge, read, all }).await?;
        }
    }
    Ok(())
}

/// Hands out the records of `topics` that Kafka holds, those below `until`, of the life of each topic that `until` is of.
pub async fn from_kafka(
    options: &KafkaOptions,
    name: &str,
    topics: &[String],
    until: &Positions,
    budget: &Budget,
    take: &Take,
) -> Result<()> {
    let mut asked = Vec::new();
    for topic in topics {
        let lanes = until.iter().filter(|(lane, _)| *lane.topic == **topic);
        let Some(life) = lanes.clone().map(|(lane, _)| lane.incarnation).max() else { continue };
        let ends: BTreeMap<i32, i64> =
            lanes.filter(|(lane, _)| lane.incarnation == life).map(|(lane, end)| (lane.partition, *end)).collect();
        let (options, named) = (options.clone(), topic.clone());
        let held = tokio::task::spawn_blocking(move || {
            let kafka = Kafka::new(options)?;
            let there = kafka.partitions(&named)?;
            let there = there.ok_or_else(|| Error::new(Kind::NotFound, format!("kafka has no topic {named}")))?;
            let held = kafka.watermarks(&named, &there)?;
            Ok::<_, Error>((kafka, held))
        });
        let (kafka, held) =
            held.await.map_err(|error| Error::new(Kind::Internal, "asking kafka failed").because(error))??;
        // Nothing lies beyond the end of a partition: it is another topic by now, and holds none of these records.
        let mine = held.iter().filter_map(|(partition, held)| {
            let end = ends.get(partition).filter(|end| **end <= held.high)?;
            (held.low < *end).then_some((*partition, (held.low, *end)))
        });
        asked.push((kafka, topic, life, mine.collect::<BTreeMap<i32, (i64, i64)>>(), held));
    }
    let all = asked.iter().flat_map(|(_, _, _, spans, _)| spans.values()).map(|(low, end)| low.abs_diff(*end)).sum();
    let mut read = 0;
    for (kafka, topic, life, spans, held) in asked {
        if spans.is_empty() {
            continue;
        }
        let (sender, mut deliveries) = mpsc::channel(DELIVERIES);
        // What lies behind is not wanted: those partitions are read from their ends, which need not be exact.
        let start = |(partition, held): (&i32, &crate::source::Watermarks)| {
            (*partition, spans.get(partition).map_or(held.high, |(low, _)| *low))
        };
        let positions = held.iter().map(start).collect();
        let consumer = Consumer { name: name.to_owned(), positions, sender };
        let (stop, budget) = (Shutdown::new(), budget.at_most(budget.limit_bytes() / 2));
        let _stopped = stop.clone().drop_guard();
        let reader = Reader::start(&kafka, topic, life, vec![consumer], &BTreeMap::new(), budget, &stop)?;
        let mut open = spans.clone();
        while !open.is_empty() {
            let delivery = tokio::select! {
                delivery = tokio::time::timeout(LOOK, deliveries.recv()) => delivery,
                () = take.closed() => return Err(Error::new(Kind::Unavailable, "nobody takes the records")),
            };
            let delivery = match delivery {
                Ok(Some(delivery)) => delivery,
                Ok(None) => return Err(stopped(&reader, name, topic)),
                Err(_) if reader.status().of(name).is_some_and(|status| status.state == ReaderState::Stopped) => {
                    return Err(stopped(&reader, name, topic));
                }
                Err(_) => continue,
            };
            let (partition, end) = (delivery.records.partition, delivery.records.end);
            let Some((from, until)) = open.get_mut(&partition) else { continue };
            let records = delivery.records.below_position(*until);
            read += from.abs_diff(end.min(*until));
            *from = end;
            if end >= *until {
                open.remove(&partition);
            }
            hand(take, Piece { records, charge: delivery.charge, read, all }).await?;
        }
        reader.stop();
        tokio::task::spawn_blocking(move || reader.join()).await.ok();
    }
    Ok(())
}

fn stopped(reader: &Reader, name: &str, topic: &str) -> Error {
    let status = reader.status();
    let reason = status.of(name).and_then(|status| status.error.clone()).unwrap_or_default();
    Error::new(Kind::Unavailable, format!("topic {topic} cannot be read any more: {reason}"))
}
