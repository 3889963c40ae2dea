//! A stream query: what its file says, and the rows that it makes of new rows of its stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
    new_null_array,
};
use arrow::compute::{cast, concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use sha2::{Digest, Sha256};

use super::batch::{keys, rows_as_json};
use super::judge::{Counters, Recalled, judge};
use super::life::Micros;
use crate::query::{Continuous, Found, Shared};
use crate::schema::{LogicalColumn, SchemaVersion, change, fixed};

/// The column that tells the results of a query that keeps rows or windows apart.
pub const RESULT_ID: &str = "_result_id";

/// A query of `kind = "stream"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamQuery {
    /// Its name = the file's stem.
    pub name: String,
    /// The SELECT. The head's lines are left empty, so that a line number in an error is one of the file.
    pub sql: String,
    /// The file as problems name it.
    pub file: String,
    /// [`crate::stream::Rule::hash`] of its text.
    pub hash: String,
    /// The columns that say whose a row is; may be none.
    pub key: Vec<String>,
    /// The query's name is that of a table with the newest row of each key.
    pub upsert: bool,
    /// Rows are kept in a table.
    pub keeps: bool,
    /// The topics that rows are sent to.
    pub to: Vec<String>,
}

impl StreamQuery {
    /// The table that each of its rows is appended to.
    pub fn table(&self) -> String {
        if self.upsert { change::table_of(&self.name) } else { self.name.clone() }
    }
}

/// A stream query that can be run: its SELECT, and the table that its rows are for.
#[derive(Debug)]
pub struct Selection {
    query: Arc<Continuous>,
    version: Arc<SchemaVersion>,
    schema: SchemaRef,
    /// The table's columns as people see them.
    columns: Vec<LogicalColumn>,
}

/// What became of rows of the stream.
#[derive(Debug)]
pub struct Selected {
    /// Rows of the table.
    pub rows: RecordBatch,
    /// The same rows with what is selected and when they happened, for people.
    pub shown: RecordBatch,
}

/// The columns of the table for what `query` selects.
pub fn columns_of(query: &Continuous) -> SchemaRef {
    let schema = query.schema();
    match query.memory() {
        None => schema,
        Some(_) => {
            let id = Arc::new(Field::new(RESULT_ID, DataType::Utf8, true));
            Arc::new(Schema::new(schema.fields().iter().cloned().chain([id]).collect::<Vec<_>>()))
        }
    }
}

impl Selection {
    /// `query`, whose rows get `version`.
    pub fn new(query: Continuous, version: Arc<SchemaVersion>) -> Self {
        let schema = version.arrow_schema();
        Self { query: Arc::new(query), version, columns: LogicalColumn::all(&schema), schema }
    }

    /// The SELECT.
    pub fn query(&self) -> &Continuous {
        &self.query
    }

    /// The same, for who goes on with it elsewhere.
    pub fn shared(&self) -> Arc<Continuous> {
        Arc::clone(&self.query)
    }

    /// The version that rows get.
    pub fn version(&self) -> &Arc<SchemaVersion> {
        &self.version
    }

    /// The rows that it makes of rows of its stream, which are of one partition and in its order: those of which the
    /// condition is true. A row that cannot be judged is left out, and counted.
    pub fn select(&self, rows: &RecordBatch, counters: &mut Counters) -> Result<Selected, ArrowError> {
        counters.rows += rows.num_rows() as u64;
        let selected = self.selected(rows, rows, counters)?;
        Ok(Selected { rows: numbered(selected.rows)?, ..selected })
    }

