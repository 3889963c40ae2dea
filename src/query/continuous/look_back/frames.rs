//! Aggregates over frames of few rows: those of all keys are made at once, each of all rows of its frame.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, take};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    EmitTo, Expr, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};

use super::{DAY, Touched, scalar_count};
use crate::error::Result;
use crate::query::compute::simplified;
use crate::query::continuous::unplanned;

/// Aggregates that say the same in whichever order rows come.
const UNORDERED: &[&str] = &["avg", "bool_and", "bool_or", "count", "max", "min", "sum"];
/// To move a frame by a row costs as much as to aggregate so many rows.
const MOVE: usize = 100;
/// So many rows are aggregated at once.
const AT_ONCE: usize = 1 << 20;

/// An aggregate over the rows of a key that came before, up to the row itself.
#[derive(Debug)]
pub(super) struct Frames {
    aggregate: Arc<AggregateFunctionExpr>,
    begin: Begin,
}

/// Where a frame begins.
#[derive(Debug, Clone, Copy)]
enum Begin {
    /// So many rows before.
    Rows(usize),
    /// At the first row that is not older than by so many microseconds; it ends with the last one of the same time.
    Time(i64),
}

impl Begin {
    fn of(frame: &WindowFrame) -> Option<Self> {
        match (&frame.start_bound, &frame.end_bound, frame.units) {
            (WindowFrameBound::Preceding(rows), WindowFrameBound::CurrentRow, WindowFrameUnits::Rows) => {
                scalar_count(rows).map(Self::Rows)
            }
            (WindowFrameBound::Preceding(far), WindowFrameBound::CurrentRow, WindowFrameUnits::Range) => {
                let ScalarValue::IntervalMonthDayNano(Some(far)) = far else { return None };
                let is_exact = far.months == 0 && far.nanoseconds % 1_000 == 0;
                is_exact.then(|| Self::Time(i64::from(far.days) * DAY + far.nanoseconds / 1_000))
            }
            _ => None,
        }
    }
}

impl Frames {
    /// `None` if what the function says must be found out row by row.
    pub fn of(function: &WindowFunction, read: &DFSchema, state: &SessionState) -> Result<Option<Self>> {
        let WindowFunctionParams {
            args,
            window_frame,
            filter: None,
            null_treatment: None,
            distinct: false,
            order_by,
            ..
        } = &function.params
        else {
            return Ok(None);
        };
        let WindowFunctionDefinition::AggregateUDF(aggregate) = &function.fun else { return Ok(None) };
        let Some(begin) = Begin::of(window_frame).filter(|_| UNORDERED.contains(&aggregate.name())) else {
            return Ok(None);
        };
        // Further columns tell rows of the same time apart.
        if matches!(begin, Begin::Time(_)) && order_by.len() > 1 {
            return Ok(None);
        }
        let args = args.iter().map(|arg| simplified(arg, read, state)).collect::<DfResult<_>>().map_err(unplanned)?;
        let all = AggregateFunction::new_udf(Arc::clone(aggregate), args, false, None, Vec::new(), None);
        let (all, context) = (Expr::AggregateFunction(all), PhysicalPlanningContext::default());
        let lowered = LoweredAggregateBuilder::new(&all, read, read.inner(), state.execution_props(), &context);
        let aggregate = lowered.build().map_err(unplanned)?.aggregate;
        Ok(aggregate.groups_accumulator_supported().then_some(Self { aggregate, begin }))
    }

    /// What it says of the new rows of keys, whose rows happened at these times; `None` if their frames have so many rows
    /// that it is less work to move them from row to row.
    pub fn say(&self, read: &RecordBatch, touched: &[Touched<'_>], times: &[i64]) -> DfResult<Option<ArrayRef>> {
        let frames: Vec<Range<usize>> = touched.iter().flat_map(|key| self.frames(key, times)).collect();
        let rows: usize = frames.iter().map(ExactSizeIterator::len).sum();
        if rows > MOVE * read.num_rows() {
            return Ok(None);
        }
        let args = self.aggregate.expressions();
        let args = args.iter().map(|arg| arg.evaluate(read)?.into_array(read.num_rows()));
        let args = args.collect::<DfResult<Vec<ArrayRef>>>()?;
        let (mut parts, mut left) = (Vec::new(), &frames[..]);
        while !left.is_empty() {
            let mut rows = 0;
            let fits = |frame: &&Range<usize>| {
                let before = rows;
                rows += frame.len();
                before < AT_ONCE
            };
            let fit = left.iter().take_while(fits).count();
            let (now, later) = left.split_at(fit);
            parts.push(self.aggregate(&args, now)?);
            left = later;
        }
        let parts: Vec<&dyn Array> = parts.iter().map(|part| &**part).collect();
        Ok(Some(concat(&parts)?))
    }

    /// The frames of a key's new rows.
    fn frames(&self, key: &Touched<'_>, times: &[i64]) -> impl Iterator<Item = Range<usize>> {
        let (first, end) = (key.first, key.first + key.count);
        let (mut from, mut to) = (first, first + key.known);
        (first + key.known..end).map(move |row| match self.begin {
            Begin::Rows(rows) => row.saturating_sub(rows).max(first)..row + 1,
            Begin::Time(span) => {
                let oldest = times[row].saturating_sub(span);
                from += times[from..row].iter().take_while(|at| **at < oldest).count();
                to += times[to..end].iter().take_while(|at| **at <= times[row]).count();
                from..to
            }
        })
    }

    fn aggregate(&self, args: &[ArrayRef], frames: &[Range<usize>]) -> DfResult<ArrayRef> {
        let rows: UInt32Array = frames.iter().flat_map(|frame| frame.clone().map(|row| row as u32)).collect();
        let groups: Vec<usize> =
            frames.iter().enumerate().flat_map(|(group, frame)| std::iter::repeat_n(group, frame.len())).collect();
        let args = args.iter().map(|arg| take(arg, &rows, None)).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut aggregate = self.aggregate.create_groups_accumulator()?;
        aggregate.update_batch(&args, &groups, None, frames.len())?;
        aggregate.evaluate(EmitTo::All)
    }
}
