//! Bytes to Arrow: Kafka records of one partition become rows of a table's schema version, dead letters,
//! and the list of what was new. Pure and synchronous: no clock, no I/O, no Kafka, no Delta, no DataFusion.
//!
//! ```text
//! Record ─ scan (validate, byte ranges) ─ walk (trie) ─ fit (types) ─ draft (whole record) ─ rows ─ RecordBatch
//! ```
//! * A record is all or nothing: it becomes rows, one dead letter, or a counted skip (invariant 3). It may be an
//!   object, an array of objects, or several objects one after the other; each is a row, `_row` counts them.
//! * Objects are flattened to eight levels; arrays, and objects deeper than that, are one `json` value.
//!   Of a path that a message has twice the last value counts. An empty object is nothing.
//! * A value that does not fit its column, or whose path no column knows, goes to `_rescued` as it was written;
//!   the latter is also reported as [`Found`](crate::schema::Found). So a batch is complete as it is: whether a
//!   new schema version is made and the batch decoded again is the caller's choice.
//! * A key column without a value (once the table has a key) and a key column's misfit make a dead letter; so does
//!   any misfit if `on_type_conflict = "dead_letter"`. New fields never do.
//! * `event_time` is read from the contract's `time`, whose path is no column of its own unless declared. A
//!   missing or null value means the broker's timestamp; so does an unreadable one, which is a misfit.
//! * What is written to a batch depends on the records, the contract and the schema version alone: any split of
//!   the records into batches gives the same rows.

mod dead;
mod decoder;
mod draft;
mod fit;
mod pattern;
mod plan;
mod records;
mod rows;
mod scan;
mod time;
mod trie;
mod walk;

pub use dead::{DeadLetter, Event, Reason, dead_letters_batch, dead_letters_schema, events_batch, records_of};
pub use decoder::{Decoded, Decoder, Skip};
pub use records::{Header, Record, Records, RecordsBuilder};
pub use time::check_time_format;

#[cfg(test)]
pub(crate) mod tests;
