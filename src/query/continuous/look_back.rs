//! Look-back: window functions over the newest rows of each key.
//!
//! Rows come in the order of their times. What a window function says of a row depends on that row and on some before it:
//! the last `n` of its key, those of an interval, or the last one that has a value. Those are kept, and nothing else.

mod frames;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat, interleave_record_batch, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result as DfResult, ScalarValue, exec_err};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Window, WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_planner::create_window_expr;

use self::frames::Frames;
use super::keys::{Key, Keys};
use super::{column_of, physical, refused, unaliased, unplanned};
use crate::error::{Error, Result};
use crate::query::compute::{simplified, times};
use crate::schema::fixed;

/// Rows that nobody needs any more are dropped when they are so many, and half of all.
const GARBAGE: usize = 8_192;
/// Columns of what is kept, beside those that the functions read: whose it is, and when it happened.
const KEY: &str = "__key_";
const TIME: &str = "__time";

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// Window functions over one partition and order.
#[derive(Debug)]
pub(super) struct LookBack {
    /// Whose a row is.
    keys: Keys,
    /// The column that rows are in the order of.
    time: Arc<dyn PhysicalExpr>,
    /// The columns that the functions read.
    reads: Vec<usize>,
    read: SchemaRef,
    functions: Vec<Asks>,
    reach: Reach,
    schema: SchemaRef,
}

/// What is asked of the rows of a key.
#[derive(Debug)]
enum Asks {
    /// The value of so many rows before: no row needs more than one other, so all keys are asked at once.
    Lag(Arc<dyn PhysicalExpr>, usize),
    /// What an aggregate says of some rows: of those of all keys at once where they are few, otherwise key by key.
    Frames(Frames, Arc<dyn WindowExpr>),
    /// What a window function says, key by key.
    Function(Arc<dyn WindowExpr>),
}

/// How far back the functions look.
#[derive(Debug, Default)]
struct Reach {
    rows: usize,
    /// In microseconds.
    time: Option<i64>,
    /// The newest row that has a value of this, among those that so many follow.
    carried: Vec<(Arc<dyn PhysicalExpr>, usize)>,
}

/// The rows that may be looked back at.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    batches: Vec<RecordBatch>,
    times: Vec<Vec<i64>>,
    of: HashMap<Key, Vec<Place>>,
    live: usize,
}

/// Which of the batches a row is in, and where.
type Place = (usize, usize);

/// The rows of one key among others, and how many of them were there before.
struct Touched<'a> {
    key: &'a [u8],
    first: usize,
    known: usize,
    count: usize,
}

impl LookBack {
    /// What a plan says.
    pub fn of(window: &Window, time: &str, state: &SessionState) -> Result<Self> {
        let input = &window.input;
        let mut functions = Vec::new();
        for expression in &window.window_expr {
            functions.push(Function::of(expression)?);
        }
        let Some(first) = functions.first() else { return Err(refused("a window without a function", "")) };
        for function in &functions {
            in_order_of(time, input, function.params())?;
        }
        let read = functions.iter().flat_map(|function| function.reads()).collect::<Vec<_>>();
        let schema = input.schema();
        let reads: Vec<usize> = (0..schema.fields().len())
            .filter(|at| {
                let (qualifier, field) = schema.qualified_field(*at);
                read.iter().any(|column| column.name == *field.name() && column.relation.as_ref() == qualifier)
            })
            .collect();
        let fields = reads.iter().map(|at| schema.qualified_field(*at));
        let fields = fields.map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        let read = DFSchema::new_with_metadata(fields, std::collections::HashMap::default()).map_err(unplanned)?;
        let mut reach = Reach::default();
        for function in &functions {
            function.reach(&mut reach, &read, state)?;
        }
        let created = functions.iter().map(|function| function.create(&read, state));
        let look_back = Self {
            keys: Keys::of(&first.params().partition_by, schema, state)?,
            time: physical(&first.params().order_by[0].expr, schema, state)?,
            reads,
            read: Arc::clone(read.inner()),
            functions: created.collect::<Result<_>>()?,
            reach,
            schema: Arc::clone(window.schema.inner()),
        };
        look_back.try_out()?;
        Ok(look_back)
    }

