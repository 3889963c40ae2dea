//! A query that runs over every batch of one table's new rows: planned once, then a chain of steps.
//!
//! ```text
//! rows of the stream ─ conditions on them alone ─ look-up ─ further conditions ─ … ─ what is selected
//! ```
//! The first table of FROM is the stream; what is joined to it is looked up as it is at that moment. The WHERE of the
//! query is a condition and no filter: true, false, or unknown, which is told apart.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{and_kleene, cast, filter, filter_record_batch, is_null, or_kleene, take, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType, Result as DfResult};
use datafusion::datasource::source_as_provider;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::{conjunction, find_valid_equijoin_key_pair, split_conjunction};
use datafusion::logical_expr::{Expr, ExprSchemable as _, Join, LogicalPlan, Operator, TableScan};
use datafusion::physical_plan::PhysicalExpr;
use datafusion::sql::parser::Statement as Ast;
use datafusion::sql::sqlparser::ast::{Select, SetExpr, Statement as SqlStatement};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::compute::{self, Compute, columns, is_unsteady};
use super::latest::{KeyedTable, external};
use super::{error, parse};
use crate::error::{Error, Kind, Result};
use crate::latest::Rows;
use crate::schema::conform;

/// Name of the column that is added to what is selected.
const ADDED: &str = "__more";

/// A query over the new rows of a table.
#[derive(Debug)]
pub struct Continuous {
    stream: String,
    /// The stream's columns that it was planned with.
    columns: SchemaRef,
    steps: Vec<Step>,
    schema: SchemaRef,
    /// Of each column that is selected, the column of the stream that it is, if it is one.
    selected: Vec<Option<String>>,
    /// The last column was added to what is selected, and rows of which the condition is false are handed out, too.
    has_more: bool,
}

/// What a batch gave.
#[derive(Debug)]
pub struct Found {
    /// What is selected of each row.
    pub rows: RecordBatch,
    /// What the further column says of each, if there is one.
    pub more: Option<BooleanArray>,
    /// The row of the batch that each comes from.
    pub origins: Vec<u32>,
    /// Whether the condition holds for each, if that is known.
    pub holds: BooleanArray,
}

#[derive(Debug)]
enum Step {
    Compute(Compute),
    /// Rows for which it is not true are none of the query's.
    Filter(Arc<dyn PhysicalExpr>),
    /// A part of the condition, and the parts of that, as they are written.
    Condition(Arc<dyn PhysicalExpr>, Vec<(String, Arc<dyn PhysicalExpr>)>),
    LookUp(Box<LookUp>),
}

/// Rows on their way through the steps.
struct Now {
    rows: RecordBatch,
    origins: UInt32Array,
    holds: BooleanArray,
}

/// Rows of a table with one row per key, by equality.
#[derive(Debug)]
struct LookUp {
    rows: Arc<dyn Rows>,
    columns: SchemaRef,
    projection: Option<Vec<usize>>,
    /// What is made of its rows.
    steps: Vec<Step>,
    /// Pairs of what must be equal: of the rows that look up, and of those that are found.
    left: Vec<Arc<dyn PhysicalExpr>>,
    right: Vec<Arc<dyn PhysicalExpr>>,
    /// Which of the pairs gives each of the table's key columns, if all are given.
    key: Option<Vec<usize>>,
    /// What else must be true.
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Rows for which nothing is found stay.
    is_left: bool,
    schema: SchemaRef,
    /// All rows, as of a number of changes.
    all: Mutex<Option<(u64, Arc<Indexed>)>>,
}

/// Rows by what must be equal.
#[derive(Debug)]
struct Indexed {
    rows: RecordBatch,
    at: HashMap<Box<[u8]>, Vec<u32>>,
}

