//! The contract of an events table, as written in `schemas/<table>.toml` (parsed by `config`).

use std::time::Duration;

use chrono_tz::Tz;

/// Everything a person declared about one events table.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    /// Table name = the file's stem.
    pub table: String,
    /// Topics that feed the table, at least one.
    pub topics: Vec<String>,
    /// Where the first run begins.
    pub start: Start,
    /// Key columns; they come first in the table.
    pub key: Vec<String>,
    /// Where `event_time` comes from; the broker's timestamp if `None`.
    pub time: Option<EventTime>,
    /// A path prefix that names leave out (`"vehicle."`), as path parts.
    pub strip: Vec<String>,
    /// What happens to a path no column knows.
    pub on_new_field: OnNewField,
    /// What happens to a value that does not fit its column.
    pub on_type_conflict: OnTypeConflict,
    /// Declared columns, in file order.
    pub columns: Vec<ColumnContract>,
    /// Overrides `[lake] commit_interval`.
    pub commit_interval: Option<Duration>,
    /// The project's zone: days of `_day`, and timestamps without a zone.
    pub timezone: Tz,
}

/// `start = "earliest" | "latest" | "<RFC 3339 timestamp>"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest record Kafka still has.
    Earliest,
    /// Only records that arrive after the first start.
    Latest,
    /// The first record at or after this time, in milliseconds since 1970.
    At(i64),
}

/// `time = { path = …, format = … }`.
#[derive(Debug, Clone, PartialEq)]
pub struct EventTime {
    /// Where the value stands.
    pub path: Path,
    /// How it is written.
    pub format: TimeFormat,
}

/// How a timestamp is written in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339 text.
    Rfc3339,
    /// A number of seconds since 1970 (fractions allowed).
    UnixSeconds,
    /// A number of milliseconds since 1970.
    UnixMillis,
    /// A number of microseconds since 1970.
    UnixMicros,
    /// A pattern of Java's DateTimeFormatter, such as `EEE MMM dd HH:mm:ss z yyyy`.
    Pattern(String),
}

impl TimeFormat {
    /// Reads `format`. Whether a pattern can be read is the decode room's business (`check_time_format`).
    pub fn parse(text: &str) -> Self {
        match text {
            "rfc3339" => Self::Rfc3339,
            "unix_s" => Self::UnixSeconds,
            "unix_ms" => Self::UnixMillis,
            "unix_us" => Self::UnixMicros,
            pattern => Self::Pattern(pattern.to_owned()),
        }
    }
}

/// `on_new_field`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNewField {
    /// A new column, in a new schema version.
    Add,
    /// The value goes to `_rescued`.
    Rescue,
}

/// `on_type_conflict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTypeConflict {
    /// Where a wider type loses nothing, a successor column of it takes the value and all later ones; else as
    /// `Rescue`.
    Widen,
    /// A successor column of strings takes the value and all later ones.
    String,
    /// The value goes to `_rescued`, the column is null.
    Rescue,
    /// The record becomes a dead letter.
    DeadLetter,
}

/// `[columns.<name>]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnContract {
    /// Column name.
    pub name: String,
    /// Where its value comes from; `None`: the payload path whose derived name is `name`.
    pub path: Option<Path>,
    /// Declared type; inferred if `None`.
    pub kind: Option<ColumnType>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// Object keys from the payload's root.
    Value(Vec<String>),
    /// `$key`: the message key as text; `$key.path`: inside a JSON key (parts not empty).
    Key(Vec<String>),
    /// `$header.<name>`, as text.
    Header(String),
    /// `$topic`.
    Topic,
    /// `$timestamp`: the broker's timestamp.
    Timestamp,
}

/// Types of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// `boolean`
    Boolean,
    /// `bigint`: 64-bit signed
    Int64,
    /// `double`: IEEE 754 64-bit
    Double,
    /// `string`
    String,
    /// `json`: JSON text in a string column (arrays, too deep objects)
    Json,
    /// `timestamp`: microseconds, UTC
    Timestamp,
    /// `date`: days since 1970
    Date,
}