    /// Some aggregates cannot let go of rows again, and say so when they are run.
    fn try_out(&self) -> Result<()> {
        let columns = self.read.fields().iter().map(|field| arrow::array::new_null_array(field.data_type(), 1));
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(nullable(&self.read), columns.collect(), &options);
        let row = row.map_err(|cause| unplanned(cause.into()))?;
        for function in &self.functions {
            let (Asks::Function(function) | Asks::Frames(_, function)) = function else { continue };
            if let Err(cause) = function.evaluate(&row) {
                let what = format!("{} over a frame that moves: {cause}", function.name());
                return Err(refused(&what, "an aggregate must be able to leave out rows again"));
            }
        }
        Ok(())
    }

    /// The columns that its functions read.
    pub fn read(&self) -> &SchemaRef {
        &self.read
    }

    /// What it keeps, in words.
    pub fn describe(&self) -> String {
        let Reach { rows, time, carried } = &self.reach;
        let rows = (*rows > 0).then(|| match rows {
            1 => "the last row".to_owned(),
            rows => format!("the last {rows} rows"),
        });
        let time = time.map(|time| format!("the rows of the last {} s", time / SECOND));
        let carried = (!carried.is_empty()).then(|| "the last row with a value".to_owned());
        let parts: Vec<String> = rows.into_iter().chain(time).chain(carried).collect();
        let parts = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
        if self.keys.len() == 0 { parts } else { format!("{parts} of each key") }
    }

    /// Columns of the rows that come to it.
    pub fn reads(&self) -> SchemaRef {
        let fields = self.schema.fields();
        Arc::new(Schema::new(fields[..fields.len() - self.functions.len()].to_vec()))
    }

