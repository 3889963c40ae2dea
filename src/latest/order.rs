//! Where a change stands among all changes of its table.

use std::collections::HashMap;

/// A change's place: run of the connector, epoch, token in it, then where it stands in Kafka. Greater is newer, equal is
/// the same change again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// The epochs met so far, numbered from 1 in the order they were met.
#[derive(Debug, Default)]
pub(super) struct Epochs(HashMap<String, u32>);

impl Epochs {
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
