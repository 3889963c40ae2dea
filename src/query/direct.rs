//! Look-ups that are planned once: a prepared statement that reads one row of one table with one row per key, by its
//! whole key. Planning takes DataFusion a millisecond and more; what is left to do when values come is to look the row up
//! and to compute what is selected of it.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator, TableScan};

use super::compute::{Compute, is_unsteady};
use super::latest::{KeyedTable, as_key};
use super::{error, parse, wire};
use crate::error::{Error, Result};
use crate::latest::Rows;
use crate::schema::conform;

/// A look-up that waits for values.
pub(super) struct Direct {
    /// The table's name in the statement.
    table: String,
    rows: Arc<dyn Rows>,
    /// The columns it was planned with.
    columns: SchemaRef,
    /// The session's options it was planned with.
    options: Arc<SessionState>,
    /// The value of each key column.
    key: Vec<KeyValue>,
    /// The columns that are read; all if none are named.
    projection: Option<Vec<usize>>,
    /// What is computed, each from what the one before gives.
    steps: Vec<Compute>,
    schema: SchemaRef,
}

enum KeyValue {
    /// Index of a parameter.
    Parameter(usize),
    Literal(ScalarValue),
}

impl Direct {
    /// The look-up that a statement is, whose rows have the wire schema `schema`; `None` if it is something else.
    /// `raw` is its plan as written, `optimized` the same with all views resolved, `table` the one table it names and
    /// `rows` what that is.
    pub fn of(
        (table, rows): (&str, Arc<dyn Rows>),
        options: Arc<SessionState>,
        raw: &LogicalPlan,
        optimized: &LogicalPlan,
        schema: SchemaRef,
    ) -> Option<Self> {
        // The optimizer puts today's date where the statement says "today".
        if !is_steady(raw) {
            return None;
        }
        let mut steps = Vec::new();
        let (scan, conditions) = follow(optimized, &options, &mut steps)?;
        let provider = source_as_provider(&scan.source).ok()?;
        let keyed = (&*provider as &dyn Any).downcast_ref::<KeyedTable>().filter(|keyed| keyed.is_of(&rows))?;
        let key = rows.key();
        let value = |name: &String| conditions.iter().find_map(|condition| value_of(condition, name));
        let key_values: Vec<KeyValue> = key.iter().map(value).collect::<Option<_>>()?;
        (conditions.len() == key.len() && scan.fetch.is_none()).then(|| Self {
            table: table.to_owned(),
            columns: keyed.schema(),
            rows,
            options,
            key: key_values,
            projection: scan.projection.clone(),
            steps,
            schema,
        })
    }

    /// The table's name in the statement.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Whether planning the statement with these options, `rows` being what its table is now, would give the same.
    pub fn is_valid(&self, options: &Arc<SessionState>, rows: &Arc<dyn Rows>) -> bool {
        let columns = rows.schema();
        Arc::ptr_eq(options, &self.options)
            && Arc::ptr_eq(rows, &self.rows)
            && (Arc::ptr_eq(&columns, &self.columns) || columns == self.columns)
    }

    /// The wire schema of its rows.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The row of the key that these values name, or none; `None` if they must be compared in another way than by key.
    pub fn run(&self, values: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        let key = |(value, name): (&KeyValue, &String)| -> Option<ArrayRef> {
            let kind = self.columns.field_with_name(name).ok()?.data_type();
            let value = match value {
                KeyValue::Parameter(at) => values.get(*at)?,
                KeyValue::Literal(value) => value,
            };
            as_key(value, kind)?.to_array().ok()
        };
        let keys: Option<Vec<ArrayRef>> = self.key.iter().zip(self.rows.key()).map(key).collect();
        let Some(keys) = keys else { return Ok(None) };
        let rows = self.rows.get(&keys).map_err(Error::from)?;
        let rows = rows.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&self.columns)));
        self.compute(&rows).map(Some).map_err(|cause| error::from_datafusion(cause, ""))
    }

    fn compute(&self, rows: &RecordBatch) -> datafusion::common::Result<RecordBatch> {
        let mut rows = conform(rows, &self.columns)?;
        if let Some(projection) = &self.projection {
            rows = rows.project(projection)?;
        }
        for step in &self.steps {
            rows = step.run(&rows)?;
        }
        Ok(wire::batch(&rows, &self.schema)?)
    }
}

/// Walks from a plan's end to the table it reads, noting what is computed on the way back; gives the table and the
/// conditions on its rows.
fn follow<'a>(
    plan: &'a LogicalPlan,
    options: &SessionState,
    steps: &mut Vec<Compute>,
) -> Option<(&'a TableScan, Vec<&'a Expr>)> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let found = follow(&projection.input, options, steps)?;
            steps.push(Compute::of(&projection.expr, projection.input.schema(), plan.schema(), options).ok()?);
            Some(found)
        }
        LogicalPlan::SubqueryAlias(alias) => follow(&alias.input, options, steps),
        LogicalPlan::Filter(filter) => match &*filter.input {
            LogicalPlan::TableScan(scan) => Some((scan, split_conjunction(&filter.predicate))),
            _ => None,
        },
        _ => None,
    }
}

/// The value that a condition asks a column to equal, if it is of that form.
fn value_of(condition: &Expr, column: &str) -> Option<KeyValue> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return None };
    let (named, value) = if matches!(&**left, Expr::Column(_)) { (left, right) } else { (right, left) };
    if !matches!(&**named, Expr::Column(named) if named.name == column) {
        return None;
    }
    match &**value {
        Expr::Literal(value, _) => Some(KeyValue::Literal(value.clone())),
        Expr::Placeholder(placeholder) => parse::parameter_index(&placeholder.id).map(KeyValue::Parameter),
        _ => None,
    }
}

/// Whether a plan means the same whenever it is made: no function of it depends on the time or on chance.
fn is_steady(plan: &LogicalPlan) -> bool {
    let mut steady = true;
    let unsteady = |expression: &Expr| Ok(is_unsteady(expression));
    let looked = plan.apply(|node| {
        steady &= node.expressions().iter().all(|expression| !expression.exists(unsteady).unwrap_or(true));
        if let LogicalPlan::TableScan(scan) = node
            && let Some(view) = scan.source.get_logical_plan()
        {
            steady &= is_steady(&view);
        }
        Ok(if steady { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    steady && looked.is_ok()
}