    /// Columns of what it gives.
    pub fn gives(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Rows with what the functions say of each, and which of `rows` they are: those are left out that are older than
    /// what is known of their keys.
    pub fn run(&self, rows: &RecordBatch, tail: &mut Tail) -> DfResult<(RecordBatch, Vec<u32>)> {
        let (mut keys, times) = (self.keys.of_rows(rows)?, self.times(rows)?);
        let is_next = |row: &usize| {
            let newest = tail.newest(&keys[*row]);
            times.is_valid(*row) && newest.is_none_or(|newest| times.value(*row) >= newest)
        };
        let mine: Vec<u32> = (0..rows.num_rows()).filter(is_next).map(|row| row as u32).collect();
        let rows = match mine.len() == rows.num_rows() {
            true => rows.clone(),
            false => {
                keys = mine.iter().map(|row| std::mem::take(&mut keys[*row as usize])).collect();
                take_record_batch(rows, &UInt32Array::from(mine.clone()))?
            }
        };
        if mine.is_empty() {
            let columns = self.schema.fields().iter().map(|field| arrow::array::new_empty_array(field.data_type()));
            return Ok((RecordBatch::try_new(Arc::clone(&self.schema), columns.collect())?, mine));
        }
        let times = mine.iter().map(|row| times.value(*row as usize)).collect();
        let (touched, places, origins) = tail.add(rows.project(&self.reads)?, times, &keys);
        let said = self.say(&touched, &places, tail, &origins);
        if said.is_err() {
            tail.take_back(&touched, &keys);
        }
        let (read, said) = said?;
        tail.forget(&touched, &places, &self.reach, &read)?;
        let columns = rows.columns().iter().cloned().chain(said).collect();
        Ok((RecordBatch::try_new(Arc::clone(&self.schema), columns)?, mine))
    }

    /// When rows happened.
    pub fn times(&self, rows: &RecordBatch) -> DfResult<TimestampMicrosecondArray> {
        times(&self.time.evaluate(rows)?.into_array(rows.num_rows())?)
    }

    /// What the functions read of the rows at these places, and what they say of those that are new.
    fn say(
        &self,
        touched: &[Touched<'_>],
        places: &[Place],
        tail: &Tail,
        origins: &[u32],
    ) -> DfResult<(RecordBatch, Vec<ArrayRef>)> {
        let read = tail.rows(places)?;
        let mut order = vec![0; origins.len()];
        for (at, row) in origins.iter().enumerate() {
            order[*row as usize] = at as u32;
        }
        let order = UInt32Array::from(order);
        let are_timed = self.functions.iter().any(|function| matches!(function, Asks::Frames(..)));
        let timed = places.iter().filter(|_| are_timed);
        let times: Vec<i64> = timed.map(|(batch, row)| tail.times[*batch][*row]).collect();
        let by_key = |function: &Arc<dyn WindowExpr>| -> DfResult<ArrayRef> {
            let mut parts = Vec::with_capacity(touched.len());
            for key in touched {
                let all = function.evaluate(&read.slice(key.first, key.count))?;
                parts.push(all.slice(key.known, key.count - key.known));
            }
            let parts: Vec<&dyn Array> = parts.iter().map(|part| &**part).collect();
            Ok(concat(&parts)?)
        };
        let mut said = Vec::with_capacity(self.functions.len());
        for function in &self.functions {
            let all = match function {
                Asks::Lag(value, rows) => {
                    let before = |key: &Touched<'_>| {
                        let (first, rows) = (key.first, *rows);
                        (key.known..key.count).map(move |row| Some((first + row.checked_sub(rows)?) as u32))
                    };
                    let before: UInt32Array = touched.iter().flat_map(before).collect();
                    take(&value.evaluate(&read)?.into_array(read.num_rows())?, &before, None)?
                }
                Asks::Frames(frames, function) => match frames.say(&read, touched, &times)? {
                    Some(all) => all,
                    None => by_key(function)?,
                },
                Asks::Function(function) => by_key(function)?,
            };
            said.push(take(&all, &order, None)?);
        }
        Ok((read, said))
    }

    /// All that is kept, as rows.
    pub fn write(&self, tail: &Tail) -> DfResult<RecordBatch> {
        let mut all: Vec<(&Key, &Vec<Place>)> = tail.of.iter().collect();
        all.sort_unstable();
        let places: Vec<Place> = all.iter().flat_map(|(_, places)| places.iter().copied()).collect();
        if places.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::new(Schema::empty())));
        }
        let read = tail.rows(&places)?;
        let keys = all.iter().flat_map(|(key, places)| std::iter::repeat_n(*key, places.len()));
        let keys = self.keys.columns(keys)?;
        let times = places.iter().map(|(batch, row)| tail.times[*batch][*row]);
        let times = Arc::new(Int64Array::from_iter_values(times)) as ArrayRef;
        let names = read.schema();
        let names = names.fields().iter().map(|field| field.name().clone());
        let named = names.zip(read.columns().to_vec());
        let keys = keys.into_iter().enumerate().map(|(number, key)| (format!("{KEY}{number}"), key));
        let all = keys.chain([(TIME.to_owned(), times)]).chain(named);
        // The functions may read columns of the same name of several tables: only their places count.
        let (fields, columns): (Vec<_>, Vec<_>) =
            all.map(|(name, column)| (Field::new(name, column.data_type().clone(), true), column)).unzip();
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    /// Reads [`Self::write`].
    pub fn restore(&self, kept: &RecordBatch) -> DfResult<Tail> {
        let mut tail = Tail::default();
        if kept.num_rows() == 0 {
            return Ok(tail);
        }
        let own = self.keys.len();
        let columns = kept.columns().get(own + 1..).unwrap_or_default();
        let options = RecordBatchOptions::new().with_row_count(Some(kept.num_rows()));
        let read = RecordBatch::try_new_with_options(nullable(&self.read), columns.to_vec(), &options)?;
        let keys = self.keys.of_columns(&kept.columns()[..own], kept.num_rows())?;
        let Some(times) = kept.column(own).as_primitive_opt::<Int64Type>() else {
            return exec_err!("what was kept says no times");
        };
        tail.add(read, times.values().to_vec(), &keys);
        Ok(tail)
    }

    /// How long ago what is needed may have happened; nothing if that is not known.
    pub fn span(&self) -> Option<i64> {
        (self.reach.rows == 0 && self.reach.carried.is_empty()).then_some(self.reach.time.unwrap_or(0))
    }

    /// Time has passed: rows that are out of reach are dropped, of keys that do not speak any more, too.
    pub fn pass(&self, clock: i64, tail: &mut Tail) {
        let Some(span) = self.span() else { return };
        let oldest = clock.saturating_sub(span);
        let (times, live) = (&tail.times, &mut tail.live);
        tail.of.retain(|_, places| {
            let before = places.len();
            places.retain(|(batch, row)| times[*batch][*row] >= oldest);
            *live -= before - places.len();
            !places.is_empty()
        });
    }
}

impl Tail {
    /// When the newest row of a key happened.
    fn newest(&self, key: &[u8]) -> Option<i64> {
        self.of.get(key)?.last().map(|(batch, row)| self.times[*batch][*row])
    }

    /// How many rows are kept.
    pub fn rows_kept(&self) -> usize {
        self.live
    }