impl Continuous {
    /// Plans a query: `plan` is what it says, with the types of everything settled; with `has_more` its last column is
    /// that of [`with_column`].
    pub(super) fn of(plan: &LogicalPlan, state: &SessionState, has_more: bool) -> Result<Self> {
        steady(plan)?;
        let mut steps = Vec::new();
        let scan = spine(plan, state, true, &mut steps)?;
        let columns = plan.schema().columns().into_iter().map(Expr::Column);
        let selected = columns.map(|column| column_of(plan, &column).map(str::to_owned)).collect();
        Ok(Self {
            selected,
            stream: scan.table_name.table().to_owned(),
            columns: Arc::clone(scan.projected_schema.inner()),
            steps,
            schema: Arc::clone(plan.schema().inner()),
            has_more,
        })
    }

    /// The table whose new rows it runs over.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The tables that are looked up, in their order, each with how: by key, or by other columns that are indexed in
    /// memory.
    pub fn look_ups(&self) -> Vec<(String, bool)> {
        fn of(steps: &[Step], found: &mut Vec<(String, bool)>) {
            for step in steps {
                if let Step::LookUp(look_up) = step {
                    found.push((look_up.rows.name().to_owned(), look_up.key.is_some()));
                    of(&look_up.steps, found);
                }
            }
        }
        let mut found = Vec::new();
        of(&self.steps, &mut found);
        found
    }

    /// The column of the stream that a selected column is; nothing if it is made of others, or looked up.
    pub fn stream_column(&self, selected: &str) -> Option<&str> {
        self.selected[self.schema.index_of(selected).ok()?].as_deref()
    }

    /// What it selects.
    pub fn schema(&self) -> SchemaRef {
        let fields = self.schema.fields();
        Arc::new(arrow::datatypes::Schema::new(fields[..fields.len() - usize::from(self.has_more)].to_vec()))
    }

    /// Runs over rows of the stream. Those of which the condition is false are left out, unless they are wanted.
    pub fn run(&self, batch: &RecordBatch) -> Result<Found> {
        self.found(batch).map_err(|cause| error::from_datafusion(cause, ""))
    }

    /// What each step says of one row of the stream; nothing ends it early.
    pub fn explain(&self, row: &RecordBatch) -> Result<Vec<Explained>> {
        self.explained(row).map_err(|cause| error::from_datafusion(cause, ""))
    }

    fn explained(&self, row: &RecordBatch) -> DfResult<Vec<Explained>> {
        let mut explained = Vec::new();
        let mut now = Now::of(conform(row, &self.columns)?);
        for step in &self.steps {
            if let Step::Condition(_, parts) = step {
                for (sql, part) in parts {
                    let holds = boolean(part, &now.rows)?.iter().collect();
                    explained.push(Explained::Condition { sql: sql.clone(), holds });
                }
            }
            now = step.run(now, true)?;
            if let Step::LookUp(look_up) = step {
                let (table, found) = (look_up.rows.name().to_owned(), now.rows.num_rows());
                explained.push(Explained::LookUp { table, found });
            }
        }
        Ok(explained)
    }

    fn found(&self, batch: &RecordBatch) -> DfResult<Found> {
        let mut now = Now::of(conform(batch, &self.columns)?);
        for step in &self.steps {
            now = step.run(now, self.has_more)?;
            if now.rows.num_rows() == 0 {
                now.rows = RecordBatch::new_empty(Arc::clone(&self.schema));
                break;
            }
        }
        let Now { rows, origins, holds } = now;
        let own = rows.num_columns() - usize::from(self.has_more);
        let more = rows.columns().get(own).map(as_boolean).transpose()?;
        let rows = rows.project(&(0..own).collect::<Vec<_>>())?;
        Ok(Found { rows, more, origins: origins.values().to_vec(), holds })
    }
}

/// What a step says of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Explained {
    /// A part of the condition.
    Condition {
        /// As it is written.
        sql: String,
        /// What it says of the row, or of each row that was made of it by look-ups.
        holds: Vec<Option<bool>>,
    },
    /// A table is looked up.
    LookUp {
        /// Its name.
        table: String,
        /// How many rows were found.
        found: usize,
    },
}

