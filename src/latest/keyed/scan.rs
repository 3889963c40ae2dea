//! All rows at one moment.
//!
//! What they are is noted at once, where they stand in batches that do not change; copying them together takes long, and
//! needs nobody to wait. What was copied is then where the rows stand, so that batches of which little is left are given up.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

use super::{CHUNK, Keyed, Values};
use crate::latest::store::{Loc, Picked};

/// Rows as they are at one moment, of which some are yet to be put together.
#[derive(Debug)]
pub struct Scan {
    /// Whose.
    of: Arc<()>,
    parts: Vec<Part>,
}

/// Rows of one moment.
#[derive(Debug)]
pub struct Scanned {
    of: Arc<()>,
    rows: Vec<RecordBatch>,
    /// Those that were put together now, with their place in `rows`.
    made: Vec<(Made, usize)>,
}

#[derive(Debug)]
enum Part {
    Rows(RecordBatch),
    Made(Made),
}

/// Rows of these slots.
#[derive(Debug)]
struct Made {
    slots: Vec<usize>,
    picked: Picked,
    /// The chunk that they are all rows of, and how often it had changed.
    chunk: Option<(usize, u64)>,
}

impl Scan {
    /// Puts the rows together.
    pub fn put_together(self) -> Result<Scanned, ArrowError> {
        let mut scanned = Scanned { of: self.of, rows: Vec::with_capacity(self.parts.len()), made: Vec::new() };
        for part in self.parts {
            let rows = match part {
                Part::Rows(rows) => rows,
                Part::Made(made) => {
                    let rows = made.picked.rows()?;
                    scanned.made.push((made, scanned.rows.len()));
                    rows
                }
            };
            scanned.rows.push(rows);
        }
        Ok(scanned)
    }
}

impl Scanned {
    /// The rows, in batches that are not empty.
    pub fn rows(self) -> Vec<RecordBatch> {
        self.rows.into_iter().filter(|rows| rows.num_rows() > 0).collect()
    }
}

impl Keyed {
    /// All rows; hand what comes of it to [`Self::end_scan`].
    pub fn begin_scan(&self) -> Scan {
        let part = |(number, chunk): (usize, &super::Chunk)| {
            if let Some(rows) = &chunk.rows {
                return Part::Rows(rows.clone());
            }
            let slots = self.slots_of(number).filter(|at| self.slots[*at].is_live(self.truncated));
            let slots: Vec<usize> = slots.collect();
            Part::Made(Made { picked: self.pick(&slots), slots, chunk: Some((number, chunk.changes)) })
        };
        Scan { of: Arc::clone(&self.identity), parts: self.chunks.iter().enumerate().map(part).collect() }
    }

    /// For each key of another table that a row names, the newest such row.
    pub fn begin_scan_foreign(&self) -> Scan {
        let Some(foreign) = &self.foreign else { return self.begin_scan() };
        let mut slots: Vec<usize> = foreign.slots.values().filter_map(|slots| self.newest(slots)).collect();
        slots.sort_unstable();
        let made = Made { picked: self.pick(&slots), slots, chunk: None };
        Scan { of: Arc::clone(&self.identity), parts: vec![Part::Made(made)] }
    }

    /// From now on rows stand where a scan has put them together, unless they have changed since.
    pub fn end_scan(&mut self, scanned: &Scanned) {
        // They may be those of a state that was given up meanwhile.
        if !Arc::ptr_eq(&self.identity, &scanned.of) {
            return;
        }
        for (made, at) in &scanned.made {
            let (Some((chunk, changes)), rows) = (made.chunk, &scanned.rows[*at]) else { continue };
            let kept = self.store.kept(&made.picked);
            let is_as_it_was = self.chunks.get(chunk).is_some_and(|now| now.changes == changes && now.rows.is_none());
            if kept.is_empty() && !made.slots.is_empty() {
                continue;
            }
            let batch = self.store.add(rows.clone());
            for (row, slot) in made.slots.iter().enumerate() {
                self.move_to(*slot, (batch, row), row, &made.picked, &kept);
            }
            // A row that is not there any more needs its order alone.
            for slot in self.slots_of(chunk) {
                if !self.slots[slot].is_live(self.truncated) {
                    self.forget_values(slot);
                }
            }
            self.store.settle(batch);
            if is_as_it_was {
                self.chunks[chunk].rows = Some(rows.clone());
            }
        }
    }

    /// All rows, in batches.
    pub fn scan(&mut self) -> Result<Vec<RecordBatch>, ArrowError> {
        let scanned = self.begin_scan().put_together()?;
        self.end_scan(&scanned);
        Ok(scanned.rows())
    }

    fn slots_of(&self, chunk: usize) -> std::ops::Range<usize> {
        chunk * CHUNK..self.slots.len().min((chunk + 1) * CHUNK)
    }

    /// The values of a slot that stand where `picked` has them in `row`, or are hidden, stand at `to` from now on.
    fn move_to(&mut self, slot: usize, to: (u32, usize), row: usize, picked: &Picked, kept: &HashSet<u32>) {
        let Some(mut told) = self.slots[slot].told.take() else { return };
        let store = &mut self.store;
        let is_there = |column: usize, loc: Loc| picked.place(column, row) == Some(loc) && kept.contains(&loc.batch());
        let mut move_one = |loc: &mut Loc| {
            let new = store.hold(to.0, to.1);
            store.release(std::mem::replace(loc, new));
        };
        match &mut told.values {
            Values::Forgotten => {}
            Values::Row(loc) if is_there(0, *loc) => move_one(loc),
            Values::Row(_) => {}
            Values::Columns(columns) => {
                for (column, cell) in columns.iter_mut().enumerate() {
                    let Some((order, loc)) = cell else { continue };
                    let is_hidden = !self.slots[slot].is_after_deletes(*order, self.truncated);
                    if is_there(column, *loc) || is_hidden && picked.place(column, row).is_none() {
                        move_one(loc);
                    }
                }
            }
        }
        self.slots[slot].told = Some(told);
    }

    fn forget_values(&mut self, slot: usize) {
        let Some(told) = &mut self.slots[slot].told else { return };
        match std::mem::replace(&mut told.values, Values::Forgotten) {
            Values::Forgotten => {}
            Values::Row(loc) => self.store.release(loc),
            Values::Columns(columns) => columns.iter().flatten().for_each(|(_, loc)| self.store.release(*loc)),
        }
    }
}
