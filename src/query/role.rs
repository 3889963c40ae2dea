//! What a role lets somebody read: which tables, which rows of them, and which columns.
//!
//! A table whose rows or columns are held back is read behind a barrier: its condition is applied and its columns are
//! blanked below it, and nothing that the statement says is evaluated there but comparisons that cannot fail. Else an error
//! (a cast of a text, a division) would tell of rows that must not be seen.
//!
//! A view shows what its reader may see of the tables inside it; to read the view they need not be granted themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::future::BoxFuture;
use glob::Pattern;
use tokio::sync::Semaphore;

use super::compute::{is_unsteady, simplified};
use super::rows::Most;
use super::{PUBLIC, Pinned};
use crate::error::{Error, Kind};

/// What a role is made of.
#[derive(Debug, Clone, Default)]
pub struct RoleOptions {
    /// Its name.
    pub name: String,
    /// Patterns of tables and views; without a schema those of `public`.
    pub tables: Vec<String>,
    /// Rows of a table of `public` that may be read, as a condition in SQL.
    pub filter: BTreeMap<String, String>,
    /// Columns of a table of `public` that are NULL.
    pub mask: BTreeMap<String, Vec<String>>,
    /// Longest statement.
    pub statement_timeout: Option<Duration>,
    /// Statements at once.
    pub queries: Option<usize>,
    /// Memory of one statement, in bytes.
    pub memory_bytes: Option<u64>,
    /// Bytes that one statement may write to the disk.
    pub spill_bytes: Option<u64>,
    /// Rows of one statement's result.
    pub result_rows: Option<u64>,
    /// Bytes of one statement's result.
    pub result_bytes: Option<u64>,
}

/// A role in force. Its limits are shared by all who have it.
#[derive(Debug)]
pub struct Role {
    options: RoleOptions,
    patterns: Vec<(String, Pattern)>,
    room: Option<Arc<Semaphore>>,
}

impl Role {
    /// A role. Fails on a pattern that is none.
    pub fn new(options: RoleOptions) -> crate::error::Result<Self> {
        let mut patterns = Vec::new();
        for text in &options.tables {
            let (schema, name) = text.split_once('.').unwrap_or((PUBLIC, text));
            let pattern = Pattern::new(name).map_err(|error| {
                Error::new(
                    Kind::Usage,
                    format!("role {}: `{text}` is no pattern of tables: {}", options.name, error.msg),
                )
            })?;
            patterns.push((schema.to_owned(), pattern));
        }
        let room = options.queries.map(|count| Arc::new(Semaphore::new(count)));
        Ok(Self { options, patterns, room })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Whether a table or view may be read.
    pub fn may_read(&self, schema: &str, name: &str) -> bool {
        // What is kept beside a table (`…__raw`, `…__changes`, `…__merged`, its children) has the rows that its condition
        // holds back: of such a table it must be named itself.
        let beside = name.split_once("__").is_some_and(|(table, _)| schema == PUBLIC && self.holds_back(table));
        let named = |of: &str, pattern: &Pattern| of == schema && pattern.as_str() == name;
        self.patterns
            .iter()
            .any(|(of, pattern)| if beside { named(of, pattern) } else { of == schema && pattern.matches(name) })
    }

    /// Whether rows or columns of a table are held back.
    fn holds_back(&self, table: &str) -> bool {
        self.options.filter.contains_key(table) || self.options.mask.contains_key(table)
    }

    /// Whether a table may be read as a whole, so that what knows nothing of conditions can read it.
    pub fn may_read_all_of(&self, name: &str) -> bool {
        let of_it =
            |table: &String| table == name || table.strip_prefix(name).is_some_and(|rest| rest.starts_with("__"));
        let held_back = self.options.filter.keys().chain(self.options.mask.keys()).any(of_it);
        self.may_read(PUBLIC, name) && !held_back
    }

    /// The refusal.
    pub(super) fn denied(name: &str) -> Error {
        Error::new(Kind::Denied, format!("permission denied for table {name}"))
            .hint("ask who keeps access.toml for a role that may read it")
    }

    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        self.options.statement_timeout
    }

