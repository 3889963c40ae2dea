//! What rows of a stream say of keys: when each was heard of last, and which record named it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};

use crate::engine::rows::broken;
use crate::error::Result;
use crate::latest::Rows;
use crate::schema::fixed;
use crate::stream::{Batch, Cause, Key, Micros, keys};

/// When each was heard of last, by the columns that say whose a row is.
#[derive(Debug, Default)]
pub struct Newest(pub BTreeMap<Vec<String>, HashMap<Key, Micros>>);

impl Newest {
    /// The rows that are not older than what was heard of the same before; from now on they are what was heard.
    pub fn fresh(&mut self, batch: &Batch, entity: &[String]) -> Vec<u32> {
        let newest = self.0.entry(entity.to_vec()).or_default();
        let entities = batch.entities(entity);
        let mut is_fresh = |row: &u32| {
            let (key, at) = (&entities[*row as usize], batch.times[*row as usize]);
            match newest.get_mut(key) {
                Some(newest) if at < *newest => false,
                Some(newest) => {
                    *newest = at;
                    true
                }
                None => {
                    newest.insert(Arc::clone(key), at);
                    true
                }
            }
        };
        (0..batch.len() as u32).filter(|row| is_fresh(row)).collect()
    }
}

/// The record that named each key of a table with one row per key last, and when that was.
#[derive(Debug, Default)]
pub struct Named(BTreeMap<Key, (Micros, Cause)>);

impl Named {
    /// Notes the keys that records name in `columns`, and gives them as key columns; nothing while the columns are not
    /// there.
    pub fn note(&mut self, batch: &Batch, columns: &[String], kept: &dyn Rows) -> Option<RecordBatch> {
        let names = kept.key();
        let keys_of = as_keys(&batch.rows, columns, names, &kept.schema())?;
        for (row, key) in keys(&keys_of, names).into_iter().enumerate() {
            self.0.insert(key, (batch.times[row], batch.causes[row].clone()));
        }
        Some(keys_of)
    }

    /// Rows of keys, with the record that named each and when that was, if that is known; otherwise their own time, or
    /// `now`.
    pub fn batch(&self, kept: &dyn Rows, rows: &[RecordBatch], now: Micros) -> Result<Batch> {
        let rows = match rows.first() {
            Some(first) => concat_batches(&first.schema(), rows).map_err(broken)?,
            None => RecordBatch::new_empty(kept.schema()),
        };
        let entities = keys(&rows, kept.key());
        let found: BTreeSet<&Key> = entities.iter().collect();
        let gone = self.0.iter().filter(|(key, _)| !found.contains(key));
        let gone = gone.map(|(key, (at, cause))| (Arc::clone(key), *at, cause.clone())).collect();
        // Of all rows together it is not known which record made each what it is.
        let unnamed = Cause { topic: kept.name().into(), partition: -1, offset: -1 };
        let cause = |key: &Key| self.0.get(key).map_or_else(|| unnamed.clone(), |(_, cause)| cause.clone());
        let causes = entities.iter().map(cause).collect();
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let own = rows.column_by_name(fixed::EVENT_TIME).and_then(|column| cast(column, &micros).ok());
        let own = own.as_ref().map(|column| column.as_primitive::<TimestampMicrosecondType>());
        let time = |(row, key): (usize, &Key)| {
            let own = || own.filter(|own| own.is_valid(row)).map(|own| own.value(row));
            self.0.get(key).map(|(at, _)| *at).or_else(own).unwrap_or(now)
        };
        let times = entities.iter().enumerate().map(time).collect();
        Ok(Batch::new(rows, times, causes, gone))
    }
}

/// The keys that records name, as key columns; `None` while the columns are not there.
fn as_keys(rows: &RecordBatch, columns: &[String], names: &[String], schema: &SchemaRef) -> Option<RecordBatch> {
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (column, name) in columns.iter().zip(names) {
        let kind = schema.field_with_name(name).ok()?.data_type();
        arrays.push(cast(rows.column_by_name(column)?, kind).ok()?);
        fields.push(Field::new(name, kind.clone(), true));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).ok()
}
