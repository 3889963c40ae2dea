//! Where a change stands among all changes of its table.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A change's place: run of the connector, epoch, token in it, then where it stands in Kafka. Greater is newer, equal is
/// the same change again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Order {
    /// When the run of the connector began, in milliseconds since 1970; 0 if that is not known. A run sends again what
    /// the one before may not have sent, in order, and a snapshot anew: whatever it says is newer.
    pub run_ms: u64,
    /// Number of the log that the token is a place in; 0 where the source tells none.
    pub epoch: u32,
    /// The token's numbers.
    pub token: [u64; 3],
    /// Incarnation of the topic and partition.
    pub lane: (u32, i32),
    /// Offset in the partition.
    pub offset: i64,
    /// Index of the row in its record.
    pub row: i32,
}

impl Order {
    /// Length of [`Self::to_bytes`].
    pub(super) const BYTES: usize = 56;

    /// Before all that the snapshot told which this change was part of, and after all that was told before it. A
    /// connector that begins anew says so by its run; where that is not known, a snapshot is of one place in the log.
    pub(super) fn before_snapshot(self) -> Self {
        let (epoch, token) = if self.run_ms > 0 { (0, [0; 3]) } else { (self.epoch, self.token) };
        Self { run_ms: self.run_ms, epoch, token, lane: (0, i32::MIN), offset: i64::MIN, row: i32::MIN }
    }

    /// To be read by [`Self::from_bytes`].
    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (life, partition) = self.lane;
        let wide = [self.run_ms, self.token[0], self.token[1], self.token[2], self.offset.cast_unsigned()];
        let narrow = [self.epoch, life, partition.cast_unsigned(), self.row.cast_unsigned()];
        let wide = wide.into_iter().flat_map(u64::to_be_bytes);
        bytes
            .iter_mut()
            .zip(wide.chain(narrow.into_iter().flat_map(u32::to_be_bytes)))
            .for_each(|(to, from)| *to = from);
        bytes
    }

    /// The order that these bytes are of; `None` if they are of another length.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let wide = |at: usize| Some(u64::from_be_bytes(bytes.get(at * 8..at * 8 + 8)?.try_into().ok()?));
        let narrow = |at: usize| Some(u32::from_be_bytes(bytes.get(40 + at * 4..44 + at * 4)?.try_into().ok()?));
        Some(Self {
            run_ms: wide(0)?,
            epoch: narrow(0)?,
            token: [wide(1)?, wide(2)?, wide(3)?],
            lane: (narrow(1)?, narrow(2)?.cast_signed()),
            offset: wide(4)?.cast_signed(),
            row: narrow(3)?.cast_signed(),
        })
    }
}

/// The epochs met so far, numbered from 1 in the order they were met.
#[derive(Debug, Default)]
pub(super) struct Epochs(HashMap<String, u32>);

impl Epochs {
    /// Their names, in this order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<(&String, &u32)> = self.0.iter().collect();
        names.sort_by_key(|(_, number)| **number);
        names.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// The number of an epoch; a new one comes after all others.
    pub fn number(&mut self, name: &str) -> u32 {
        match self.0.get(name) {
            Some(number) => *number,
            None => {
                let number = self.0.len() as u32 + 1;
                self.0.insert(name.to_owned(), number);
                number
            }
        }
    }
}

/// When a run began: its name is a UUID that says so (version 7), or 0.
pub(super) fn run_ms(name: &str) -> u64 {
    let uuid = uuid::Uuid::parse_str(name).ok().filter(|uuid| uuid.get_version_num() == 7);
    uuid.map_or(0, |uuid| u64::try_from(uuid.as_u128() >> 80).unwrap_or(0))
}

/// The numbers of a token's text, which `decode` writes; of one in another form, none.
pub(super) fn token(text: &str) -> [u64; 3] {
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(text.split('.')) {
        *number = u64::from_str_radix(part, 16).unwrap_or(0);
    }
    numbers
}
