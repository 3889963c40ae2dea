//! What decoding found that the schema version does not hold: the input of its successor.

use std::sync::Arc;

use super::{ColumnType, Element, Path};

/// The kinds of values at one path, as a set: seen in messages, or declared by a writer schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observed(u32);

impl Observed {
    /// `true` or `false`.
    pub const BOOLEAN: Self = Self(1);
    /// Written as an integer, within ±2⁵³: a double, too.
    pub const INTEGER: Self = Self(1 << 1);
    /// Written as an integer, within 64 bits signed but beyond ±2⁵³.
    pub const LONG: Self = Self(1 << 2);
    /// Written as an integer, beyond 64 bits signed.
    pub const BIG_INTEGER: Self = Self(1 << 3);
    /// Written with a fraction or an exponent.
    pub const REAL: Self = Self(1 << 4);
    /// A string.
    pub const STRING: Self = Self(1 << 5);
    /// A timestamp: declared by a writer schema, or a string that reads as one where timestamps are looked for: with
    /// `infer_timestamps`, and where a date was expected.
    pub const TIMESTAMP: Self = Self(1 << 6);
    /// An object too deep to be flattened, or an array that holds an array or object.
    pub const NESTED: Self = Self(1 << 7);
    /// An array of scalars and nulls; of what kinds, the upper half says.
    const LIST: Self = Self(1 << 8);
    /// A date; only a writer schema knows it from a string.
    pub const DATE: Self = Self(1 << 9);
    const ELEMENTS: u32 = 16;

    const INTEGERS: Self = Self(Self::INTEGER.0 | Self::LONG.0);
    const NUMBERS: Self = Self(Self::INTEGERS.0 | Self::BIG_INTEGER.0 | Self::REAL.0);

    /// An array of scalars of these kinds; of none, if it holds nothing but nulls.
    #[must_use]
    pub fn list_of(elements: Self) -> Self {
        Self(Self::LIST.0 | elements.0 << Self::ELEMENTS)
    }

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

    /// The kinds that are neither objects nor arrays.
    #[must_use]
    pub fn scalars(self) -> Self {
        self.kinds().without(Self::NESTED.and(Self::LIST))
    }

    /// True if some kind of `other` was seen.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The narrowest column type that keeps every value seen: `bigint`; `double` once a real was among numbers
    /// (an integer beyond ±2^53 is rescued there); `boolean`; `timestamp`; `date`; else `string`, which takes every
    /// scalar as text: mixed kinds, and integers beyond 64 bits, keep all their digits. Arrays of scalars of one
    /// kind (integers and reals are one) are lists; arrays of several kinds, and arrays beside scalars, `json`.
    pub fn column_type(self) -> ColumnType {
        if self.has(Self::NESTED) {
            ColumnType::Json
        } else if self.has(Self::LIST) {
            self.element().filter(|_| self.kinds() == Self::LIST).map_or(ColumnType::Json, ColumnType::List)
        } else if self == Self::BOOLEAN {
            ColumnType::Boolean
        } else if self.is_only(Self::INTEGERS) {
            ColumnType::Int64
        } else if self == Self::TIMESTAMP {
            ColumnType::Timestamp
        } else if self == Self::DATE {
            ColumnType::Date
        } else if self.is_number() {
            ColumnType::Double
        } else {
            ColumnType::String
        }
    }

    /// [`Self::column_type`] of a path declared `as = "list"`: arrays of several kinds are lists of strings.
    pub fn list_type(self) -> ColumnType {
        match self.column_type() {
            ColumnType::Json if self.has(Self::LIST) => ColumnType::List(self.element().unwrap_or(Element::String)),
            kind => kind,
        }
    }

    /// True if nothing was seen that decides a type: only arrays without a value in them.
    pub fn is_undecided(self) -> bool {
        self == Self::LIST
    }

    /// The type that all elements of all arrays seen have in common.
    fn element(self) -> Option<Element> {
        let elements = Self(self.0 >> Self::ELEMENTS);
        if elements == Self::BOOLEAN {
            Some(Element::Boolean)
        } else if elements.is_only(Self::INTEGERS) {
            Some(Element::Int64)
        } else if elements.is_text() {
            Some(Element::String)
        } else {
            elements.is_number().then_some(Element::Double)
        }
    }

    /// The kinds of the values themselves, without those of their elements.
    fn kinds(self) -> Self {
        Self(self.0 & ((1 << Self::ELEMENTS) - 1))
    }

