//! Bytes to Arrow: Kafka records of one partition become rows of a table's schema version, dead letters,
//! and the list of what was new. Pure and synchronous: no clock, no I/O, no Kafka, no Delta, no DataFusion.
//!
//! ```text
//! Record ─ scan (validate, byte ranges) ─ walk (trie) ─ select ─ draft ─ fit (types) ─ rows ─ RecordBatch
//!    └── writer (Avro and Protobuf to JSON text)  └── a value that is as its column is: straight ──┘
//! ```
//! * Values are put into their columns while the record is read; `rows` takes back those of a record that turns out to
//!   be a dead letter or a skip.
//! * A record is all or nothing: it becomes rows, one dead letter, or a counted skip (invariant 3). It may be an
//!   object, an array of objects, or several objects one after the other; each is a row, `_row` is its index.
//! * Objects are flattened to eight levels; an object deeper than that is one `json` value, and so is an array unless
//!   it is a list of scalars of one kind. `[arrays.…]` of the contract may have an array read as an object (pivot,
//!   first) or its elements as rows of a child table ([`Decoder::with_children`]).
//! * Of a path that a message has twice the last value counts. An empty object is nothing.
//! * A value that does not fit its column (`fit` says when), or whose path no column knows, goes to `_rescued` as it
//!   was written; both are reported as [`Found`](crate::schema::Found). So a batch is complete as it is: whether a new
//!   schema version is made (with a column, or with a wider successor of one) and the batch decoded again is the
//!   caller's choice. Of columns that succeed each other only the newest is written.
//! * A key or `not_null` column without a value, or with one that does not fit, makes a dead letter; so does any
//!   misfit if `on_type_conflict = "dead_letter"`. New fields never do. A `default` stands for what is absent or null.
//! * `event_time` is read from the contract's `time`, whose path is no column of its own unless declared. A
//!   missing or null value means the broker's timestamp; so does an unreadable one, which is a misfit.
//! * What is written to a batch depends on the records, the contract and the schema version alone: any split of
//!   the records into batches gives the same rows.

mod change;
mod dead;
mod decoder;
mod draft;
mod file;
mod fit;
mod import;
mod pattern;
mod plan;
mod raw;
mod records;
mod rows;
mod scan;
mod select;
mod split;
mod time;
mod trie;
mod walk;
mod writer;

pub use dead::{DeadLetter, Event, Reason, dead_letters_batch, dead_letters_schema, events_batch, records_of};
pub use decoder::{Child, Decoded, Decoder, Skip};
pub use file::{FileError, rows_of_csv, rows_of_json};
pub use fit::is_value;
pub use import::{FileReader, FileRows, Fitter, Packing, WRITTEN_KEY, as_written};
pub use raw::raw_schema;
pub use records::{FULL_LOAD, Header, Record, Records, RecordsBuilder};
pub use split::{Objects, objects};
pub use time::check_time_format;
pub use writer::{SchemaText, WriterSchema, WriterSchemas, schema_id};

#[cfg(test)]
pub(crate) mod tests;
