//! A table whose rows are fetched when it is read, those of one table of the lake if a filter says so: the platform's memory
//! does not hold them.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;

/// Fetches the rows: those whose first column is this value, or all.
pub type FetchRows = dyn Fn(Option<String>) -> BoxFuture<'static, crate::error::Result<RecordBatch>> + Send + Sync;

/// A table of rows that are elsewhere.
pub struct FetchedTable {
    schema: SchemaRef,
    fetch: Arc<FetchRows>,
}

impl FetchedTable {
    /// A table with the columns of `schema`, which `fetch` must return.
    pub fn new(schema: SchemaRef, fetch: Arc<FetchRows>) -> Self {
        Self { schema, fetch }
    }

    /// The value that the first column must have, if a filter says so.
    fn only(&self, filters: &[Expr]) -> Option<String> {
        let first = self.schema.field(0).name();
        filters.iter().find_map(|filter| match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (&**left, &**right) {
                (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
                    let value = value.try_as_str().flatten().filter(|_| column.name == *first);
                    value.map(str::to_owned)
                }
                _ => None,
            },
            _ => None,
        })
    }
}

impl fmt::Debug for FetchedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedTable").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for FetchedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = (self.fetch)(self.only(filters)).await.map_err(|error| DataFusionError::External(error.into()))?;
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], Arc::clone(&self.schema), projection.cloned())?;
        Ok(plan)
    }
}
