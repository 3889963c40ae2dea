//! Keys and their slots.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Keys, numbered in the order they came: the number of a key is its slot.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: HashTable<u32>,
    keys: Vec<Box<[u8]>>,
    hasher: RandomState,
    key_bytes: usize,
}

impl Index {
    /// The slot of a key that is known.
    pub fn get(&self, key: &[u8]) -> Option<usize> {
        let is_key = |slot: &u32| *self.keys[*slot as usize] == *key;
        self.slots.find(self.hasher.hash_one(key), is_key).map(|slot| *slot as usize)
    }

    /// The slot of a key; a new one's is behind all others.
    pub fn slot(&mut self, key: &[u8]) -> usize {
        let Self { slots, keys, hasher, key_bytes } = self;
        let is_key = |slot: &u32| *keys[*slot as usize] == *key;
        let hash = |slot: &u32| hasher.hash_one(&*keys[*slot as usize]);
        match slots.entry(hasher.hash_one(key), is_key, hash) {
            Entry::Occupied(known) => *known.get() as usize,
            Entry::Vacant(free) => {
                let slot = keys.len();
                free.insert(slot as u32);
                keys.push(key.into());
                *key_bytes += key.len();
                slot
            }
        }
    }

    /// The key of a slot.
    pub fn key(&self, slot: usize) -> &[u8] {
        &self.keys[slot]
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>() + self.keys.capacity() * size_of::<Box<[u8]>>() + self.key_bytes
    }
}
