//! A stream query: what its file says, and the rows that it makes of new rows of its stream.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{cast, concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::evaluation::{Counters, judge};
use crate::query::{Continuous, Found, Shared};
use crate::schema::{LogicalColumn, SchemaVersion, change, fixed};

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
    query: Continuous,
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

impl Selection {
    /// `query`, whose rows get `version`.
    pub fn new(query: Continuous, version: Arc<SchemaVersion>) -> Self {
        let schema = version.arrow_schema();
        Self { query, version, columns: LogicalColumn::all(&schema), schema }
    }

    /// The SELECT.
    pub fn query(&self) -> &Continuous {
        &self.query
    }

    /// The version that rows get.
    pub fn version(&self) -> &Arc<SchemaVersion> {
        &self.version
    }

    /// The rows that it makes of rows of its stream, which are of one partition and in its order: those of which the
    /// condition is true. A row that cannot be judged is left out, and counted.
    pub fn select(&self, rows: &RecordBatch, counters: &mut Counters) -> Result<Selected, ArrowError> {
        counters.rows += rows.num_rows() as u64;
        let mut failed = None;
        let judged = judge(
            &|rows: &RecordBatch, shared: &Shared| self.query.run(rows, shared),
            rows,
            &Shared::default(),
            &mut failed,
        )?;
        let heard: usize = judged.iter().map(|(range, _)| range.len()).sum();
        counters.failed += (rows.num_rows() - heard) as u64;
        counters.last_error = failed.or(counters.last_error.take());
        let (mut made, mut shown) = (Vec::new(), Vec::new());
        for (range, found) in judged {
            let part = self.part(&rows.slice(range.start, range.len()), &found, counters)?;
            made.push(part.rows);
            shown.push(part.shown);
        }
        let rows = concat_batches(&self.schema, &made)?;
        let shown = match shown.first() {
            Some(first) => concat_batches(&first.schema(), &shown)?,
            None => RecordBatch::new_empty(Arc::new(Schema::empty())),
        };
        Ok(Selected { rows: numbered(rows)?, shown })
    }

    fn part(&self, stream: &RecordBatch, found: &Found, counters: &mut Counters) -> Result<Selected, ArrowError> {
        let holds = |at: &u32| found.holds.is_valid(*at as usize) && found.holds.value(*at as usize);
        let mut held: Vec<u32> = (0..found.origins.len() as u32).filter(holds).collect();
        counters.held += held.len() as u64;
        counters.unknown += found.holds.null_count() as u64;
        // Rows for which nothing was found come last otherwise.
        held.sort_by_key(|at| found.origins[*at as usize]);
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
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(numbers));
    let schema = rows.schema();
    let column = |(field, column): (&FieldRef, &ArrayRef)| match field.name().as_str() {
        fixed::ROW => Arc::clone(&numbers),
        _ => Arc::clone(column),
    };
    let columns = schema.fields().iter().zip(rows.columns()).map(column).collect();
    RecordBatch::try_new(schema, columns)
}
