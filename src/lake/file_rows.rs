//! The rows of one data file of a table, as they are read.

use std::sync::Arc;

use arrow::array::RecordBatch;
use chrono::DateTime;
use deltalake_core::kernel::LogicalFileView;
use futures::{Stream, TryStreamExt};
use object_store::ObjectMeta;
use object_store::buffered::BufReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;

use super::table::{Table, TableError};

/// Rows that are read at once.
const BATCH_ROWS: usize = 8 * 1024;

/// The rows of `file`: in the columns that it has, or only in those of `columns` among them.
pub(super) async fn rows_of(
    table: &Table,
    file: &LogicalFileView,
    columns: Option<&[&str]>,
) -> Result<impl Stream<Item = Result<RecordBatch, TableError>> + Unpin + use<>, TableError> {
    let meta = ObjectMeta {
        location: file.object_store_path(),
        last_modified: DateTime::UNIX_EPOCH,
        size: file.size().unsigned_abs(),
        e_tag: None,
        version: None,
    };
    let (name, path) = (Arc::clone(table.name()), file.path().into_owned());
    let fault = move |error: ParquetError| {
        let reason = format!("{path}: {error}");
        TableError::Schema { table: name.to_string(), reason }
    };
    let reader = BufReader::new(Arc::clone(table.data()), &meta);
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(&fault)?.with_batch_size(BATCH_ROWS);
    let builder = match columns {
        Some(columns) => {
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
            builder.with_projection(mask)
        }
        None => builder,
    };
    Ok(builder.build().map_err(&fault)?.map_err(fault))
}
