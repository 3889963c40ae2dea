//! Functions that cut time into windows: `tumble`, `hop` and `session`.
//!
//! A window is named by its start. `tumble` is a plain function; a row is in several windows of `hop`, and which session
//! it is in depends on others, so a statement that groups by one of those is planned as what it stands for.

use std::sync::Arc;

use arrow::array::{ArrayRef, ListBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result, ScalarValue, exec_err, plan_err};
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_window::expr_fn::lag;
use datafusion::logical_expr::expr::{ScalarFunction, WindowFunction};
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, ColumnarValue, Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility, col, lit, when,
};
use datafusion::optimizer::AnalyzerRule;

use super::compute::times;
use crate::schema::ColumnType;

const TUMBLE: &str = "tumble";
const HOP: &str = "hop";
const SESSION: &str = "session";
/// Names of columns that stand for what is computed on the way.
const WINDOW: &str = "__window";
const BEFORE: &str = "__before";
const BEGINS: &str = "__begins";
const NUMBER: &str = "__number";

/// How time is cut; durations in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Windows of this size; those of `hop` overlap.
    Size(i64),
    /// A session ends when nothing has come for so long.
    Gap(i64),
}

/// All of the functions.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    [Cuts::Tumble, Cuts::Hop, Cuts::Session].map(|cuts| Arc::new(ScalarUDF::from(Function::new(cuts)))).into()
}

/// A call of one of the functions: its time, and how that is cut.
pub(super) fn cut(expression: &Expr) -> Option<(&Expr, Cut)> {
    let Expr::ScalarFunction(call) = expression else { return None };
    let length = |at: usize| match call.args.get(at).map(bare) {
        Some(Expr::Literal(value, _)) => micros(value).ok(),
        _ => None,
    };
    let cut = match call.func.name() {
        TUMBLE => Cut::Size(length(1)?),
        HOP => Cut::Size(length(2)?),
        SESSION => Cut::Gap(length(1)?),
        _ => return None,
    };
    Some((call.args.first()?, cut))
}

/// An expression without the names and casts around it.
fn bare(expression: &Expr) -> &Expr {
    match expression {
        Expr::Alias(alias) => bare(&alias.expr),
        Expr::Cast(cast) => bare(&cast.expr),
        other => other,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cuts {
    Tumble,
    Hop,
    Session,
}

/// `tumble(time, size)`: the start of the window that a time is in; windows follow each other from 1970 on, in UTC.
/// `hop(time, every, size)`: the starts of all windows that it is in: one begins `every` so often, and they are of `size`.
/// `session(time, gap)`: the start of the session that a row is in, of those with the same values of what is grouped by
/// beside it; a session ends when no row has come for `gap`. Only in GROUP BY.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    cuts: Cuts,
    signature: Signature,
}

impl Function {
    fn new(cuts: Cuts) -> Self {
        let arguments = if cuts == Cuts::Hop { 3 } else { 2 };
        let coerced = (0..arguments).map(|at| if at == 0 { time() } else { interval() }).collect();
        Self { cuts, signature: Signature::exact(coerced, Volatility::Immutable) }
    }
}

fn time() -> DataType {
    ColumnType::Timestamp.arrow_type()
}

fn interval() -> DataType {
    DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano)
}

/// The length of an interval, which must have one, and be longer than nothing.
fn micros(value: &ScalarValue) -> Result<i64> {
    let ScalarValue::IntervalMonthDayNano(Some(interval)) = value.cast_to(&interval())? else {
        return plan_err!("the length of a window is an interval, as INTERVAL '5 minutes'");
    };
    if interval.months != 0 {
        return plan_err!("a month has no fixed length: write the window in days");
    }
    let micros = i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1_000;
    if micros <= 0 {
        return plan_err!("a window must be longer than nothing");
    }
    Ok(micros)
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        match self.cuts {
            Cuts::Tumble => TUMBLE,
            Cuts::Hop => HOP,
            Cuts::Session => SESSION,
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.cuts {
            Cuts::Hop => DataType::List(Arc::new(Field::new_list_field(time(), true))),
            Cuts::Tumble | Cuts::Session => time(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let length = |at: usize| match &args.args[at] {
            ColumnarValue::Scalar(value) => micros(value),
            ColumnarValue::Array(_) => exec_err!("the length of a window is the same for all rows"),
        };
        let times = times(&args.args[0].to_array(args.number_rows)?)?;
        let start = |at: i64, every: i64| at - at.rem_euclid(every);
        let found: ArrayRef = match self.cuts {
            Cuts::Tumble => {
                let size = length(1)?;
                let starts: TimestampMicrosecondArray = times.unary(|at| start(at, size));
                Arc::new(starts.with_data_type(time()))
            }
            Cuts::Hop => {
                let (every, size) = (length(1)?, length(2)?);
                if size / every > 10_000 {
                    return exec_err!("a row would be in more than 10,000 windows: let them begin less often");
                }
                let starts = TimestampMicrosecondBuilder::new().with_data_type(time());
                let mut lists = ListBuilder::new(starts);
                for at in &times {
                    let Some(at) = at else {
                        lists.append_null();
                        continue;
                    };
                    let mut first = start(at, every);
                    while first + size > at {
                        lists.values().append_value(first);
                        first -= every;
                    }
                    lists.append(true);
                }
                Arc::new(lists.finish())
            }
            Cuts::Session => return exec_err!("session() stands in GROUP BY"),
        };
        Ok(ColumnarValue::Array(found))
    }
}

/// Name of the rule.
pub(super) const RULE: &str = "windows";

/// Plans statements that group by `hop` or `session`.
#[derive(Debug)]
pub(super) struct Windows;

impl AnalyzerRule for Windows {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        expand(plan, true)
    }

    fn name(&self) -> &'static str {
        RULE
    }
}

