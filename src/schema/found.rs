//! What decoding found at payload paths that no column knows: the input of a schema version's successor.

use super::{ColumnType, Path};

/// The kinds of JSON values seen at one path, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observed(u8);

impl Observed {
    /// `true` or `false`.
    pub const BOOLEAN: Self = Self(1);
    /// Written as an integer, within 64 bits signed.
    pub const INTEGER: Self = Self(2);
    /// Written as an integer, beyond 64 bits signed.
    pub const BIG_INTEGER: Self = Self(4);
    /// Written with a fraction or an exponent.
    pub const REAL: Self = Self(8);
    /// A string.
    pub const STRING: Self = Self(16);
    /// An array, or an object too deep to be flattened.
    pub const NESTED: Self = Self(32);

    /// Kinds of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The narrowest column type that keeps every value seen: `bigint`; `double` once a real was among numbers
    /// (an integer beyond ±2^53 is rescued there); `boolean`; `json` once an array was seen; else `string`,
    /// which takes every scalar as text: mixed kinds, and integers beyond 64 bits, keep all their digits.
    pub fn column_type(self) -> ColumnType {
        let within = |kinds: u8| self.0 & !kinds == 0;
        if self.0 & Self::NESTED.0 != 0 {
            ColumnType::Json
        } else if self == Self::BOOLEAN {
            ColumnType::Boolean
        } else if self == Self::INTEGER {
            ColumnType::Int64
        } else if self.0 & Self::REAL.0 != 0 && within(Self::INTEGER.0 | Self::BIG_INTEGER.0 | Self::REAL.0) {
            ColumnType::Double
        } else {
            ColumnType::String
        }
    }
}

/// Values found at a payload path that no column knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The payload path.
    pub path: Path,
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
    /// Adds what another batch found at the same path; the earlier one's position and sample stay.
    pub fn merge(&mut self, other: &Found) {
        if other.place() < self.place() {
            (self.partition, self.offset, self.at_byte) = other.place();
            self.sample.clone_from(&other.sample);
        }
        self.observed = self.observed.and(other.observed);
        self.rows += other.rows;
    }

    pub(super) fn place(&self) -> (i32, i64, u32) {
        (self.partition, self.offset, self.at_byte)
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