    /// The bytes of the rows that are kept, and of those that are still to be dropped.
    pub fn bytes(&self) -> usize {
        let rows: usize = self.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        let keys: usize = self.of.iter().map(|(key, places)| key.len() + places.capacity() * 16 + 48).sum();
        rows + keys + self.times.iter().map(|times| times.capacity() * 8).sum::<usize>()
    }

    fn rows(&self, places: &[Place]) -> std::result::Result<RecordBatch, ArrowError> {
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        match batches.first().is_some_and(|batch| batch.num_columns() == 0) {
            true => {
                let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
                RecordBatch::try_new_with_options(batches[0].schema(), Vec::new(), &options)
            }
            false => interleave_record_batch(&batches, places),
        }
    }

    /// Adds rows behind those of their keys. Gives the keys, the places of all their rows, and which of the new rows
    /// these are in their order.
    fn add<'a>(
        &mut self,
        rows: RecordBatch,
        times: Vec<i64>,
        keys: &'a [Key],
    ) -> (Vec<Touched<'a>>, Vec<Place>, Vec<u32>) {
        let batch = self.batches.len();
        self.live += rows.num_rows();
        self.batches.push(rows);
        self.times.push(times);
        let mut new: Vec<(&[u8], Vec<u32>)> = Vec::new();
        let mut of: HashMap<&[u8], usize> = HashMap::new();
        for (row, key) in keys.iter().enumerate() {
            let at = *of.entry(key).or_insert_with(|| {
                new.push((key, Vec::new()));
                new.len() - 1
            });
            new[at].1.push(row as u32);
        }
        let (mut touched, mut places, mut origins) = (Vec::with_capacity(new.len()), Vec::new(), Vec::new());
        for (key, rows) in new {
            let first = places.len();
            let known = self.of.entry(key.into()).or_default();
            let before = known.len();
            known.extend(rows.iter().map(|row| (batch, *row as usize)));
            places.extend_from_slice(known);
            origins.extend(rows);
            touched.push(Touched { key, first, known: before, count: known.len() });
        }
        (touched, places, origins)
    }

    /// Undoes the last [`Self::add`].
    fn take_back(&mut self, touched: &[Touched<'_>], keys: &[Key]) {
        for key in touched {
            if key.known == 0 {
                self.of.remove(key.key);
            } else if let Some(known) = self.of.get_mut(key.key) {
                known.truncate(key.known);
            }
        }
        self.live -= keys.len();
        self.batches.pop();
        self.times.pop();
    }

    /// Of the keys whose rows were looked at only those rows stay that are in reach of the next one.
    fn forget(&mut self, touched: &[Touched<'_>], places: &[Place], reach: &Reach, read: &RecordBatch) -> DfResult<()> {
        let carried = reach.carried.iter().map(|(value, _)| value.evaluate(read)?.into_array(read.num_rows()));
        let carried = carried.collect::<DfResult<Vec<_>>>()?;
        for key in touched {
            let rows = &places[key.first..key.first + key.count];
            let time = |(batch, row): &Place| self.times[*batch][*row];
            let newest = rows.last().map_or(i64::MIN, time);
            let in_time = reach
                .time
                .map_or(rows.len(), |span| rows.partition_point(|place| time(place) < newest.saturating_sub(span)));
            let start = in_time.min(rows.len().saturating_sub(reach.rows));
            let mut kept: Vec<usize> = Vec::new();
            for (values, (_, follow)) in carried.iter().zip(&reach.carried) {
                let newest = (0..(rows.len() + 1).saturating_sub((*follow).max(1)))
                    .rev()
                    .find(|row| values.is_valid(key.first + row));
                kept.extend(newest.filter(|row| *row < start));
            }
            kept.sort_unstable();
            kept.dedup();
            kept.extend(start..rows.len());
            self.live -= rows.len() - kept.len();
            if kept.is_empty() {
                self.of.remove(key.key);
            } else if let Some(known) = self.of.get_mut(key.key) {
                *known = kept.into_iter().map(|row| rows[row]).collect();
            }
        }
        let held: usize = self.times.iter().map(Vec::len).sum();
        if held > 2 * self.live + GARBAGE {
            self.tidy()?;
        }
        Ok(())
    }

    /// Puts the rows that are kept into one batch.
    fn tidy(&mut self) -> DfResult<()> {
        let places: Vec<Place> = self.of.values().flatten().copied().collect();
        let rows = match places.is_empty() {
            true => Vec::new(),
            false => vec![self.rows(&places)?],
        };
        let times: Vec<i64> = places.iter().map(|(batch, row)| self.times[*batch][*row]).collect();
        (self.batches, self.times) = (rows, if times.is_empty() { Vec::new() } else { vec![times] });
        for (at, place) in self.of.values_mut().flatten().enumerate() {
            *place = (0, at);
        }
        Ok(())
    }
}

/// A window function as it is written.
struct Function<'a> {
    whole: &'a Expr,
    function: &'a WindowFunction,
    name: String,
}

