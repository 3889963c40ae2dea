//! Statements and portals of a connection: what was parsed, what was bound, and rows that are half given out.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use futures::TryStreamExt;

use super::answers::{Column, Trouble};
use super::parameters::Parameter;
use crate::query::postgres::{ColumnType, Command, SAME_NAME};
use crate::query::{Query, Rows, Statement, wire};

/// A parsed statement.
pub(super) struct Prepared {
    pub(super) sql: Arc<str>,
    pub(super) what: Parsed,
    pub(super) parameters: Vec<Parameter>,
}

/// What a statement is.
pub(super) enum Parsed {
    /// Blanks and comments.
    Empty,
    /// About the connection.
    Command(Command),
    /// About rows.
    Statement(Statement),
}

/// A bound statement.
pub(super) struct Portal {
    pub(super) sql: Arc<str>,
    pub(super) what: Bound,
    /// Types that the client was told, or will be.
    pub(super) told: SchemaRef,
    pub(super) columns: Arc<[Column]>,
    /// It outlives its transaction.
    pub(super) holds: bool,
    /// It did.
    pub(super) is_kept: bool,
}

/// What a portal does when it is executed.
pub(super) enum Bound {
    Empty,
    Command(Command),
    /// Not started yet.
    Query(Box<Query>),
    /// Started; some rows may have been given out.
    Rows(Cursor),
    /// All rows were given out.
    Done,
}

/// Rows of a statement, of which some were given out.
pub(super) struct Cursor {
    rows: Rows,
    schema: SchemaRef,
    rest: Option<RecordBatch>,
    /// Without end: what comes is sent at once.
    pub(super) is_live: bool,
}

impl Cursor {
    /// `schema` is that which the client was told.
    pub(super) fn new(rows: Rows, schema: SchemaRef, is_live: bool) -> Self {
        Self { rows, schema, rest: None, is_live }
    }

    /// The next rows, at most `most`; `None` at the end.
    pub(super) async fn next(&mut self, most: usize) -> crate::error::Result<Option<RecordBatch>> {
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => match self.rows.try_next().await? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        let count = batch.num_rows();
        if count > most {
            self.rest = Some(batch.slice(most, count - most));
            return Ok(Some(batch.slice(0, most)));
        }
        Ok(Some(batch))
    }

    /// `batch` in the types that the client was told.
    pub(super) fn as_told(&self, batch: &RecordBatch) -> Result<RecordBatch, Trouble> {
        if batch.schema().fields() == self.schema.fields() {
            return Ok(batch.clone());
        }
        let changed =
            || Trouble::new("0A000", "the types of the rows have changed").hint("prepare the statement again");
        let schema = batch.schema();
        // A number must not lose its fraction because another was told.
        let mut types = schema.fields().iter().zip(self.schema.fields());
        if !types.all(|(has, told)| holds(told.data_type(), has.data_type())) {
            return Err(changed());
        }
        wire::batch(batch, &self.schema).map_err(|_| changed())
    }
}

/// Whether every value of type `has` is one of type `told`.
pub(super) fn holds(told: &DataType, has: &DataType) -> bool {
    use DataType as T;
    let bits = |data_type: &DataType| match data_type {
        T::Int8 => Some(8),
        T::Int16 => Some(16),
        T::Int32 => Some(32),
        T::Int64 => Some(64),
        _ => None,
    };
    match (told, has) {
        _ if told == has => true,
        (_, T::Null) | (T::Float64, T::Int8 | T::Int16 | T::Int32 | T::Float32) => true,
        (T::Decimal128(wide, scale), T::Decimal128(has, of)) => {
            let whole = |digits: u8, scale: i8| i16::from(digits) - i16::from(scale);
            scale >= of && whole(*wide, *scale) >= whole(*has, *of)
        }
        _ => bits(told).zip(bits(has)).is_some_and(|(told, has)| told >= has),
    }
}

/// What the client is told of rows of `schema`. `formats` is that of each column, of all, or none: text.
pub(super) fn columns(schema: &SchemaRef, formats: &[i16]) -> Result<Arc<[Column]>, Trouble> {
    let fields = schema.fields();
    if formats.len() > 1 && formats.len() != fields.len() {
        let text = format!("bind message has {} result formats but query has {} columns", formats.len(), fields.len());
        return Err(Trouble::new("08P01", text));
    }
    let column = |(at, field): (usize, &arrow::datatypes::FieldRef)| {
        let name = field.name().split(SAME_NAME).next().unwrap_or_default().to_owned();
        Ok(Column { name, column_type: ColumnType::of(field), is_binary: is_binary(formats, at)? })
    };
    fields.iter().enumerate().map(column).collect()
}

/// Whether the value at `at` is sent as bytes. `formats` is that of each value, of all, or none: text.
pub(super) fn is_binary(formats: &[i16], at: usize) -> Result<bool, Trouble> {
    match formats.get(at).or_else(|| formats.first().filter(|_| formats.len() == 1)) {
        None | Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(other) => Err(Trouble::new("22023", format!("unsupported format code: {other}"))),
    }
}
