//! Bytes to Arrow: Kafka records of one partition become rows of a table's schema version, dead letters,
//! and the list of what was new. Pure and synchronous: no clock, no I/O, no Kafka, no Delta, no DataFusion.
//!
//! A record is all or nothing: it becomes rows, one dead letter, or a counted skip (invariant 3).

mod records;

pub use records::{Header, Record, Records, RecordsBuilder};