    /// Where statements wait for each other, in the order in which they came.
    pub(super) fn room(&self) -> Option<&Arc<Semaphore>> {
        self.room.as_ref()
    }

    /// Memory that one statement may have.
    pub(super) fn memory_bytes(&self) -> Option<usize> {
        self.options.memory_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Bytes that one statement may write to the disk.
    pub(super) fn spill_bytes(&self) -> Option<u64> {
        self.options.spill_bytes
    }

    /// What one statement may send.
    pub(super) fn most(&self) -> Most {
        Most { rows: self.options.result_rows, bytes: self.options.result_bytes }
    }

    /// Puts tables whose rows or columns are held back behind their conditions.
    pub(super) fn restrict(&self, pinned: &mut Pinned) {
        let Some(public) = pinned.schemas.get_mut(PUBLIC) else { return };
        for (name, table) in public.iter_mut() {
            *table = self.restricted(name, Arc::clone(table));
        }
    }

    /// A table of schema `public` as this role sees it.
    pub(super) fn restricted(&self, name: &str, table: Arc<dyn TableProvider>) -> Arc<dyn TableProvider> {
        let filter = self.options.filter.get(name).cloned();
        let masked = self.options.mask.get(name).cloned().unwrap_or_default();
        if filter.is_none() && masked.is_empty() {
            return table;
        }
        Arc::new(Restricted { table, name: name.to_owned(), filter, masked })
    }
}

/// A table of which some rows and columns are held back.
pub(super) struct Restricted {
    table: Arc<dyn TableProvider>,
    name: String,
    filter: Option<String>,
    masked: Vec<String>,
}

impl fmt::Debug for Restricted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restricted").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Restricted {
    /// All of it.
    pub(super) fn table(&self) -> &dyn TableProvider {
        &*self.table
    }

    /// Whether it is the same rows that may be read of a state of the table, whenever that is asked.
    pub(super) fn is_steady(&self, state: &SessionState) -> bool {
        let unsteady = |expression: &Expr| Ok(is_unsteady(expression));
        let condition = self.condition(state, &self.table.schema());
        condition
            .is_ok_and(|condition| condition.is_none_or(|condition| condition.exists(unsteady).is_ok_and(|any| !any)))
    }

    fn is_masked(&self, column: &str) -> bool {
        self.masked.iter().any(|masked| masked == column)
    }

