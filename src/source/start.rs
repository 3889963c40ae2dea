//! Where a table starts to read a partition it has no position for.

use std::collections::BTreeMap;

use super::Kafka;
use crate::error::{Error, Kind, Result};

/// Where to begin without a position: the `start` option of a schema file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The lowest offset Kafka holds.
    Earliest,
    /// Behind what Kafka holds now.
    Latest,
    /// The first record at or after this time, in milliseconds since 1970; behind the end if there is none.
    AtMillis(i64),
}

/// The positions for all of `partitions`: those `known` as they are, the others resolved by `start`. Blocks.
///
/// Resolved positions must be made durable before they are read from, or `Latest` means another place after a crash.
pub fn resolve_start(
    kafka: &Kafka,
    topic: &str,
    partitions: &[i32],
    known: &BTreeMap<i32, i64>,
    start: Start,
) -> Result<BTreeMap<i32, i64>> {
    let missing: Vec<i32> = partitions.iter().copied().filter(|p| !known.contains_key(p)).collect();
    let mut positions = known.clone();
    if missing.is_empty() {
        return Ok(positions);
    }
    let held = kafka.watermarks(topic, &missing)?;
    let at_time = match start {
        Start::AtMillis(millis) => kafka.offsets_for_time(topic, &missing, millis)?,
        Start::Earliest | Start::Latest => BTreeMap::new(),
    };
    for partition in missing {
        let Some(held) = held.get(&partition) else {
            let text = format!("kafka does not say what partition {partition} of topic \"{topic}\" holds");
            return Err(Error::new(Kind::Unavailable, text));
        };
        let position = match start {
            Start::Earliest => held.low,
            Start::Latest => held.high,
            Start::AtMillis(_) => at_time.get(&partition).copied().unwrap_or(held.high),
        };
        positions.insert(partition, position);
    }
    Ok(positions)
}
