//! The state kept from one table: a slot per key.

mod lists;
mod log;
mod scan;
mod sidecar;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, SchemaRef};
use arrow::error::ArrowError;

use self::log::Log;
use super::index::Index;
use super::key::KeyForm;
use super::order::{Epochs, Order};
use super::reader::{LatestError, Reader, Said};
use super::shape::Shape;
use super::store::{Loc, Picked, Store};
use crate::schema::conform;

pub use lists::Lists;
pub use scan::Scan;
pub use sidecar::Sidecars;

/// Slots that are put together at once; what a scan hands out is of this size.
const CHUNK: usize = 8_192;
/// Rows that may be dead before all chunks are put together anew, beside as many as there are slots.
const DEAD_ROWS: usize = 4 * CHUNK;
/// Batches that rows may stand in before that, beside one for so many slots. One of a single row, as a quiet stream
/// brings them, takes a hundred times the bytes of the row, whether all of it is still wanted or one value.
const BATCHES: usize = 1_024;
const SLOTS_PER_BATCH: usize = 64;

/// The newest row of each key.
#[derive(Debug)]
pub struct Keyed {
    /// Tells it apart from others.
    identity: Arc<()>,
    shape: Shape,
    form: KeyForm,
    foreign: Option<Foreign>,
    keys: Index,
    slots: Vec<Slot>,
    chunks: Vec<Chunk>,
    store: Store,
    epochs: Epochs,
    truncated: Option<Order>,
    /// Snapshots that are told to their end, each by what comes before it: see [`Keyed::sweep`].
    sweeps: BTreeSet<Order>,
    /// Rows that are there.
    rows: usize,
    /// Slots of which something is not written down yet.
    changed: Vec<u32>,
    log: Log,
}

/// Which rows name a key of another table.
#[derive(Debug)]
struct Foreign {
    form: KeyForm,
    slots: HashMap<Box<[u8]>, Vec<u32>>,
    /// By slot: the key that it names.
    named: Vec<Option<Box<[u8]>>>,
    /// Keys that were named by a slot which names another now, since the last time that this was written down.
    left: HashSet<Box<[u8]>>,
}

impl Foreign {
    fn new(shape: &Shape) -> Result<Option<Self>, ArrowError> {
        if shape.foreign.is_empty() {
            return Ok(None);
        }
        let form = KeyForm::new(&shape.foreign, &shape.columns)?;
        Ok(Some(Self { form, slots: HashMap::new(), named: Vec::new(), left: HashSet::new() }))
    }

    /// From now on the slot names this key.
    fn name(&mut self, slot: usize, key: Option<&[u8]>) {
        if self.named.len() <= slot {
            self.named.resize(slot + 1, None);
        }
        if self.named[slot].as_deref() == key {
            return;
        }
        if let Some(old) = std::mem::replace(&mut self.named[slot], key.map(Into::into))
            && let Some(slots) = self.slots.get_mut(&old)
        {
            slots.retain(|other| *other as usize != slot);
            if slots.is_empty() {
                self.slots.remove(&old);
            }
            self.left.insert(old);
        }
        if let Some(key) = key {
            self.slots.entry(key.into()).or_default().push(slot as u32);
        }
    }
}

/// What is known of a key.
#[derive(Debug, Default)]
struct Slot {
    /// The newest change that told the row.
    told: Option<Told>,
    /// The newest delete.
    deleted: Option<Order>,
    /// Where Kafka's record of the key was deleted: partition, offset.
    tombstone: Option<((u32, i32), i64)>,
    /// Something of it is not written down yet.
    is_changed: bool,
}

#[derive(Debug)]
struct Told {
    order: Order,
    /// Where the row stands, unless its columns stand in several places.
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// Nobody needs them: the row was deleted since.
    Forgotten,
    Row(Loc),
    /// By column: who told it, and where it stands.
    Columns(Box<[Option<(Order, Loc)>]>),
}

/// Slots that are scanned together.
#[derive(Debug, Default)]
struct Chunk {
    /// Its rows as they are; `None` if some have changed.
    rows: Option<RecordBatch>,
    /// How often they have changed.
    changes: u64,
}

/// How much a state holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows that are there.
    pub rows: usize,
    /// Keys that are known, deleted ones included.
    pub keys: usize,
    /// Bytes of values and keys.
    pub bytes: usize,
}

impl Chunk {
    fn change(&mut self) {
        self.rows = None;
        self.changes += 1;
    }
}

impl Slot {
    /// True if the row is there.
    fn is_live(&self, truncated: Option<Order>) -> bool {
        self.told.as_ref().is_some_and(|told| self.is_after_deletes(told.order, truncated))
    }

