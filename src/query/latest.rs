//! A table with one row per key. What names whole keys is looked up; anything else scans. A statement sees one state of
//! it, however often it names the table.

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::Error;
use crate::latest::{Rows, Unavailable};
use crate::schema::conform;

/// Rows by key as one statement sees them.
#[derive(Debug)]
pub struct KeyedTable {
    table: Arc<dyn Rows>,
    /// The columns, once somebody planned with them: most statements name other tables, and must not wait for this one.
    columns: OnceLock<SchemaRef>,
    /// All rows as of so many changes, once somebody scanned them.
    rows: OnceLock<(u64, Vec<RecordBatch>)>,
}

impl KeyedTable {
    /// The table as it is now.
    pub fn new(table: Arc<dyn Rows>) -> Self {
        Self { table, columns: OnceLock::new(), rows: OnceLock::new() }
    }

    /// The rows that it shows.
    pub(super) fn rows(&self) -> Arc<dyn Rows> {
        Arc::clone(&self.table)
    }

    /// Whether these are the rows that it shows.
    pub(super) fn is_of(&self, rows: &Arc<dyn Rows>) -> bool {
        Arc::ptr_eq(&self.table, rows)
    }

    /// How often the rows had changed that it shows.
    pub(super) fn changes(&self) -> u64 {
        self.rows.get().map_or_else(|| self.table.changes(), |(changes, _)| *changes)
    }

    fn columns(&self) -> &SchemaRef {
        self.columns.get_or_init(|| self.table.schema())
    }

    fn plan(&self, projection: Option<&Vec<usize>>, filters: &[Expr]) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = match (self.rows.get(), self.keys(filters)) {
            (None, Some(keys)) => self.table.get(&keys).map_err(external)?.into_iter().collect(),
            _ => self.all()?,
        };
        // Columns that came to be after the statement was planned are none of its business.
        let planned = |batch: &RecordBatch| conform(batch, self.columns());
        let rows = rows.iter().map(planned).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(MemorySourceConfig::try_new_exec(&[rows], Arc::clone(self.columns()), projection.cloned())?)
    }

    fn all(&self) -> Result<Vec<RecordBatch>> {
        if let Some((_, rows)) = self.rows.get() {
            return Ok(rows.clone());
        }
        // They may be of later changes, too.
        let changes = self.table.changes();
        let rows = self.table.scan().map_err(external)?;
        Ok(self.rows.get_or_init(|| (changes, rows)).1.clone())
    }

    /// The keys that the filters name, as key columns, if they name any.
    fn keys(&self, filters: &[Expr]) -> Option<Vec<ArrayRef>> {
        let key = self.table.key();
        if key.is_empty() {
            return None;
        }
        let column = |name: &String| {
            let kind = self.columns().field_with_name(name).ok()?.data_type();
            let values = filters.iter().find_map(|filter| values(filter, name))?;
            values.into_iter().map(|value| as_key(value, kind)).collect::<Option<Vec<_>>>()
        };
        let columns = key.iter().map(column).collect::<Option<Vec<_>>>()?;
        // Of several columns each has one value; the products of lists are left to the scan.
        let plain = columns.len() == 1 || columns.iter().all(|values| values.len() == 1);
        let arrays = columns.into_iter().filter(|values| !values.is_empty() && plain);
        let arrays = arrays.map(|values| ScalarValue::iter_to_array(values).ok()).collect::<Option<Vec<_>>>()?;
        (arrays.len() == key.len()).then_some(arrays)
    }
}

/// A value as one of a key column of type `kind`; `None` if that type cannot hold it, or it is null. Such a value equals
/// nothing, but that is for a filter to find out.
pub(super) fn as_key(value: &ScalarValue, kind: &DataType) -> Option<ScalarValue> {
    let cast = value.cast_to(kind).ok()?;
    (!cast.is_null() && cast.cast_to(&value.data_type()).ok()? == *value).then_some(cast)
}

/// The values that a filter allows a column, if it says so by naming them.
fn values<'a>(filter: &'a Expr, name: &str) -> Option<Vec<&'a ScalarValue>> {
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == *name);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (&**left, &**right) {
            (column, Expr::Literal(value, _)) | (Expr::Literal(value, _), column) if is_column(column) => {
                Some(vec![value])
            }
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            Some([values(left, name)?, values(right, name)?].concat())
        }
        Expr::InList(InList { expr, list, negated: false }) if is_column(expr) => {
            list.iter().map(|item| if let Expr::Literal(value, _) = item { Some(value) } else { None }).collect()
        }
        _ => None,
    }
}

pub(super) fn external(error: Unavailable) -> DataFusionError {
    DataFusionError::External(Box::new(Error::from(error)))
}

#[async_trait]
impl TableProvider for KeyedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.columns())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.plan(projection, filters)
    }
}
