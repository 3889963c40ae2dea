//! Functions of places: for rules of whatever moves.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::datatypes::DataType;
use datafusion::common::cast::as_float64_array;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use geo::{BoundingRect, Contains, Geometry, MultiPolygon, Point, Rect};
use geojson::GeoJson;
use parking_lot::Mutex;
use wkt::TryFromWkt;

/// The mean radius of the earth, in kilometres (IUGG's R₁).
const EARTH_KM: f64 = 6371.0088;

/// All of them.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![Arc::new(ScalarUDF::from(Haversine::new())), Arc::new(ScalarUDF::from(Within::new()))]
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
        answer(&args, distances)
    }
}

/// What a function gives: one value, if it was given nothing but values.
fn answer(args: &ScalarFunctionArgs, given: impl Array + 'static) -> Result<ColumnarValue> {
    if args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_))) {
        return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&given, 0)?));
    }
    Ok(ColumnarValue::Array(Arc::new(given)))
}

/// The haversine formula, of degrees.
fn haversine_km(place: [f64; 4]) -> f64 {
    let [lat1, lon1, lat2, lon2] = place.map(f64::to_radians);
    let half = |difference: f64| (difference / 2.0).sin().powi(2);
    let chord = half(lat2 - lat1) + lat1.cos() * lat2.cos() * half(lon2 - lon1);
    2.0 * EARTH_KM * chord.sqrt().min(1.0).asin()
}

/// Zones that are remembered as they were read: more are read again.
const ZONES: usize = 1_000;

/// `st_within(lat, lon, zone)`: whether a place, in degrees, is inside of a zone: a polygon or several, as WKT
/// (`POLYGON((lon lat, …))`) or GeoJSON. On the plane of degrees; a place on the border is not inside.
#[derive(Debug)]
struct Within {
    signature: Signature,
    zones: Mutex<HashMap<String, Arc<Zone>>>,
}

/// What a zone covers, and the rectangle around it.
#[derive(Debug)]
struct Zone {
    area: MultiPolygon<f64>,
    around: Rect<f64>,
}

impl PartialEq for Within {
    fn eq(&self, other: &Self) -> bool {
        self.signature == other.signature
    }
}

impl Eq for Within {}

impl std::hash::Hash for Within {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.signature.hash(state);
    }
}

impl Within {
    fn new() -> Self {
        let arguments = vec![DataType::Float64, DataType::Float64, DataType::Utf8];
        Self { signature: Signature::exact(arguments, Volatility::Immutable), zones: Mutex::default() }
    }

    fn zone(&self, text: &str) -> Result<Arc<Zone>> {
        let mut zones = self.zones.lock();
        if let Some(zone) = zones.get(text) {
            return Ok(Arc::clone(zone));
        }
        let zone = match zone(text) {
            Ok(zone) => Arc::new(zone),
            Err(reason) => {
                let shown: String = text.chars().take(40).collect();
                return exec_err!("st_within: `{shown}` is no zone: {reason}");
            }
        };
        if zones.len() >= ZONES {
            zones.clear();
        }
        zones.insert(text.to_owned(), Arc::clone(&zone));
        Ok(zone)
    }
}

impl ScalarUDFImpl for Within {
    fn name(&self) -> &'static str {
        "st_within"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays: Vec<ArrayRef> = ColumnarValue::values_to_arrays(&args.args)?;
        let [lat, lon, zones] = &arrays[..] else {
            return datafusion::common::internal_err!("st_within takes three arguments");
        };
        let (lat, lon, zones) = (as_float64_array(lat)?, as_float64_array(lon)?, zones.as_string::<i32>());
        let mut last: Option<(&str, Arc<Zone>)> = None;
        let mut is_within = |row: usize| -> Result<Option<bool>> {
            if lat.is_null(row) || lon.is_null(row) || zones.is_null(row) {
                return Ok(None);
            }
            let text = zones.value(row);
            let zone = match &last {
                Some((known, zone)) if *known == text => zone,
                _ => &last.insert((text, self.zone(text)?)).1,
            };
            let place = Point::new(lon.value(row), lat.value(row));
            Ok(Some(zone.around.contains(&place) && zone.area.contains(&place)))
        };
        let within = (0..lat.len()).map(&mut is_within).collect::<Result<BooleanArray>>()?;
        answer(&args, within)
    }
}

fn zone(text: &str) -> std::result::Result<Zone, String> {
    let geometry = if text.trim_start().starts_with('{') {
        let read: GeoJson = text.parse().map_err(|error: geojson::Error| error.to_string())?;
        Geometry::try_from(read).map_err(|error| error.to_string())?
    } else {
        Geometry::try_from_wkt_str(text).map_err(|error| error.to_string())?
    };
    let mut polygons = Vec::new();
    collect(geometry, &mut polygons)?;
    let area = MultiPolygon::new(polygons);
    let around = area.bounding_rect().ok_or("it is empty")?;
    Ok(Zone { area, around })
}

fn collect(geometry: Geometry<f64>, polygons: &mut Vec<geo::Polygon<f64>>) -> std::result::Result<(), String> {
    match geometry {
        Geometry::Polygon(polygon) => polygons.push(polygon),
        Geometry::MultiPolygon(several) => polygons.extend(several.0),
        Geometry::GeometryCollection(several) => {
            several.0.into_iter().try_for_each(|geometry| collect(geometry, polygons))?;
        }
        _ => return Err("it has no inside: a polygon has".to_owned()),
    }
    Ok(())
}
