//! `date_bin` over times as tables have them, in microseconds. DataFusion's own would have each of them cast to nanoseconds,
//! and divides for every row.

use std::cell::Cell;
use std::sync::Arc;

use arrow::array::{Array, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions::datetime::date_bin::DateBinFunc;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

const NANOS_OF_DAY: i128 = 86_400_000_000_000;

/// `date_bin(stride, time[, origin])`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateBin {
    inner: DateBinFunc,
    signature: Signature,
}

impl DateBin {
    pub(super) fn new() -> Self {
        Self { inner: DateBinFunc::new(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &'static str {
        "date_bin"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let ([stride, time] | [stride, time, _]) = types else {
            return plan_err!("date_bin takes a stride, a time and, if need be, where the first bin begins");
        };
        let stride = match stride {
            DataType::Interval(IntervalUnit::DayTime) => stride.clone(),
            DataType::Interval(_) | DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Null => {
                DataType::Interval(IntervalUnit::MonthDayNano)
            }
            other => return plan_err!("the stride of date_bin is an INTERVAL, found {other}"),
        };
        let nanoseconds = |zone: &Option<_>| DataType::Timestamp(TimeUnit::Nanosecond, zone.clone());
        let (time, origin) = match time {
            DataType::Timestamp(_, zone) => (time.clone(), nanoseconds(zone)),
            DataType::Time32(_) | DataType::Time64(_) => (time.clone(), time.clone()),
            DataType::Date32 | DataType::Date64 | DataType::Null => (nanoseconds(&None), nanoseconds(&None)),
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => (nanoseconds(&None), nanoseconds(&None)),
            other => return plan_err!("date_bin is of a time, found {other}"),
        };
        Ok([stride, time].into_iter().chain((types.len() == 3).then_some(origin)).collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [ColumnarValue::Scalar(stride), ColumnarValue::Array(times)] = &args.args[..]
            && let Some(stride) = micros(stride)
            && let Some(times) = times.as_primitive_opt::<TimestampMicrosecondType>()
            && let Some(binned) = bin(times, stride)
        {
            return Ok(ColumnarValue::Array(Arc::new(binned)));
        }
        self.inner.invoke_with_args(args)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// A stride in microseconds, if it is one that is the same everywhere and no fraction of one.
fn micros(stride: &ScalarValue) -> Option<i64> {
    let ScalarValue::IntervalMonthDayNano(Some(stride)) = stride else { return None };
    let nanos = i128::from(stride.days) * NANOS_OF_DAY + i128::from(stride.nanoseconds);
    let whole = stride.months == 0 && nanos > 0 && nanos % 1_000 == 0;
    whole.then(|| i64::try_from(nanos / 1_000).ok()).flatten()
}

/// Where the bin of each time begins. `None` if one of them began before time itself.
fn bin(times: &TimestampMicrosecondArray, stride: i64) -> Option<TimestampMicrosecondArray> {
    // Rows that follow each other are often of one bin.
    let last = Cell::new((0, 0));
    let binned = times.try_unary::<_, TimestampMicrosecondType, ()>(|time| {
        let (mut begins, ends) = last.get();
        if time < begins || time >= ends {
            begins = time.checked_sub(time.rem_euclid(stride)).ok_or(())?;
            last.set((begins, begins.checked_add(stride).ok_or(())?));
        }
        Ok(begins)
    });
    Some(binned.ok()?.with_data_type(times.data_type().clone()))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, IntervalMonthDayNano};
    use datafusion::common::config::ConfigOptions;
    use proptest::prelude::*;

    use super::*;

    fn invoke(function: &dyn ScalarUDFImpl, stride: IntervalMonthDayNano, times: &[Option<i64>]) -> Vec<Option<i64>> {
        let array = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
        let kind = array.data_type().clone();
        let stride = ScalarValue::IntervalMonthDayNano(Some(stride));
        let arguments = ScalarFunctionArgs {
            arg_fields: vec![
                Arc::new(Field::new("stride", stride.data_type(), true)),
                Arc::new(Field::new("time", kind.clone(), true)),
            ],
            args: vec![ColumnarValue::Scalar(stride), ColumnarValue::Array(Arc::new(array))],
            number_rows: times.len(),
            return_field: Arc::new(Field::new("bin", kind, true)),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let binned = function.invoke_with_args(arguments).unwrap().into_array(times.len()).unwrap();
        binned.as_primitive::<TimestampMicrosecondType>().iter().collect()
    }

    proptest! {
        #[test]
        fn bins_are_those_of_datafusion(
            times in prop::collection::vec(prop::option::of(-4_000_000_000_000_000_i64..4_000_000_000_000_000), 0..50),
            (months, days, micros) in (0..2_i32, 0..40_i32, 0..90_000_000_000_i64),
        ) {
            prop_assume!(months == 0 || (days == 0 && micros == 0));
            prop_assume!(months + days > 0 || micros > 0);
            let stride = IntervalMonthDayNano::new(months, days, micros * 1_000);
            prop_assert_eq!(invoke(&DateBin::new(), stride, &times), invoke(&DateBinFunc::new(), stride, &times));
        }
    }
}
