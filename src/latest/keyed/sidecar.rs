//! A state written down beside its table's rows: all that is known of a key, so that the state can be put together
//! again without the changes that made it.
//!
//! A state is the greatest of all that was told. So what was written down at different times can be read back in any
//! order, twice, and beside changes that it knows already.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, ListBuilder, RecordBatch,
    RecordBatchOptions,
};
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::{Keyed, Told, Values};
use crate::latest::order::Order;
use crate::latest::reader::LatestError;
use crate::latest::store::Loc;
use crate::schema::conform;

/// Who told the row: of nothing, nobody; of a whole row, one; else by column.
const TOLD: &str = "_told";
/// The newest delete.
const DELETED: &str = "_deleted";
/// The newest tombstone, by its lane and offset.
const TOMBSTONE: &str = "_tombstone";

/// What a state knows beside its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecars {
    /// Epochs in the order they were met.
    pub epochs: Vec<String>,
    /// What was told before this is not there.
    pub truncated: Option<Order>,
    /// See [`Keyed::sweeps`].
    pub sweeps: Vec<Order>,
}

impl Keyed {
    /// The slots of which something is not written down yet; from now on they count as written down.
    pub fn take_changed(&mut self) -> Vec<u32> {
        let changed = std::mem::take(&mut self.changed);
        changed.iter().for_each(|at| self.slots[*at as usize].is_changed = false);
        changed
    }

    /// What is known beside the keys.
    pub fn sidecars(&self) -> Sidecars {
        Sidecars {
            epochs: self.epochs.names(),
            truncated: self.truncated,
            sweeps: self.sweeps.iter().copied().collect(),
        }
    }

    /// Keys of another table that were named until something changed; from now on they count as written down.
    pub fn take_left(&mut self) -> Result<Option<Vec<ArrayRef>>, LatestError> {
        let Some(foreign) = self.foreign.as_mut().filter(|foreign| !foreign.left.is_empty()) else { return Ok(None) };
        let left = std::mem::take(&mut foreign.left);
        Ok(Some(foreign.form.values(left.iter().map(|key| &**key))?))
    }

    /// Keys of the rows of the table that may be others when these slots have changed, as key columns.
    pub fn touched(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, LatestError> {
        Ok(match &self.foreign {
            None => self.form.values(slots.iter().map(|at| self.keys.key(*at as usize)))?,
            Some(foreign) => {
                let named = slots.iter().filter_map(|at| foreign.named.get(*at as usize)?.as_deref());
                foreign.form.values(named)?
            }
        })
    }

    /// What is known of these slots: the keys, the values, and who told them; for [`Self::restore_rows`].
    pub fn written(&self, slots: &[u32]) -> Result<RecordBatch, LatestError> {
        let slots: Vec<usize> = slots.iter().map(|at| *at as usize).collect();
        let keys = self.form.values(slots.iter().map(|at| self.keys.key(*at)))?;
        let gathered = self.gather(slots.clone())?;
        let mut columns: Vec<ArrayRef> =
            keys.into_iter().chain(gathered.columns().iter().skip(self.shape.key.len()).cloned()).collect();
        let mut fields: Vec<Field> =
            gathered.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let own = [(TOLD, self.told(&slots)?), (DELETED, self.deleted(&slots)?), (TOMBSTONE, self.tombstones(&slots)?)];
        for (name, column) in own {
            fields.push(Field::new(name, column.data_type().clone(), true));
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(slots.len()));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
    }

    fn told(&self, slots: &[usize]) -> Result<ArrayRef, ArrowError> {
        let mut told = ListBuilder::new(FixedSizeBinaryBuilder::new(Order::BYTES as i32));
        for at in slots {
            match &self.slots[*at].told {
                None => {}
                Some(Told { order, values: Values::Row(_) | Values::Forgotten }) => {
                    told.values().append_value(order.to_bytes())?;
                }
                Some(Told { values: Values::Columns(columns), .. }) => {
                    for column in columns {
                        match column {
                            Some((order, _)) => told.values().append_value(order.to_bytes())?,
                            None => told.values().append_null(),
                        }
                    }
                }
            }
            told.append(true);
        }
        Ok(Arc::new(told.finish()))
    }

    fn deleted(&self, slots: &[usize]) -> Result<ArrayRef, ArrowError> {
        let deleted = slots.iter().map(|at| self.slots[*at].deleted.map(Order::to_bytes));
        Ok(Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(deleted, Order::BYTES as i32)?))
    }