    fn is_after_deletes(&self, order: Order, truncated: Option<Order>) -> bool {
        let buried = self.tombstone.is_some_and(|(lane, offset)| lane == order.lane && order.offset < offset);
        Some(order) > self.deleted && Some(order) > truncated && !buried
    }

    /// Where the value of a column stands, if the row is there.
    fn place(&self, column: usize, truncated: Option<Order>) -> Option<Loc> {
        match &self.told.as_ref()?.values {
            Values::Forgotten => None,
            Values::Row(loc) => Some(*loc),
            // What was told before the row was deleted and made again is no value of it.
            Values::Columns(columns) => {
                let (order, loc) = columns.get(column).copied().flatten()?;
                self.is_after_deletes(order, truncated).then_some(loc)
            }
        }
    }
}

impl Keyed {
    /// Nothing yet.
    pub fn new(shape: Shape) -> Result<Self, LatestError> {
        let schema = Arc::clone(&shape.columns);
        Ok(Self {
            identity: Arc::new(()),
            form: KeyForm::new(&shape.key, &schema)?,
            foreign: Foreign::new(&shape)?,
            shape,
            keys: Index::default(),
            slots: Vec::new(),
            chunks: Vec::new(),
            store: Store::new(schema),
            epochs: Epochs::default(),
            truncated: None,
            sweeps: BTreeSet::new(),
            rows: 0,
            changed: Vec::new(),
            log: Log::default(),
        })
    }

    /// Nothing, of the same shape.
    pub fn anew(&self) -> Result<Self, LatestError> {
        Self::new(self.shape.clone())
    }

    /// The columns of the rows.
    pub fn schema(&self) -> &SchemaRef {
        self.store.schema()
    }