    /// What a query that keeps rows or windows makes of what is said of them: rows of the table, numbered from `first`
    /// instead of the records' offsets, in `topic`. The same are told by the same id whenever they are made.
    pub fn results(
        &self,
        of: &StreamQuery,
        recalled: &[Recalled],
        first: i64,
        counters: &mut Counters,
    ) -> Result<RecordBatch, ArrowError> {
        let mut made = Vec::new();
        for Recalled { of: beside, rows } in recalled {
            made.push(self.selected(rows, &places(&of.name, &beside.times)?, counters)?.rows);
        }
        let rows = concat_batches(&self.schema, &made)?;
        let numbers = Int64Array::from_iter_values((first..).take(rows.num_rows()));
        let rows = replaced(&rows, fixed::OFFSET, Arc::new(numbers))?;
        let payload = self.payload(&rows)?;
        let texts = if of.key.is_empty() {
            rows_as_json(&payload)
        } else {
            let when_and_whose: Vec<String> = of.key.iter().cloned().chain([fixed::EVENT_TIME.to_owned()]).collect();
            keys(&payload, &when_and_whose).iter().map(|key| key.to_string()).collect()
        };
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        let mut ids = Vec::with_capacity(texts.len());
        for text in &texts {
            let times = seen.entry(text).and_modify(|times| *times += 1).or_default();
            let hash = Sha256::new_with_prefix(&of.name).chain_update([0]).chain_update(text);
            let hash = hash.chain_update(times.to_be_bytes()).finalize();
            ids.push(hash[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
        replaced(&rows, RESULT_ID, Arc::new(StringArray::from(ids)))
    }

    /// What people see of rows of the table: when they happened, and what is selected.
    pub fn payload(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let selected = columns_of(&self.query);
        let names = selected.fields().iter().map(|field| field.name().as_str());
        let own = names.filter(|name| !fixed::ALL.contains(name));
        let column = |name: &str| {
            let column = self.columns.iter().find(|column| column.name == name)?;
            Some((name.to_owned(), Arc::clone(rows.column_by_name(column.newest().name())?), true))
        };
        RecordBatch::try_from_iter_with_nullable([fixed::EVENT_TIME].into_iter().chain(own).filter_map(column))
    }

    /// What it makes of rows, each beside the row of the stream that it is of.
    fn selected(&self, rows: &RecordBatch, of: &RecordBatch, counters: &mut Counters) -> Result<Selected, ArrowError> {
        let judged = judge(|rows, shared| self.query.run(rows, shared), rows, &Shared::default(), counters)?;
        let (mut made, mut shown) = (Vec::new(), Vec::new());
        for (range, found) in judged {
            let part = self.part(&of.slice(range.start, range.len()), &found, counters)?;
            made.push(part.rows);
            shown.push(part.shown);
        }
        let rows = concat_batches(&self.schema, &made)?;
        let shown = match shown.first() {
            Some(first) => concat_batches(&first.schema(), &shown)?,
            None => RecordBatch::new_empty(Arc::new(Schema::empty())),
        };
        Ok(Selected { rows, shown })
    }

    fn part(&self, stream: &RecordBatch, found: &Found, counters: &mut Counters) -> Result<Selected, ArrowError> {
        let holds = |at: &u32| found.holds.is_valid(*at as usize) && found.holds.value(*at as usize);
        let held: Vec<u32> = (0..found.origins.len() as u32).filter(holds).collect();
        counters.held += held.len() as u64;
        counters.unknown += found.holds.null_count() as u64;
        let origins = UInt32Array::from_iter_values(held.iter().map(|at| found.origins[*at as usize]));
        let found = take_record_batch(&found.rows, &UInt32Array::from(held))?;
        let of_stream = |name: &str| stream.column_by_name(name).map(|column| take(column, &origins, None)).transpose();
        let count = origins.len();
        let column = |field: &FieldRef| -> Result<ArrayRef, ArrowError> {
            let (name, kind) = (field.name().as_str(), field.data_type());
            let values = match name {
                fixed::SCHEMA_VERSION => {
                    Some(Arc::new(Int32Array::from(vec![self.version.number.cast_signed(); count])) as ArrayRef)
                }
                fixed::RESCUED => None,
                _ if fixed::ALL.contains(&name) => of_stream(name)?,
                _ => {
                    let newest = self.columns.iter().find(|column| column.newest().name() == name);
                    newest.and_then(|column| found.column_by_name(&column.name)).cloned()
                }
            };
            values.map_or_else(|| Ok(new_null_array(kind, count)), |values| cast(&values, kind))
        };
        let columns = self.schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let is_own = |field: &&FieldRef| !fixed::ALL.contains(&field.name().as_str());
        let own = found.schema();
        let own =
            own.fields().iter().filter(is_own).filter_map(|field| {
                Some((field.name().clone(), Arc::clone(found.column_by_name(field.name())?), true))
            });
        let at = rows.column_by_name(fixed::EVENT_TIME).map(|at| (fixed::EVENT_TIME.to_owned(), Arc::clone(at), true));
        let shown = RecordBatch::try_from_iter_with_nullable(at.into_iter().chain(own))?;
        Ok(Selected { rows, shown })
    }
}

/// Where results stand in their table that happened at these times.
fn places(topic: &str, times: &[Micros]) -> Result<RecordBatch, ArrowError> {
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"));
    let none: ArrayRef = Arc::new(Int32Array::from(vec![0; times.len()]));
    RecordBatch::try_from_iter_with_nullable([
        (fixed::EVENT_TIME, Arc::clone(&at), true),
        (fixed::TOPIC, Arc::new(StringArray::from(vec![topic; times.len()])) as ArrayRef, true),
        (fixed::INCARNATION, Arc::clone(&none), true),
        (fixed::PARTITION, Arc::clone(&none), true),
        (fixed::OFFSET, Arc::clone(&none), true),
        (fixed::ROW, none, true),
        (fixed::TIMESTAMP, Arc::clone(&at), true),
        (fixed::DAY, cast(&at, &DataType::Date32)?, true),
    ])
}

/// Rows with another column of this name.
fn replaced(rows: &RecordBatch, name: &str, column: ArrayRef) -> Result<RecordBatch, ArrowError> {
    let schema = rows.schema();
    let mut columns = rows.columns().to_vec();
    let at = schema.index_of(name)?;
    columns[at] = cast(&column, schema.field(at).data_type())?;
    RecordBatch::try_new(schema, columns)
}

/// Rows of one partition, those of each record counted from 0.
fn numbered(rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let Some(offsets) = rows.column_by_name(fixed::OFFSET).filter(|offsets| *offsets.data_type() == DataType::Int64)
    else {
        return Ok(rows);
    };
    let offsets = offsets.as_primitive::<Int64Type>();
    let (mut last, mut number) = (None, 0);
    let numbers = offsets.values().iter().map(|offset| {
        number = if last == Some(*offset) { number + 1 } else { 0 };
        last = Some(*offset);
        number
    });
    replaced(&rows, fixed::ROW, Arc::new(Int32Array::from_iter_values(numbers)))
}