impl<'a> Function<'a> {
    fn of(expression: &'a Expr) -> Result<Self> {
        let Expr::WindowFunction(function) = unaliased(expression) else {
            return Err(refused("what is no window function", ""));
        };
        let name = function.fun.name().to_lowercase();
        Ok(Self { whole: expression, function, name })
    }

    fn params(&self) -> &'a WindowFunctionParams {
        &self.function.params
    }

    /// The columns that it reads of the rows that are kept.
    fn reads(&self) -> impl Iterator<Item = &'a Column> {
        let WindowFunctionParams { args, order_by, filter, .. } = self.params();
        let order = order_by.iter().map(|sort| &sort.expr);
        args.iter().chain(order).chain(filter.as_deref()).flat_map(|part| part.column_refs())
    }

    /// What it must be able to look back at.
    fn reach(&self, reach: &mut Reach, read: &DFSchema, state: &SessionState) -> Result<()> {
        let WindowFunctionParams { args, window_frame: frame, null_treatment, .. } = self.params();
        let skips_nulls = *null_treatment == Some(NullTreatment::IgnoreNulls);
        let carry = |reach: &mut Reach, follow: usize| -> Result<()> {
            if let Some(value) = args.first() {
                reach.carried.push((physical(value, read, state)?, follow));
                reach.rows = reach.rows.max(follow);
            }
            Ok(())
        };
        match self.name.as_str() {
            "lag" => match (args.get(1).map_or(Some(1), count), skips_nulls) {
                (Some(rows), false) => reach.rows = reach.rows.max(rows),
                (Some(1), true) => carry(reach, 1)?,
                _ => {
                    let hint = "lag(value) IGNORE NULLS gives the last value, lag(value, 2) that of two rows before";
                    return Err(refused("lag of rows that are not counted by a number", hint));
                }
            },
            "lead" => return Err(refused("lead: it needs rows that have not come yet", "lag looks back")),
            "row_number" | "rank" | "dense_rank" | "percent_rank" | "cume_dist" | "ntile" => {
                let what = format!("{}: it counts from the first row on, and a stream has none", self.name);
                return Err(refused(&what, "count over a frame, or look back with lag"));
            }
            "last_value" if skips_nulls && is_unbounded(&frame.start_bound) => match end(frame) {
                Some(follow) => carry(reach, follow)?,
                None => return Err(self.not_come()),
            },
            _ => self.frame(frame, reach)?,
        }
        Ok(())
    }

    fn not_come(&self) -> Error {
        refused(&format!("{}: its frame has rows that have not come yet", self.name), "end it with CURRENT ROW")
    }

    fn frame(&self, frame: &WindowFrame, reach: &mut Reach) -> Result<()> {
        if !matches!(frame.end_bound, WindowFrameBound::CurrentRow | WindowFrameBound::Preceding(_)) {
            return Err(self.not_come());
        }
        let unbounded = || {
            let hint = "say how far back: RANGE INTERVAL '5 minutes' PRECEDING, or ROWS 10 PRECEDING";
            refused(&format!("{}: its frame begins with the first row, and a stream has none", self.name), hint)
        };
        match (&frame.start_bound, frame.units) {
            (WindowFrameBound::CurrentRow, WindowFrameUnits::Rows) => {}
            (WindowFrameBound::CurrentRow, _) => reach.time = reach.time.max(Some(0)),
            (WindowFrameBound::Preceding(far), WindowFrameUnits::Rows) => {
                reach.rows = reach.rows.max(scalar_count(far).ok_or_else(unbounded)?);
            }
            (WindowFrameBound::Preceding(far), WindowFrameUnits::Range) => {
                reach.time = reach.time.max(Some(micros(far).ok_or_else(unbounded)?));
            }
            (WindowFrameBound::Preceding(_), WindowFrameUnits::Groups) => {
                return Err(refused("a frame of GROUPS", "use ROWS or RANGE"));
            }
            (WindowFrameBound::Following(_), _) => return Err(self.not_come()),
        }
        Ok(())
    }

    /// It can be run over the rows of one key, or of all keys together.
    fn create(&self, read: &DFSchema, state: &SessionState) -> Result<Asks> {
        if let Some(frames) = Frames::of(self.function, read, state)? {
            return Ok(Asks::Frames(frames, self.of_one_key(read, state)?));
        }
        let WindowFunctionParams {
            args, filter: None, null_treatment: None | Some(NullTreatment::RespectNulls), ..
        } = self.params()
        else {
            return self.of_one_key(read, state).map(Asks::Function);
        };
        let rows = match &args[..] {
            [_] => Some(1),
            [_, rows] => count(rows),
            _ => None,
        };
        match (self.name.as_str(), args.first(), rows) {
            ("lag", Some(value), Some(rows)) => Ok(Asks::Lag(physical(value, read, state)?, rows)),
            _ => self.of_one_key(read, state).map(Asks::Function),
        }
    }

    fn of_one_key(&self, read: &DFSchema, state: &SessionState) -> Result<Arc<dyn WindowExpr>> {
        let alone = self.whole.clone().transform_down(|part| match part {
            Expr::WindowFunction(mut function) => {
                function.params.partition_by.clear();
                for arg in &mut function.params.args {
                    *arg = simplified(arg, read, state)?;
                }
                Ok(Transformed::yes(Expr::WindowFunction(function)))
            }
            other => Ok(Transformed::no(other)),
        });
        let alone = alone.map_err(unplanned)?.data;
        let created = create_window_expr(&alone, read, state.execution_props(), &PhysicalPlanningContext::default());
        created.map_err(unplanned)
    }
}

