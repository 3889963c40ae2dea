//! Statements that are planned once: one that is prepared and reads one row of one table with one row per key, by its
//! whole key, or that reads no table. Planning takes DataFusion a millisecond and more; what is left to do when values
//! come is to look the row up and to compute what is selected of it.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, EmptyRelation, Expr, LogicalPlan, Operator, TableScan};

use super::compute::{Compute, is_steady};
use super::latest::{KeyedTable, as_key};
use super::statement::CHOOSES;
use super::{error, parse, wire};
use crate::error::{Error, Result};
use crate::latest::Rows;
use crate::schema::conform;

/// Rows that are longer are computed each time, if they read no table.
const MOST_BYTES: usize = 64 * 1024;

/// A statement that waits for values.
pub(super) struct Direct {
    source: Source,
    /// The session's options it was planned with.
    options: Arc<SessionState>,
    /// What is computed, each from what the one before gives.
    steps: Vec<Compute>,
    /// It takes no longer than waking a thread does.
    is_light: bool,
    schema: SchemaRef,
}

/// What its rows are made of.
enum Source {
    LookUp(LookUp),
    /// Nothing: they are always these, in the wire schema.
    Fixed(RecordBatch),
}

struct LookUp {
    /// The table's name in the statement.
    table: String,
    rows: Arc<dyn Rows>,
    /// The columns it was planned with.
    columns: SchemaRef,
    /// The value of each key column.
    key: Vec<KeyValue>,
    /// The columns that are read; all if none are named.
    projection: Option<Vec<usize>>,
}

enum KeyValue {
    /// Index of a parameter.
    Parameter(usize),
    Literal(ScalarValue),
}

impl Direct {
    /// What a statement is, whose rows have the wire schema `schema`; `None` if it must be planned each time. `raw` is its
    /// plan as written, `optimized` the same with all views resolved, `named` the one table it names, if any, and what
    /// that is.
    pub fn of(
        named: Option<(String, Arc<dyn Rows>)>,
        options: Arc<SessionState>,
        raw: &LogicalPlan,
        optimized: &LogicalPlan,
        schema: SchemaRef,
    ) -> Option<Self> {
        // The optimizer puts today's date where the statement says "today".
        if !is_steady(raw) {
            return None;
        }
        let mut steps = Steps { computes: Vec::new(), is_light: true };
        let end = follow(optimized, &options, &mut steps)?;
        let Steps { computes: steps, is_light } = steps;
        let source = match (end, named) {
            (End::Nothing(empty), None) => {
                let begins = Arc::clone(empty.schema.inner());
                let options = RecordBatchOptions::new().with_row_count(Some(usize::from(empty.produce_one_row)));
                let columns = begins.fields().iter().map(|field| new_empty_array(field.data_type())).collect();
                let first = RecordBatch::try_new_with_options(begins, columns, &options).ok()?;
                let rows = compute(first, &steps, &schema).ok()?;
                if rows.get_array_memory_size() > MOST_BYTES {
                    return None;
                }
                Source::Fixed(rows)
            }
            (End::Scan(scan, conditions), Some((table, rows))) => {
                let look_up = LookUp::of(table, rows, scan, &conditions)?;
                Source::LookUp(look_up)
            }
            _ => return None,
        };
        Some(Self { source, options, steps, is_light, schema })
    }

    /// Whether planning the statement with these options would give the same; `keyed` says what a table is now.
    pub fn is_valid(&self, options: &Arc<SessionState>, keyed: impl Fn(&str) -> Option<Arc<dyn Rows>>) -> bool {
        let is_same = match &self.source {
            Source::LookUp(look_up) => keyed(&look_up.table).is_some_and(|rows| look_up.is_of(&rows)),
            Source::Fixed(_) => true,
        };
        is_same && Arc::ptr_eq(options, &self.options)
    }

    /// Whether it may run anywhere: it computes nothing that could take long, or go wrong.
    pub fn is_light(&self) -> bool {
        self.is_light || matches!(self.source, Source::Fixed(_))
    }

