//! What decoding found that the schema version does not hold: the input of its successor.

use std::sync::Arc;

use super::{ColumnType, Path};

/// The kinds of JSON values seen at one path, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observed(u8);

impl Observed {
    /// `true` or `false`.
    pub const BOOLEAN: Self = Self(1);
    /// Written as an integer, within ±2⁵³: a double, too.
    pub const INTEGER: Self = Self(2);
    /// Written as an integer, beyond 64 bits signed.
    pub const BIG_INTEGER: Self = Self(4);
    /// Written with a fraction or an exponent.
    pub const REAL: Self = Self(8);
    /// A string.
    pub const STRING: Self = Self(16);
    /// An array, or an object too deep to be flattened.
    pub const NESTED: Self = Self(32);
    /// Written as an integer, within 64 bits signed but beyond ±2⁵³.
    pub const LONG: Self = Self(64);
    /// A string that is a timestamp. Looked for only where a date was expected.
    pub const TIMESTAMP: Self = Self(128);

    /// Kinds of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The kinds that `other` does not have.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// True if some kind of `other` was seen.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The narrowest column type that keeps every value seen: `bigint`; `double` once a real was among numbers
    /// (an integer beyond ±2^53 is rescued there); `boolean`; `json` once an array was seen; else `string`,
    /// which takes every scalar as text: mixed kinds, and integers beyond 64 bits, keep all their digits.
    pub fn column_type(self) -> ColumnType {
        let integers = Self::INTEGER.and(Self::LONG);
        let numbers = integers.and(Self::BIG_INTEGER).and(Self::REAL);
        let within = |kinds: Self| self.has(kinds) && self.without(kinds) == Self::default();
        if self.has(Self::NESTED) {
            ColumnType::Json
        } else if self == Self::BOOLEAN {
            ColumnType::Boolean
        } else if within(integers) {
            ColumnType::Int64
        } else if self.has(Self::REAL) && within(numbers) {
            ColumnType::Double
        } else {
            ColumnType::String
        }
    }
}

/// Values found at a payload path that no column knows, or that its column could not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The payload path.
    pub path: Path,
    /// Topic of the first record that has it.
    pub topic: Arc<str>,
    /// Kinds of the values.
    pub observed: Observed,
    /// Partition of the first record that has it.
    pub partition: i32,
    /// Offset of the first record that has it.
    pub offset: i64,
    /// Where in that record's payload its value begins, in bytes.
    pub at_byte: u32,
    /// Number of rows that have it.
    pub rows: u64,
    /// The first value's JSON text, cut to 100 characters.
    pub sample: String,
}

impl Found {
    /// Adds a row's value; `sample` writes it, and is asked for the first one only.
    pub(crate) fn see(&mut self, observed: Observed, sample: impl FnOnce() -> String) {
        self.observed = self.observed.and(observed);
        self.rows += 1;
        if self.rows == 1 {
            self.sample = sample();
        }
    }

    /// Adds what another batch found at the same path; the earlier one's position and sample stay.
    pub fn merge(&mut self, other: &Found) {
        if other.place() < self.place() {
            self.topic = Arc::clone(&other.topic);
            (self.partition, self.offset, self.at_byte) = (other.partition, other.offset, other.at_byte);
            self.sample.clone_from(&other.sample);
        }
        self.observed = self.observed.and(other.observed);
        self.rows += other.rows;
    }

    pub(super) fn place(&self) -> (&str, i32, i64, u32) {
        (&self.topic, self.partition, self.offset, self.at_byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_seen_decide_the_type() {
        for (kinds, expected) in [
            (&[Observed::BOOLEAN][..], ColumnType::Boolean),
            (&[Observed::INTEGER], ColumnType::Int64),
            (&[Observed::LONG], ColumnType::Int64),
            (&[Observed::INTEGER, Observed::LONG], ColumnType::Int64),
            (&[Observed::LONG, Observed::REAL], ColumnType::Double),
            (&[Observed::LONG, Observed::BOOLEAN], ColumnType::String),
            (&[], ColumnType::String),
            (&[Observed::REAL], ColumnType::Double),
            (&[Observed::INTEGER, Observed::REAL], ColumnType::Double),
            (&[Observed::BIG_INTEGER, Observed::REAL], ColumnType::Double),
            (&[Observed::BIG_INTEGER], ColumnType::String),
            (&[Observed::INTEGER, Observed::BIG_INTEGER], ColumnType::String),
            (&[Observed::STRING], ColumnType::String),
            (&[Observed::STRING, Observed::INTEGER], ColumnType::String),
            (&[Observed::BOOLEAN, Observed::INTEGER], ColumnType::String),
            (&[Observed::NESTED], ColumnType::Json),
            (&[Observed::NESTED, Observed::STRING, Observed::REAL], ColumnType::Json),
        ] {
            let all = kinds.iter().fold(Observed::default(), |all, kind| all.and(*kind));
            assert_eq!(all.column_type(), expected, "{kinds:?}");
        }
    }
}