impl Step {
    fn run(&self, now: Now, keeps_false: bool) -> DfResult<Now> {
        let count = now.rows.num_rows();
        match self {
            Self::Compute(compute) => Ok(Now { rows: compute.run(&now.rows)?, ..now }),
            Self::Filter(predicate) => {
                let is_in = boolean(predicate, &now.rows)?;
                now.only(&is_in)
            }
            Self::Condition(..) if count == 0 => Ok(now),
            Self::Condition(condition, _) => {
                let holds = and_kleene(&now.holds, &boolean(condition, &now.rows)?)?;
                let now = Now { holds, ..now };
                if keeps_false {
                    return Ok(now);
                }
                // Unknown is not false.
                let may_hold = match now.holds.null_count() {
                    0 => now.holds.clone(),
                    _ => or_kleene(&now.holds, &is_null(&now.holds)?)?,
                };
                if may_hold.true_count() == count { Ok(now) } else { now.only(&may_hold) }
            }
            Self::LookUp(look_up) => look_up.run(now),
        }
    }
}

impl Now {
    fn of(rows: RecordBatch) -> Self {
        let origins = UInt32Array::from_iter_values(0..rows.num_rows() as u32);
        let holds = BooleanArray::from(vec![true; rows.num_rows()]);
        Self { rows, origins, holds }
    }

    fn only(self, is_in: &BooleanArray) -> DfResult<Self> {
        Ok(Self {
            rows: filter_record_batch(&self.rows, is_in)?,
            origins: filter(&self.origins, is_in)?.as_primitive().clone(),
            holds: filter(&self.holds, is_in)?.as_boolean().clone(),
        })
    }
}