    /// Whether evaluating `expr` on rows that are held back can tell of them: it cannot if it never fails.
    fn is_harmless(&self, expr: &Expr) -> bool {
        let column = |expr: &Expr| match expr {
            Expr::Column(column) if !self.is_masked(&column.name) => {
                self.table.schema().field_with_name(&column.name).ok().map(|field| field.data_type().clone())
            }
            _ => None,
        };
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
                self.is_harmless(left) && self.is_harmless(right)
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
                match (&**left, &**right) {
                    (of, Expr::Literal(value, _)) | (Expr::Literal(value, _), of) => {
                        column(of) == Some(value.data_type())
                    }
                    _ => false,
                }
            }
            Expr::IsNull(of) | Expr::IsNotNull(of) => column(of).is_some(),
            Expr::InList(list) => {
                let of = column(&list.expr);
                of.is_some()
                    && list
                        .list
                        .iter()
                        .all(|item| matches!(item, Expr::Literal(value, _) if Some(value.data_type()) == of))
            }
            _ => false,
        }
    }

    fn plan<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
    ) -> BoxFuture<'a, Result<Arc<dyn ExecutionPlan>>> {
        Box::pin(async move {
            let schema = self.table.schema();
            if let Some(column) = self.masked.iter().find(|column| schema.index_of(column).is_err()) {
                let text = format!("your role masks {}.{column}, which is not there", self.name);
                let refusal = Error::new(Kind::Refused, text).hint("who keeps access.toml must correct it");
                return Err(DataFusionError::External(Box::new(refusal)));
            }
            let state = session.as_any().downcast_ref::<SessionState>();
            let state = state.ok_or_else(|| DataFusionError::Internal("a session without state".to_owned()))?;
            // The time of the statement takes the place of `now()`: what is computed for each row knows no time.
            let of = DFSchema::try_from(Arc::clone(&schema))?;
            let condition = self.condition(state, &schema)?;
            let condition = condition.map(|condition| simplified(&condition, &of, state)).transpose()?;
            let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
            let mut read: Vec<usize> =
                wanted.iter().copied().filter(|at| !self.is_masked(schema.field(*at).name())).collect();
            for column in condition.iter().flat_map(Expr::column_refs) {
                let at = schema.index_of(&column.name)?;
                if !read.contains(&at) {
                    read.push(at);
                }
            }
            read.sort_unstable();
            let mut below: Vec<Expr> = filters.iter().filter(|filter| self.is_harmless(filter)).cloned().collect();
            below.extend(condition.clone());
            let mut plan = self.table.scan(session, Some(&read), &below, None).await?;
            if let Some(condition) = condition {
                let of = DFSchema::try_from(plan.schema())?;
                let condition = session.create_physical_expr(unqualified(condition), &of)?;
                plan = Arc::new(FilterExec::try_new(condition, plan)?);
            }
            let shown = wanted.iter().map(|at| {
                let field = schema.field(*at);
                let value: Arc<dyn PhysicalExpr> = match read.binary_search(at) {
                    Ok(place) if !self.is_masked(field.name()) => Arc::new(Column::new(field.name(), place)),
                    _ => Arc::new(Literal::new(ScalarValue::try_from(field.data_type())?)),
                };
                Ok((value, field.name().clone()))
            });
            let plan = ProjectionExec::try_new(shown.collect::<Result<Vec<_>>>()?, plan)?;
            Ok(Arc::new(Barrier::new(Arc::new(plan))) as Arc<dyn ExecutionPlan>)
        })
    }

    /// The condition over the table's columns.
    fn condition(&self, state: &SessionState, schema: &SchemaRef) -> Result<Option<Expr>> {
        let Some(text) = &self.filter else { return Ok(None) };
        let of = DFSchema::try_from(Arc::clone(schema))?;
        let parsed = state.create_logical_expr(text, &of);
        parsed.map(Some).map_err(|error| {
            // Nothing is read where it is not clear what may be.
            let text =
                format!("the condition of your role on {} cannot be evaluated: {}", self.name, error.strip_backtrace());
            DataFusionError::External(Box::new(
                Error::new(Kind::Refused, text).hint("who keeps access.toml must correct it"),
            ))
        })
    }
}

fn shown_field(of: &Restricted, schema: &SchemaRef, at: usize) -> arrow::datatypes::Field {
    let field = schema.field(at).clone();
    let nullable = field.is_nullable() || of.is_masked(field.name());
    field.with_nullable(nullable)
}

fn unqualified(expr: Expr) -> Expr {
    datafusion::logical_expr::expr_rewriter::unnormalize_col(expr)
}

#[async_trait]
impl TableProvider for Restricted {
    fn schema(&self) -> SchemaRef {
        let schema = self.table.schema();
        let fields: Vec<_> = (0..schema.fields().len()).map(|at| shown_field(self, &schema, at)).collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }

    fn table_type(&self) -> TableType {
        self.table.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let kind = |filter: &&Expr| match self.is_harmless(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(kind).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.plan(session, projection, filters).await
    }
}

/// Keeps what is above from being evaluated below: nothing is pushed through it.
#[derive(Debug)]
struct Barrier {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl Barrier {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = Arc::clone(input.properties());
        Self { input, properties }
    }
}

impl DisplayAs for Barrier {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Barrier")
    }
}

impl ExecutionPlan for Barrier {
    fn name(&self) -> &'static str {
        "Barrier"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) => Ok(Arc::new(Self::new(input))),
            None => Ok(self),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}
