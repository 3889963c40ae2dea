//! Values of a prepared statement's parameters, as a client sends them: one row, bound by position. (ADBC names
//! them "0", "1"…, JDBC otherwise; sorted by name "$10" would come before "$2".)

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::{Status, Streaming};

use super::status;
use crate::query::{ScalarValue, Statement};

/// The schema a client binds with.
pub(super) fn schema(statement: &Statement) -> Schema {
    let field = |(i, data_type): (usize, &arrow::datatypes::DataType)| {
        Field::new(format!("${}", i + 1), data_type.clone(), true)
    };
    Schema::new(statement.parameters().iter().enumerate().map(field).collect::<Vec<_>>())
}

/// Reads the one row of values; none if no row was sent.
pub(super) async fn read(first: FlightData, rest: Streaming<FlightData>) -> Result<Vec<ScalarValue>, Status> {
    if first.data_header.is_empty() {
        return Ok(Vec::new());
    }
    let messages = stream::iter([Ok(first)]).chain(rest.map_err(|status| FlightError::Tonic(Box::new(status))));
    let batches: Vec<RecordBatch> = FlightRecordBatchStream::new_from_flight_data(messages)
        .try_collect()
        .await
        .map_err(|error| status::malformed(error.to_string()))?;
    let mut filled = batches.iter().filter(|batch| batch.num_rows() > 0);
    let Some(batch) = filled.next() else { return Ok(Vec::new()) };
    if batch.num_rows() > 1 || filled.next().is_some() {
        return Err(Status::invalid_argument("bind one row of parameters at a time: several were sent"));
    }
    let value = |column: &arrow::array::ArrayRef| ScalarValue::try_from_array(column, 0).map_err(status::malformed);
    batch.columns().iter().map(value).collect()
}
