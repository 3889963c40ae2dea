//! Conditions, and what many queries ask of the same rows: what several of them ask is computed once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::and_kleene;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, Literal, NotExpr,
};
use datafusion::physical_plan::PhysicalExpr;

use super::boolean;
use crate::schema::conform;

/// What must be true: all of its parts, each with its SQL.
#[derive(Debug)]
pub(super) struct Condition {
    whole: Arc<dyn PhysicalExpr>,
    parts: Vec<(String, Arc<dyn PhysicalExpr>)>,
    /// No part of it can fail, so that each can be computed for rows that another one rules out.
    is_plain: bool,
}

impl Condition {
    pub fn new(whole: Arc<dyn PhysicalExpr>, parts: Vec<(String, Arc<dyn PhysicalExpr>)>) -> Self {
        let is_plain = parts.iter().all(|(_, part)| is_plain(part));
        Self { whole, parts, is_plain }
    }

    /// Its parts as they are written, and what each is.
    pub fn parts(&self) -> &[(String, Arc<dyn PhysicalExpr>)] {
        &self.parts
    }

    /// What it says of rows; those of the stream itself are asked with `shared`.
    pub fn of(&self, rows: &RecordBatch, shared: Option<&Asked<'_>>) -> DfResult<BooleanArray> {
        let Some(shared) = shared.filter(|_| self.is_plain) else { return boolean(&self.whole, rows) };
        let mut parts = self.parts.iter().map(|(_, part)| shared.says(part, rows));
        let first = parts.next().unwrap_or_else(|| boolean(&self.whole, rows))?;
        parts.try_fold(first, |all, part| Ok(and_kleene(&all, &part?)?))
    }
}

/// Whether an expression only compares: then it has an answer for every row.
fn is_plain(expression: &Arc<dyn PhysicalExpr>) -> bool {
    let one: &dyn std::any::Any = &**expression;
    let itself = match one.downcast_ref::<BinaryExpr>() {
        Some(binary) => {
            use Operator::{And, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq, Or};
            matches!(binary.op(), And | Or | Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
        }
        None => {
            one.is::<Column>()
                || one.is::<Literal>()
                || one.is::<NotExpr>()
                || one.is::<IsNullExpr>()
                || one.is::<IsNotNullExpr>()
                || one.is::<InListExpr>()
        }
    };
    itself && expression.children().into_iter().all(is_plain)
}

/// What was asked of one batch of rows, by whoever runs over them.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    rows: RefCell<HashMap<u64, RecordBatch>>,
    said: RefCell<HashMap<Question, BooleanArray>>,
}

/// The columns that are known, and what is asked of them.
type Question = (u64, Arc<dyn PhysicalExpr>);

/// The columns that a query knows of its stream. Queries that know the same ask the same of them.
#[derive(Debug)]
pub(super) struct Columns {
    pub schema: SchemaRef,
    id: u64,
}

impl Columns {
    pub fn new(schema: &SchemaRef) -> Self {
        let mut hash = DefaultHasher::new();
        let Schema { fields, .. } = &**schema;
        fields.hash(&mut hash);
        Self { schema: Arc::clone(schema), id: hash.finish() }
    }
}

/// What is asked of one batch by queries that know the same columns of it.
pub(super) struct Asked<'a> {
    shared: &'a Shared,
    columns: u64,
}

impl Shared {
    /// The rows, which are always the same, with the columns that are known of them.
    pub(super) fn rows(&self, batch: &RecordBatch, columns: &Columns) -> DfResult<(RecordBatch, Asked<'_>)> {
        let asked = Asked { shared: self, columns: columns.id };
        if let Some(known) = self.rows.borrow().get(&columns.id) {
            return Ok((known.clone(), asked));
        }
        let rows = conform(batch, &columns.schema)?;
        self.rows.borrow_mut().insert(columns.id, rows.clone());
        Ok((rows, asked))
    }
}

impl Asked<'_> {
    fn says(&self, part: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> DfResult<BooleanArray> {
        let asked = (self.columns, Arc::clone(part));
        if let Some(known) = self.shared.said.borrow().get(&asked) {
            return Ok(known.clone());
        }
        let said = boolean(part, rows)?;
        self.shared.said.borrow_mut().insert(asked, said.clone());
        Ok(said)
    }
}
