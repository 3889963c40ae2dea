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
use arrow::error::ArrowError;
use parking_lot::Mutex;

use super::key::KeyForm;
use super::keyed::Stats;
use super::reader::LatestError;
use super::table::{LatestTable, Rows, Since, Unavailable};
use crate::schema::fixed;

/// A table that rows are put together from.
#[derive(Debug)]
pub struct Part {
    /// Its state.
    pub table: Arc<LatestTable>,
    /// Its columns that hold the key, in the key's order.
    pub key: Vec<String>,
    /// How its rows stand to the key.
    pub relation: Relation,
    /// What stands before the names of its columns.
    pub prefix: String,
    /// True if a row that is deleted there hides the key.
    pub drops: bool,
}

/// How rows of a part stand to the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relation {
    /// It is their own.
    Own,
    /// Other columns of them name it: of several rows the newest counts.
    Newest,
    /// Other columns of them name it: all of them are in a column of this name, see [`LatestTable::lists`].
    List(String),
}

impl Part {
    fn schema(&self) -> SchemaRef {
        match &self.relation {
            Relation::Own | Relation::Newest => self.table.schema(),
            Relation::List(column) => self.table.lists_schema(column),
        }
    }

    /// One row per key at most, all of them.
    fn scan(&self) -> Result<Vec<RecordBatch>, Unavailable> {
        match &self.relation {
            Relation::Own => self.table.scan(),
            Relation::Newest => self.table.scan_foreign(),
            Relation::List(column) => Ok(self.table.lists(None, column)?.into_iter().collect()),
        }
    }

    /// One row per key at most, of these keys.
    fn get(&self, keys: &[ArrayRef]) -> Result<RecordBatch, Unavailable> {
        let found = match &self.relation {
            Relation::Own => self.table.get(keys)?,
            Relation::Newest => self.table.get_foreign(keys)?,
            Relation::List(column) => self.table.lists(Some(keys), column)?,
        };
        Ok(found.unwrap_or_else(|| RecordBatch::new_empty(self.schema())))
    }

    /// Whether a column of it is one of the rows put together.
    fn takes(&self, column: &str) -> bool {
        let wanted = &self.table.wanted().columns;
        let is_wanted = wanted.is_empty() || wanted.iter().any(|name| name == column);
        let is_list = matches!(self.relation, Relation::List(_));
        (is_wanted || is_list) && column != fixed::EVENT_TIME && self.key.iter().all(|name| name != column)
    }
}

/// Rows put together.
#[derive(Debug)]
pub struct Merged {
    name: String,
    key: Vec<String>,
    parts: Vec<Part>,
    /// As of these columns of the parts.
    layout: Mutex<Option<(Vec<SchemaRef>, Arc<Layout>)>>,
    /// All rows, as of so many changes of the parts.
    scanned: Mutex<Option<(u64, Vec<RecordBatch>)>>,
}

/// The columns, and where the values of those behind the key and `event_time` stand.
#[derive(Debug)]
struct Layout {
    schema: SchemaRef,
    placed: Vec<Placed>,
}

/// A column of the rows: a part's column under the name it has here.
#[derive(Debug)]
struct Placed {
    part: usize,
    column: usize,
}

impl Merged {
    /// Rows with the key columns `key`, put together from `parts`.
    pub fn new(name: &str, key: &[String], parts: Vec<Part>) -> Self {
        Self { name: name.to_owned(), key: key.to_vec(), parts, layout: Mutex::default(), scanned: Mutex::default() }
    }

    /// The tables that rows are put together from.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Where columns stand. Of a name that two parts have the first one's column is taken.
    fn layout(&self) -> Arc<Layout> {
        let now: Vec<SchemaRef> = self.parts.iter().map(|part| part.table.schema()).collect();
        let mut layout = self.layout.lock();
        if let Some((then, layout)) = &*layout
            && then.iter().zip(&now).all(|(then, now)| Arc::ptr_eq(then, now))
        {
            return Arc::clone(layout);
        }
        let made = Arc::new(self.lay_out());
        *layout = Some((now, Arc::clone(&made)));
        made
    }

