//! Windows: what rows of a stretch of time say together, once it is over.
//!
//! Of each window the partial aggregates of its groups are kept, as rows; they are merged when it ends, or when they have
//! become many. Rows come in the order of their times, so a session of a key is open until a gap has passed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, not, take_record_batch};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, exec_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::{ExecutionPlan as _, PhysicalExpr, collect};

use super::keys::{Key, Keys};
use super::{column_of, cut_of, physical, refused, unaliased, unplanned};
use crate::error::Result;
use crate::query::compute::{self, times};
use crate::query::windows::Cut;
use crate::schema::ColumnType;

/// Partial aggregates are merged when they are so many more than twice what was left the last time.
const MANY: usize = 8_192;
/// Name of the column that says which session a row is in.
const SESSION: &str = "__session";
/// It is looked so often at most whether sessions have ended, in microseconds of the stream's time …
const LOOK: i64 = 1_000_000;
/// … and so many times at least within a gap.
const LOOKS: i64 = 16;

/// Aggregates such that partial ones, merged, say what those of all rows do.
const MERGED: &[&str] = &[
    "approx_distinct",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "first_value",
    "last_value",
    "max",
    "median",
    "min",
    "regr_slope",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];

/// An aggregate over windows.
#[derive(Debug)]
pub(super) struct Windowed {
    cut: Cut,
    /// What time is cut.
    time: Arc<dyn PhysicalExpr>,
    /// Which of the columns that rows are grouped by is the window.
    window: usize,
    /// The others: whose a window is.
    keys: Keys,
    group_by: Arc<PhysicalGroupBy>,
    merged_by: Arc<PhysicalGroupBy>,
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// Columns of the rows that come, and of what is kept of them.
    reads: SchemaRef,
    partial: SchemaRef,
    gives: SchemaRef,
}

/// What is kept of windows that are not over.
#[derive(Debug, Clone, Default)]
pub(super) struct Panes {
    /// By their ends.
    of: BTreeMap<i64, Parts>,
    sessions: Sessions,
    /// Windows that ended until then are over.
    passed: Option<i64>,
}

/// Partial aggregates.
#[derive(Debug, Clone, Default)]
struct Parts {
    batches: Vec<RecordBatch>,
    rows: usize,
    /// How many they were when they were merged last.
    merged: usize,
}

#[derive(Debug, Clone, Default)]
struct Sessions {
    parts: Parts,
    /// By key: the first and the last time.
    open: HashMap<Key, (i64, i64)>,
    /// Those that are over, by key and first time, with their ends.
    ended: HashMap<(Key, i64), i64>,
    looked: Option<i64>,
}

/// What the groups of windows say that are over.
pub(super) struct Closed {
    pub rows: RecordBatch,
    /// When the window of each ended.
    pub ends: Vec<i64>,
}

