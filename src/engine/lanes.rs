//! The partitions that a table is fed from, how far it was followed, and the SQL of what lies between.

use std::sync::{Arc, Weak};

use super::catalog::EngineCatalog;
use super::dead_letters::literal;
use crate::decode::Records;
use crate::lake::{HotBatch, Positions, TopicPartition, View};
use crate::schema::fixed;
use crate::source::{PartitionStatus, ReaderState};

impl EngineCatalog {
    /// The partitions that a table is fed from, each with its reader's state. `None` until all are known: one of its topics
    /// is there and was not asked for them yet.
    pub fn lanes(&self, table: &str) -> Option<Vec<(TopicPartition, PartitionStatus, ReaderState)>> {
        if let Some((lane, timed)) = self.upstream(table).find_map(|table| self.stream_queries.results_of(&table)) {
            let (position, high_watermark, asked_at_us) = (timed.shown, Some(timed.shown), timed.clock);
            let at = PartitionStatus { position, high_watermark, asked_at_us, ..PartitionStatus::default() };
            return Some(vec![(lane, at, ReaderState::Reading)]);
        }
        let mut lanes = Vec::new();
        let Some(contract) = self.contract(table) else { return Some(lanes) };
        let readers = self.readers.read();
        for topic in &contract.topics {
            let (incarnation, status) = readers.get(topic)?;
            let status = status();
            let reader = status.of(&contract.table)?;
            if reader.partitions.is_empty() && reader.state != ReaderState::WaitingForTopic {
                return None;
            }
            for (partition, at) in &reader.partitions {
                let (topic, incarnation, partition) = (topic.as_str().into(), *incarnation, *partition);
                lanes.push((TopicPartition { topic, incarnation, partition }, *at, reader.state));
            }
        }
        Some(lanes)
    }
}

/// The partition that `records` are of.
pub fn lane_of(records: &Records) -> TopicPartition {
    TopicPartition { topic: Arc::clone(&records.topic), incarnation: records.incarnation, partition: records.partition }
}

/// Whether what lies below `end` was seen.
pub fn has_seen(seen: &Positions, lane: &TopicPartition, end: i64) -> bool {
    seen.get(lane).is_some_and(|seen| *seen >= end)
}

/// All below `end` is seen.
pub fn see(seen: &mut Positions, lane: &TopicPartition, end: i64) {
    let at = seen.entry(lane.clone()).or_insert(end);
    *at = end.max(*at);
}

/// What comes next of a table.
pub fn end(view: &View) -> Positions {
    let mut end = view.positions.clone();
    view.hot.iter().for_each(|hot| see(&mut end, &hot.lane, hot.end));
    end
}

/// The hot batches that came after `last`, the oldest first; all if that is not hot any more.
pub fn after<'a>(view: &'a View, last: &Weak<HotBatch>) -> &'a [Arc<HotBatch>] {
    let last = view.hot.iter().rposition(|hot| std::ptr::eq(Arc::as_ptr(hot), last.as_ptr()));
    &view.hot[last.map_or(0, |last| last + 1)..]
}

/// Where more is committed than was seen.
pub fn behind(seen: &Positions, view: &View) -> Vec<TopicPartition> {
    let positions = view.positions.iter();
    positions.filter(|(lane, end)| !has_seen(seen, lane, **end)).map(|(lane, _)| lane.clone()).collect()
}

/// SQL that is true of rows of these lanes from where `from` ends, up to where `to` does, if it says.
pub fn between(lanes: &[TopicPartition], from: &Positions, to: &Positions) -> String {
    let lane = |lane: &TopicPartition| {
        let end = to.get(lane).map(|end| format!(" AND {} < {end}", fixed::OFFSET)).unwrap_or_default();
        format!(
            "({} = {} AND {} = {} AND {} = {} AND {} >= {}{end})",
            fixed::TOPIC,
            literal(&lane.topic),
            fixed::INCARNATION,
            lane.incarnation,
            fixed::PARTITION,
            lane.partition,
            fixed::OFFSET,
            from.get(lane).copied().unwrap_or(0)
        )
    };
    lanes.iter().map(lane).collect::<Vec<_>>().join(" OR ")
}
