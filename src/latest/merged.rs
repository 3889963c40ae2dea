//! One row per key, put together from the states of several tables.
//!
//! A key has a row if one of the tables has; columns of the others are null (a full outer join). A table whose deletes
//! drop rows hides a key for as long as its own row is deleted. Each table is a state of its own, so nothing of this
//! depends on what came first.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{
    cast, concat_batches, filter_record_batch, is_not_null, kernels::cmp::gt, kernels::zip::zip, or, take,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parking_lot::Mutex;

use super::key::KeyForm;
use super::keyed::Stats;
use super::reader::LatestError;
use super::table::{LatestTable, Rows, Unavailable};
use crate::schema::fixed;

/// A table that rows are put together from.
#[derive(Debug)]
pub struct Part {
    /// Its state.
    pub table: Arc<LatestTable>,
    /// Its columns that hold the key, in the key's order.
    pub key: Vec<String>,
    /// True if those are not its own key: other columns of it name the key.
    pub is_foreign: bool,
    /// What stands before the names of its columns.
    pub prefix: String,
    /// True if a row that is deleted there hides the key.
    pub drops: bool,
}

/// Rows put together.
#[derive(Debug)]
pub struct Merged {
    name: String,
    key: Vec<String>,
    parts: Vec<Part>,
    /// All rows, as of these changes of the parts.
    scanned: Mutex<Option<(Vec<u64>, Vec<RecordBatch>)>>,
}

/// A column of the rows: a part's column under the name it has here.
struct Placed {
    part: usize,
    column: usize,
}

impl Merged {
    /// Rows with the key columns `key`, put together from `parts`.
    pub fn new(name: &str, key: &[String], parts: Vec<Part>) -> Self {
        Self { name: name.to_owned(), key: key.to_vec(), parts, scanned: Mutex::new(None) }
    }

