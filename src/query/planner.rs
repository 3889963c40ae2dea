//! What PostgreSQL's operators take and DataFusion's do not: a text that is compared with a boolean, and an interval times a
//! number.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::datatypes::{DataType, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit};
use arrow::error::ArrowError;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const NANOS_OF_DAY: f64 = 86_400e9;

/// `moving = 't'`, `INTERVAL '5 minutes' * 3`.
#[derive(Debug)]
pub(super) struct Operators {
    times: Arc<ScalarUDF>,
    divided: Arc<ScalarUDF>,
}

impl Operators {
    pub(super) fn new() -> Self {
        let function = |divides| Arc::new(ScalarUDF::from(IntervalTimes::new(divides)));
        Self { times: function(false), divided: function(true) }
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
                let args = vec![interval.cast_to(&INTERVAL, schema)?, number.cast_to(&DataType::Float64, schema)?];
                let function = if matches!(op, BinaryOperator::Divide) { &self.divided } else { &self.times };
                let call = ScalarFunction::new_udf(Arc::clone(function), args);
                Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
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

/// An interval so many times, or divided. A part of a month is one of 30 days, a part of a day one of 24 hours, as in
/// PostgreSQL.
#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalTimes {
    divides: bool,
    signature: Signature,
}

impl IntervalTimes {
    fn new(divides: bool) -> Self {
        Self { divides, signature: Signature::exact(vec![INTERVAL, DataType::Float64], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for IntervalTimes {
    fn name(&self) -> &'static str {
        if self.divides { "interval_divided" } else { "interval_times" }
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
            return datafusion::common::internal_err!("{} takes two arguments", self.name());
        };
        let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
        let numbers = numbers.as_primitive::<Float64Type>();
        let one = |(interval, number)| match (interval, number) {
            (Some(interval), Some(number)) => of_interval(interval, number, self.divides).map(Some),
            _ => Ok(None),
        };
        let product = intervals.iter().zip(numbers).map(one).collect::<Result<IntervalMonthDayNanoArray>>()?;
        let product: ArrayRef = Arc::new(product);
        Ok(if is_scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&product, 0)?)
        } else {
            ColumnarValue::Array(product)
        })
    }
}

fn of_interval(interval: IntervalMonthDayNano, number: f64, divides: bool) -> Result<IntervalMonthDayNano> {
    if divides && number == 0.0 {
        return Err(ArrowError::DivideByZero.into());
    }
    if !number.is_finite() {
        return exec_err!("an interval times {number} is none");
    }
    let of = |part: f64| if divides { part / number } else { part * number };
    // What floating point leaves of a whole day or second is not a part of one.
    let micros = |days: f64| (days * NANOS_OF_DAY / 1e3).round();
    let months = of(f64::from(interval.months));
    let days = of(f64::from(interval.days)) + (months.fract() * 30.0 * 1e6).round() / 1e6;
    let rest = micros(days.fract());
    let carried = (rest / micros(1.0)).trunc();
    let nanos = of(interval.nanoseconds as f64) + (rest - carried * micros(1.0)) * 1e3;
    // What is beyond an interval's bounds becomes the bound.
    Ok(IntervalMonthDayNano::new(months.trunc() as i32, (days.trunc() + carried) as i32, nanos.round() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 15 answers.
    #[test]
    fn parts_of_months_and_days_are_carried() {
        let hour = 3_600_000_000_000_i64;
        for ((months, days, nanos), number, divides, wanted) in [
            ((49, 0, 0), 49.0, true, (1, 0, 0)),
            ((0, 49, 0), 49.0, true, (0, 1, 0)),
            ((1, 0, 0), 2.3, false, (2, 9, 0)),
            ((1, 0, 0), 0.5, false, (0, 15, 0)),
            ((0, 1, 0), 0.5, false, (0, 0, 12 * hour)),
            ((0, 0, hour), -1.5, false, (0, 0, -hour / 2 * 3)),
            ((0, 0, hour), 3.0, true, (0, 0, hour / 3)),
            ((13, 0, 0), 2.0, true, (6, 15, 0)),
        ] {
            let found = of_interval(IntervalMonthDayNano::new(months, days, nanos), number, divides).unwrap();
            let (months, days, nanos) = wanted;
            assert_eq!(found, IntervalMonthDayNano::new(months, days, nanos), "{number} {divides}");
        }
        assert!(of_interval(IntervalMonthDayNano::new(1, 0, 0), 0.0, true).is_err());
        assert!(of_interval(IntervalMonthDayNano::new(1, 0, 0), f64::NAN, false).is_err());
    }
}