impl Windowed {
    /// What a plan says; `time` is the column that rows come in the order of.
    pub fn of(aggregate: &Aggregate, time: &str, state: &SessionState) -> Result<Self> {
        let (input, groups) = (&aggregate.input, &aggregate.group_expr);
        let cuts = groups.iter().enumerate().filter_map(|(at, group)| Some((at, cut_of(input, group)?)));
        let (window, of, cut) = match cuts.collect::<Vec<_>>()[..] {
            [(at, (of, cut))] => (at, of, cut),
            [] => {
                let hint = "GROUP BY car, tumble(event_time, INTERVAL '1 minute'), or hop or session";
                return Err(refused("rows of a stream put together without a window", hint));
            }
            _ => return Err(refused("several windows in one GROUP BY", "one window, and columns")),
        };
        if of != time {
            return Err(refused(&format!("windows of {of}"), &format!("cut {time}, the time of the stream")));
        }
        let schema = input.schema();
        let reads = match cut {
            Cut::Gap(_) => {
                let session = Field::new(SESSION, ColumnType::Timestamp.arrow_type(), true);
                let fields = schema.fields().iter().map(|field| field.as_ref().clone()).chain([session]);
                Arc::new(Schema::new(fields.collect::<Vec<_>>()))
            }
            Cut::Size(_) => Arc::clone(schema.inner()),
        };
        let mut by: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::new();
        for (at, group) in groups.iter().enumerate() {
            let name = group.schema_name().to_string();
            if at == window && matches!(cut, Cut::Gap(_)) {
                by.push((Arc::new(Column::new(SESSION, reads.fields().len() - 1)), name));
                continue;
            }
            by.push((physical(group, schema, state)?, name));
        }
        let mut same = groups.clone();
        same.remove(window);
        let group_by = Arc::new(PhysicalGroupBy::new_single(by));
        let (mut aggregates, mut filters) = (Vec::new(), Vec::new());
        for expression in &aggregate.aggr_expr {
            merges(expression)?;
            let context = PhysicalPlanningContext::default();
            let lowered =
                LoweredAggregateBuilder::new(expression, schema, schema.inner(), state.execution_props(), &context);
            let lowered = lowered.build().map_err(unplanned)?;
            aggregates.push(lowered.aggregate);
            filters.push(lowered.filter);
        }
        // The time that is cut, wherever the call stands.
        let at = schema
            .columns()
            .into_iter()
            .position(|column| column_of(input, &Expr::Column(column)) == Some(time))
            .ok_or_else(|| refused(&format!("windows of rows without {time}"), "select it, too"))?;
        let mut windowed = Self {
            cut,
            time: Arc::new(Column::new(schema.field(at).name(), at)),
            window,
            keys: Keys::of(&same, schema, state)?,
            merged_by: Arc::new(group_by.as_final()),
            group_by,
            aggregates,
            filters,
            partial: Arc::clone(&reads),
            reads,
            gives: Arc::clone(aggregate.schema.inner()),
        };
        let none = RecordBatch::new_empty(Arc::clone(&windowed.reads));
        windowed.partial = windowed.aggregate(AggregateMode::Partial, none).map_err(unplanned)?.schema();
        Ok(windowed)
    }

    /// What it keeps, in words.
    pub fn describe(&self) -> String {
        match self.cut {
            Cut::Size(size) => format!("the groups of windows of {} s that are not over", size / LOOK),
            Cut::Gap(gap) => format!("sessions in which {} s have not passed without a row", gap / LOOK),
        }
    }

    /// Columns of the rows that come to it.
    pub fn reads(&self) -> SchemaRef {
        let fields = self.reads.fields();
        let own = usize::from(matches!(self.cut, Cut::Gap(_)));
        Arc::new(Schema::new(fields[..fields.len() - own].to_vec()))
    }

    /// Columns of what it gives.
    pub fn gives(&self) -> SchemaRef {
        Arc::clone(&self.gives)
    }

    /// Columns of what it keeps.
    pub fn kept(&self) -> &SchemaRef {
        &self.partial
    }

    /// The columns of what it gives that say whose a window is.
    pub fn whose(&self) -> Vec<String> {
        let names = self.gives.fields().iter().take(self.keys.len() + 1).map(|field| field.name().clone());
        names.enumerate().filter(|(at, _)| *at != self.window).map(|(_, name)| name).collect()
    }

    /// How long a window is open; nothing if that is not known.
    pub fn span(&self) -> Option<i64> {
        match self.cut {
            Cut::Size(size) => Some(size),
            Cut::Gap(_) => None,
        }
    }

    /// When rows happened.
    pub fn times(&self, rows: &RecordBatch) -> DfResult<TimestampMicrosecondArray> {
        times(&self.time.evaluate(rows)?.into_array(rows.num_rows())?)
    }

