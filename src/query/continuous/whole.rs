//! What is made of all groups of a window together: ranks, aggregates above the aggregate.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column, DFSchemaRef, Result as DfResult};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::collect;

use super::unplanned;
use crate::error::Result;
use crate::query::compute;

/// Stands for the rows of a window in a plan.
const ROWS: &str = "__rows";

/// A node of a plan that runs over the groups of one window at a time.
pub(super) struct Whole {
    node: LogicalPlan,
    input: DFSchemaRef,
    /// The input's columns under numbers: those of several tables may have the same name.
    numbered: SchemaRef,
    state: SessionState,
}

impl std::fmt::Debug for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Whole").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Whole {
    /// This node, over the rows that `input` gives.
    pub fn of(node: &LogicalPlan, input: &LogicalPlan, state: &SessionState) -> Result<Self> {
        let numbered = input.schema().fields().iter().enumerate();
        let numbered = numbered.map(|(at, field)| field.as_ref().clone().with_name(at.to_string()).with_nullable(true));
        let numbered = Arc::new(Schema::new(numbered.collect::<Vec<_>>()));
        // Whoever waits for it waits for one thread.
        let mut state = state.clone();
        state.config_mut().options_mut().execution.target_partitions = 1;
        let whole = Self { node: node.clone(), input: Arc::clone(input.schema()), numbered, state };
        whole.plan(RecordBatch::new_empty(Arc::clone(&whole.numbered))).map_err(unplanned)?;
        Ok(whole)
    }

    /// The node over these rows.
    fn plan(&self, rows: RecordBatch) -> DfResult<LogicalPlan> {
        let rows = MemTable::try_new(Arc::clone(&self.numbered), vec![vec![rows]])?;
        let named = self.input.iter().enumerate().map(|(at, (qualifier, field))| {
            let column = Expr::Column(Column::new(Some(ROWS), at.to_string()));
            column.alias_qualified(qualifier.cloned(), field.name())
        });
        let rows = LogicalPlanBuilder::scan(ROWS, provider_as_source(Arc::new(rows)), None)?;
        self.node.with_new_exprs(self.node.expressions(), vec![rows.project(named.collect::<Vec<_>>())?.build()?])
    }

    /// Columns of the rows that come to it.
    pub fn reads(&self) -> SchemaRef {
        Arc::clone(self.input.inner())
    }

    /// Columns of what it gives.
    pub fn gives(&self) -> SchemaRef {
        Arc::clone(self.node.schema().inner())
    }

    /// Runs over the rows of one window.
    pub fn run(&self, rows: &RecordBatch) -> DfResult<RecordBatch> {
        let plan = self.plan(RecordBatch::try_new(Arc::clone(&self.numbered), rows.columns().to_vec())?)?;
        let run = async {
            let plan = self.state.create_physical_plan(&plan).await?;
            collect(plan, Arc::new(TaskContext::from(&self.state))).await
        };
        let found = compute::at_once(run)?;
        let gives = self.gives();
        let named = |rows: RecordBatch| RecordBatch::try_new(Arc::clone(&gives), rows.columns().to_vec());
        let found = found.into_iter().map(named).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(concat_batches(&gives, &found)?)
    }
}