    /// The wire schema of its rows.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Its rows with these values; `None` if they must be compared in another way than by key.
    pub fn run(&self, values: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        let look_up = match &self.source {
            Source::LookUp(look_up) => look_up,
            Source::Fixed(rows) => return Ok(Some(rows.clone())),
        };
        let found = look_up.run(values)?.map(|row| compute(row, &self.steps, &self.schema));
        found.transpose().map_err(|cause| error::from_datafusion(cause, ""))
    }
}

fn compute(mut rows: RecordBatch, steps: &[Compute], schema: &SchemaRef) -> datafusion::common::Result<RecordBatch> {
    for step in steps {
        rows = step.run(&rows)?;
    }
    Ok(wire::batch(&rows, schema)?)
}

impl LookUp {
    fn of(table: String, rows: Arc<dyn Rows>, scan: &TableScan, conditions: &[&Expr]) -> Option<Self> {
        let provider = source_as_provider(&scan.source).ok()?;
        let keyed = (&*provider as &dyn Any).downcast_ref::<KeyedTable>().filter(|keyed| keyed.is_of(&rows))?;
        let value = |name: &String| conditions.iter().find_map(|condition| value_of(condition, name));
        let key: Vec<KeyValue> = rows.key().iter().map(value).collect::<Option<_>>()?;
        let (columns, projection) = (keyed.schema(), scan.projection.clone());
        (conditions.len() == key.len() && scan.fetch.is_none()).then(|| Self { table, rows, columns, key, projection })
    }

    /// Whether these are the rows it was planned with, and have the same columns still.
    fn is_of(&self, rows: &Arc<dyn Rows>) -> bool {
        let columns = rows.schema();
        Arc::ptr_eq(rows, &self.rows) && (Arc::ptr_eq(&columns, &self.columns) || columns == self.columns)
    }

    /// The row of the key that these values name, or none; `None` if they must be compared in another way than by key.
    fn run(&self, values: &[ScalarValue]) -> Result<Option<RecordBatch>> {
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
        let conforming = conform(&rows, &self.columns).map_err(DataFusionError::from);
        let projected = conforming.and_then(|rows| match &self.projection {
            Some(projection) => Ok(rows.project(projection)?),
            None => Ok(rows),
        });
        projected.map(Some).map_err(|cause| error::from_datafusion(cause, ""))
    }
}

/// What is computed, and whether none of it could take long.
struct Steps {
    computes: Vec<Compute>,
    is_light: bool,
}

/// What a plan reads.
enum End<'a> {
    /// A table, and the conditions on its rows.
    Scan(&'a TableScan, Vec<&'a Expr>),
    Nothing(&'a EmptyRelation),
}

/// Walks from a plan's end to what it reads, noting what is computed on the way back.
fn follow<'a>(plan: &'a LogicalPlan, options: &SessionState, steps: &mut Steps) -> Option<End<'a>> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let found = follow(&projection.input, options, steps)?;
            let step = Compute::of(&projection.expr, projection.input.schema(), plan.schema(), options);
            steps.computes.push(step.ok()?);
            steps.is_light &= projection.expr.iter().all(is_light);
            Some(found)
        }
        LogicalPlan::SubqueryAlias(alias) => follow(&alias.input, options, steps),
        LogicalPlan::Filter(filter) => match &*filter.input {
            LogicalPlan::TableScan(scan) => Some(End::Scan(scan, split_conjunction(&filter.predicate))),
            _ => None,
        },
        LogicalPlan::EmptyRelation(empty) => Some(End::Nothing(empty)),
        _ => None,
    }
}

/// Whether an expression calls no function but such as choose between values.
fn is_light(expression: &Expr) -> bool {
    let is_call = |part: &Expr| Ok(matches!(part, Expr::ScalarFunction(call) if !CHOOSES.contains(&call.name())));
    !expression.exists(is_call).unwrap_or(true)
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
