//! What PostgreSQL's operators take and DataFusion's do not: a text that is compared with a boolean, and an interval times a
//! number.

use arrow::array::{ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::datatypes::{DataType, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use std::sync::Arc;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const NANOS_OF_DAY: f64 = 86_400e9;

/// `moving = 't'`, `INTERVAL '5 minutes' * 3`.
#[derive(Debug)]
pub(super) struct Operators {
    times: Arc<ScalarUDF>,
}

impl Operators {
    pub(super) fn new() -> Self {
        Self { times: Arc::new(ScalarUDF::from(IntervalTimes::new())) }
    }
}

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let kind = |expr: &Expr| expr.get_type(schema).ok();
        let RawBinaryExpr { op, left, right } = expr;
        let original = |op, left, right| Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        match op {
            BinaryOperator::Eq | BinaryOperator::NotEq => {
                let is_boolean = |expr: &Expr| kind(expr) == Some(DataType::Boolean);
                match (boolean(&left), boolean(&right)) {
                    (None, Some(value)) if is_boolean(&left) => original(op, left, value),
                    (Some(value), None) if is_boolean(&right) => original(op, value, right),
                    _ => original(op, left, right),
                }
            }
            BinaryOperator::Multiply | BinaryOperator::Divide => {
                let is_interval = |expr: &Expr| matches!(kind(expr), Some(DataType::Interval(_)));
                let is_number = |expr: &Expr| kind(expr).is_some_and(|kind| kind.is_numeric());
                let (interval, number) = match op {
                    _ if is_interval(&left) && is_number(&right) => (left, right),
                    BinaryOperator::Multiply if is_interval(&right) && is_number(&left) => (right, left),
                    _ => return original(op, left, right),
                };
                let number = number.cast_to(&DataType::Float64, schema)?;
                let number = if matches!(op, BinaryOperator::Divide) {
                    Expr::Literal(ScalarValue::Float64(Some(1.0)), None) / number
                } else {
                    number
                };
                let args = vec![interval.cast_to(&INTERVAL, schema)?, number];
                Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&self.times), args))))
            }
            _ => original(op, left, right),
        }
    }
}

/// A text that PostgreSQL takes for a boolean.
fn boolean(expr: &Expr) -> Option<Expr> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)), _) = expr else { return None };
    let value = match text.trim().to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "on" | "1" => true,
        "f" | "false" | "n" | "no" | "off" | "0" => false,
        _ => return None,
    };
    Some(Expr::Literal(ScalarValue::Boolean(Some(value)), None))
}

/// An interval so many times. Of a month 30 days, of a day 24 hours, as in PostgreSQL.
#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalTimes {
    signature: Signature,
}

impl IntervalTimes {
    fn new() -> Self {
        Self { signature: Signature::exact(vec![INTERVAL, DataType::Float64], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for IntervalTimes {
    fn name(&self) -> &'static str {
        "interval_times"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(INTERVAL)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [intervals, numbers] = &arrays[..] else {
            return datafusion::common::internal_err!("interval_times takes two arguments");
        };
        let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
        let numbers = numbers.as_primitive::<Float64Type>();
        let product: IntervalMonthDayNanoArray =
            intervals.iter().zip(numbers).map(|(interval, number)| Some(times(interval?, number?))).collect();
        let product: ArrayRef = Arc::new(product);
        Ok(if is_scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&product, 0)?)
        } else {
            ColumnarValue::Array(product)
        })
    }
}

fn times(interval: IntervalMonthDayNano, number: f64) -> IntervalMonthDayNano {
    let months = f64::from(interval.months) * number;
    let days = f64::from(interval.days) * number + months.fract() * 30.0;
    let nanos = interval.nanoseconds as f64 * number + days.fract() * NANOS_OF_DAY;
    // What is beyond an interval's bounds becomes the bound.
    IntervalMonthDayNano::new(months.trunc() as i32, days.trunc() as i32, nanos.round() as i64)
}
