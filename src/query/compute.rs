//! What is computed of rows that are here: expressions of a plan, made once, over batch after batch; and whether the same
//! rows give the same again.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::PhysicalExpr;

use crate::schema::ColumnType;

/// A projection.
#[derive(Debug)]
pub(super) struct Compute {
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
}

impl Compute {
    /// Of rows with the columns `from` those of `to`.
    pub fn of(expressions: &[Expr], from: &DFSchema, to: &DFSchema, state: &SessionState) -> Result<Self> {
        let expressions = expressions.iter().map(|expression| physical(expression, from, state));
        Ok(Self { expressions: expressions.collect::<Result<_>>()?, schema: Arc::clone(to.inner()) })
    }

    /// Computes them.
    pub fn run(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = columns(&self.expressions, rows)?;
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

/// The value of each expression for each row.
pub(super) fn columns(expressions: &[Arc<dyn PhysicalExpr>], rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
    expressions.iter().map(|value| value.evaluate(rows)?.into_array(rows.num_rows())).collect()
}

/// A column of times, in microseconds.
pub(super) fn times(column: &ArrayRef) -> Result<TimestampMicrosecondArray> {
    Ok(cast(column, &ColumnType::Timestamp.arrow_type())?.as_primitive::<TimestampMicrosecondType>().clone())
}

/// An expression that can be computed of rows with these columns.
pub(super) fn physical(expression: &Expr, schema: &DFSchema, state: &SessionState) -> Result<Arc<dyn PhysicalExpr>> {
    let expression = simplified(expression, schema, state)?;
    state.create_physical_expr(expression, schema)
}

/// The same expression, without those that are something simpler in the end.
pub(super) fn simplified(expression: &Expr, schema: &DFSchema, state: &SessionState) -> Result<Expr> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    ExprSimplifier::new(context).simplify(expression.clone())
}

/// Whether an expression, its parts aside, is of another value when the same rows are computed again: by the time, by
/// chance, or by other rows.
pub(super) fn is_unsteady(expression: &Expr) -> bool {
    match expression {
        Expr::ScalarFunction(call) => call.func.signature().volatility != Volatility::Immutable,
        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarVariable(..) => true,
        _ => false,
    }
}

/// Whether a plan as it was written, its views too, means the same whenever it is made: nothing of it depends on the time
/// or on chance, and it is no question about plans.
pub(super) fn is_steady(plan: &LogicalPlan) -> bool {
    let mut steady = true;
    // Subqueries are walked through by themselves.
    let is_subquery =
        |expression: &Expr| matches!(expression, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_));
    let unsteady = |expression: &Expr| Ok(is_unsteady(expression) && !is_subquery(expression));
    let walked = plan.apply_with_subqueries(|node| {
        steady &= match node {
            LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_) => false,
            LogicalPlan::TableScan(scan) => scan.source.get_logical_plan().is_none_or(|view| is_steady(&view)),
            _ => true,
        };
        steady = steady && node.expressions().iter().all(|expression| !expression.exists(unsteady).unwrap_or(true));
        Ok(if steady { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    steady && walked.is_ok()
}

/// Runs a plan whose rows are here: there is nothing to wait for. Plans yield to others when the task that polls them has
/// done enough (tokio's budget); who waits in the midst of a task would wait for ever.
pub(super) fn at_once<T>(work: impl Future<Output = T>) -> T {
    futures::executor::block_on(tokio::task::unconstrained(work))
}
