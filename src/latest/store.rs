//! Batches that values stand in, given up when nothing points into them any more.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::schema::conform;

/// A row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loc {
    batch: u32,
    row: u32,
}

#[derive(Debug)]
struct Held {
    rows: RecordBatch,
    bytes: usize,
    /// How many places point into it.
    uses: usize,
}

/// The batches, all of one schema.
#[derive(Debug)]
pub(super) struct Store {
    schema: SchemaRef,
    batches: Vec<Option<Held>>,
    free: Vec<u32>,
    bytes: usize,
    rows: usize,
}

impl Store {
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema, batches: Vec::new(), free: Vec::new(), bytes: 0, rows: 0 }
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Bytes of all batches.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows of all batches, those included that nothing points to.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes a batch of the store's schema; nothing points into it yet. Give it up with [`Self::settle`] if that stays so.
    pub fn add(&mut self, rows: RecordBatch) -> u32 {
        let bytes = rows.get_array_memory_size();
        self.bytes += bytes;
        self.rows += rows.num_rows();
        let held = Some(Held { rows, bytes, uses: 0 });
        match self.free.pop() {
            Some(at) => {
                self.batches[at as usize] = held;
                at
            }
            None => {
                self.batches.push(held);
                self.batches.len() as u32 - 1
            }
        }
    }

    /// Points to a row.
    pub fn hold(&mut self, batch: u32, row: usize) -> Loc {
        if let Some(held) = &mut self.batches[batch as usize] {
            held.uses += 1;
        }
        Loc { batch, row: row as u32 }
    }

    /// Points to the same row once more.
    pub fn share(&mut self, loc: Loc) -> Loc {
        self.hold(loc.batch, loc.row as usize)
    }

    /// No longer points there.
    pub fn release(&mut self, loc: Loc) {
        if let Some(held) = &mut self.batches[loc.batch as usize] {
            held.uses -= 1;
        }
        self.settle(loc.batch);
    }

    /// Gives a batch up if nothing points into it.
    pub fn settle(&mut self, batch: u32) {
        let slot = &mut self.batches[batch as usize];
        if let Some(held) = slot.take_if(|held| held.uses == 0) {
            self.bytes -= held.bytes;
            self.rows -= held.rows.num_rows();
            self.free.push(batch);
        }
    }

    /// A row as it stands.
    pub fn row(&self, loc: Loc) -> Option<RecordBatch> {
        Some(self.batches[loc.batch as usize].as_ref()?.rows.slice(loc.row as usize, 1))
    }

    /// The values of one column at these places; null where there is none.
    pub fn column(&self, at: usize, places: &[Option<Loc>]) -> Result<ArrayRef, ArrowError> {
        let nulls = new_null_array(self.schema.field(at).data_type(), 1);
        let mut arrays: Vec<&dyn Array> = vec![nulls.as_ref()];
        let mut known: HashMap<u32, usize> = HashMap::new();
        let mut indexes = Vec::with_capacity(places.len());
        // Neighbours often stand in the same batch.
        let mut last = None;
        for place in places {
            let Some((loc, held)) = place.and_then(|loc| Some((loc, self.batches[loc.batch as usize].as_ref()?)))
            else {
                indexes.push((0, 0));
                continue;
            };
            let number = match last {
                Some((batch, number)) if batch == loc.batch => number,
                _ => *known.entry(loc.batch).or_insert_with(|| {
                    arrays.push(held.rows.column(at).as_ref());
                    arrays.len() - 1
                }),
            };
            last = Some((loc.batch, number));
            indexes.push((number, loc.row as usize));
        }
        interleave(&arrays, &indexes)
    }

    /// Brings all batches to other columns: columns of a name are cast, new ones are null.
    pub fn evolve(&mut self, schema: SchemaRef) -> Result<(), ArrowError> {
        for held in self.batches.iter_mut().flatten() {
            held.rows = conform(&held.rows, &schema)?;
            let bytes = held.rows.get_array_memory_size();
            self.bytes = self.bytes - held.bytes + bytes;
            held.bytes = bytes;
        }
        self.schema = schema;
        Ok(())
    }
}
