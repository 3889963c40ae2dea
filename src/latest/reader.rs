//! A batch of the table that a state is kept from: the key, the order and the kind of each row, and what it tells.

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;

use super::key::{KeyForm, Keys};
use super::order::{Epochs, Order, run_ms, token};
use super::shape::{Shape, Source};
use crate::schema::{change, fixed};

/// Why a state cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LatestError {
    /// A batch is not of a table of changes; a fault of Millpond.
    #[error("the rows have no column `{0}`")]
    Column(&'static str),
    /// The key of rows that are there would be of another type.
    #[error("the type of a key column changed")]
    Key,
    /// Values cannot be put together; a fault of Millpond.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// The row is so.
    Row { key: &'a [u8], old_key: Option<&'a [u8]> },
    /// There is no such row.
    Deleted { key: &'a [u8] },
    /// Kafka's record of this key was deleted.
    Tombstone { key: &'a [u8] },
    /// The table is empty.
    Truncated,
    /// Nothing that matters here.
    Nothing,
}

/// A batch, prepared.
pub(super) struct Reader<'a> {
    incarnations: &'a Int32Array,
    partitions: &'a Int32Array,
    offsets: &'a Int64Array,
    rows: &'a Int32Array,
    keys: Keys,
    foreign: Option<Keys>,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Changes {
        ops: &'a StringArray,
        runs: &'a StringArray,
        epochs: &'a StringArray,
        tokens: &'a StringArray,
        unchanged: &'a ListArray,
        snapshots: &'a StringArray,
        old_keys: Option<Keys>,
        ignores_deletes: bool,
    },
    Events {
        times: &'a TimestampMicrosecondArray,
        received: &'a TimestampMicrosecondArray,
        /// The columns of a row, if a null in them tells nothing.
        values: Option<Vec<&'a ArrayRef>>,
    },
}

impl<'a> Reader<'a> {
    pub fn new(
        batch: &'a RecordBatch,
        form: &KeyForm,
        foreign: Option<&KeyForm>,
        shape: &Shape,
    ) -> Result<Self, LatestError> {
        let column = |name: &'static str| batch.column_by_name(name).ok_or(LatestError::Column(name));
        let int = |name| column(name)?.as_primitive_opt::<Int32Type>().ok_or(LatestError::Column(name));
        let text = |name| column(name)?.as_string_opt::<i32>().ok_or(LatestError::Column(name));
        let time = |name| column(name)?.as_primitive_opt::<TimestampMicrosecondType>().ok_or(LatestError::Column(name));
        let offset = fixed::OFFSET;
        let kind = match &shape.source {
            Source::Changes { old_key, ignores_deletes } => Kind::Changes {
                ops: text(change::OP)?,
                runs: text(change::RUN)?,
                epochs: text(change::EPOCH)?,
                tokens: text(change::TOKEN)?,
                unchanged: column(change::UNCHANGED)?.as_list_opt().ok_or(LatestError::Column(change::UNCHANGED))?,
                snapshots: text(change::SNAPSHOT)?,
                old_keys: form.of(batch, old_key)?,
                ignores_deletes: *ignores_deletes,
            },
            Source::Events { last_non_null } => {
                let names = shape.columns.fields().iter().map(|field| batch.column_by_name(field.name()));
                let values = last_non_null.then(|| names.collect::<Option<Vec<_>>>()).flatten();
                Kind::Events { times: time(fixed::EVENT_TIME)?, received: time(fixed::TIMESTAMP)?, values }
            }
        };
        Ok(Self {
            incarnations: int(fixed::INCARNATION)?,
            partitions: int(fixed::PARTITION)?,
            offsets: column(offset)?.as_primitive_opt::<Int64Type>().ok_or(LatestError::Column(offset))?,
            rows: int(fixed::ROW)?,
            keys: form.of(batch, &shape.key)?.ok_or(LatestError::Column("key"))?,
            foreign: foreign.map(|form| form.of(batch, &shape.foreign)).transpose()?.flatten(),
            kind,
        })
    }

    /// What a row says.
    pub fn said(&self, row: usize) -> Said<'_> {
        let key = self.keys.get(row);
        let Kind::Changes { ops, old_keys, ignores_deletes, .. } = &self.kind else {
            return key.map_or(Said::Nothing, |key| Said::Row { key, old_key: None });
        };
        let op = if ops.is_valid(row) { ops.value(row) } else { "" };
        match (op, key) {
            ("t" | "d" | "x", _) if *ignores_deletes => Said::Nothing,
            ("t", _) => Said::Truncated,
            ("c" | "u" | "r", Some(key)) => {
                let old_keys = old_keys.as_ref().filter(|_| !*ignores_deletes);
                let old_key = old_keys.and_then(|keys| keys.get(row)).filter(|old| *old != key);
                Said::Row { key, old_key }
            }
            ("d", Some(key)) => Said::Deleted { key },
            ("x", Some(key)) => Said::Tombstone { key },
            _ => Said::Nothing,
        }
    }

    /// True if a row is the last that a snapshot tells of the table.
    pub fn ends_snapshot(&self, row: usize) -> bool {
        let Kind::Changes { ops, snapshots, ignores_deletes: false, .. } = &self.kind else { return false };
        let is = |column: &StringArray, words: &[&str]| column.is_valid(row) && words.contains(&column.value(row));
        is(ops, &["r"]) && is(snapshots, &["last", "last_in_data_collection"])
    }

    /// The key of another table that a row names.
    pub fn foreign(&self, row: usize) -> Option<&[u8]> {
        self.foreign.as_ref()?.get(row)
    }

    /// Where a row stands among all changes.
    pub fn order(&self, row: usize, epochs: &mut Epochs) -> Order {
        let (run_ms, epoch, token) = match &self.kind {
            Kind::Changes { runs, epochs: names, tokens, .. } => (
                if runs.is_valid(row) { run_ms(runs.value(row)) } else { 0 },
                if names.is_valid(row) { epochs.number(names.value(row)) } else { 0 },
                if tokens.is_valid(row) { token(tokens.value(row)) } else { [0; 3] },
            ),
            // A clock that is ahead must not freeze a key: nothing happened after it was received.
            Kind::Events { times, received, .. } => (0, 0, [in_order(times.value(row).min(received.value(row))), 0, 0]),
        };
        Order {
            run_ms,
            epoch,
            token,
            lane: (self.incarnations.value(row).cast_unsigned(), self.partitions.value(row)),
            offset: self.offsets.value(row),
            row: self.rows.value(row),
        }
    }

    /// Which columns a row tells; `None`: all of them.
    pub fn told(&self, row: usize, shape: &Shape) -> Option<Vec<bool>> {
        match &self.kind {
            Kind::Changes { unchanged, .. } => {
                let names = unchanged.is_valid(row).then(|| unchanged.value(row))?;
                let names = names.as_string_opt::<i32>()?;
                let is_unchanged =
                    |field: &Option<String>| names.iter().flatten().any(|name| Some(name) == field.as_deref());
                Some(shape.fields.iter().map(|field| !is_unchanged(field)).collect())
            }
            Kind::Events { values, .. } => {
                values.as_ref().map(|values| values.iter().map(|column| column.is_valid(row)).collect())
            }
        }
    }
}

/// A signed number as one that compares the same without a sign.
fn in_order(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}