/// Whether windows are in the order of the column `time`.
pub(super) fn is_in_order_of(time: &str, window: &Window) -> bool {
    window.window_expr.iter().all(|expression| {
        Function::of(expression).is_ok_and(|function| in_order_of(time, &window.input, function.params()).is_ok())
    })
}

/// Refuses a window that is in another order than rows come in: that of the column `time`.
fn in_order_of(time: &str, input: &LogicalPlan, params: &WindowFunctionParams) -> Result<()> {
    let is = |expression: &Expr, names: &[&str]| column_of(input, expression).is_some_and(|name| names.contains(&name));
    let is_time = match params.order_by.split_first() {
        Some((first, rest)) => {
            let further = [fixed::PARTITION, fixed::OFFSET];
            first.asc && is(&first.expr, &[time]) && rest.iter().all(|sort| sort.asc && is(&sort.expr, &further))
        }
        None => false,
    };
    if is_time {
        return Ok(());
    }
    let hint = format!("write OVER (PARTITION BY … ORDER BY {time} …)");
    Err(refused("a window in another order than that of the stream's time", &hint))
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn is_unbounded(bound: &WindowFrameBound) -> bool {
    matches!(bound, WindowFrameBound::Preceding(far) if far.is_null())
}

/// How many rows at least follow the last one of a frame; the row itself is none.
fn end(frame: &WindowFrame) -> Option<usize> {
    match &frame.end_bound {
        WindowFrameBound::CurrentRow => Some(0),
        WindowFrameBound::Preceding(far) if frame.units == WindowFrameUnits::Rows => scalar_count(far),
        _ => None,
    }
}

fn count(expression: &Expr) -> Option<usize> {
    match expression {
        Expr::Literal(value, _) => scalar_count(value),
        Expr::Cast(cast) => count(&cast.expr),
        _ => None,
    }
}

fn scalar_count(value: &ScalarValue) -> Option<usize> {
    match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(Some(count)) => usize::try_from(count).ok(),
        _ => None,
    }
}

/// The longest time that an interval can be, in microseconds.
fn micros(value: &ScalarValue) -> Option<i64> {
    Some(match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            let days = i64::from(interval.months).checked_mul(31)?.checked_add(interval.days.into())?;
            days.checked_mul(DAY)?.checked_add(interval.nanoseconds / 1_000 + 1)?
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            i64::from(interval.days) * DAY + i64::from(interval.milliseconds) * 1_000
        }
        ScalarValue::IntervalYearMonth(Some(months)) => i64::from(*months) * 31 * DAY,
        ScalarValue::DurationSecond(Some(value)) => value.checked_mul(SECOND)?,
        ScalarValue::DurationMillisecond(Some(value)) => value.checked_mul(1_000)?,
        ScalarValue::DurationMicrosecond(Some(value)) => *value,
        ScalarValue::DurationNanosecond(Some(value)) => value / 1_000 + 1,
        _ => return None,
    })
}
