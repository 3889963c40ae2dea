//! Positions: the next Kafka offset per partition, and how Delta's `txn` actions hold them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One partition in one life of its topic. A topic deleted and made again is a new incarnation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: Arc<str>,
    /// Which life of the topic: 0, 1, 2 …
    pub incarnation: u32,
    /// Partition number.
    pub partition: i32,
}

impl TopicPartition {
    /// The Delta application id of this partition in `table`: `{table}/{topic}#{incarnation}/{partition}`.
    pub fn app_id(&self, table: &str) -> String {
        format!("{table}/{}#{}/{}", self.topic, self.incarnation, self.partition)
    }

    /// The inverse of [`TopicPartition::app_id`]; `None` for an application id of another table or kind.
    pub fn from_app_id(table: &str, app_id: &str) -> Option<Self> {
        let (topic, rest) = app_id.strip_prefix(table)?.strip_prefix('/')?.split_once('#')?;
        let (incarnation, partition) = rest.split_once('/')?;
        Some(Self { topic: topic.into(), incarnation: incarnation.parse().ok()?, partition: partition.parse().ok()? })
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}/{}", self.topic, self.incarnation, self.partition)
    }
}

/// Next offset to read, per partition.
pub type Positions = BTreeMap<TopicPartition, i64>;

/// How far a window moves one partition: the offsets `start..end`, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The position before.
    pub start: i64,
    /// The position after.
    pub end: i64,
    /// The partition is younger than the table: it has no position in the table yet.
    pub young: bool,
}

/// The moves of a window, per partition.
pub type Moves = BTreeMap<TopicPartition, Move>;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn application_ids_round_trip(topic in "[a-zA-Z0-9._-]{1,40}", incarnation: u32, partition in 0..10_000i32) {
            let lane = TopicPartition { topic: topic.as_str().into(), incarnation, partition };
            prop_assert_eq!(TopicPartition::from_app_id("t_1", &lane.app_id("t_1")), Some(lane.clone()));
            prop_assert_eq!(TopicPartition::from_app_id("t", &lane.app_id("t_1")), None);
        }
    }
}
