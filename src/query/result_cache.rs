//! Results of queries that were asked before. A result is known by its plan, its reader's role, and the exact state of
//! each table that it reads: it is never stale, and is forgotten when somebody asks after one of them has changed, or when
//! others need its room.
//!
//! A state is a pinned View, or how often the rows by key have changed. It is kept as a weak reference: a result pins no
//! snapshot, and of hot rows those columns only that it passes on as they are.

use std::any::Any;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
use parking_lot::Mutex;

use super::latest::KeyedTable;
use super::role::{Restricted, Role};
use super::table::ViewTable;
use crate::lake::View;
use crate::latest::Rows;

/// A result may take this part of the cache.
const PART: usize = 16;
/// More results are not kept, however small they are.
const MOST: usize = 1_000;
/// A longer statement is not looked for: comparing its plan would take longer than making another.
const LONGEST: usize = 8 * 1024;
/// Bytes that a plan takes for each of its text.
const PLAN_BYTES: usize = 64;

/// The results that are kept.
#[derive(Debug)]
pub(super) struct ResultCache {
    most_bytes: usize,
    kept: Mutex<Kept>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    results: HashMap<Question, Answer>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

/// What was asked, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    plan: LogicalPlan,
    role: Option<ByPlace<Role>>,
    timezone: Option<String>,
}

#[derive(Debug)]
struct Answer {
    states: Vec<TableState>,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    bytes: usize,
    used: u64,
}

/// One and the same thing, not one that is alike.
#[derive(Debug)]
struct ByPlace<T>(Arc<T>);

impl<T> Clone for ByPlace<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for ByPlace<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for ByPlace<T> {}

impl<T> Hash for ByPlace<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// The state of a table that a query reads. A weak reference keeps its place from being given to another.
#[derive(Debug, Clone)]
enum TableState {
    View(Weak<View>),
    Keyed(Weak<dyn Rows>, u64),
}

impl PartialEq for TableState {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::View(one), Self::View(other)) => one.ptr_eq(other),
            (Self::Keyed(one, then), Self::Keyed(other, now)) => {
                then == now && std::ptr::addr_eq(one.as_ptr(), other.as_ptr())
            }
            _ => false,
        }
    }
}

impl TableState {
    fn of(table: &dyn TableProvider) -> Option<Self> {
        let table = table as &dyn Any;
        if let Some(view) = table.downcast_ref::<ViewTable>() {
            return view.pinned().map(Self::View);
        }
        if let Some(keyed) = table.downcast_ref::<KeyedTable>() {
            return Some(Self::Keyed(Arc::downgrade(&keyed.rows()), keyed.changes()));
        }
        table.downcast_ref::<Restricted>().and_then(|restricted| Self::of(restricted.table()))
    }
}

/// A question whose answer may be kept.
#[derive(Debug)]
pub(super) struct Asked {
    cache: Arc<ResultCache>,
    question: Question,
    states: Vec<TableState>,
    /// What the question takes.
    bytes: usize,
}

impl ResultCache {
    /// Keeps so many bytes.
    pub(super) fn new(most_bytes: usize) -> Arc<Self> {
        Arc::new(Self { most_bytes, kept: Mutex::default(), hits: AtomicU64::new(0), misses: AtomicU64::new(0) })
    }

    /// What an optimized plan of so many bytes of text and values asks, if its answer can be kept: it reads tables, and only
    /// such whose states are known. `state` is what it was planned with.
    pub(super) fn ask(
        self: &Arc<Self>,
        plan: &LogicalPlan,
        state: &SessionState,
        bytes: usize,
        role: Option<&Arc<Role>>,
    ) -> Option<Asked> {
        if bytes > LONGEST {
            return None;
        }
        if role.is_some() && !restrictions_are_steady(plan, state) {
            return None;
        }
        let states = states(plan).filter(|states| !states.is_empty())?;
        let timezone = state.config_options().execution.time_zone.clone();
        let question = Question { plan: plan.clone(), role: role.cloned().map(ByPlace), timezone };
        Some(Asked { cache: Arc::clone(self), question, states, bytes: bytes * PLAN_BYTES })
    }