    /// Takes rows into their windows; those of windows that are over are left out.
    pub fn take(&self, rows: &RecordBatch, panes: &mut Panes) -> DfResult<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        match self.cut {
            Cut::Size(size) => self.take_into(rows, size, panes),
            Cut::Gap(gap) => self.take_sessions(rows, gap, panes),
        }
    }

    fn take_into(&self, rows: &RecordBatch, size: i64, panes: &mut Panes) -> DfResult<()> {
        let partial = self.aggregate(AggregateMode::Partial, rows.clone())?;
        let mut of: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, start) in times(partial.column(self.window))?.iter().enumerate() {
            let end = start.map(|start| start.saturating_add(size));
            let is_open = |end: &i64| panes.passed.is_none_or(|passed| *end > passed);
            if let Some(end) = end.filter(is_open) {
                of.entry(end).or_default().push(row as u32);
            }
        }
        for (end, rows) in of {
            let part = match rows.len() == partial.num_rows() {
                true => partial.clone(),
                false => take_record_batch(&partial, &UInt32Array::from(rows))?,
            };
            self.add(panes.of.entry(end).or_default(), part)?;
        }
        Ok(())
    }

    fn take_sessions(&self, rows: &RecordBatch, gap: i64, panes: &mut Panes) -> DfResult<()> {
        let (times, keys) = (self.times(rows)?, self.keys.of_rows(rows)?);
        let sessions = &mut panes.sessions;
        // What becomes of the keys, if the rows can be taken.
        let (mut touched, mut ended) = (HashMap::<Key, (i64, i64)>::new(), Vec::new());
        let mut starts = Vec::with_capacity(keys.len());
        for (at, key) in times.values().iter().zip(keys) {
            let before = touched.get(&key).or_else(|| sessions.open.get(&key)).copied();
            let now = match before {
                Some((start, last)) if *at < last.saturating_add(gap) => (start, last.max(*at)),
                Some((start, last)) => {
                    ended.push(((key.clone(), start), last.saturating_add(gap)));
                    (*at, *at)
                }
                None => (*at, *at),
            };
            starts.push(now.0);
            touched.insert(key, now);
        }
        let starts = TimestampMicrosecondArray::from(starts).with_data_type(ColumnType::Timestamp.arrow_type());
        let columns = rows.columns().iter().cloned().chain([Arc::new(starts) as ArrayRef]).collect();
        let rows = RecordBatch::try_new(Arc::clone(&self.reads), columns)?;
        let partial = self.aggregate(AggregateMode::Partial, rows)?;
        sessions.open.extend(touched);
        sessions.ended.extend(ended);
        self.add(&mut sessions.parts, partial)
    }

    fn add(&self, parts: &mut Parts, part: RecordBatch) -> DfResult<()> {
        parts.rows += part.num_rows();
        parts.batches.push(part);
        if parts.rows > 2 * parts.merged + MANY {
            let merged = self.aggregate(AggregateMode::PartialReduce, parts.together(&self.partial)?)?;
            (parts.rows, parts.merged) = (merged.num_rows(), merged.num_rows());
            parts.batches = vec![merged];
        }
        Ok(())
    }

    /// How long after its end a window may be looked at.
    pub fn slack(&self) -> i64 {
        match self.cut {
            Cut::Size(_) => 0,
            Cut::Gap(gap) => LOOK.min(gap / LOOKS),
        }
    }

    /// What the windows say that have ended until `clock`, in their order.
    pub fn pass(&self, clock: i64, panes: &mut Panes) -> Vec<DfResult<Closed>> {
        let mut closed = Vec::new();
        match self.cut {
            Cut::Size(_) => {
                while let Some(window) = panes.of.first_entry().filter(|window| *window.key() <= clock) {
                    let (end, parts) = window.remove_entry();
                    let all = parts.together(&self.partial);
                    let rows = all.and_then(|all| self.aggregate(AggregateMode::Final, all));
                    closed.push(rows.map(|rows| Closed { ends: vec![end; rows.num_rows()], rows }));
                }
            }
            Cut::Gap(gap) => {
                let is_soon = |looked: i64| clock < looked.saturating_add(self.slack());
                if !panes.sessions.looked.is_some_and(is_soon) {
                    panes.sessions.looked = Some(clock);
                    closed.extend(self.pass_sessions(clock, gap, &mut panes.sessions).transpose());
                }
            }
        }
        panes.passed = panes.passed.max(Some(clock));
        closed
    }

    fn pass_sessions(&self, clock: i64, gap: i64, sessions: &mut Sessions) -> DfResult<Option<Closed>> {
        let Sessions { parts, open, ended, .. } = sessions;
        for (key, (start, last)) in open.extract_if(|_, (_, last)| last.saturating_add(gap) <= clock) {
            ended.insert((key, start), last.saturating_add(gap));
        }
        if ended.is_empty() {
            return Ok(None);
        }
        let all = parts.together(&self.partial)?;
        let named = self.named(&all)?;
        let over: BooleanArray = named.iter().map(|session| Some(ended.contains_key(session))).collect();
        let rows = self.aggregate(AggregateMode::Final, filter_record_batch(&all, &over)?)?;
        let rest = filter_record_batch(&all, &not(&over)?)?;
        *parts = Parts { rows: rest.num_rows(), merged: rest.num_rows(), batches: vec![rest] };
        let ended = std::mem::take(ended);
        let end = |session: &(Key, i64)| ended.get(session).copied().unwrap_or(clock);
        let mut order: Vec<(i64, u32)> = self.named(&rows)?.iter().map(end).zip(0..).collect();
        order.sort_unstable();
        let rows = take_record_batch(&rows, &UInt32Array::from_iter_values(order.iter().map(|(_, row)| *row)))?;
        Ok(Some(Closed { rows, ends: order.into_iter().map(|(end, _)| end).collect() }))
    }

    /// Whose sessions rows are of, and when those began: the columns that rows are grouped by come first.
    fn named(&self, rows: &RecordBatch) -> DfResult<Vec<(Key, i64)>> {
        let mut groups = rows.columns()[..=self.keys.len()].to_vec();
        let starts = times(&groups.remove(self.window))?;
        let keys = self.keys.of_columns(&groups, rows.num_rows())?;
        Ok(keys.into_iter().zip(starts.values().iter().copied()).collect())
    }

    fn aggregate(&self, mode: AggregateMode, rows: RecordBatch) -> DfResult<RecordBatch> {
        let is_first = mode == AggregateMode::Partial;
        let group_by = if is_first { &self.group_by } else { &self.merged_by };
        let filters = if is_first { self.filters.clone() } else { vec![None; self.filters.len()] };
        let input = MemorySourceConfig::try_new_exec(&[vec![rows.clone()]], rows.schema(), None)?;
        let aggregates = self.aggregates.clone();
        let reads = Arc::clone(&self.reads);
        let plan = AggregateExec::try_new(mode, Arc::clone(group_by), aggregates, filters, input, reads)?;
        let schema = if mode == AggregateMode::Final { Arc::clone(&self.gives) } else { plan.schema() };
        let batches = compute::at_once(collect(Arc::new(plan), Arc::new(TaskContext::default())))?;
        let named = |batch: RecordBatch| RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec());
        let batches = batches.into_iter().map(named).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(concat_batches(&schema, &batches)?)
    }

    /// All that is kept, as rows: partial aggregates, and the sessions that they are of.
    pub fn write(&self, panes: &Panes) -> DfResult<Vec<RecordBatch>> {
        let sessions = &panes.sessions;
        let parts = panes.of.values().chain([&sessions.parts]).flat_map(|parts| &parts.batches);
        let parts = concat_batches(&self.partial, parts)?;
        let parts = self.aggregate(AggregateMode::PartialReduce, parts)?;
        let open = sessions.open.iter().map(|(key, (start, last))| (key, *start, *last, true));
        let ended = sessions.ended.iter().map(|((key, start), end)| (key, *start, *end, false));
        let mut all: Vec<_> = open.chain(ended).collect();
        all.sort_unstable();
        let keys = self.keys.columns(all.iter().map(|(key, ..)| *key))?;
        let starts = Int64Array::from_iter_values(all.iter().map(|(_, start, ..)| *start));
        let lasts = Int64Array::from_iter_values(all.iter().map(|(_, _, last, _)| *last));
        let open = BooleanArray::from(all.iter().map(|(.., open)| *open).collect::<Vec<_>>());
        let own: [ArrayRef; 3] = [Arc::new(starts), Arc::new(lasts), Arc::new(open)];
        let columns = own.into_iter().chain(keys).enumerate();
        let sessions = columns.map(|(at, column)| (format!("{at}"), column, true));
        Ok(vec![parts, RecordBatch::try_from_iter_with_nullable(sessions)?])
    }

    /// Reads [`Self::write`].
    pub fn restore(&self, kept: &[RecordBatch], passed: Option<i64>) -> DfResult<Panes> {
        let [parts, known] = kept else { return exec_err!("what was kept is of another query") };
        let mut panes = Panes { passed, ..Panes::default() };
        // Names may differ: what is grouped by is named as it is written.
        let parts = RecordBatch::try_new(Arc::clone(&self.partial), parts.columns().to_vec())?;
        match self.cut {
            Cut::Size(size) => {
                let mut of: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
                for (row, start) in times(parts.column(self.window))?.values().iter().enumerate() {
                    of.entry(start.saturating_add(size)).or_default().push(row as u32);
                }
                for (end, rows) in of {
                    let part = take_record_batch(&parts, &UInt32Array::from(rows))?;
                    self.add(panes.of.entry(end).or_default(), part)?;
                }
            }
            Cut::Gap(_) => {
                let column = |at: usize| known.column(at).as_primitive::<Int64Type>();
                let (starts, lasts, open) = (column(0), column(1), known.column(2).as_boolean());
                let keys = self.keys.of_columns(&known.columns()[3..], known.num_rows())?;
                for (row, key) in keys.into_iter().enumerate() {
                    let (start, last) = (starts.value(row), lasts.value(row));
                    match open.value(row) {
                        true => drop(panes.sessions.open.insert(key, (start, last))),
                        false => drop(panes.sessions.ended.insert((key, start), last)),
                    }
                }
                self.add(&mut panes.sessions.parts, parts)?;
            }
        }
        Ok(panes)
    }
}

impl Parts {
    fn together(&self, schema: &SchemaRef) -> DfResult<RecordBatch> {
        Ok(concat_batches(schema, &self.batches)?)
    }
}

impl Panes {
    fn parts(&self) -> impl Iterator<Item = &Parts> {
        self.of.values().chain([&self.sessions.parts])
    }

    /// How many partial aggregates are kept.
    pub fn rows(&self) -> usize {
        self.parts().map(|parts| parts.rows).sum()
    }

    /// The bytes that they take.
    pub fn bytes(&self) -> usize {
        let parts: usize = self.parts().flat_map(|parts| &parts.batches).map(RecordBatch::get_array_memory_size).sum();
        parts + self.sessions.open.keys().map(|key| key.len() + 48).sum::<usize>()
    }
}

/// Refuses an aggregate whose partial results cannot be merged.
fn merges(expression: &Expr) -> Result<()> {
    let Expr::AggregateFunction(call) = unaliased(expression) else {
        return Err(refused("what is no aggregate in a window", ""));
    };
    let name = call.func.name().to_lowercase();
    if MERGED.contains(&name.as_str()) {
        return Ok(());
    }
    let hint = format!("a window knows {}", MERGED.join(", "));
    Err(refused(&format!("{name} in a window"), &hint))
}