    /// True if something was seen, and nothing but `kinds`.
    fn is_only(self, kinds: Self) -> bool {
        self != Self::default() && self.without(kinds) == Self::default()
    }

    /// True for strings, whatever they read as.
    fn is_text(self) -> bool {
        self.is_only(Self(Self::STRING.0 | Self::TIMESTAMP.0 | Self::DATE.0))
    }

    /// True for numbers of which one is a real.
    fn is_number(self) -> bool {
        self.has(Self::REAL) && self.is_only(Self::NUMBERS)
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
    /// Kinds that a writer schema allows there; empty if none says anything. Then no value need have been seen.
    pub declared: Observed,
    /// Partition of the first record that has it.
    pub partition: i32,
    /// Offset of the first record that has it.
    pub offset: i64,
    /// Where in that record's payload its value begins, in bytes; of a declared field, which of them it is.
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
        self.declared = self.declared.and(other.declared);
        self.rows += other.rows;
    }

    /// The kinds that decide the path's type: what the writers declare, else what was seen.
    pub fn kinds(&self) -> Observed {
        if self.declared == Observed::default() { self.observed } else { self.declared }
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
            (&[Observed::TIMESTAMP], ColumnType::Timestamp),
            (&[Observed::TIMESTAMP, Observed::STRING], ColumnType::String),
            (&[Observed::NESTED], ColumnType::Json),
            (&[Observed::DATE], ColumnType::Date),
            (&[Observed::DATE, Observed::TIMESTAMP], ColumnType::String),
            (&[Observed::list_of(Observed::BOOLEAN)], ColumnType::List(Element::Boolean)),
            (&[Observed::list_of(Observed::INTEGER)], ColumnType::List(Element::Int64)),
            (
                &[Observed::list_of(Observed::STRING), Observed::list_of(Observed::default())],
                ColumnType::List(Element::String),
            ),
            (
                &[Observed::list_of(Observed::INTEGER), Observed::list_of(Observed::REAL)],
                ColumnType::List(Element::Double),
            ),
            (
                &[Observed::list_of(Observed::STRING), Observed::list_of(Observed::DATE.and(Observed::TIMESTAMP))],
                ColumnType::List(Element::String),
            ),
            (&[Observed::list_of(Observed::DATE), Observed::list_of(Observed::INTEGER)], ColumnType::Json),
            (&[Observed::list_of(Observed::BIG_INTEGER)], ColumnType::Json),
            (&[Observed::list_of(Observed::STRING), Observed::list_of(Observed::REAL)], ColumnType::Json),
            (&[Observed::list_of(Observed::REAL), Observed::REAL], ColumnType::Json),
            (&[Observed::list_of(Observed::REAL), Observed::NESTED], ColumnType::Json),
            (&[Observed::list_of(Observed::default())], ColumnType::Json),
            (&[Observed::NESTED, Observed::STRING, Observed::REAL], ColumnType::Json),
        ] {
            let all = kinds.iter().fold(Observed::default(), |all, kind| all.and(*kind));
            assert_eq!(all.column_type(), expected, "{kinds:?}");
        }
        let mixed = Observed::list_of(Observed::STRING).and(Observed::list_of(Observed::REAL));
        assert_eq!(mixed.list_type(), ColumnType::List(Element::String));
        assert_eq!(Observed::REAL.list_type(), ColumnType::Double);
        assert!(Observed::list_of(Observed::default()).is_undecided() && !mixed.is_undecided());
    }

    #[test]
    fn what_the_writers_declare_wins_over_what_was_seen() {
        let find = |declared, observed| Found {
            path: "a".parse().unwrap(),
            topic: "fleet".into(),
            observed,
            declared,
            partition: 0,
            offset: 0,
            at_byte: 0,
            rows: 0,
            sample: String::new(),
        };
        assert_eq!(find(Observed::REAL, Observed::default()).kinds().column_type(), ColumnType::Double);
        let mut merged = find(Observed::TIMESTAMP, Observed::STRING);
        assert_eq!(merged.kinds().column_type(), ColumnType::Timestamp);
        merged.merge(&find(Observed::default(), Observed::INTEGER));
        assert_eq!(merged.kinds().column_type(), ColumnType::Timestamp);
        merged.merge(&find(Observed::INTEGER, Observed::INTEGER));
        assert_eq!(merged.kinds().column_type(), ColumnType::String, "two writers disagree: a string takes both");
    }
}