fn boolean(expression: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> DfResult<BooleanArray> {
    as_boolean(&expression.evaluate(rows)?.into_array(rows.num_rows())?)
}

fn as_boolean(column: &ArrayRef) -> DfResult<BooleanArray> {
    Ok(cast(column, &DataType::Boolean)?.as_boolean().clone())
}

impl LookUp {
    fn run(&self, now: Now) -> DfResult<Now> {
        if now.rows.num_rows() == 0 {
            return Ok(Now { rows: RecordBatch::new_empty(Arc::clone(&self.schema)), ..now });
        }
        let sought = columns(&self.left, &now.rows)?;
        let known = self.known(&sought)?;
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for (row, key) in keys(&sought)?.into_iter().enumerate() {
            for found in key.and_then(|key| known.at.get(&key)).into_iter().flatten() {
                from.push(row as u32);
                to.push(Some(*found));
            }
        }
        let mut rows = self.side_by_side(&now.rows, &from, &known.rows, &to)?;
        if let Some(filter) = &self.filter {
            let is_in = boolean(filter, &rows)?;
            rows = filter_record_batch(&rows, &is_in)?;
            let is_in = |at: usize| is_in.is_valid(at) && is_in.value(at);
            from = from.iter().enumerate().filter(|(at, _)| is_in(*at)).map(|(_, row)| *row).collect();
        }
        if self.is_left {
            let mut is_found = vec![false; now.rows.num_rows()];
            from.iter().for_each(|row| is_found[*row as usize] = true);
            let missed: Vec<u32> = (0..is_found.len() as u32).filter(|row| !is_found[*row as usize]).collect();
            let alone = self.side_by_side(&now.rows, &missed, &known.rows, &vec![None; missed.len()])?;
            rows = arrow::compute::concat_batches(&self.schema, [&rows, &alone])?;
            from.extend(missed);
        }
        let from = UInt32Array::from(from);
        let origins = take(&now.origins, &from, None)?.as_primitive().clone();
        let holds = take(&now.holds, &from, None)?.as_boolean().clone();
        Ok(Now { rows, origins, holds })
    }

    /// Rows of both sides, those of the right null where there is none.
    fn side_by_side(
        &self,
        left: &RecordBatch,
        from: &[u32],
        right: &RecordBatch,
        to: &[Option<u32>],
    ) -> DfResult<RecordBatch> {
        let left = take_record_batch(left, &UInt32Array::from(from.to_vec()))?;
        let to = UInt32Array::from(to.to_vec());
        let right = right.columns().iter().map(|column| take(column, &to, None));
        let right = right.collect::<std::result::Result<Vec<_>, _>>()?;
        let columns = left.columns().iter().cloned().chain(right).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(to.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// The rows that may be found.
    fn known(&self, sought: &[ArrayRef]) -> DfResult<Arc<Indexed>> {
        if let Some(key) = &self.key {
            let keys: Vec<ArrayRef> = key.iter().map(|at| Arc::clone(&sought[*at])).collect();
            let found = self.rows.get(&keys).map_err(external)?;
            return Ok(Arc::new(self.indexed(&found.into_iter().collect::<Vec<_>>())?));
        }
        let mut all = self.all.lock();
        // Before the rows are read: what changes meanwhile makes them old again.
        let changes = self.rows.changes();
        if let Some((_, known)) = all.as_ref().filter(|(then, _)| *then == changes) {
            return Ok(Arc::clone(known));
        }
        let indexed = Arc::new(self.indexed(&self.rows.scan().map_err(external)?)?);
        *all = Some((changes, Arc::clone(&indexed)));
        Ok(indexed)
    }

    fn indexed(&self, batches: &[RecordBatch]) -> DfResult<Indexed> {
        let batches =
            batches.iter().map(|rows| conform(rows, &self.columns)).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut rows = arrow::compute::concat_batches(&self.columns, &batches)?;
        if let Some(projection) = &self.projection {
            rows = rows.project(projection)?;
        }
        let mut now = Now::of(rows);
        for step in &self.steps {
            now = step.run(now, false)?;
        }
        let mut at: HashMap<Box<[u8]>, Vec<u32>> = HashMap::new();
        for (row, key) in keys(&columns(&self.right, &now.rows)?)?.into_iter().enumerate() {
            if let Some(key) = key {
                at.entry(key).or_default().push(row as u32);
            }
        }
        Ok(Indexed { rows: now.rows, at })
    }
}

/// The key of each row; `None` where a part of it is null, and so equals nothing.
fn keys(columns: &[ArrayRef]) -> DfResult<Vec<Option<Box<[u8]>>>> {
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(columns)?;
    let is_whole = |row: usize| columns.iter().all(|column| column.is_valid(row));
    Ok((0..rows.num_rows()).map(|row| is_whole(row).then(|| rows.row(row).as_ref().into())).collect())
}

/// A SELECT with one more column at its end, if there is SQL for one.
pub(super) fn with_column(mut statement: Ast, more: Option<&str>) -> Result<Ast> {
    let Some(sql) = more else { return Ok(statement) };
    let added = parse::parse(&format!("SELECT ({sql}) AS \"{ADDED}\""))?.statement;
    let (Some(select), Ast::Statement(mut added)) = (plain_select(&mut statement), added) else {
        return Err(refused("it is no plain SELECT", "a continuous query is one SELECT"));
    };
    if let SqlStatement::Query(added) = &mut *added
        && let SetExpr::Select(added) = &mut *added.body
    {
        select.projection.append(&mut added.projection);
    }
    Ok(statement)
}

fn plain_select(statement: &mut Ast) -> Option<&mut Select> {
    let Ast::Statement(inner) = statement else { return None };
    let SqlStatement::Query(query) = &mut **inner else { return None };
    let SetExpr::Select(select) = &mut *query.body else { return None };
    Some(select)
}

/// Refuses what would mean something else with every run.
fn steady(plan: &LogicalPlan) -> Result<()> {
    let mut refusal = None;
    let looked = plan.apply(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|expression| {
                if refusal.is_none() && is_unsteady(expression) {
                    refusal = Some(match expression {
                        Expr::ScalarFunction(call) => {
                            let text = format!("{}() is another with every run", call.func.name());
                            refused(&text, "use the time of the event, event_time")
                        }
                        Expr::ScalarVariable(..) => refused("a variable of the session", ""),
                        _ => refused("a query inside of it", "join the table instead: its rows are looked up"),
                    });
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    looked.map_err(|cause| error::from_datafusion(cause, ""))?;
    refusal.map_or(Ok(()), Err)
}

fn refused(what: &str, hint: &str) -> Error {
    let error = Error::new(Kind::Query, format!("a continuous query cannot do this: {what}"));
    if hint.is_empty() { error } else { error.hint(hint) }
}

/// Walks from a plan's end to the stream, noting the steps on the way back. The first filter on the way is the condition.
fn spine<'a>(
    plan: &'a LogicalPlan,
    state: &SessionState,
    is_top: bool,
    steps: &mut Vec<Step>,
) -> Result<&'a TableScan> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let scan = spine(&projection.input, state, is_top, steps)?;
            let compute = Compute::of(&projection.expr, projection.input.schema(), plan.schema(), state);
            steps.push(Step::Compute(compute.map_err(|cause| error::from_datafusion(cause, ""))?));
            Ok(scan)
        }
        LogicalPlan::SubqueryAlias(alias) => spine(&alias.input, state, is_top, steps),
        LogicalPlan::Filter(filter) if is_top => {
            let conditions = split_conjunction(&filter.predicate).into_iter().cloned().collect();
            conditioned(&filter.input, state, conditions, steps)
        }
        LogicalPlan::Filter(filter) => {
            let scan = spine(&filter.input, state, false, steps)?;
            steps.push(Step::Filter(physical(&filter.predicate, filter.input.schema(), state)?));
            Ok(scan)
        }
        LogicalPlan::Join(join) => {
            let scan = spine(&join.left, state, false, steps)?;
            steps.push(Step::LookUp(Box::new(LookUp::of(join, state)?)));
            Ok(scan)
        }
        LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => Ok(scan),
        other => Err(unknown(other)),
    }
}

/// The same, of rows on which conditions are put: each as early as its columns are there, so that look-ups are asked
/// for few rows.
fn conditioned<'a>(
    plan: &'a LogicalPlan,
    state: &SessionState,
    conditions: Vec<Expr>,
    steps: &mut Vec<Step>,
) -> Result<&'a TableScan> {
    let (scan, left) = match plan {
        LogicalPlan::Join(join) => {
            let (early, late) =
                conditions.into_iter().partition(|condition| has_columns(join.left.schema(), condition));
            let scan = conditioned(&join.left, state, early, steps)?;
            steps.push(Step::LookUp(Box::new(LookUp::of(join, state)?)));
            (scan, late)
        }
        other => (spine(other, state, false, steps)?, conditions),
    };
    let part = |part: &Expr| Ok((part.human_display().to_string(), physical(part, plan.schema(), state)?));
    let parts = left.iter().map(part).collect::<Result<_>>()?;
    if let Some(condition) = conjunction(left) {
        steps.push(Step::Condition(physical(&condition, plan.schema(), state)?, parts));
    }
    Ok(scan)
}

