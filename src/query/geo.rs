//! Functions of places: for rules of whatever moves.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array};
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::cast::as_float64_array;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The mean radius of the earth, in kilometres (IUGG's R₁).
const EARTH_KM: f64 = 6371.0088;

/// All of them.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![Arc::new(ScalarUDF::from(Haversine::new()))]
}

/// `haversine_km(lat1, lon1, lat2, lon2)`: the distance of two places along the earth's surface, in kilometres; places in
/// degrees. On a sphere, so that it may be 0.5 % wrong.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Haversine {
    signature: Signature,
}

impl Haversine {
    fn new() -> Self {
        Self { signature: Signature::exact(vec![DataType::Float64; 4], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Haversine {
    fn name(&self) -> &'static str {
        "haversine_km"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays: Vec<ArrayRef> = ColumnarValue::values_to_arrays(&args.args)?;
        let columns = arrays.iter().map(|column| as_float64_array(column)).collect::<Result<Vec<_>>>()?;
        let [lat1, lon1, lat2, lon2] = columns[..] else {
            return datafusion::common::internal_err!("haversine_km takes four arguments");
        };
        let distance = |row: usize| {
            let place = [lat1, lon1, lat2, lon2];
            let is_known = place.iter().all(|column| column.is_valid(row));
            is_known.then(|| haversine_km(place.map(|column| column.value(row))))
        };
        let distances: Float64Array = (0..lat1.len()).map(distance).collect();
        let is_scalar = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        if is_scalar {
            let distance = distances.iter().next().flatten();
            return Ok(ColumnarValue::Scalar(distance.into()));
        }
        Ok(ColumnarValue::Array(Arc::new(distances)))
    }
}

/// The haversine formula, of degrees.
fn haversine_km(place: [f64; 4]) -> f64 {
    let [lat1, lon1, lat2, lon2] = place.map(f64::to_radians);
    let half = |difference: f64| (difference / 2.0).sin().powi(2);
    let chord = half(lat2 - lat1) + lat1.cos() * lat2.cos() * half(lon2 - lon1);
    2.0 * EARTH_KM * chord.sqrt().min(1.0).asin()
}
