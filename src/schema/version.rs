//! A numbered schema version of a table, and its Arrow form.

use super::{ColumnType, Path};

/// Names of the columns every events table has.
pub mod fixed {
    /// When it happened: timestamp(µs, UTC), never null.
    pub const EVENT_TIME: &str = "event_time";
    /// Topic name, string.
    pub const TOPIC: &str = "_topic";
    /// Which life of the topic, int.
    pub const INCARNATION: &str = "_incarnation";
    /// Kafka partition, int.
    pub const PARTITION: &str = "_partition";
    /// Kafka offset, long.
    pub const OFFSET: &str = "_offset";
    /// Index of the row within its record, int.
    pub const ROW: &str = "_row";
    /// The broker's timestamp: timestamp(µs, UTC).
    pub const TIMESTAMP: &str = "_timestamp";
    /// Number of the schema version that decoded the row, int.
    pub const SCHEMA_VERSION: &str = "_schema_version";
    /// JSON object of values that fitted no column, by path; null if none. String.
    pub const RESCUED: &str = "_rescued";
    /// Partition column of the Delta table: date.
    pub const DAY: &str = "_day";
}

/// A column of a schema version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Column name.
    pub name: String,
    /// Where values come from.
    pub path: Path,
    /// Type of its values.
    pub kind: ColumnType,
}

/// One accepted form of a table's rows. The Arrow form has the key columns first, then `event_time`, the
/// other [`fixed`] columns with `_day` last, then the remaining columns in the order they were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaVersion {
    /// 1, 2, 3 …
    pub number: u32,
    /// How many of `columns` are key columns (they lead).
    pub keys: usize,
    /// The user's columns without the fixed ones.
    pub columns: Vec<Column>,
}
