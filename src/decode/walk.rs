//! One object of a payload, walked along the trie: where each known path's value stands, and what is unknown.

use std::borrow::Cow;

use super::{
    rows::Rows,
    scan::{Cursor, Fault, Kind, Slot, unescape},
    trie::{Leaf, PAYLOAD, Pivot, Rule, Trie},
};
use crate::schema::push_part;

/// Parts of the longest path that is flattened; an object there becomes one JSON value.
pub(super) const MAX_LEVELS: usize = 8;

/// Where the values of one row stand that were not put straight into columns, before their types are looked at. Of a
/// path met twice the last counts.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// By source.
    pub slots: Vec<Slot>,
    /// Sources that were met, in order.
    pub touched: Vec<u32>,
    /// Values at paths that no source knows, nulls left out.
    pub unknown: Vec<(String, Slot)>,
    /// Arrays that the contract wants read as objects and that cannot be; their node.
    pub unfit: Vec<(u32, Slot)>,
    /// Arrays whose elements are rows of a child; the child's number.
    pub arrays: Vec<(u32, Slot)>,
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
        self.unfit.clear();
        self.arrays.clear();
    }

    fn put(&mut self, source: u32, slot: Slot) {
        let place = &mut self.slots[source as usize];
        if place.kind == Kind::Absent {
            self.touched.push(source);
        }
        *place = slot;
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

/// Reads one object at the cursor into `row` and the next of `rows`, starting at the trie's `root`; `open` containers
/// are open around it. Paths below a value that is taken whole are not reported as unknown, nor is anything if `mute` is
/// set.
pub(super) fn object(
    cursor: &mut Cursor<'_>,
    trie: &mut Trie,
    root: u32,
    (row, rows): (&mut Row, &mut Rows),
    open: usize,
    mute: bool,
) -> Result<(), Fault> {
    let mut walk = Walk { cursor, trie, row, rows, trail: String::new(), mute };
    walk.members(Place::Node(root), 0, open)?;
    walk.row.settle();
    Ok(())
}

/// Reads an element of an array whose elements are rows: an object as [`object`] does, anything else as an object
/// with the one member `value`.
pub(super) fn element(
    cursor: &mut Cursor<'_>,
    trie: &mut Trie,
    (row, rows): (&mut Row, &mut Rows),
) -> Result<(), Fault> {
    if cursor.peek() == b'{' {
        return object(cursor, trie, PAYLOAD, (row, rows), 0, false);
    }
    let mut walk = Walk { cursor, trie, row, rows, trail: String::new(), mute: false };
    walk.member(Place::Node(PAYLOAD), &mut None, "value", 1, 0)
}

struct Walk<'w, 'a> {
    cursor: &'w mut Cursor<'a>,
    trie: &'w mut Trie,
    row: &'w mut Row,
    rows: &'w mut Rows,
    /// Path of the unknown value being read.
    trail: String,
    mute: bool,
}

/// Where an object stands: at a node, or at the unknown path that the trail spells.
#[derive(Clone, Copy)]
enum Place {
    Node(u32),
    Trail,
}

impl<'a> Walk<'_, 'a> {
    /// The object here.
    fn members(&mut self, place: Place, level: usize, open: usize) -> Result<(), Fault> {
        self.cursor.enter(open + 1)?;
        let mut previous = None;
        let mut more = self.cursor.first_member();
        while more {
            if let Some(child) = self.expected(place, previous) {
                previous = Some(child);
                if !self.put_straight(child) {
                    self.value(child, level + 1, open + 1)?;
                }
            } else {
                let key = self.key()?;
                self.member(place, &mut previous, &key, level + 1, open + 1)?;
            }
            more = self.cursor.next_member()?;
        }
        Ok(())
    }

    /// The node whose key is expected here, if it is the one that stands here; moves to its value.
    fn expected(&mut self, place: Place, previous: Option<u32>) -> Option<u32> {
        let Place::Node(node) = place else { return None };
        let (child, written) = self.trie.expected(node, previous)?;
        self.cursor.skip_key(written).then_some(child)
    }

    /// Puts the value here straight into the column of `node`; false, and nothing is done, if more is to be done than
    /// that.
    #[inline(always)]
    fn put_straight(&mut self, node: u32) -> bool {
        let end = match self.trie.leaf(node) {
            Leaf::None => None,
            Leaf::Boolean(column) => {
                let value = self.cursor.plain_boolean();
                value.and_then(|(value, end)| self.rows.boolean(column, value).then_some(end))
            }
            Leaf::Integer(column) => {
                let value = self.cursor.short_integer();
                value.and_then(|(value, end)| self.rows.integer(column, value).then_some(end))
            }
            Leaf::Double(column) => {
                let value = self.cursor.short_real();
                value.and_then(|(value, end)| self.rows.double(column, value).then_some(end))
            }
            Leaf::Text(column) => self.rows.text(column, |out| self.cursor.copy_string(out)),
        };
        if let Some(end) = end {
            self.cursor.go(end);
        }
        end.is_some()
    }

    /// The value here under `key` in the object at `place`; `previous` is the node met before it in there.
    fn member(
        &mut self,
        place: Place,
        previous: &mut Option<u32>,
        key: &str,
        level: usize,
        open: usize,
    ) -> Result<(), Fault> {
        match self.child(place, *previous, key) {
            Place::Node(child) => {
                *previous = Some(child);
                self.value(child, level, open)
            }
            Place::Trail if self.mute => self.cursor.value(open).map(drop),
            Place::Trail => {
                let length = self.trail.len();
                push_part(&mut self.trail, key);
                self.unknown(level, open)?;
                self.trail.truncate(length);
                Ok(())
            }
        }
    }

    /// The node under `key`; if there is none, the trail leads to where `key` is to be added.
    fn child(&mut self, place: Place, previous: Option<u32>, key: &str) -> Place {
        let Place::Node(node) = place else { return Place::Trail };
        if let Some(child) = self.trie.child(node, previous, key) {
            return Place::Node(child);
        }
        self.trail.clear();
        self.trail.push_str(self.trie.text(node));
        Place::Trail
    }

    fn key(&mut self) -> Result<Cow<'a, str>, Fault> {
        let slot = self.cursor.key()?;
        Ok(content(slot, self.cursor.text))
    }

    /// The value here, whose path is `node`'s.
    fn value(&mut self, node: u32, level: usize, open: usize) -> Result<(), Fault> {
        match (self.trie.rule(node), self.cursor.peek()) {
            (Rule::Plain, _) => {}
            (Rule::Drop, _) => return self.cursor.value(open).map(drop),
            (Rule::First, b'[') => return self.first(node, level, open),
            (Rule::Pivot(number), b'[') => return self.pivot(number, node, level, open),
            (Rule::Child(number), b'[') => {
                let slot = self.cursor.value(open)?;
                self.row.arrays.retain(|(other, _)| *other != number);
                self.row.arrays.push((number, slot));
                return Ok(());
            }
            (Rule::First | Rule::Pivot(_) | Rule::Child(_), _) => {}
        }
        let slot = match self.cursor.peek() {
            b'{' if self.trie.is_whole(node) && !self.trie.is_leaf(node) => {
                let start = self.cursor.position();
                let mute = std::mem::replace(&mut self.mute, true);
                self.members(Place::Node(node), level, open)?;
                self.mute = mute;
                Slot::new(Kind::Nested, start, self.cursor.position())
            }
            b'{' if !self.trie.is_whole(node) && (level < MAX_LEVELS || !self.trie.is_leaf(node)) => {
                return self.members(Place::Node(node), level, open);
            }
            _ => self.cursor.value(open)?,
        };
        match self.trie.source(node) {
            Some(source) => {
                self.row.put(source, slot);
                if let Some(column) = self.trie.leaf(node).column() {
                    // What was put straight before no longer counts, and what comes must not be put straight.
                    self.rows.hold(column);
                }
            }
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
            return self.members(Place::Trail, level, open);
        }
        let slot = self.cursor.value(open)?;
        self.row.put_unknown(&self.trail, slot);
        Ok(())
    }

    /// The array here, whose first element stands for it.
    fn first(&mut self, node: u32, level: usize, open: usize) -> Result<(), Fault> {
        self.cursor.enter(open + 1)?;
        let mut more = self.cursor.first_element();
        if more {
            self.value(node, level, open + 1)?;
            more = self.cursor.next_element()?;
        }
        while more {
            self.cursor.value(open + 1)?;
            more = self.cursor.next_element()?;
        }
        Ok(())
    }

    /// The array here, read as an object: each element is a member under its value of `by`.
    fn pivot(&mut self, number: u32, node: u32, level: usize, open: usize) -> Result<(), Fault> {
        let pivot = self.trie.pivot(number).clone();
        let start = self.cursor.position();
        let Some(names) = self.element_names(&pivot.by, open)? else {
            if !self.mute {
                let slot = Slot::new(Kind::Nested, start, self.cursor.position());
                self.row.unfit.retain(|(other, _)| *other != node);
                self.row.unfit.push((node, slot));
            }
            return Ok(());
        };
        self.cursor.go(start);
        self.cursor.enter(open + 1)?;
        self.cursor.first_element();
        let mut previous = None;
        for name in names {
            match self.child(Place::Node(node), previous, &name) {
                Place::Node(child) => {
                    previous = Some(child);
                    self.pivoted(&pivot, Place::Node(child), level + 1, open + 1)?;
                }
                Place::Trail if self.mute => drop(self.cursor.value(open + 1)?),
                Place::Trail => {
                    push_part(&mut self.trail, &name);
                    self.pivoted(&pivot, Place::Trail, level + 1, open + 1)?;
                }
            }
            self.cursor.next_element()?;
        }
        Ok(())
    }

    /// The element here, whose name is known already.
    fn pivoted(&mut self, pivot: &Pivot, place: Place, level: usize, open: usize) -> Result<(), Fault> {
        self.cursor.enter(open + 1)?;
        let mut previous = None;
        let mut more = self.cursor.first_member();
        while more {
            let key = self.key()?;
            match place {
                _ if *key == *pivot.by => drop(self.cursor.value(open + 1)?),
                Place::Node(node) if pivot.value.as_deref() == Some(&key) => self.value(node, level, open + 1)?,
                Place::Trail if pivot.value.as_deref() == Some(&key) => self.unknown(level, open + 1)?,
                place => self.member(place, &mut previous, &key, level + 1, open + 1)?,
            }
            more = self.cursor.next_member()?;
        }
        Ok(())
    }

    /// Moves over the array here; the scalar that each of its elements has under `by`, or `None` if one has none.
    fn element_names(&mut self, by: &str, open: usize) -> Result<Option<Vec<Cow<'a, str>>>, Fault> {
        let mut names = Some(Vec::new());
        self.cursor.enter(open + 1)?;
        let mut more_elements = self.cursor.first_element();
        while more_elements {
            let mut name = None;
            if self.cursor.peek() == b'{' {
                self.cursor.enter(open + 2)?;
                let mut more = self.cursor.first_member();
                while more {
                    let key = self.key()?;
                    let value = self.cursor.value(open + 2)?;
                    if *key == *by {
                        let is_name = !matches!(value.kind, Kind::Null | Kind::Nested);
                        name = is_name.then(|| content(value, self.cursor.text));
                    }
                    more = self.cursor.next_member()?;
                }
            } else {
                self.cursor.value(open + 1)?;
            }
            names = names.zip(name).map(|(mut names, name)| {
                names.push(name);
                names
            });
            more_elements = self.cursor.next_element()?;
        }
        Ok(names)
    }
}

/// A string's content; the JSON text of anything else.
pub(super) fn content(slot: Slot, text: &str) -> Cow<'_, str> {
    match slot.kind {
        Kind::Text => Cow::Borrowed(slot.inner(text)),
        Kind::Escaped => {
            let mut plain = String::new();
            unescape(slot.inner(text), &mut plain);
            Cow::Owned(plain)
        }
        _ => Cow::Borrowed(slot.raw(text)),
    }
}