fn has_columns(schema: &DFSchema, expression: &Expr) -> bool {
    expression.column_refs().into_iter().all(|column| schema.has_column(column))
}

fn physical(expression: &Expr, schema: &DFSchema, state: &SessionState) -> Result<Arc<dyn PhysicalExpr>> {
    compute::physical(expression, schema, state).map_err(|cause| error::from_datafusion(cause, ""))
}

fn unknown(plan: &LogicalPlan) -> Error {
    match plan {
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => refused(
            "rows of a stream put together without a window",
            "a continuous query looks at one row of the stream at a time",
        ),
        LogicalPlan::Window(_) => refused("a window function", "it looks at one row of the stream at a time"),
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => refused("ORDER BY or LIMIT: a stream has no end", ""),
        LogicalPlan::Union(_) => refused("UNION", "write two queries"),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
            refused("FROM names no table", "the first table of FROM is the stream")
        }
        other => refused(&format!("{}", other.display()), ""),
    }
}

impl LookUp {
    fn of(join: &Join, state: &SessionState) -> Result<Self> {
        let is_left = match join.join_type {
            JoinType::Inner => false,
            JoinType::Left => true,
            other => return Err(refused(&format!("{other} JOIN"), "JOIN and LEFT JOIN look rows up")),
        };
        let (left_schema, right_schema) = (join.left.schema(), join.right.schema());
        let mut equal = join.on.clone();
        let mut others = Vec::new();
        for condition in join.filter.iter().flat_map(split_conjunction) {
            let pair = match condition {
                Expr::BinaryExpr(binary) if binary.op == Operator::Eq => {
                    find_valid_equijoin_key_pair(&binary.left, &binary.right, left_schema, right_schema)
                        .map_err(|cause| error::from_datafusion(cause, ""))?
                }
                _ => None,
            };
            match pair {
                Some(pair) => equal.push(pair),
                None => others.push(condition.clone()),
            }
        }
        let mut steps = Vec::new();
        let scan = spine(&join.right, state, false, &mut steps)?;
        let table = scan.table_name.table().to_owned();
        if equal.is_empty() {
            let text = format!("{table} is joined without an equality");
            return Err(refused(&text, "rows are looked up by what equals: ON a.x = b.y"));
        }
        let provider = source_as_provider(&scan.source).map_err(|cause| error::from_datafusion(cause, ""))?;
        let Some(keyed) = (&*provider as &dyn Any).downcast_ref::<KeyedTable>() else {
            let text = format!("{table} is joined, and has not one row per key");
            return Err(refused(&text, "the first table of FROM is the stream; others are mirrors or latest tables"));
        };
        let rows = keyed.rows();
        let of_key = |name: &String| equal.iter().position(|(_, right)| column_of(&join.right, right) == Some(name));
        let key = rows.key().iter().map(of_key).collect::<Option<Vec<_>>>();
        let key = key.filter(|key| {
            let kinds = rows.schema();
            let is_same = |(at, name): (&usize, &String)| {
                let kind = kinds.field_with_name(name).map(|field| field.data_type().clone()).ok();
                let sought = equal[*at].0.get_type(left_schema.as_ref()).ok();
                kind.is_some() && kind == sought
            };
            key.iter().zip(rows.key()).all(is_same)
        });
        Ok(Self {
            columns: datafusion::catalog::TableProvider::schema(keyed),
            projection: scan.projection.clone(),
            rows,
            steps,
            left: equal.iter().map(|(left, _)| physical(left, left_schema, state)).collect::<Result<_>>()?,
            right: equal.iter().map(|(_, right)| physical(right, right_schema, state)).collect::<Result<_>>()?,
            key,
            filter: conjunction(others).map(|filter| physical(&filter, &join.schema, state)).transpose()?,
            is_left,
            schema: Arc::clone(join.schema.inner()),
            all: Mutex::default(),
        })
    }
}

/// The column that an expression over the rows of `plan` is, of the table that they begin with; nothing if it is none.
fn column_of<'a>(plan: &'a LogicalPlan, expression: &Expr) -> Option<&'a str> {
    let Expr::Column(column) = expression else { return None };
    let at = plan.schema().maybe_index_of_column(column)?;
    match plan {
        LogicalPlan::TableScan(scan) => Some(scan.projected_schema.field(at).name()),
        LogicalPlan::SubqueryAlias(alias) => {
            column_of(&alias.input, &Expr::Column(alias.input.schema().columns().swap_remove(at)))
        }
        LogicalPlan::Filter(filter) => column_of(&filter.input, expression),
        LogicalPlan::Join(join) if has_columns(join.left.schema(), expression) => column_of(&join.left, expression),
        LogicalPlan::Projection(projection) => {
            let mut inner = &projection.expr[at];
            while let Expr::Alias(alias) = inner {
                inner = &alias.expr;
            }
            column_of(&projection.input, inner)
        }
        _ => None,
    }
}
