//! What can happen, as those who notice it tell it.

use chrono::{DateTime, Utc};

/// Changes named in one message; more are counted.
const CHANGES_NAMED: usize = 50;

/// The kind of an event: a word of `[[notify]] on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// A table's schema version changed.
    SchemaChange,
    /// Records could not become rows.
    DeadLetter,
    /// A topic is no longer read, or is read again.
    SourceStalled,
    /// The lake no longer takes rows, or takes them again.
    LakeStalled,
    /// A sink no longer takes messages, or takes them again.
    SinkFailing,
    /// A table that a query makes anew could not be made, or is made again.
    ScheduleFailed,
}

/// One thing that happened, or several of one kind to one thing.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// [`EventKind::SchemaChange`]
    SchemaChange(SchemaChange),
    /// [`EventKind::DeadLetter`]
    DeadLetters(DeadLetters),
    /// [`EventKind::SourceStalled`], [`EventKind::LakeStalled`], [`EventKind::SinkFailing`] or
    /// [`EventKind::ScheduleFailed`]
    Trouble(Trouble),
}

/// Where a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordAt {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// A table went from one schema version to a later one.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaChange {
    /// The table.
    pub table: String,
    /// Schema version before.
    pub before: u32,
    /// Schema version after.
    pub after: u32,
    /// What changed.
    pub changes: Vec<Change>,
    /// Changes beyond those, when many were told together.
    pub more: u64,
    /// Rows of the table since the process started.
    pub rows: u64,
}

/// One column's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What was done: `add`, `widen`, `conflict`, `contract`.
    pub change: &'static str,
    /// The column.
    pub column: String,
    /// Its type now.
    pub column_type: String,
    /// Where its values come from.
    pub path: String,
    /// The first record that asked for it, if one did.
    pub first: Option<RecordAt>,
    /// A value of it.
    pub sample: Option<String>,
}

/// Records of a table that could not become rows.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetters {
    /// The table.
    pub table: String,
    /// How many.
    pub count: u64,
    /// Reason of the first: a code.
    pub reason: String,
    /// The same in words.
    pub message: String,
    /// The first.
    pub first: RecordAt,
}

/// Something does not work, or works again.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    /// What does not.
    pub with: TroubleWith,
    /// Tables it concerns.
    pub tables: Vec<String>,
    /// Why.
    pub reason: String,
    /// When it began.
    pub since: DateTime<Utc>,
    /// True if it is over.
    pub over: bool,
}

/// What may not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TroubleWith {
    /// Reading a topic.
    Topic(String),
    /// Writing to the lake.
    Lake,
    /// Delivering to a sink.
    Sink(String),
    /// Making the table of a query.
    Query(String),
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::SchemaChange,
        Self::DeadLetter,
        Self::SourceStalled,
        Self::LakeStalled,
        Self::SinkFailing,
        Self::ScheduleFailed,
    ];

    /// The word for it in `[[notify]]`, in messages and in `system.news`.
    pub fn word(self) -> &'static str {
        match self {
            Self::SchemaChange => "schema_change",
            Self::DeadLetter => "dead_letter",
            Self::SourceStalled => "source_stalled",
            Self::LakeStalled => "lake_stalled",
            Self::SinkFailing => "sink_failing",
            Self::ScheduleFailed => "schedule_failed",
        }
    }
}

impl Event {
    /// Its kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::SchemaChange(_) => EventKind::SchemaChange,
            Self::DeadLetters(_) => EventKind::DeadLetter,
            Self::Trouble(Trouble { with: TroubleWith::Topic(_), .. }) => EventKind::SourceStalled,
            Self::Trouble(Trouble { with: TroubleWith::Lake, .. }) => EventKind::LakeStalled,
            Self::Trouble(Trouble { with: TroubleWith::Sink(_), .. }) => EventKind::SinkFailing,
            Self::Trouble(Trouble { with: TroubleWith::Query(_), .. }) => EventKind::ScheduleFailed,
        }
    }

    /// To what it happened: a table, a topic, a sink, or the lake.
    pub fn subject(&self) -> &str {
        match self {
            Self::SchemaChange(change) => &change.table,
            Self::DeadLetters(dead) => &dead.table,
            Self::Trouble(Trouble { with, .. }) => match with {
                TroubleWith::Topic(name) | TroubleWith::Sink(name) | TroubleWith::Query(name) => name,
                TroubleWith::Lake => "lake",
            },
        }
    }

    /// Tables it concerns.
    pub fn tables(&self) -> &[String] {
        match self {
            Self::SchemaChange(change) => std::slice::from_ref(&change.table),
            Self::DeadLetters(dead) => std::slice::from_ref(&dead.table),
            Self::Trouble(trouble) => &trouble.tables,
        }
    }

    /// Takes in a later event of the same kind and subject.
    pub(super) fn fold(&mut self, later: Self) {
        match (self, later) {
            (Self::SchemaChange(told), Self::SchemaChange(later)) => {
                told.after = later.after;
                told.rows = later.rows;
                let named = CHANGES_NAMED.saturating_sub(told.changes.len()).min(later.changes.len());
                told.more += later.more + (later.changes.len() - named) as u64;
                told.changes.extend(later.changes.into_iter().take(named));
            }
            (Self::DeadLetters(told), Self::DeadLetters(later)) => told.count += later.count,
            (told, later) => *told = later,
        }
    }
}
