//! A batch of a table of changes: the key, the order and the kind of each row, and what it tells.

use arrow::array::{Array, AsArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::error::ArrowError;

use super::key::{KeyForm, Keys};
use super::order::{Epochs, Order, token};
use super::shape::Shape;
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

/// Columns that a state needs of a table of changes beside the values.
pub fn needed_columns() -> [&'static str; 8] {
    [
        fixed::INCARNATION,
        fixed::PARTITION,
        fixed::OFFSET,
        fixed::ROW,
        change::OP,
        change::EPOCH,
        change::TOKEN,
        change::UNCHANGED,
    ]
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
    ops: &'a StringArray,
    epochs: &'a StringArray,
    tokens: &'a StringArray,
    unchanged: &'a ListArray,
    keys: Keys,
    old_keys: Option<Keys>,
}

impl<'a> Reader<'a> {
    pub fn new(batch: &'a RecordBatch, form: &KeyForm, shape: &Shape) -> Result<Self, LatestError> {
        let column = |name: &'static str| batch.column_by_name(name).ok_or(LatestError::Column(name));
        let int = |name| column(name)?.as_primitive_opt::<Int32Type>().ok_or(LatestError::Column(name));
        let text = |name| column(name)?.as_string_opt::<i32>().ok_or(LatestError::Column(name));
        let offset = fixed::OFFSET;
        Ok(Self {
            incarnations: int(fixed::INCARNATION)?,
            partitions: int(fixed::PARTITION)?,
            offsets: column(offset)?.as_primitive_opt::<Int64Type>().ok_or(LatestError::Column(offset))?,
            rows: int(fixed::ROW)?,
            ops: text(change::OP)?,
            epochs: text(change::EPOCH)?,
            tokens: text(change::TOKEN)?,
            unchanged: column(change::UNCHANGED)?.as_list_opt().ok_or(LatestError::Column(change::UNCHANGED))?,
            keys: form.of(batch, &shape.key)?.ok_or(LatestError::Column("key"))?,
            old_keys: form.of(batch, &shape.old_key)?,
        })
    }

    /// What a row says.
    pub fn said(&self, row: usize) -> Said<'_> {
        let op = if self.ops.is_valid(row) { self.ops.value(row) } else { "" };
        match (op, self.keys.get(row)) {
            ("t", _) => Said::Truncated,
            ("c" | "u" | "r", Some(key)) => {
                let old_key = self.old_keys.as_ref().and_then(|keys| keys.get(row)).filter(|old| *old != key);
                Said::Row { key, old_key }
            }
            ("d", Some(key)) => Said::Deleted { key },
            ("x", Some(key)) => Said::Tombstone { key },
            _ => Said::Nothing,
        }
    }

    /// Where a row stands among all changes.
    pub fn order(&self, row: usize, epochs: &mut Epochs) -> Order {
        let text = |array: &'a StringArray| array.is_valid(row).then(|| array.value(row));
        Order {
            epoch: text(self.epochs).map_or(0, |name| epochs.number(name)),
            token: text(self.tokens).map_or([0; 3], token),
            lane: (self.incarnations.value(row).cast_unsigned(), self.partitions.value(row)),
            offset: self.offsets.value(row),
            row: self.rows.value(row),
        }
    }

    /// Which columns a row tells; `None`: all of them.
    pub fn told(&self, row: usize, shape: &Shape) -> Option<Vec<bool>> {
        let names = self.unchanged.is_valid(row).then(|| self.unchanged.value(row))?;
        let names = names.as_string_opt::<i32>()?;
        let is_unchanged = |field: &Option<String>| names.iter().flatten().any(|name| Some(name) == field.as_deref());
        Some(shape.fields.iter().map(|field| !is_unchanged(field)).collect())
    }
}