/// What a plan that groups by such functions stands for; a stream knows itself what a session is.
pub(super) fn expand(plan: LogicalPlan, sessions: bool) -> Result<LogicalPlan> {
    let expanded = plan.transform_up(|node| {
        let LogicalPlan::Aggregate(aggregate) = node else { return Ok(Transformed::no(node)) };
        for group in &aggregate.group_expr {
            if let Expr::ScalarFunction(call) = bare(group)
                && [TUMBLE, HOP, SESSION].contains(&call.func.name())
            {
                let lengths = call.args.iter().skip(1).map(bare);
                lengths.filter_map(|length| length.as_literal()).try_for_each(|length| micros(length).map(drop))?;
            }
        }
        let call = |name: &str| {
            let is = |group: &Expr| matches!(bare(group), Expr::ScalarFunction(call) if call.func.name() == name);
            aggregate.group_expr.iter().position(is)
        };
        match (call(HOP), call(SESSION).filter(|_| sessions)) {
            (Some(_), Some(_)) => plan_err!("GROUP BY names one window: hop, session or tumble"),
            (Some(at), None) => hops(aggregate, at).map(Transformed::yes),
            (None, Some(at)) => by_session(aggregate, at).map(Transformed::yes),
            (None, None) => Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))),
        }
    });
    Ok(expanded?.data)
}

fn all_columns(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().columns().into_iter().map(Expr::Column).collect()
}

/// The same aggregate over other rows, in which a column is what was grouped by.
fn regroup(aggregate: &Aggregate, at: usize, input: LogicalPlan) -> Result<LogicalPlan> {
    let mut group = aggregate.group_expr.clone();
    let name = group[at].schema_name().to_string();
    group[at] = Expr::Column(Column::new_unqualified(WINDOW)).alias(name);
    Ok(LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input), group, aggregate.aggr_expr.clone())?))
}

/// A row for each window that a row is in.
fn hops(aggregate: Aggregate, at: usize) -> Result<LogicalPlan> {
    let input = Arc::clone(&aggregate.input);
    let mut columns = all_columns(&input);
    columns.push(bare(&aggregate.group_expr[at]).clone().alias(WINDOW));
    let input = LogicalPlanBuilder::from(input).project(columns)?.unnest_column(WINDOW)?.build()?;
    regroup(&aggregate, at, input)
}

fn over(aggregate: Arc<AggregateUDF>, argument: Expr) -> Expr {
    Expr::from(WindowFunction::new(aggregate, vec![argument]))
}

/// A row begins a session if none of the same is less than the gap before it; sessions are counted, and each is named by
/// its first time.
fn by_session(aggregate: Aggregate, at: usize) -> Result<LogicalPlan> {
    let Expr::ScalarFunction(ScalarFunction { args, .. }) = bare(&aggregate.group_expr[at]).clone() else {
        return plan_err!("session() stands in GROUP BY");
    };
    let [time, gap] = &args[..] else { return plan_err!("session(time, gap) takes two arguments") };
    if let Expr::Literal(value, _) = bare(gap) {
        micros(value)?;
    }
    let mut same: Vec<Expr> = aggregate.group_expr.iter().map(|group| bare(group).clone()).collect();
    same.remove(at);
    let order = || vec![time.clone().sort(true, false)];
    let before = lag(time.clone(), Some(1), None).partition_by(same.clone()).order_by(order()).build()?;
    let input = LogicalPlanBuilder::from(Arc::clone(&aggregate.input)).window([before.alias(BEFORE)])?.build()?;
    let mut columns = all_columns(&input);
    let goes_on = time.clone().lt(col(BEFORE) + gap.clone());
    columns.push(when(goes_on, lit(0_i64)).otherwise(lit(1_i64))?.alias(BEGINS));
    let input = LogicalPlanBuilder::from(input).project(columns)?.build()?;
    // With its peers: rows of one time are in one session.
    let number = over(sum_udaf(), col(BEGINS)).partition_by(same.clone()).order_by(order()).build()?;
    let input = LogicalPlanBuilder::from(input).window([number.alias(NUMBER)])?.build()?;
    same.push(col(NUMBER));
    let first = over(min_udaf(), time.clone()).partition_by(same).build()?;
    let input = LogicalPlanBuilder::from(input).window([first.alias(WINDOW)])?.build()?;
    regroup(&aggregate, at, input)
}
