//! Batches that values stand in, given up when nothing points into them any more.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{FieldRef, SchemaRef};
use arrow::error::ArrowError;

use crate::schema::conform;

/// A row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loc {
    batch: u32,
    row: u32,
}

impl Loc {
    /// The batch's number.
    pub fn batch(self) -> u32 {
        self.batch
    }
}

#[derive(Debug)]
struct Held {
    rows: Arc<RecordBatch>,
    bytes: usize,
    /// How many places point into it.
    uses: usize,
}

/// Rows that are yet to be copied together, out of batches that do not change any more.
#[derive(Debug)]
pub(super) struct Picked {
    schema: SchemaRef,
    batches: BTreeMap<u32, Arc<RecordBatch>>,
    places: Vec<Vec<Option<Loc>>>,
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

    /// Batches that something points into.
    pub fn batches(&self) -> usize {
        self.batches.len() - self.free.len()
    }

    /// Takes a batch of the store's schema; nothing points into it yet. Give it up with [`Self::settle`] if that stays so.
    pub fn add(&mut self, rows: RecordBatch) -> u32 {
        let bytes = rows.get_array_memory_size();
        self.bytes += bytes;
        self.rows += rows.num_rows();
        let held = Some(Held { rows: Arc::new(rows), bytes, uses: 0 });
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

    /// Rows whose values stand at these places, null where there is none: by column, or once for all columns if those
    /// of each row stand together.
    pub fn pick(&self, places: Vec<Vec<Option<Loc>>>) -> Picked {
        let mut batches = BTreeMap::new();
        for loc in places.iter().flatten().flatten() {
            if let Entry::Vacant(vacant) = batches.entry(loc.batch)
                && let Some(held) = &self.batches[loc.batch as usize]
            {
                vacant.insert(Arc::clone(&held.rows));
            }
        }
        Picked { schema: Arc::clone(&self.schema), batches, places }
    }

    /// The batches of `picked` that are still the store's.
    pub fn kept(&self, picked: &Picked) -> HashSet<u32> {
        let is_kept = |(number, rows): &(&u32, &Arc<RecordBatch>)| {
            let held = self.batches.get(**number as usize).and_then(Option::as_ref);
            held.is_some_and(|held| Arc::ptr_eq(&held.rows, rows))
        };
        picked.batches.iter().filter(is_kept).map(|(number, _)| *number).collect()
    }

    /// Brings all batches to other columns: columns of a name are cast, new ones are null.
    pub fn evolve(&mut self, schema: SchemaRef) -> Result<(), ArrowError> {
        for held in self.batches.iter_mut().flatten() {
            held.rows = Arc::new(conform(&held.rows, &schema)?);
            let bytes = held.rows.get_array_memory_size();
            self.bytes = self.bytes - held.bytes + bytes;
            held.bytes = bytes;
        }
        self.schema = schema;
        Ok(())
    }
}

impl Picked {
    /// Copies them together.
    pub fn rows(&self) -> Result<RecordBatch, ArrowError> {
        let by_column: Vec<_> = self.places.iter().map(|places| self.indexes(places)).collect();
        let column = |(at, field): (usize, &FieldRef)| {
            let (batches, indexes) = by_column.get(at).unwrap_or(&by_column[0]);
            // The first is where there is no value.
            let nulls = new_null_array(field.data_type(), 1);
            let values = batches.iter().map(|rows| rows.column(at).as_ref());
            let arrays: Vec<&dyn Array> = std::iter::once(nulls.as_ref()).chain(values).collect();
            interleave(&arrays, indexes)
        };
        let columns = self.schema.fields().iter().enumerate().map(column).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(self.places.first().map(Vec::len));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    /// The batches in which places are, and for each place the number of its batch, from 1 on, and the row there; 0 for
    /// no place.
    fn indexes(&self, places: &[Option<Loc>]) -> (Vec<&RecordBatch>, Vec<(usize, usize)>) {
        let (mut batches, mut numbers) = (Vec::new(), HashMap::new());
        // Neighbours often stand in the same batch.
        let mut last = None;
        let mut index = |loc: &Loc| {
            if let Some((_, number)) = last.filter(|(batch, _)| *batch == loc.batch) {
                return Some((number, loc.row as usize));
            }
            let rows = self.batches.get(&loc.batch)?;
            let number = *numbers.entry(loc.batch).or_insert_with(|| {
                batches.push(&**rows);
                batches.len()
            });
            last = Some((loc.batch, number));
            Some((number, loc.row as usize))
        };
        let indexes = places.iter().map(|place| place.as_ref().and_then(&mut index).unwrap_or((0, 0))).collect();
        (batches, indexes)
    }

    /// Where the value of a column stands in a row.
    pub fn place(&self, column: usize, row: usize) -> Option<Loc> {
        *self.places.get(column).or_else(|| self.places.first())?.get(row)?
    }
}
