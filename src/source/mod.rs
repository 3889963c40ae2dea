//! Kafka to batches of payloads: partitions, positions, back-pressure. Knows nothing of parsing or Delta.
//!
//! ```text
//!                       ┌ control thread: main queue, metadata, high watermarks, status
//! Reader (one per topic)┤
//!                       ├ data thread: partition queues ─ batches ─┬─ consumer a (from its position)
//!                       │                                          └─ consumer b (from its position)
//!                       └ the same two threads again for consumer c, which is far behind ─ joins a and b when near
//! ```
//!
//! * No consumer group: partitions come from metadata and are assigned at our own positions.
//! * Consumers near each other share a client that starts at their minimum; who is far behind catches up with a
//!   client of its own, and then joins (`join.rs`). Each consumer's batches start exactly at its own position and
//!   are contiguous, over the join too: `start` equals the previous `end`, over compaction gaps and markers as well.
//! * Back-pressure by bytes: every delivery carries a charge on a shared budget; while the budget or a
//!   consumer's channel is full nothing is polled, librdkafka's own queues fill up to their bound and fetching
//!   ends. The control thread goes on polling, so nothing times out, and everything resumes by itself.
//! * Nothing is skipped silently: a position that Kafka no longer holds, or a message set that cannot be read,
//!   stops those who share the reader with an error that names the way out. An unreachable broker or a missing topic is waited for.

mod client;
mod context;
mod control;
mod fanout;
mod fault;
mod join;
mod kafka;
mod pump;
mod reader;
mod start;
mod status;
#[cfg(test)]
mod tests;

pub use fanout::{Consumer, Delivery};
pub use kafka::{Kafka, KafkaOptions, Watermarks};
pub use reader::Reader;
pub use start::{Start, resolve_start};
pub use status::{PartitionStatus, ReaderState, ReaderStatus, TopicStatus};
