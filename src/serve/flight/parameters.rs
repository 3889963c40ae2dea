//! Values of a prepared statement's parameters, as a client sends them: one row, bound by position. (ADBC names
//! them "0", "1"…, JDBC otherwise; sorted by name "$10" would come before "$2".)

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow_flight::FlightData;
use futures::TryStreamExt;
use tonic::{Status, Streaming};

use super::service::decode;
use super::status;
use crate::query::{ScalarValue, Statement};

/// The schema a client binds with. Times are in milliseconds in it: Flight JDBC up to 18.3 writes those, whatever unit is
/// asked for. What a client sends in another unit is taken as it is.
pub(super) fn schema(statement: &Statement) -> Schema {
    let field = |(i, data_type): (usize, &DataType)| {
        let data_type = match data_type {
            DataType::Timestamp(_, timezone) => DataType::Timestamp(TimeUnit::Millisecond, timezone.clone()),
            other => other.clone(),
        };
        Field::new(format!("${}", i + 1), data_type, true)
    };
    Schema::new(statement.parameters().iter().enumerate().map(field).collect::<Vec<_>>())
}

/// Batches of one binding, empty ones among them.
const MOST_BATCHES: usize = 16;

/// Reads the one row of values; none if no row was sent.
pub(super) async fn read(first: FlightData, rest: Streaming<FlightData>) -> Result<Vec<ScalarValue>, Status> {
    if first.data_header.is_empty() {
        return Ok(Vec::new());
    }
    let mut batches = decode(first, rest);
    let mut filled: Option<RecordBatch> = None;
    let mut count = 0;
    while let Some(batch) = batches.try_next().await.map_err(|error| status::malformed(error.to_string()))? {
        count += 1;
        if batch.num_rows() > 1 || batch.num_rows() == 1 && filled.is_some() || count > MOST_BATCHES {
            return Err(Status::invalid_argument("bind one row of parameters at a time: several were sent"));
        }
        filled = filled.or(Some(batch).filter(|batch| batch.num_rows() > 0));
    }
    let Some(batch) = filled else { return Ok(Vec::new()) };
    let value = |column: &arrow::array::ArrayRef| ScalarValue::try_from_array(column, 0).map_err(status::malformed);
    batch.columns().iter().map(value).collect()
}
