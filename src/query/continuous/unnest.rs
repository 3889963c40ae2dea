//! UNNEST: of each row as many as its lists have elements.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::Unnest as LogicalUnnest;

use super::{Now, refused};
use crate::error::Result;

/// Which columns are lists that are taken apart.
#[derive(Debug)]
pub(super) struct Unnest {
    /// Of each column that comes out, the one that it is of, and whether it is one element of that.
    columns: Vec<(usize, bool)>,
    schema: SchemaRef,
}

impl Unnest {
    /// What a plan says.
    pub fn of(unnest: &LogicalUnnest) -> Result<Self> {
        let of_lists = |at: &usize| unnest.list_type_columns.iter().find(|(list, _)| list == at);
        let is_plain = |(at, list): &(usize, datafusion::logical_expr::ColumnUnnestList)| {
            list.depth == 1 && matches!(unnest.input.schema().field(*at).data_type(), DataType::List(_))
        };
        let all_plain = unnest.list_type_columns.iter().all(is_plain);
        if !all_plain || !unnest.struct_type_columns.is_empty() {
            return Err(refused("UNNEST of what is no list of values", "unnest a column of a list type"));
        }
        let columns = unnest.dependency_indices.iter().map(|at| (*at, of_lists(at).is_some())).collect();
        Ok(Self { columns, schema: Arc::clone(unnest.schema.inner()) })
    }

    /// A row for each element of the longest of the lists: those of the others are null behind their ends. Rows whose
    /// lists are all empty or null are gone.
    pub fn run(&self, now: Now) -> DfResult<Now> {
        let lists: Vec<&ListArray> = self
            .columns
            .iter()
            .filter(|(_, is_list)| *is_list)
            .map(|(at, _)| now.rows.column(*at).as_list::<i32>())
            .collect();
        let length = |list: &ListArray, row: usize| if list.is_valid(row) { list.value_length(row) } else { 0 };
        let (mut from, mut number) = (Vec::new(), Vec::new());
        for row in 0..now.rows.num_rows() {
            let longest = lists.iter().map(|list| length(list, row)).max().unwrap_or(0);
            for element in 0..longest {
                from.push(row as u32);
                number.push(element);
            }
        }
        let elements = |list: &ListArray| -> DfResult<ArrayRef> {
            let place = |(row, element): (&u32, &i32)| {
                let row = *row as usize;
                (*element < length(list, row)).then(|| (list.value_offsets()[row] + element).cast_unsigned())
            };
            let places: UInt32Array = from.iter().zip(&number).map(place).collect();
            Ok(take(list.values(), &places, None)?)
        };
        let rows = UInt32Array::from(from.clone());
        let column = |(at, is_list): &(usize, bool)| match is_list {
            true => elements(now.rows.column(*at).as_list()),
            false => Ok(take(now.rows.column(*at), &rows, None)?),
        };
        let columns = self.columns.iter().map(column).collect::<DfResult<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(Now {
            rows: RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?,
            origins: take(&now.origins, &rows, None)?.as_primitive().clone(),
            holds: take(&now.holds, &rows, None)?.as_boolean().clone(),
        })
    }
}
