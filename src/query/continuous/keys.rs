//! Whose rows are: the values of some expressions, as bytes that are equal where all values are.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{DFSchema, Result as DfResult};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable as _};
use datafusion::physical_plan::PhysicalExpr;

use super::{physical, unplanned};
use crate::error::Result;
use crate::query::compute::columns;

/// Whose a row is; NULL is a value among others.
pub(super) type Key = Box<[u8]>;

/// The expressions, and the form of their values.
#[derive(Debug)]
pub(super) struct Keys {
    values: Vec<Arc<dyn PhysicalExpr>>,
    form: RowConverter,
}

impl Keys {
    /// These expressions over rows with these columns.
    pub fn of(expressions: &[Expr], schema: &DFSchema, state: &SessionState) -> Result<Self> {
        let values = expressions.iter().map(|value| physical(value, schema, state)).collect::<Result<_>>()?;
        let fields = expressions.iter().map(|value| Ok(SortField::new(value.get_type(schema)?)));
        let form = fields.collect::<DfResult<Vec<_>>>().and_then(|fields| Ok(RowConverter::new(fields)?));
        Ok(Self { values, form: form.map_err(unplanned)? })
    }

    /// How many values a key has.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whose each row is. Without a value all rows have the same key.
    pub fn of_rows(&self, rows: &RecordBatch) -> DfResult<Vec<Key>> {
        self.of_columns(&columns(&self.values, rows)?, rows.num_rows())
    }

    /// The same, where the values are here.
    pub fn of_columns(&self, columns: &[ArrayRef], count: usize) -> DfResult<Vec<Key>> {
        if columns.is_empty() {
            return Ok(vec![Key::default(); count]);
        }
        Ok(self.form.convert_columns(columns)?.iter().map(|key| key.as_ref().into()).collect())
    }

    /// The values of keys.
    pub fn columns<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) -> DfResult<Vec<ArrayRef>> {
        if self.values.is_empty() {
            return Ok(Vec::new());
        }
        let parser = self.form.parser();
        Ok(self.form.convert_rows(keys.into_iter().map(|key| parser.parse(key)))?)
    }
}
