//! What is made of all groups of a window together: ranks, aggregates above the aggregate.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{Column, Result as DfResult};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::{TableProvider, TableType, provider_as_source};
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::{ExecutionPlan, collect};
use parking_lot::Mutex;

use crate::error::Result;
use crate::query::error;

/// Stands for the rows of a window in a plan.
const ROWS: &str = "__rows";

/// A part of a plan that runs over the groups of one window at a time.
pub(super) struct Whole {
    plan: LogicalPlan,
    rows: Arc<Slot>,
    state: SessionState,
    reads: SchemaRef,
    gives: SchemaRef,
}

/// The rows that a plan runs over now.
#[derive(Debug)]
struct Slot {
    schema: SchemaRef,
    rows: Mutex<RecordBatch>,
}

impl std::fmt::Debug for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Whole").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Whole {
    /// One node of a plan, over whatever stands below it.
    pub fn of(node: &LogicalPlan, input: &LogicalPlan, state: &SessionState) -> Result<Self> {
        Self::planned(node, input, state).map_err(|cause| error::from_datafusion(cause, ""))
    }

    fn planned(node: &LogicalPlan, input: &LogicalPlan, state: &SessionState) -> DfResult<Self> {
        let reads = input.schema();
        // Columns of several tables may have the same name.
        let numbered = reads.fields().iter().enumerate();
        let numbered = numbered.map(|(at, field)| field.as_ref().clone().with_name(at.to_string()).with_nullable(true));
        let schema = Arc::new(Schema::new(numbered.collect::<Vec<_>>()));
        let rows = Mutex::new(RecordBatch::new_empty(Arc::clone(&schema)));
        let rows = Arc::new(Slot { schema, rows });
        let named = reads.iter().enumerate().map(|(at, (qualifier, field))| {
            let column = Expr::Column(Column::new(Some(ROWS), at.to_string()));
            column.alias_qualified(qualifier.cloned(), field.name())
        });
        let source = provider_as_source(Arc::clone(&rows) as _);
        let leaf = LogicalPlanBuilder::scan(ROWS, source, None)?.project(named.collect::<Vec<_>>())?.build()?;
        let plan = node.with_new_exprs(node.expressions(), vec![leaf])?;
        let (reads, gives) = (Arc::clone(reads.inner()), Arc::clone(node.schema().inner()));
        // Whoever waits for it waits for one thread.
        let mut state = state.clone();
        state.config_mut().options_mut().execution.target_partitions = 1;
        Ok(Self { plan, rows, state, reads, gives })
    }

    /// Columns of the rows that come to it.
    pub fn reads(&self) -> SchemaRef {
        Arc::clone(&self.reads)
    }

    /// Columns of what it gives.
    pub fn gives(&self) -> SchemaRef {
        Arc::clone(&self.gives)
    }

    /// Runs over the rows of one window.
    pub fn run(&self, rows: &RecordBatch) -> DfResult<RecordBatch> {
        let mut now = self.rows.rows.lock();
        *now = RecordBatch::try_new(Arc::clone(&self.rows.schema), rows.columns().to_vec())?;
        drop(now);
        let run = async {
            let plan = self.state.create_physical_plan(&self.plan).await?;
            collect(plan, Arc::new(TaskContext::from(&self.state))).await
        };
        // The rows are here: there is nothing to wait for.
        let found = futures::executor::block_on(run)?;
        let named = |rows: RecordBatch| RecordBatch::try_new(Arc::clone(&self.gives), rows.columns().to_vec());
        let found = found.into_iter().map(named).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(concat_batches(&self.gives, &found)?)
    }
}

#[async_trait::async_trait]
impl TableProvider for Slot {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let rows = self.rows.lock().clone();
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], Arc::clone(&self.schema), projection.cloned())?)
    }
}
