//! A query that runs over every batch of one table's new rows: planned once, then a chain of steps.
//!
//! ```text
//! rows of the stream ─ conditions on them alone ─ look-up ─ further conditions ─ … ─ what is selected
//! ```
//! The first table of FROM is the stream; what is joined to it is looked up as it is at that moment. The WHERE of the
//! query is a condition and no filter: true, false, or unknown, which is told apart.
//!
//! A query that looks back keeps something of the rows that it has seen. Its steps are two chains: those that rows go
//! through before they are kept ([`Continuous::enter`]), and those of what is said of them ([`Continuous::run`]).

mod condition;
mod keys;
mod look_back;
mod look_up;
mod memory;
mod unnest;
mod whole;
mod windowed;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{
    and_kleene, cast, concat, concat_batches, filter, filter_record_batch, is_null, or_kleene, take, take_record_batch,
};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result as DfResult, exec_err};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, TableScan};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{Optimizer, OptimizerContext};
use datafusion::physical_plan::PhysicalExpr;
use datafusion::sql::parser::Statement as Ast;
use datafusion::sql::sqlparser::ast::{Select, SetExpr, Statement as SqlStatement};
use serde::{Deserialize, Serialize};

pub use self::condition::Shared;
pub use self::look_up::By;
pub use self::memory::{Kept, Memory, Said};

use self::condition::{Asked, Columns, Condition};
use self::look_back::LookBack;
use self::look_up::LookUp;
use self::memory::Keeps;
use self::unnest::Unnest;
use self::whole::Whole;
use self::windowed::Windowed;
use super::compute::{self, Compute, is_unsteady};
use super::windows::{self, Cut};
use super::{error, parse};
use crate::error::{Error, Kind, Result};
use crate::schema::{change, conform, fixed};

/// Name of the column that is added to what is selected.
const ADDED: &str = "__more";

/// A query over the new rows of a table.
#[derive(Debug)]
pub struct Continuous {
    stream: String,
    reads: BTreeSet<String>,
    /// What keeps rows before they go through the chain, if anything does.
    memory: Option<Memory>,
    chain: Chain,
    /// Of each column that is selected, the column of the stream that it is, if it is one.
    selected: Vec<Option<String>>,
}

/// Steps that follow each other.
#[derive(Debug)]
struct Chain {
    /// The columns that they were planned with.
    columns: Columns,
    steps: Vec<Step>,
    schema: SchemaRef,
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
    /// A part of the condition.
    Condition(Condition),
    LookUp(Box<LookUp>),
    /// What comes before it is kept: it is no step of a chain, but stands between two.
    Keeps(Box<Keeps>),
    Unnest(Unnest),
    /// What several chains make of the rows, one after the other.
    Union(Vec<Vec<Step>>, SchemaRef),
}

