//! One object of a payload, walked along the trie: where each known path's value stands, and what is unknown.

use std::borrow::Cow;

use super::{
    scan::{Cursor, Fault, Kind, Slot, unescape},
    trie::Trie,
};
use crate::schema::push_part;

/// Parts of the longest path that is flattened; an object there becomes one JSON value.
pub(super) const MAX_LEVELS: usize = 8;

/// Where the values of one row stand, before their types are looked at. Of a path met twice the last counts.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// By source.
    pub slots: Vec<Slot>,
    /// Sources that were met, in order.
    pub touched: Vec<u32>,
    /// Values at paths that no source knows, nulls left out.
    pub unknown: Vec<(String, Slot)>,
}

impl Row {
    /// A row for `sources` sources.
    pub fn new(sources: usize) -> Self {
        Self { slots: vec![Slot::default(); sources], ..Self::default() }
    }

    /// Forgets the values.
    pub fn clear(&mut self) {
        for source in self.touched.drain(..) {
            self.slots[source as usize] = Slot::default();
        }
        self.unknown.clear();
    }

    fn put(&mut self, source: u32, slot: Slot) {
        let old = std::mem::replace(&mut self.slots[source as usize], slot);
        if old.kind == Kind::Absent {
            self.touched.push(source);
        }
    }

    fn put_unknown(&mut self, path: &str, slot: Slot) {
        if slot.kind == Kind::Null {
            self.unknown.retain(|(known, _)| known != path);
        } else {
            self.unknown.push((path.to_owned(), slot));
        }
    }

    /// Leaves one value per unknown path.
    fn settle(&mut self) {
        if self.unknown.len() > 1 {
            let mut last = std::collections::HashMap::with_capacity(self.unknown.len());
            for (at, (path, _)) in self.unknown.iter().enumerate() {
                last.insert(path.as_str(), at);
            }
            if last.len() < self.unknown.len() {
                let mut keep = vec![false; self.unknown.len()];
                last.values().for_each(|at| keep[*at] = true);
                let mut keep = keep.into_iter();
                self.unknown.retain(|_| keep.next().unwrap_or(true));
            }
        }
    }
}

/// Reads one object at the cursor into `row`, starting at the trie's `root`; `open` containers are open around
/// it. Paths below a value that is taken whole are not reported as unknown, nor is anything if `mute` is set.
pub(super) fn object(
    cursor: &mut Cursor<'_>,
    trie: &mut Trie,
    root: u32,
    row: &mut Row,
    open: usize,
    mute: bool,
) -> Result<(), Fault> {
    let mut walk = Walk { cursor, trie, row, trail: String::new(), mute };
    walk.known(root, 0, open)?;
    walk.row.settle();
    Ok(())
}

struct Walk<'w, 'a> {
    cursor: &'w mut Cursor<'a>,
    trie: &'w mut Trie,
    row: &'w mut Row,
    /// Path of the unknown value being read.
    trail: String,
    mute: bool,
}

impl<'a> Walk<'_, 'a> {
    /// The object here, whose path is `node`'s.
    fn known(&mut self, node: u32, level: usize, open: usize) -> Result<(), Fault> {
        self.cursor.enter(open + 1)?;
        let mut previous = None;
        let mut more = self.cursor.first_member();
        while more {
            let key = self.key()?;
            if let Some(child) = self.trie.child(node, previous, &key) {
                self.value(child, level + 1, open + 1)?;
                previous = Some(child);
            } else if self.mute {
                self.cursor.value(open + 1)?;
            } else {
                self.trail.clear();
                self.trail.push_str(self.trie.text(node));
                push_part(&mut self.trail, &key);
                self.unknown(level + 1, open + 1)?;
            }
            more = self.cursor.next_member()?;
        }
        Ok(())
    }

    fn key(&mut self) -> Result<Cow<'a, str>, Fault> {
        let slot = self.cursor.key()?;
        let inner = slot.inner(self.cursor.text);
        if slot.kind == Kind::Text {
            return Ok(Cow::Borrowed(inner));
        }
        let mut key = String::new();
        unescape(inner, &mut key);
        Ok(Cow::Owned(key))
    }

    /// The value here, whose path is `node`'s.
    fn value(&mut self, node: u32, level: usize, open: usize) -> Result<(), Fault> {
        let slot = match self.cursor.peek() {
            b'{' if self.trie.is_whole(node) && !self.trie.is_leaf(node) => {
                let start = self.cursor.position() as u32;
                let mute = std::mem::replace(&mut self.mute, true);
                self.known(node, level, open)?;
                self.mute = mute;
                Slot { kind: Kind::Nested, start, end: self.cursor.position() as u32 }
            }
            b'{' if !self.trie.is_whole(node) && (level < MAX_LEVELS || !self.trie.is_leaf(node)) => {
                return self.known(node, level, open);
            }
            _ => self.cursor.value(open)?,
        };
        match self.trie.source(node) {
            Some(source) => self.row.put(source, slot),
            // The path was only met as an object so far.
            None if !self.mute && (slot.kind != Kind::Null || !self.row.unknown.is_empty()) => {
                self.row.put_unknown(self.trie.text(node), slot);
            }
            None => {}
        }
        Ok(())
    }

    /// The value here, whose path is the trail.
    fn unknown(&mut self, level: usize, open: usize) -> Result<(), Fault> {
        if self.cursor.peek() == b'{' && level < MAX_LEVELS {
            self.cursor.enter(open + 1)?;
            let length = self.trail.len();
            let mut more = self.cursor.first_member();
            while more {
                let key = self.key()?;
                push_part(&mut self.trail, &key);
                self.unknown(level + 1, open + 1)?;
                self.trail.truncate(length);
                more = self.cursor.next_member()?;
            }
            return Ok(());
        }
        let slot = self.cursor.value(open)?;
        self.row.put_unknown(&self.trail, slot);
        Ok(())
    }
}
