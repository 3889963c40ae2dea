//! A pinned View as a DataFusion table: the union of the Delta scan, null-padded to the View's schema
//! version, and the hot batches; above it, columns that succeed each other become one. Columns are shown users' first,
//! Millpond's own (`_…`) last.

use futures::future::BoxFuture;
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use deltalake_core::delta_datafusion::{DeltaScanConfig, DeltaScanNext};
use deltalake_core::kernel::EagerSnapshot;

use super::logical::Shown;
use crate::lake::View;
use crate::schema::conform;

/// Committed rows of one snapshot, and hot rows above it.
#[derive(Debug)]
pub struct ViewTable {
    shown: Shown,
    committed: Option<Arc<EagerSnapshot>>,
    hot: Vec<RecordBatch>,
    pinned: Option<Weak<View>>,
}

impl ViewTable {
    /// The table of a pinned View.
    pub fn new(view: &Arc<View>) -> Self {
        let (shown, committed) = (Shown::new(&view.schema), view.committed.clone());
        Self { shown, committed, hot: view.shown_hot(), pinned: Some(Arc::downgrade(view)) }
    }

    /// The View that it shows; `None` if it is none.
    pub(super) fn pinned(&self) -> Option<Weak<View>> {
        self.pinned.clone()
    }

    /// A committed snapshot alone; without one there are no rows.
    pub fn committed(snapshot: Option<Arc<EagerSnapshot>>, schema: &SchemaRef) -> Self {
        Self { shown: Shown::new(schema), committed: snapshot, hot: Vec::new(), pinned: None }
    }

    /// The same with rows above the snapshot.
    pub fn and(self, hot: RecordBatch) -> Self {
        Self { hot: vec![hot], ..self }
    }

    fn plan<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'a, Result<Arc<dyn ExecutionPlan>>> {
        Box::pin(async move {
            let schema = self.shown.stored(projection);
            let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
            if let Some(snapshot) = &self.committed {
                let filters: Vec<Expr> = filters.iter().filter_map(|filter| self.shown.push_down(filter)).collect();
                parts.push(scan_committed(snapshot, &schema, session, &filters, limit).await?);
            }
            if !self.hot.is_empty() {
                let batches = self.hot.iter().map(|batch| conform(batch, &schema)).collect::<Result<Vec<_>, _>>()?;
                parts.push(MemorySourceConfig::try_new_exec(&[batches], Arc::clone(&schema), None)?);
            }
            let union = match parts.len() {
                0 => Arc::new(EmptyExec::new(schema)) as Arc<dyn ExecutionPlan>,
                _ => UnionExec::try_new(parts)?,
            };
            self.shown.assemble(projection, union)
        })
    }
}

#[async_trait]
impl TableProvider for ViewTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.shown.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Box::pin(self.plan(session, projection, filters, limit)).await
    }
}

/// Filters prune files, row groups and pages, and are evaluated above the scan, a whole batch at a time. Evaluated inside of
/// it, as delta-rs asks for, they are slower unless nearly no row is left and many columns are read: that of a join looks
/// at each row, and all of them run twice.
fn filtered_above(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let changed = plan.transform_down(|node| {
        let scan =
            node.downcast_ref::<DataSourceExec>().and_then(|node| node.downcast_to_file_source::<ParquetSource>());
        let Some((config, source)) = scan else { return Ok(Transformed::no(node)) };
        let source = Arc::new(source.clone().with_pushdown_filters(false));
        let config = FileScanConfigBuilder::from(config.clone()).with_source(source).build();
        Ok(Transformed::yes(DataSourceExec::from_data_source(config) as _))
    });
    changed.map(|done| done.data)
}

fn scan_committed<'a>(
    snapshot: &'a Arc<EagerSnapshot>,
    schema: &'a SchemaRef,
    session: &'a dyn Session,
    filters: &'a [Expr],
    limit: Option<usize>,
) -> BoxFuture<'a, Result<Arc<dyn ExecutionPlan>>> {
    Box::pin(async move {
        let mut config = DeltaScanConfig::new().with_wrap_partition_values(false);
        config.schema_force_view_types = false;
        let scan = DeltaScanNext::new(Arc::clone(snapshot), config)?;
        let stored = scan.schema();
        // A filter on a column that the snapshot does not have yet cannot prune its files.
        let known =
            |filter: &&Expr| filter.column_refs().iter().all(|column| stored.field_with_name(&column.name).is_ok());
        let filters: Vec<Expr> = filters.iter().filter(known).cloned().collect();
        let wanted: Vec<usize> =
            schema.fields().iter().filter_map(|field| stored.index_of(field.name()).ok()).collect();
        let plan = filtered_above(scan.scan(session, Some(&wanted), &filters, limit).await?)?;
        let produced = plan.schema();
        let column = |field: &Arc<Field>| -> Result<(Arc<dyn PhysicalExpr>, String)> {
            let expr: Arc<dyn PhysicalExpr> = match produced.column_with_name(field.name()) {
                Some((at, found)) => {
                    let column = Arc::new(Column::new(field.name(), at));
                    if found.data_type() == field.data_type() && found.metadata() == field.metadata() {
                        column
                    } else {
                        // Stored fields carry metadata; DataFusion refuses an aggregate over fields that are not
                        // exactly the table's.
                        Arc::new(CastExpr::new_with_target_field(column, Arc::clone(field), None))
                    }
                }
                None => Arc::new(Literal::new(ScalarValue::try_new_null(field.data_type())?)),
            };
            Ok((expr, field.name().clone()))
        };
        let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(columns, plan)?) as Arc<dyn ExecutionPlan>)
    })
}