/// Rows on their way through the steps.
#[derive(Clone)]
struct Now {
    rows: RecordBatch,
    origins: UInt32Array,
    holds: BooleanArray,
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
        let (memory, steps) = Memory::before(steps, scan.projected_schema.inner(), plan)?;
        let columns = memory.as_ref().map_or_else(|| Arc::clone(scan.projected_schema.inner()), Memory::gives);
        let (columns, schema) = (Columns::new(&columns), Arc::clone(plan.schema().inner()));
        let chain = Chain { columns, steps, schema, has_more };
        let (stream, reads) = (scan.table_name.table().to_owned(), read_columns(plan, scan));
        Ok(Self { stream, reads, memory, chain, selected })
    }

    /// The table whose new rows it runs over.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The columns of the stream that it reads: rows without the others say the same.
    pub fn reads(&self) -> &BTreeSet<String> {
        &self.reads
    }

    /// The tables that are looked up, in their order, each with how.
    pub fn look_ups(&self) -> Vec<(String, By)> {
        fn of(steps: &[Step], found: &mut Vec<(String, By)>) {
            for step in steps {
                match step {
                    Step::LookUp(look_up) => {
                        found.push((look_up.table().to_owned(), look_up.by()));
                        of(look_up.steps(), found);
                    }
                    Step::Union(chains, _) => chains.iter().for_each(|chain| of(chain, found)),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        let kept = self.memory.iter().flat_map(Memory::chains);
        kept.chain([&self.chain]).for_each(|chain| of(&chain.steps, &mut found));
        found
    }

    /// How it is run, in a word.
    pub fn class(&self) -> &'static str {
        match (&self.memory, self.look_ups().is_empty()) {
            (Some(memory), _) => memory.class(),
            (None, true) => "stateless",
            (None, false) => "look-up join",
        }
    }

    /// What it keeps of the rows that it has seen; nothing if it looks at each by itself.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// The same, if it keeps nothing; otherwise a refusal, for `who` cannot.
    pub fn row_by_row(self, who: &str) -> Result<Self> {
        if self.memory.is_none() {
            return Ok(self);
        }
        let error = Error::new(Kind::Query, format!("{who} looks at one row at a time: it keeps no rows or windows"));
        Err(error.hint("write a query with kind = \"stream\" and subscribe to its table"))
    }

    /// The column of the stream that a selected column is; nothing if it is made of others, or looked up.
    pub fn stream_column(&self, selected: &str) -> Option<&str> {
        self.selected[self.chain.schema.index_of(selected).ok()?].as_deref()
    }

    /// What it selects.
    pub fn schema(&self) -> SchemaRef {
        let fields = self.chain.schema.fields();
        Arc::new(arrow::datatypes::Schema::new(fields[..fields.len() - usize::from(self.chain.has_more)].to_vec()))
    }

    /// Runs over rows of the stream, or over those that its memory gives, if it has one. Those of which the condition is
    /// false are left out, unless they are wanted. What is `shared` is only ever of these rows.
    pub fn run(&self, batch: &RecordBatch, shared: &Shared) -> Result<Found> {
        self.chain.found(batch, shared).map_err(unplanned)
    }

    /// What its memory keeps of rows of the stream.
    pub fn enter(&self, batch: &RecordBatch, shared: &Shared) -> Result<Found> {
        self.first().found(batch, shared).map_err(unplanned)
    }

    /// What rows of the stream go through at first.
    fn first(&self) -> &Chain {
        self.memory.iter().flat_map(Memory::chains).next().unwrap_or(&self.chain)
    }

    /// What each step says of one row of the stream; nothing ends it early.
    pub fn explain(&self, row: &RecordBatch) -> Result<Vec<Explained>> {
        self.explained(row).map_err(unplanned)
    }

    /// The same, of what is said of a row beside those that are kept, or of a window that is over.
    pub fn explain_said(&self, said: &RecordBatch) -> Result<Vec<Explained>> {
        let mut explained = Vec::new();
        explain(&self.chain.steps, Now::of(said.clone()), &mut explained).map_err(unplanned)?;
        Ok(explained)
    }

    fn explained(&self, row: &RecordBatch) -> DfResult<Vec<Explained>> {
        let mut explained = Vec::new();
        let chain = self.first();
        explain(&chain.steps, Now::of(conform(row, &chain.columns.schema)?), &mut explained)?;
        Ok(explained)
    }
}

impl Chain {
    fn found(&self, batch: &RecordBatch, shared: &Shared) -> DfResult<Found> {
        let (rows, asked) = shared.rows(batch, &self.columns)?;
        let now = run(&self.steps, Now::of(rows), self.has_more, &self.schema, Some(&asked))?;
        let Now { rows, origins, holds } = now.in_order()?;
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

/// Runs a chain of steps whose last gives columns of `schema`. `asked` is what others ask of the rows that it begins
/// with.
fn run(
    steps: &[Step],
    mut now: Now,
    keeps_false: bool,
    schema: &SchemaRef,
    asked: Option<&Asked<'_>>,
) -> DfResult<Now> {
    for (at, step) in steps.iter().enumerate() {
        now = step.run(now, keeps_false, asked.filter(|_| at == 0))?;
        if now.rows.num_rows() == 0 {
            now.rows = RecordBatch::new_empty(Arc::clone(schema));
            break;
        }
    }
    Ok(now)
}

/// Runs a chain over a row to its end, and notes what is said of it on the way.
fn explain(steps: &[Step], mut now: Now, explained: &mut Vec<Explained>) -> DfResult<()> {
    for step in steps {
        match step {
            Step::Condition(condition) => {
                for (sql, part) in condition.parts() {
                    let holds = boolean(part, &now.rows)?.iter().collect();
                    explained.push(Explained::Condition { sql: sql.clone(), holds });
                }
            }
            Step::Union(chains, _) => {
                chains.iter().try_for_each(|chain| explain(chain, now.clone(), explained))?;
            }
            _ => {}
        }
        now = step.run(now, true, None)?;
        if let Step::LookUp(look_up) = step {
            let (table, found) = (look_up.table().to_owned(), now.rows.num_rows());
            explained.push(Explained::LookUp { table, found });
        }
    }
    Ok(())
}

impl Step {
    fn run(&self, now: Now, keeps_false: bool, asked: Option<&Asked<'_>>) -> DfResult<Now> {
        let count = now.rows.num_rows();
        match self {
            Self::Compute(compute) => Ok(Now { rows: compute.run(&now.rows)?, ..now }),
            Self::Filter(predicate) => {
                let is_in = boolean(predicate, &now.rows)?;
                now.only(&is_in)
            }
            Self::Condition(..) if count == 0 => Ok(now),
            Self::Condition(condition) => {
                let holds = and_kleene(&now.holds, &condition.of(&now.rows, asked)?)?;
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
            Self::Keeps(_) => exec_err!("rows are kept between two chains"),
            Self::Unnest(unnest) => unnest.run(now),
            Self::Union(chains, schema) => {
                let parts = chains.iter().map(|chain| run(chain, now.clone(), keeps_false, schema, asked));
                Now::together(&parts.collect::<DfResult<Vec<_>>>()?, schema)
            }
        }
    }
}

impl Now {
    fn of(rows: RecordBatch) -> Self {
        let origins = UInt32Array::from_iter_values(0..rows.num_rows() as u32);
        let holds = BooleanArray::from(vec![true; rows.num_rows()]);
        Self { rows, origins, holds }
    }

    fn together(parts: &[Self], schema: &SchemaRef) -> DfResult<Self> {
        // The chains name the same columns in their own ways.
        let named = |part: &Self| {
            let options = RecordBatchOptions::new().with_row_count(Some(part.rows.num_rows()));
            RecordBatch::try_new_with_options(Arc::clone(schema), part.rows.columns().to_vec(), &options)
        };
        let rows = parts.iter().map(named).collect::<std::result::Result<Vec<_>, _>>()?;
        let origins: Vec<&dyn arrow::array::Array> = parts.iter().map(|part| &part.origins as _).collect();
        let holds: Vec<&dyn arrow::array::Array> = parts.iter().map(|part| &part.holds as _).collect();
        Ok(Self {
            rows: concat_batches(schema, &rows)?,
            origins: concat(&origins)?.as_primitive().clone(),
            holds: concat(&holds)?.as_boolean().clone(),
        })
    }

    /// In the order of the rows that they are made of: those for which nothing was found, and those of another chain, come
    /// last otherwise.
    fn in_order(self) -> DfResult<Self> {
        let origins = self.origins.values();
        if origins.is_sorted() {
            return Ok(self);
        }
        let mut order: Vec<u32> = (0..origins.len() as u32).collect();
        order.sort_by_key(|row| origins[*row as usize]);
        let order = UInt32Array::from(order);
        Ok(Self {
            rows: take_record_batch(&self.rows, &order)?,
            origins: take(&self.origins, &order, None)?.as_primitive().clone(),
            holds: take(&self.holds, &order, None)?.as_boolean().clone(),
        })
    }

    fn only(self, is_in: &BooleanArray) -> DfResult<Self> {
        if is_in.true_count() == 0 {
            // Nothing is left to copy; the columns stay, for who goes on to explain a row.
            return Ok(Self {
                rows: self.rows.slice(0, 0),
                origins: self.origins.slice(0, 0),
                holds: self.holds.slice(0, 0),
            });
        }
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
    looked.map_err(unplanned)?;
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
            steps.push(Step::Compute(compute.map_err(unplanned)?));
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
        LogicalPlan::Window(window) => {
            let scan = spine(&window.input, state, false, steps)?;
            let keeps = match window_column(&window.input) {
                Some(start) if look_back::is_in_order_of(start, window) => {
                    Keeps::LookBack(LookBack::of(window, start, state)?)
                }
                Some(_) => Keeps::Whole(Box::new(Whole::of(plan, &window.input, state)?)),
                None => Keeps::LookBack(LookBack::of(window, time_of(scan), state)?),
            };
            steps.push(Step::Keeps(Box::new(keeps)));
            Ok(scan)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let scan = spine(&aggregate.input, state, false, steps)?;
            let keeps = match window_column(&aggregate.input) {
                Some(_) => Keeps::Whole(Box::new(Whole::of(plan, &aggregate.input, state)?)),
                None => Keeps::Windowed(Windowed::of(aggregate, time_of(scan), state)?),
            };
            steps.push(Step::Keeps(Box::new(keeps)));
            Ok(scan)
        }
        LogicalPlan::Distinct(Distinct::All(input)) if window_column(input).is_some() => {
            let scan = spine(input, state, false, steps)?;
            steps.push(Step::Keeps(Box::new(Keeps::Whole(Box::new(Whole::of(plan, input, state)?)))));
            Ok(scan)
        }
        LogicalPlan::Unnest(unnest) => {
            let scan = spine(&unnest.input, state, is_top, steps)?;
            steps.push(Step::Unnest(Unnest::of(unnest)?));
            Ok(scan)
        }
        LogicalPlan::Union(union) => {
            let (mut chains, mut of): (Vec<Vec<Step>>, Option<&TableScan>) = (Vec::new(), None);
            for input in &union.inputs {
                let mut chain = Vec::new();
                let scan = spine(input, state, is_top, &mut chain)?;
                if of.is_some_and(|of| of.table_name != scan.table_name) {
                    return Err(refused("UNION ALL of several streams", "write a query for each of them"));
                }
                if chain.iter().any(|step| matches!(step, Step::Keeps(_))) {
                    return Err(refused("a window inside of UNION ALL", "write a query for each part"));
                }
                of = Some(scan);
                chains.push(chain);
            }
            steps.push(Step::Union(chains, Arc::clone(union.schema.inner())));
            of.ok_or_else(|| unknown(plan))
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
        steps.push(Step::Condition(Condition::new(physical(&condition, plan.schema(), state)?, parts)));
    }
    Ok(scan)
}

/// The columns that `plan` reads of the table of `scan`.
fn read_columns(plan: &LogicalPlan, scan: &TableScan) -> BTreeSet<String> {
    let optimizer = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    let narrow = optimizer.optimize(plan.clone(), &OptimizerContext::new(), |_, _| {});
    let mut read = BTreeSet::new();
    let mut note = |scan: &TableScan| read.extend(scan.projected_schema.fields().iter().map(|f| f.name().clone()));
    // What cannot be narrowed reads all.
    match narrow {
        Err(_) => note(scan),
        Ok(narrow) => {
            let _ = narrow.apply(|node| {
                if let LogicalPlan::TableScan(one) = node
                    && one.table_name == scan.table_name
                {
                    note(one);
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
    }
    read
}

/// The column that says when rows of a stream happened.
fn time_of(scan: &TableScan) -> &'static str {
    let is_of_changes = scan.projected_schema.has_column_with_unqualified_name(change::OP);
    if is_of_changes { change::SOURCE_TIME } else { fixed::EVENT_TIME }
}

/// How an expression over the rows of `plan` cuts time, and the column of the stream that it cuts; nothing if it does not.
fn cut_of<'a>(plan: &'a LogicalPlan, expression: &Expr) -> Option<(&'a str, Cut)> {
    let expression = unaliased(expression);
    if let Some((time, cut)) = windows::cut(expression) {
        return Some((column_of(plan, time)?, cut));
    }
    let Expr::Column(column) = expression else { return None };
    let at = plan.schema().maybe_index_of_column(column)?;
    let inner = |input: &LogicalPlan, at: usize| Some(Expr::Column(input.schema().columns().into_iter().nth(at)?));
    match plan {
        LogicalPlan::Projection(projection) => cut_of(&projection.input, &projection.expr[at]),
        LogicalPlan::SubqueryAlias(alias) => cut_of(&alias.input, &inner(&alias.input, at)?),
        LogicalPlan::Filter(filter) => cut_of(&filter.input, expression),
        LogicalPlan::Window(window) => cut_of(&window.input, &inner(&window.input, at)?),
        LogicalPlan::Join(join) => cut_of(&join.left, &inner(&join.left, at)?),
        LogicalPlan::Unnest(unnest) => cut_of(&unnest.input, &inner(&unnest.input, unnest.dependency_indices[at])?),
        _ => None,
    }
}

/// The column of an aggregate over windows that says which window a row is of, if there is such an aggregate below.
fn window_column(plan: &LogicalPlan) -> Option<&str> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let is_window = |group: &Expr| cut_of(&aggregate.input, group).is_some();
            match aggregate.group_expr.iter().position(is_window) {
                Some(at) => Some(aggregate.schema.field(at).name()),
                None => window_column(&aggregate.input),
            }
        }
        LogicalPlan::Join(join) => window_column(&join.left),
        LogicalPlan::TableScan(_) | LogicalPlan::Union(_) => None,
        other => window_column(other.inputs().into_iter().next()?),
    }
}

/// An expression without the names that it was given.
fn unaliased(mut expression: &Expr) -> &Expr {
    while let Expr::Alias(alias) = expression {
        expression = &alias.expr;
    }
    expression
}

/// Why DataFusion refuses a part of a query.
fn unplanned(cause: DataFusionError) -> Error {
    error::from_datafusion(cause, "")
}

fn has_columns(schema: &DFSchema, expression: &Expr) -> bool {
    expression.column_refs().into_iter().all(|column| schema.has_column(column))
}

fn physical(expression: &Expr, schema: &DFSchema, state: &SessionState) -> Result<Arc<dyn PhysicalExpr>> {
    compute::physical(expression, schema, state).map_err(unplanned)
}

fn unknown(plan: &LogicalPlan) -> Error {
    match plan {
        LogicalPlan::Distinct(_) => refused(
            "rows of a stream put together without a window",
            "GROUP BY the columns and tumble(event_time, INTERVAL '1 minute'), or hop or session",
        ),
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => refused("ORDER BY or LIMIT: a stream has no end", ""),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
            refused("FROM names no table", "the first table of FROM is the stream")
        }
        other => refused(&format!("{}", other.display()), ""),
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
        LogicalPlan::Window(window) => {
            let inner = window.input.schema().columns().into_iter().nth(at)?;
            column_of(&window.input, &Expr::Column(inner))
        }
        // What it gives is named by itself: its rows are not those of the stream.
        LogicalPlan::Aggregate(aggregate) => {
            (at < aggregate.group_expr.len()).then(|| aggregate.schema.field(at).name().as_str())
        }
        LogicalPlan::Join(join) if has_columns(join.left.schema(), expression) => column_of(&join.left, expression),
        LogicalPlan::Unnest(unnest) => {
            let of = unnest.dependency_indices[at];
            let is_list = unnest.list_type_columns.iter().any(|(list, _)| *list == of);
            let inner = unnest.input.schema().columns().swap_remove(of);
            if is_list { None } else { column_of(&unnest.input, &Expr::Column(inner)) }
        }
        LogicalPlan::Union(union) => {
            let of =
                |input: &'a Arc<LogicalPlan>| column_of(input, &Expr::Column(input.schema().columns().swap_remove(at)));
            let mut of = union.inputs.iter().map(of);
            let first = of.next()??;
            of.all(|other| other == Some(first)).then_some(first)
        }
        LogicalPlan::Projection(projection) => column_of(&projection.input, unaliased(&projection.expr[at])),
        _ => None,
    }
}
