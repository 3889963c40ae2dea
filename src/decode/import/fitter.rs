//! Rows of a file in the columns of its table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringBuilder, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde_json::Value;

use super::FileRows;
use super::kinds::{either, fit, join, misfits, text, written_as};
use crate::schema::{fixed::RESCUED, plain_type};

/// Brings the rows of files into the columns of one table.
#[derive(Debug, Clone, Default)]
pub struct Fitter {
    columns: Vec<Column>,
    rescued: u64,
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    /// Null until a value was seen.
    kind: DataType,
    /// The table has it: it stays what it is.
    is_kept: bool,
}

impl Fitter {
    /// Of a table that has these columns already.
    pub fn new(table: &Schema) -> Self {
        let column =
            |field: &Arc<Field>| Column { name: field.name().clone(), kind: field.data_type().clone(), is_kept: true };
        Self { columns: table.fields().iter().map(column).collect(), rescued: 0 }
    }

    /// The columns by now.
    pub fn schema(&self) -> SchemaRef {
        let field = |column: &Column| {
            let kind = if column.kind == DataType::Null { DataType::Utf8 } else { column.kind.clone() };
            Field::new(&column.name, kind, true)
        };
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// Values that went to `_rescued` since this was asked last.
    pub fn take_rescued(&mut self) -> u64 {
        std::mem::take(&mut self.rescued)
    }

    /// Makes columns, or makes columns of this file wider, so that these rows fit; true if there was need. What does not
    /// fit a column of the table makes `_rescued`.
    pub fn learn(&mut self, rows: &FileRows) -> Result<bool, ArrowError> {
        let mut changed = false;
        let mut needs_rescue = false;
        for (field, values) in rows.batch.schema().fields().iter().zip(rows.batch.columns()) {
            let known = self.columns.iter_mut().find(|known| known.name == *field.name());
            match known {
                Some(known) if known.is_kept => {
                    needs_rescue |= known.name != RESCUED && has_misfits(values, rows.is_written, &known.kind)?;
                }
                Some(known) if known.kind == DataType::Utf8 => {}
                Some(known) => {
                    let kind = join(&known.kind, &kind_of(values, rows.is_written));
                    // Whole numbers that a double does not hold.
                    let kind = match kind {
                        DataType::Float64 if has_misfits(values, rows.is_written, &kind)? => DataType::Utf8,
                        other => other,
                    };
                    changed |= kind != known.kind;
                    known.kind = kind;
                }
                None => {
                    let kind = kind_of(values, rows.is_written);
                    self.columns.push(Column { name: field.name().clone(), kind, is_kept: false });
                    changed = true;
                }
            }
        }
        if needs_rescue && self.columns.iter().all(|column| column.name != RESCUED) {
            self.columns.push(Column { name: RESCUED.to_owned(), kind: DataType::Utf8, is_kept: false });
            changed = true;
        }
        Ok(changed)
    }

    /// The rows in the table's columns; `None` if they do not fit them, and [`Fitter::learn`] has not been asked.
    pub fn fit(&mut self, rows: &FileRows) -> Result<Option<RecordBatch>, ArrowError> {
        let given = rows.batch.schema();
        if given.fields().iter().any(|field| self.columns.iter().all(|column| column.name != *field.name())) {
            return Ok(None);
        }
        let schema = self.schema();
        let count = rows.batch.num_rows();
        let (mut columns, mut lost): (Vec<ArrayRef>, Vec<Lost>) = (Vec::new(), Vec::new());
        for (column, field) in self.columns.iter().zip(schema.fields()) {
            let Some(values) = rows.batch.column_by_name(&column.name) else {
                columns.push(new_null_array(field.data_type(), count));
                continue;
            };
            // A column without values so far may become anything.
            if column.kind == DataType::Null && values.null_count() < count {
                return Ok(None);
            }
            let fitted = fit(values, rows.is_written, field.data_type())?;
            if fitted.null_count() != values.null_count() {
                if !column.is_kept {
                    return Ok(None);
                }
                lost.push(Lost { name: column.name.clone(), which: misfits(values, &fitted)?, values: text(values)? });
            }
            columns.push(fitted);
        }
        if !lost.is_empty() {
            let Some(at) = self.columns.iter().position(|column| column.name == RESCUED) else { return Ok(None) };
            self.rescued += lost.iter().map(|lost| lost.which.true_count() as u64).sum::<u64>();
            columns[at] = rescued(&lost, &columns[at])?;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(schema, columns, &options).map(Some)
    }
}

/// Values of a column that did not fit it.
struct Lost {
    name: String,
    which: BooleanArray,
    values: ArrayRef,
}

/// What did not fit, as JSON, beside what was there.
fn rescued(lost: &[Lost], there: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let mut any = None;
    for lost in lost {
        any = Some(either(any, &lost.which)?);
    }
    let any = any.unwrap_or_else(|| BooleanArray::new_null(there.len()));
    let there = there.as_string::<i32>();
    let mut texts = StringBuilder::new();
    for row in 0..there.len() {
        let before = there.is_valid(row).then(|| there.value(row));
        if !any.value(row) {
            texts.append_option(before);
            continue;
        }
        let mut object = match before.map(serde_json::from_str) {
            Some(Ok(Value::Object(object))) => object,
            _ => serde_json::Map::new(),
        };
        for lost in lost.iter().filter(|lost| lost.which.value(row)) {
            object.insert(lost.name.clone(), lost.values.as_string::<i32>().value(row).into());
        }
        texts.append_value(Value::Object(object).to_string());
    }
    Ok(Arc::new(texts.finish()))
}

fn has_misfits(values: &ArrayRef, is_written: bool, kind: &DataType) -> Result<bool, ArrowError> {
    Ok(fit(values, is_written, kind)?.null_count() != values.null_count())
}

fn kind_of(values: &ArrayRef, is_written: bool) -> DataType {
    match values.as_string_opt::<i32>() {
        _ if values.null_count() == values.len() => DataType::Null,
        Some(text) if is_written => written_as(text),
        _ => plain_type(values.data_type()),
    }
}
