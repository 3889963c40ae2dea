//! Rows of a table that keeps every record, as people see them: hot ones, and with SQL those that are committed.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::cmp::gt_eq;
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::TryStreamExt;

use crate::error::{Error, Kind, Result};
use crate::lake::{HotBatch, View};
use crate::query::Service;
use crate::schema::{LogicalColumn, change, fixed, quoted_name};

/// Columns of a table, and what they are for people.
pub struct Columns {
    /// As they are stored.
    pub stored: SchemaRef,
    logical: Vec<LogicalColumn>,
    /// As people see them.
    pub shown: SchemaRef,
}

impl Columns {
    /// Those of a table with this schema.
    pub fn of(stored: &SchemaRef) -> Self {
        let logical = LogicalColumn::all(stored);
        let field = |column: &LogicalColumn| Field::new(&column.name, column.newest().data_type().clone(), true);
        let shown = Arc::new(Schema::new(logical.iter().map(field).collect::<Vec<_>>()));
        Self { stored: Arc::clone(stored), logical, shown }
    }

    /// Hot rows, with the columns that people see.
    pub fn rows(&self, hot: &HotBatch) -> Result<RecordBatch> {
        let arrays =
            self.logical.iter().map(|column| column.of_batch(&hot.rows)).collect::<std::result::Result<_, _>>();
        arrays.and_then(|arrays| RecordBatch::try_new(Arc::clone(&self.shown), arrays)).map_err(broken)
    }
}

/// Those of rows that people see whose offset is `first` or a later one.
pub fn from(rows: &RecordBatch, first: i64) -> Result<RecordBatch> {
    let Some(offsets) = rows.column_by_name(fixed::OFFSET) else { return Ok(rows.clone()) };
    let is_new = gt_eq(offsets, &Int64Array::new_scalar(first)).map_err(broken)?;
    filter_record_batch(rows, &is_new).map_err(broken)
}

/// Rows of a table of which `condition` is true, in the order of their records.
pub async fn read(service: &Service, table: &str, condition: &str) -> Result<Vec<RecordBatch>> {
    let order = [fixed::TOPIC, fixed::PARTITION, fixed::OFFSET, fixed::ROW].join(", ");
    let sql = format!("SELECT * FROM public.{} WHERE {condition} ORDER BY {order}", quoted_name(table));
    query(service, &sql).await
}

/// The first offset of the rows of which `condition` is true; `None` if there are none.
pub async fn first_offset(service: &Service, table: &str, condition: &str) -> Result<Option<i64>> {
    let sql = format!("SELECT min({}) FROM public.{} WHERE {condition}", fixed::OFFSET, quoted_name(table));
    let rows = query(service, &sql).await?;
    let offset = |rows: &RecordBatch| {
        let offsets = rows.column(0).as_primitive_opt::<Int64Type>()?;
        offsets.iter().flatten().next()
    };
    Ok(rows.iter().find_map(offset))
}

/// All that a query gives, however long it takes.
pub async fn query(service: &Service, sql: &str) -> Result<Vec<RecordBatch>> {
    let session = service.session();
    session.set("statement_timeout", "0")?;
    session.query(sql).await?.run().await?.try_collect().await
}

/// The column that says when a row of a table happened.
pub fn time(view: &View) -> &'static str {
    time_of(&view.schema)
}

/// The same, of rows with these columns.
pub fn time_of(columns: &Schema) -> &'static str {
    if columns.column_with_name(change::OP).is_some() { change::SOURCE_TIME } else { fixed::EVENT_TIME }
}

/// Rows are not what they should be.
pub fn broken(error: ArrowError) -> Error {
    Error::new(Kind::Internal, "new rows cannot be read").because(error)
}
