//! Files of rows, piece by piece: what a file holds becomes batches in the columns of a table.
//!
//! ```text
//! bytes ─ FileReader (unpack, parse) ─┐
//! rows of Parquet ────────────────────┴─ FileRows ─ Fitter ─ batches of one schema
//! ```
//! * A column that the table has keeps its type. A value that does not fit it goes to `_rescued` as it was written.
//! * A column that the table does not have is added, in the narrowest type that all of the file's values are written as
//!   (`007` is no number: writing it would lose the zeros). That is known when the file has been read to its end; until
//!   then it is what the values so far allow. One that does not makes a wider column, and the file is read once more.
//! * What is no scalar becomes its JSON text; of a GeoJSON FeatureCollection the features are the rows.

mod fitter;
mod kinds;
mod reader;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;

pub use fitter::Fitter;
pub use reader::{FileReader, Packing};

/// Metadata of a field: what the file calls the column.
pub const WRITTEN_KEY: &str = "millpond.written";

/// The same rows, with what their file calls the columns, in order.
pub fn as_written(batch: &RecordBatch, written: impl IntoIterator<Item = String>) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let field = |(field, written): (&Arc<Field>, String)| {
        field.as_ref().clone().with_metadata([(WRITTEN_KEY.to_owned(), written)].into())
    };
    let fields: Vec<Field> = schema.fields().iter().zip(written).map(field).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), batch.columns().to_vec(), &options)
}

/// Rows of a file.
#[derive(Debug, Clone)]
pub struct FileRows {
    /// The rows, under names that SQL takes without quotes ([`WRITTEN_KEY`] tells those of the file).
    pub batch: RecordBatch,
    /// True if all columns are text whose values say by how they are written what they are.
    pub is_written: bool,
}