    /// Numbers epochs in this order, if they are new: the oldest first.
    pub fn meet<'a>(&mut self, epochs: impl IntoIterator<Item = &'a str>) {
        for epoch in epochs {
            self.epochs.number(epoch);
        }
    }

    /// How much there is.
    pub fn stats(&self) -> Stats {
        let slots = self.slots.capacity() * size_of::<Slot>();
        Stats { rows: self.rows, keys: self.slots.len(), bytes: self.store.bytes() + slots + self.keys.bytes() }
    }

    /// Gives the rows another shape of the same key: columns that are there already keep their values.
    pub fn evolve(&mut self, shape: Shape) -> Result<(), LatestError> {
        if shape == self.shape {
            return Ok(());
        }
        let form = KeyForm::new(&shape.key, &shape.columns)?;
        let foreign = Foreign::new(&shape)?;
        let kinds = |foreign: &Option<Foreign>| foreign.as_ref().map(|foreign| foreign.form.kinds().to_vec());
        if form.kinds() != self.form.kinds() || kinds(&foreign) != kinds(&self.foreign) {
            return Err(LatestError::Key);
        }
        let old = Arc::clone(self.store.schema());
        self.store.evolve(Arc::clone(&shape.columns))?;
        for slot in &mut self.slots {
            let Some(Told { values: Values::Columns(columns), .. }) = &mut slot.told else { continue };
            let place = |field: &Arc<Field>| old.index_of(field.name()).ok().and_then(|at| columns[at].take());
            let moved = shape.columns.fields().iter().map(place).collect();
            let dropped = std::mem::replace(columns, moved);
            dropped.iter().flatten().for_each(|(_, loc)| self.store.release(*loc));
        }
        self.chunks.iter_mut().for_each(Chunk::change);
        (self.shape, self.form) = (shape, form);
        self.log.forget(self.log.now());
        Ok(())
    }

    /// What changes is counted as the change `now` from now on.
    pub fn begin_change(&mut self, now: u64) {
        self.log.at(now);
    }

    /// The change `now` was made: by another state, if it did not begin here.
    pub fn end_change(&mut self, now: u64) {
        if self.log.now() != now {
            self.log.forget(now);
        }
    }

    /// The keys that have changed since `then`, as key columns, and the rows that they have; `None` if that is not known,
    /// or if they are more than `most`.
    pub fn since(&self, then: u64, most: usize) -> Result<Option<(Vec<ArrayRef>, RecordBatch)>, LatestError> {
        let Some(slots) = self.log.since(then, most) else { return Ok(None) };
        let keys = self.form.values(slots.iter().map(|at| self.keys.key(*at as usize)))?;
        let slots = slots.into_iter().map(|at| at as usize);
        let rows = self.gather(slots.filter(|at| self.slots[*at].is_live(self.truncated)).collect())?;
        Ok(Some((keys, rows)))
    }

    /// Takes in rows of the table of changes. Rows that were taken in before change nothing.
    pub fn apply(&mut self, changes: &RecordBatch) -> Result<(), LatestError> {
        let values = self.store.add(conform(changes, self.store.schema())?);
        let foreign = self.foreign.as_ref().map(|foreign| &foreign.form);
        let reader = Reader::new(changes, &self.form, foreign, &self.shape)?;
        for row in 0..changes.num_rows() {
            let order = reader.order(row, &mut self.epochs);
            match reader.said(row) {
                Said::Row { key, old_key } => {
                    if let Some(old) = old_key {
                        self.delete(old, order);
                    }
                    let told = reader.told(row, &self.shape);
                    let at = self.tell(key, order, (values, row), told.as_deref());
                    self.name(at, order, reader.foreign(row));
                    if reader.ends_snapshot(row) && Some(order.before_snapshot()) > self.truncated {
                        self.sweeps.insert(order.before_snapshot());
                    }
                }
                Said::Deleted { key } => self.delete(key, order),
                Said::Tombstone { key } => {
                    self.bury(key, order.lane, order.offset);
                }
                Said::Truncated => self.truncate(order),
                Said::Nothing => {}
            }
        }
        self.store.settle(values);
        let slots = self.slots.len();
        if self.store.rows() > 2 * slots + DEAD_ROWS || self.store.batches() > slots / SLOTS_PER_BATCH + BATCHES {
            self.scan()?;
        }
        Ok(())
    }

    /// Changes what is known of a key, and counts the rows that are there; returns its slot.
    fn change(&mut self, key: &[u8], change: impl FnOnce(&mut Slot, &mut Store)) -> usize {
        let at = self.keys.slot(key);
        if at == self.slots.len() {
            self.slots.push(Slot::default());
            if at.is_multiple_of(CHUNK) {
                self.chunks.push(Chunk::default());
            }
        }
        let slot = &mut self.slots[at];
        let before = slot.is_live(self.truncated);
        change(slot, &mut self.store);
        let after = slot.is_live(self.truncated);
        if !std::mem::replace(&mut slot.is_changed, true) {
            self.changed.push(at as u32);
        }
        self.rows = self.rows + usize::from(after) - usize::from(before);
        self.chunks[at / CHUNK].change();
        self.log.note(at as u32);
        at
    }

    fn delete(&mut self, key: &[u8], order: Order) {
        self.change(key, |slot, _| slot.deleted = slot.deleted.max(Some(order)));
    }

    /// Kafka's record of the key was deleted: what the same lane told before is not there.
    fn bury(&mut self, key: &[u8], lane: (u32, i32), offset: i64) {
        self.change(key, |slot, _| {
            let known = slot.tombstone.filter(|(known, _)| *known == lane);
            if known.is_none_or(|(_, known)| known < offset) {
                slot.tombstone = Some((lane, offset));
            }
        });
    }

    /// A slot names this key of another table, if `order` is the newest that told of it.
    fn name(&mut self, at: usize, order: Order, key: Option<&[u8]>) {
        let is_newest = self.slots[at].told.as_ref().is_some_and(|told| told.order == order);
        if let Some(foreign) = self.foreign.as_mut().filter(|_| is_newest) {
            foreign.name(at, key);
        }
    }

    fn truncate(&mut self, order: Order) {
        if Some(order) <= self.truncated {
            return;
        }
        let before = self.truncated.replace(order);
        self.rows = 0;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let is_live = slot.is_live(self.truncated);
            self.rows += usize::from(is_live);
            if slot.is_live(before) && !is_live && !std::mem::replace(&mut slot.is_changed, true) {
                self.changed.push(at as u32);
            }
        }
        self.chunks.iter_mut().for_each(Chunk::change);
        self.log.forget(self.log.now());
    }

    /// The ends of snapshots that were told, and not swept yet.
    pub fn sweeps(&self) -> impl Iterator<Item = Order> {
        self.sweeps.iter().copied()
    }

    /// A snapshot is complete, and all of it was taken in: rows that were told before it, and not by it, are not there.
    pub fn sweep(&mut self, before: Order) {
        self.sweeps.retain(|sweep| *sweep > before);
        self.truncate(before);
    }

    /// A row of the batch `at.0` tells the columns for which `told` is true, or all; returns the key's slot.
    fn tell(&mut self, key: &[u8], order: Order, at: (u32, usize), told: Option<&[bool]>) -> usize {
        let columns = self.store.schema().fields().len();
        self.change(key, |slot, store| match (&mut slot.told, told) {
            (Some(known), None) if !matches!(known.values, Values::Columns(_)) => {
                if order > known.order {
                    let loc = store.hold(at.0, at.1);
                    if let Values::Row(old) = std::mem::replace(&mut known.values, Values::Row(loc)) {
                        store.release(old);
                    }
                    known.order = order;
                }
            }
            (None, None) => slot.told = Some(Told { order, values: Values::Row(store.hold(at.0, at.1)) }),
            (known, told) => {
                let known =
                    known.get_or_insert_with(|| Told { order, values: Values::Columns(vec![None; columns].into()) });
                let cells = known.values.columns(known.order, columns, store);
                known.order = known.order.max(order);
                for (column, cell) in cells.iter_mut().enumerate() {
                    let tells = told.is_none_or(|told| told[column]);
                    if tells && cell.is_none_or(|(known, _)| known < order) {
                        let loc = store.hold(at.0, at.1);
                        if let Some((_, old)) = cell.replace((order, loc)) {
                            store.release(old);
                        }
                    }
                }
            }
        })
    }

    /// The rows with these keys, which are given as key columns; keys without a row are left out.
    pub fn get(&self, keys: &[ArrayRef]) -> Result<RecordBatch, LatestError> {
        let keys = self.form.of_columns(keys)?;
        let known = (0..keys.len()).filter_map(|row| self.keys.get(keys.get(row)?));
        let mut known: Vec<usize> = known.collect();
        known.sort_unstable();
        known.dedup();
        Ok(self.gather(known.into_iter().filter(|at| self.slots[*at].is_live(self.truncated)).collect())?)
    }

    /// For each of these keys of another table, given as columns, the newest row that names it.
    pub fn get_foreign(&self, keys: &[ArrayRef]) -> Result<RecordBatch, LatestError> {
        let Some(foreign) = &self.foreign else { return self.get(keys) };
        let keys = foreign.form.of_columns(keys)?;
        let mut found: Vec<usize> =
            (0..keys.len()).filter_map(|row| self.newest(foreign.slots.get(keys.get(row)?)?)).collect();
        found.sort_unstable();
        found.dedup();
        Ok(self.gather(found)?)
    }

    fn newest(&self, slots: &[u32]) -> Option<usize> {
        let live = slots.iter().map(|at| *at as usize).filter(|at| self.slots[*at].is_live(self.truncated));
        live.max_by_key(|at| self.slots[*at].told.as_ref().map(|told| told.order))
    }

    /// For each of these keys, whether its row was there and is deleted.
    pub fn are_deleted(&self, keys: &[ArrayRef]) -> Result<Vec<bool>, LatestError> {
        let keys = self.form.of_columns(keys)?;
        let slot = |row: usize| self.keys.get(keys.get(row)?).map(|at| &self.slots[at]);
        Ok((0..keys.len()).map(|row| slot(row).is_some_and(|slot| !slot.is_live(self.truncated))).collect())
    }

    /// Rows that are held, dead ones included.
    #[cfg(test)]
    pub(super) fn store_rows(&self) -> usize {
        self.store.rows()
    }

    /// Batches that they stand in.
    #[cfg(test)]
    pub(super) fn store_batches(&self) -> usize {
        self.store.batches()
    }

    fn gather(&self, slots: Vec<usize>) -> Result<RecordBatch, ArrowError> {
        // One row, as look-ups ask for, need not be copied.
        if let [slot] = slots[..]
            && let Some(Told { values: Values::Row(loc), .. }) = &self.slots[slot].told
            && let Some(row) = self.store.row(*loc)
        {
            return Ok(row);
        }
        self.pick(&slots).rows()
    }

    /// The rows of these slots, or what is known of them.
    fn pick(&self, slots: &[usize]) -> Picked {
        let stands_together =
            |at: &usize| !matches!(&self.slots[*at].told, Some(Told { values: Values::Columns(_), .. }));
        let columns = if slots.iter().all(stands_together) { 1 } else { self.store.schema().fields().len() };
        let place = |column: usize| slots.iter().map(|at| self.slots[*at].place(column, self.truncated)).collect();
        self.store.pick((0..columns).map(place).collect())
    }
}

impl Values {
    /// The values by column, told by `order` until now if they stood in one row.
    fn columns(&mut self, order: Order, count: usize, store: &mut Store) -> &mut [Option<(Order, Loc)>] {
        match *self {
            Values::Row(loc) => {
                *self = Values::Columns((0..count).map(|_| Some((order, store.share(loc)))).collect());
                store.release(loc);
            }
            Values::Forgotten => *self = Values::Columns(vec![None; count].into()),
            Values::Columns(_) => {}
        }
        match self {
            Values::Columns(columns) => columns,
            Values::Row(_) | Values::Forgotten => &mut [],
        }
    }
}