    /// How many questions were answered with what was kept, how many were not, and the bytes that are kept.
    pub(super) fn stats(&self) -> (u64, u64, usize) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed), self.kept.lock().bytes)
    }
}

impl Asked {
    /// The rows, if they are known, in this schema.
    pub(super) fn answer(&self, schema: &SchemaRef) -> Option<Vec<RecordBatch>> {
        let mut kept = self.cache.kept.lock();
        kept.clock += 1;
        let now = kept.clock;
        let (counter, found) = match kept.results.get_mut(&self.question) {
            Some(known) if known.states == self.states && known.schema == *schema => {
                known.used = now;
                (&self.cache.hits, Some(known.batches.clone()))
            }
            _ => (&self.cache.misses, None),
        };
        if found.is_none()
            && let Some(stale) = kept.results.remove(&self.question)
        {
            kept.bytes -= stale.bytes;
        }
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps rows of this schema from now on.
    pub(super) fn keep(self, schema: SchemaRef) -> Keep {
        let bytes = self.bytes;
        Keep { asked: self, schema, batches: Vec::new(), bytes }
    }
}

/// A result on its way.
#[derive(Debug)]
pub(super) struct Keep {
    asked: Asked,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    bytes: usize,
}

impl Keep {
    /// Some of its rows; `None` once there are too many.
    pub(super) fn and(mut self, batch: &RecordBatch) -> Option<Self> {
        self.bytes += batch.get_array_memory_size();
        self.batches.push(batch.clone());
        (self.bytes <= self.asked.cache.most_bytes / PART).then_some(self)
    }

    /// That was all.
    pub(super) fn finish(self) {
        let Self { asked: Asked { cache, question, states: before, .. }, schema, batches, bytes } = self;
        // Rows by key are read when the query runs: if they have changed since it asked, nobody knows what it saw.
        let same = states(&question.plan).is_some_and(|after| after == before);
        let Some(plan) = same.then(|| without_tables(&question.plan).ok()).flatten() else { return };
        let mut kept = cache.kept.lock();
        kept.clock += 1;
        let answer = Answer { states: before, schema, batches, bytes, used: kept.clock };
        kept.bytes += bytes;
        if let Some(older) = kept.results.insert(Question { plan, ..question }, answer) {
            kept.bytes -= older.bytes;
        }
        while kept.bytes > cache.most_bytes || kept.results.len() > MOST {
            let oldest =
                kept.results.iter().min_by_key(|(_, answer)| answer.used).map(|(question, _)| question.clone());
            let Some(gone) = oldest.and_then(|oldest| kept.results.remove(&oldest)) else { break };
            kept.bytes -= gone.bytes;
        }
    }
}

/// The states of the tables that a plan reads, in its order; `None` if one of them has none.
fn states(plan: &LogicalPlan) -> Option<Vec<TableState>> {
    let mut states = Vec::new();
    let mut all = true;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let table = source_as_provider(&scan.source)?;
            match TableState::of(&*table) {
                Some(state) => states.push(state),
                None => all = false,
            }
        }
        Ok(if all { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    (walked.is_ok() && all).then_some(states)
}

/// Whether a role may read the same rows of the plan's tables whenever it asks.
fn restrictions_are_steady(plan: &LogicalPlan, state: &SessionState) -> bool {
    let mut steady = true;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let table = source_as_provider(&scan.source)?;
            let restricted = (&*table as &dyn Any).downcast_ref::<Restricted>();
            steady &= restricted.is_none_or(|restricted| restricted.is_steady(state));
        }
        Ok(if steady { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    steady && walked.is_ok()
}

/// The plan without what its tables hold. Plans are compared without that, too.
fn without_tables(plan: &LogicalPlan) -> Result<LogicalPlan> {
    let bare = plan.clone().transform_down_with_subqueries(|node| match node {
        LogicalPlan::TableScan(mut scan) => {
            scan.source = Arc::new(LogicalTableSource::new(scan.source.schema()));
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        }
        other => Ok(Transformed::no(other)),
    });
    bare.map(|done| done.data)
}