    fn tombstones(&self, slots: &[usize]) -> Result<ArrayRef, ArrowError> {
        let bytes = |at: &usize| {
            let (lane, offset) = self.slots[*at].tombstone?;
            Some(Order { run_ms: 0, epoch: 0, token: [0; 3], lane, offset, row: 0 }.to_bytes())
        };
        let bytes = slots.iter().map(bytes);
        Ok(Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes, Order::BYTES as i32)?))
    }

    /// Takes in what a state knew beside its keys; before anything else, so that epochs keep their numbers.
    pub fn restore(&mut self, known: &Sidecars) {
        self.meet(known.epochs.iter().map(String::as_str));
        if let Some(order) = known.truncated {
            self.truncate(order);
        }
        self.sweeps.extend(&known.sweeps);
    }

    /// Takes in what [`Self::written`] gave of a state of the same key, as written down: nothing counts as changed by it.
    pub fn restore_rows(&mut self, rows: &RecordBatch) -> Result<(), LatestError> {
        let schema = rows.schema();
        let own = |name: &'static str| rows.column_by_name(name).ok_or(LatestError::Column(name));
        let told = own(TOLD)?.as_list_opt::<i32>().ok_or(LatestError::Column(TOLD))?;
        let order = |name| own(name)?.as_fixed_size_binary_opt().ok_or(LatestError::Column(name));
        let (deleted, tombstones) = (order(DELETED)?, order(TOMBSTONE)?);
        let of_row = |orders: &FixedSizeBinaryArray, row: usize| {
            if orders.is_valid(row) { Order::from_bytes(orders.value(row)) } else { None }
        };
        // Where a column of the state stands among those that were written down.
        let written = |field: &Arc<Field>| schema.index_of(field.name()).ok();
        let written: Vec<Option<usize>> = self.store.schema().fields().iter().map(written).collect();
        let keys = self.form.of(rows, &self.shape.key)?.ok_or(LatestError::Column("key"))?;
        let foreign = match &self.foreign {
            Some(foreign) => foreign.form.of(rows, &self.shape.foreign)?,
            None => None,
        };
        let values = self.store.add(conform(rows, self.store.schema())?);
        let already = self.changed.len();
        for row in 0..rows.num_rows() {
            let Some(key) = keys.get(row) else { continue };
            let orders = told.value(row);
            let orders = orders.as_fixed_size_binary_opt().ok_or(LatestError::Column(TOLD))?;
            if let Some(order) = of_row(deleted, row) {
                self.delete(key, order);
            }
            if let Some(Order { lane, offset, .. }) = of_row(tombstones, row) {
                self.bury(key, lane, offset);
            }
            let newest = (0..orders.len()).filter_map(|at| of_row(orders, at)).max();
            let Some(newest) = newest else { continue };
            let at = match orders.len() {
                1 => self.tell(key, newest, (values, row), None),
                _ => {
                    let by_column =
                        |at: &Option<usize>| at.filter(|at| *at < orders.len()).and_then(|at| of_row(orders, at));
                    self.tell_columns(key, newest, (values, row), &written.iter().map(by_column).collect::<Vec<_>>())
                }
            };
            self.name(at, newest, foreign.as_ref().and_then(|keys| keys.get(row)));
        }
        self.store.settle(values);
        for at in self.changed.drain(already..) {
            self.slots[at as usize].is_changed = false;
        }
        if let Some(foreign) = &mut self.foreign {
            foreign.left.clear();
        }
        Ok(())
    }

    /// Columns of a key were told by these, in the row `at.1` of the batch `at.0`.
    fn tell_columns(&mut self, key: &[u8], newest: Order, at: (u32, usize), orders: &[Option<Order>]) -> usize {
        self.change(key, |slot, store| {
            let columns = vec![None; orders.len()].into();
            let known = slot.told.get_or_insert(Told { order: newest, values: Values::Columns(columns) });
            let cells = known.values.columns(known.order, orders.len(), store);
            known.order = known.order.max(newest);
            for (cell, order) in cells.iter_mut().zip(orders) {
                let Some(order) = order.filter(|order| cell.is_none_or(|(known, _)| known < *order)) else { continue };
                let loc: Loc = store.hold(at.0, at.1);
                if let Some((_, old)) = cell.replace((order, loc)) {
                    store.release(old);
                }
            }
        })
    }
}