    fn lay_out(&self) -> Layout {
        let schemas: Vec<SchemaRef> = self.parts.iter().map(Part::schema).collect();
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
                if !own.takes(field.name()) {
                    continue;
                }
                let name = format!("{}{}", own.prefix, field.name());
                if fields.iter().all(|other| *other.name() != name) {
                    fields.push(Field::new(name, field.data_type().clone(), true));
                    placed.push(Placed { part, column });
                }
            }
        }
        Layout { schema: Arc::new(Schema::new(fields)), placed }
    }

    /// Puts batches of each part together: rows with one key, of which a part has one at most.
    fn put_together(&self, mut rows: Vec<Vec<RecordBatch>>) -> Result<Vec<RecordBatch>, LatestError> {
        if let [Part { relation: Relation::Own, .. }] = self.parts[..] {
            return self.rename(rows.pop().unwrap_or_default());
        }
        let one = |(part, batches): (&Part, Vec<RecordBatch>)| {
            let schema = batches.first().map_or_else(|| part.schema(), RecordBatch::schema);
            concat_batches(&schema, &batches)
        };
        let rows = self.parts.iter().zip(rows).map(one).collect::<Result<Vec<_>, _>>()?;
        Ok(vec![self.assemble(&rows)?])
    }

    /// Rows of the only part, under the names that its columns have here.
    fn rename(&self, rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, LatestError> {
        let layout = self.layout();
        let Layout { schema, placed } = &*layout;
        let own: Vec<&str> = self.parts.iter().flat_map(|part| &part.key).map(String::as_str).collect();
        let rename = |rows: RecordBatch| {
            let named = own.iter().copied().chain([fixed::EVENT_TIME]).map(|name| rows.column_by_name(name));
            let placed = placed.iter().map(|placed| rows.columns().get(placed.column));
            let columns = named.chain(placed).zip(schema.fields()).map(|(column, field)| match column {
                Some(column) => cast(column, field.data_type()),
                None => Ok(new_null_array(field.data_type(), rows.num_rows())),
            });
            let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
            let columns = columns.collect::<Result<_, ArrowError>>()?;
            Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
        };
        rows.into_iter().map(rename).collect()
    }

    /// Puts rows of the parts together, one of each part at most per key.
    fn assemble(&self, rows: &[RecordBatch]) -> Result<RecordBatch, LatestError> {
        let layout = self.layout();
        let Layout { schema, placed } = &*layout;
        let form = KeyForm::new(&self.key, schema)?;
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
            RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(LatestError::from)?;
        self.without_dropped(merged)
    }

    /// Leaves out the keys whose row is deleted in a part that drops rows.
    fn without_dropped(&self, merged: RecordBatch) -> Result<RecordBatch, LatestError> {
        let keys = &merged.columns()[..self.key.len()];
        let mut kept = vec![true; merged.num_rows()];
        for part in self.parts.iter().filter(|part| part.drops && part.relation == Relation::Own) {
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
        Arc::clone(&self.layout().schema)
    }

    fn changes(&self) -> u64 {
        self.parts.iter().map(|part| part.table.changes()).sum()
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
            let now = self.changes();
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

    fn since(&self, then: u64, most: usize) -> Result<Option<Since>, Unavailable> {
        // Of several parts it is not known which of them changed how often.
        let [Part { table, relation: Relation::Own, .. }] = &self.parts[..] else { return Ok(None) };
        let Some(Since { changes, keys, rows }) = table.since(then, most)? else { return Ok(None) };
        let rows = self.put_together(vec![vec![rows]])?.pop();
        Ok(rows.map(|rows| Since { changes, keys, rows }))
    }

    fn scan(&self) -> Result<Vec<RecordBatch>, Unavailable> {
        let mut scanned = self.scanned.lock();
        let now = self.changes();
        if let Some((_, rows)) = scanned.as_ref().filter(|(then, _)| *then == now) {
            return Ok(rows.clone());
        }
        let rows = self.parts.iter().map(Part::scan).collect::<Result<Vec<_>, _>>()?;
        let rows = self.put_together(rows)?;
        *scanned = Some((now, rows.clone()));
        Ok(rows)
    }

    fn get(&self, keys: &[ArrayRef]) -> Result<Option<RecordBatch>, Unavailable> {
        let rows = self.parts.iter().map(|part| Ok(vec![part.get(keys)?])).collect::<Result<Vec<_>, Unavailable>>()?;
        let rows = self.put_together(rows)?.pop();
        Ok(Some(rows.unwrap_or_else(|| RecordBatch::new_empty(self.schema()))))
    }
}