    /// The tables that rows are put together from.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// How often the rows of each part have changed.
    fn part_changes(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.table.changes()).collect()
    }

    /// The columns, and where the values of those behind the key and `event_time` stand. Of a name that two parts have
    /// the first one's column is taken.
    fn layout(&self) -> (SchemaRef, Vec<Placed>) {
        let schemas: Vec<SchemaRef> = self.parts.iter().map(|part| part.table.schema()).collect();
        let kind = |name: &String, at: usize| {
            let of_part = |(part, schema): (&Part, &SchemaRef)| {
                let own = part.key.get(at)?;
                Some(schema.field_with_name(own).ok()?.data_type().clone())
            };
            let kind = self.parts.iter().zip(&schemas).find_map(of_part);
            Field::new(name, kind.unwrap_or(DataType::Utf8), true)
        };
        let mut fields: Vec<Field> = self.key.iter().enumerate().map(|(at, name)| kind(name, at)).collect();
        fields.push(Field::new(fixed::EVENT_TIME, super::table::micros(), true));
        let mut placed = Vec::new();
        for (part, schema) in schemas.iter().enumerate() {
            for (column, field) in schema.fields().iter().enumerate() {
                let own = &self.parts[part];
                let wanted = &own.table.wanted().columns;
                let unwanted = !wanted.is_empty() && !wanted.contains(field.name());
                if unwanted || own.key.contains(field.name()) || field.name() == fixed::EVENT_TIME {
                    continue;
                }
                let name = format!("{}{}", own.prefix, field.name());
                if fields.iter().all(|other| *other.name() != name) {
                    fields.push(Field::new(name, field.data_type().clone(), true));
                    placed.push(Placed { part, column });
                }
            }
        }
        (Arc::new(Schema::new(fields)), placed)
    }

    /// Puts rows of the parts together, one of each part at most per key.
    fn assemble(&self, rows: &[RecordBatch]) -> Result<RecordBatch, LatestError> {
        let (schema, placed) = self.layout();
        let form = KeyForm::new(&self.key, &schema)?;
        let mut at_key: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut places: Vec<Vec<Option<u32>>> = vec![Vec::new(); rows.len()];
        let mut count = 0;
        for (number, (part, rows)) in self.parts.iter().zip(rows).enumerate() {
            let Some(keys) = form.of(rows, &part.key)? else { continue };
            for row in 0..keys.len() {
                let Some(key) = keys.get(row) else { continue };
                let at = *at_key.entry(key.to_vec()).or_insert(count);
                count = count.max(at + 1);
                let place = &mut places[number];
                place.resize(place.len().max(at + 1), None);
                place[at] = Some(row as u32);
            }
        }
        let places: Vec<UInt32Array> = places
            .into_iter()
            .map(|mut place| {
                place.resize(count, None);
                UInt32Array::from(place)
            })
            .collect();
        let value = |part: usize, column: &ArrayRef| take(column, &places[part], None);
        // The first part that has the key says it, the newest one's time is the row's.
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (at, field) in schema.fields().iter().take(self.key.len()).enumerate() {
            let mut column = new_null_array(field.data_type(), count);
            for (number, (part, rows)) in self.parts.iter().zip(rows).enumerate() {
                if let Some(own) = rows.column_by_name(&part.key[at]) {
                    let own = cast(&value(number, own)?, field.data_type())?;
                    column = zip(&is_not_null(&column)?, &column, &own)?;
                }
            }
            columns.push(column);
        }
        let mut time = new_null_array(&super::table::micros(), count);
        for (number, rows) in rows.iter().enumerate() {
            if let Some(own) = rows.column_by_name(fixed::EVENT_TIME) {
                let own = cast(&value(number, own)?, time.data_type())?;
                let newer = gt(&own, &time)?;
                let newer: BooleanArray = newer.iter().map(|newer| Some(newer == Some(true))).collect();
                let first = or(&newer, &arrow::compute::is_null(&time)?)?;
                time = zip(&first, &own, &time)?;
            }
        }
        columns.push(time);
        for (placed, field) in placed.iter().zip(schema.fields().iter().skip(self.key.len() + 1)) {
            let own = rows[placed.part].columns().get(placed.column);
            columns.push(match own {
                Some(own) => cast(&value(placed.part, own)?, field.data_type())?,
                None => new_null_array(field.data_type(), count),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let merged =
            RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options).map_err(LatestError::from)?;
        self.without_dropped(merged)
    }

    /// Leaves out the keys whose row is deleted in a part that drops rows.
    fn without_dropped(&self, merged: RecordBatch) -> Result<RecordBatch, LatestError> {
        let keys = &merged.columns()[..self.key.len()];
        let mut kept = vec![true; merged.num_rows()];
        for part in self.parts.iter().filter(|part| part.drops && !part.is_foreign) {
            for (kept, deleted) in kept.iter_mut().zip(part.table.are_deleted(keys)?) {
                *kept &= !deleted;
            }
        }
        if kept.iter().all(|kept| *kept) {
            return Ok(merged);
        }
        Ok(filter_record_batch(&merged, &BooleanArray::from(kept))?)
    }
}

impl Rows for Merged {
    fn name(&self) -> &str {
        &self.name
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn schema(&self) -> SchemaRef {
        self.layout().0
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for part in self.parts.iter().map(|part| part.table.stats()) {
            stats.rows = stats.rows.max(part.rows);
            stats.keys = stats.keys.max(part.keys);
            stats.bytes += part.bytes;
        }
        // Rows of a scan are held until something changes; while one is under way, nobody waits for it here.
        if let Some(mut scanned) = self.scanned.try_lock() {
            let now = self.part_changes();
            scanned.take_if(|(then, _)| *then != now);
            let rows = scanned.iter().flat_map(|(_, rows)| rows);
            stats.bytes += rows.map(RecordBatch::get_array_memory_size).sum::<usize>();
        }
        stats
    }

    fn stopped(&self) -> Option<String> {
        self.parts.iter().find_map(|part| part.table.stopped())
    }

    fn is_loading(&self) -> bool {
        self.parts.iter().any(|part| part.table.is_loading())
    }

    fn scan(&self) -> Result<Vec<RecordBatch>, Unavailable> {
        let mut scanned = self.scanned.lock();
        let now = self.part_changes();
        if let Some((_, rows)) = scanned.as_ref().filter(|(then, _)| *then == now) {
            return Ok(rows.clone());
        }
        let mut rows = Vec::new();
        for part in &self.parts {
            let batches = if part.is_foreign { part.table.scan_foreign()? } else { part.table.scan()? };
            let schema = batches.first().map_or_else(|| part.table.schema(), RecordBatch::schema);
            rows.push(concat_batches(&schema, &batches).map_err(LatestError::from)?);
        }
        let rows = vec![self.assemble(&rows)?];
        *scanned = Some((now, rows.clone()));
        Ok(rows)
    }

    fn get(&self, keys: &[ArrayRef]) -> Result<Option<RecordBatch>, Unavailable> {
        let mut rows = Vec::new();
        for part in &self.parts {
            let found = if part.is_foreign { part.table.get_foreign(keys)? } else { part.table.get(keys)? };
            rows.push(found.unwrap_or_else(|| RecordBatch::new_empty(part.table.schema())));
        }
        Ok(Some(self.assemble(&rows)?))
    }
}
