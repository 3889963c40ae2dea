//! Several files of one partition become one, with their rows in the table's order.
//!
//! A merged file says in its footer what it is sorted by, so that later merges read it as a stream; only files that were
//! written by commits, which are small, are sorted in memory first. What that takes comes from the pool of the queries: a
//! merge takes as many files as there is room for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::compute::{SortOptions, cast, concat_batches};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use chrono::DateTime;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, UnboundedMemoryPool,
};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::sorts::sort::sort_batch_chunked;
use datafusion::physical_plan::sorts::streaming_merge::StreamingMergeBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake_core::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake_core::kernel::{Add, LogicalFileView};
use deltalake_core::protocol::DeltaOperation;
use deltalake_core::table::config::TablePropertiesExt;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;
use object_store::buffered::BufReader;
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue, ParquetMetaData};

use super::DataFile;
use super::tiers::TARGET_BYTES;
use crate::lake::commit::{self, CommitError};
use crate::lake::table::{Table, TableError};
use crate::schema::conform;
use crate::task::{Shutdown, failpoint};

/// Key of a file's footer: the columns that its rows are sorted by, with commas between.
const SORTED_BY: &str = "millpond.sorted_by";
/// Rows that are worked on at once.
const BATCH_ROWS: usize = 8 * 1024;
/// Texts in memory take so many times what they take in a file before it is compressed, where values stand once.
const IN_MEMORY: usize = 3;
/// A merge takes this part of the memory at most: queries run meanwhile.
const MEMORY_PART: usize = 4;

/// How a table's rows lie in merged files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Columns that rows are looked up by: a bloom filter is written of each. Rows are sorted by them …
    pub key: Vec<String>,
    /// … and then by these.
    pub then: Vec<String>,
}

/// How fast it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// After each step it rests three times as long: a quarter of one processor at most.
    Gentle,
    /// Somebody waits for it.
    Full,
}

impl Pace {
    async fn rest(self, worked: Duration) {
        if self == Self::Gentle {
            tokio::time::sleep(worked * 3).await;
        }
    }
}

/// What a merge did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Files that are no part of the table any more …
    pub files: u64,
    /// … and their bytes.
    pub bytes: u64,
    /// Files in their place …
    pub into_files: u64,
    /// … and their bytes.
    pub into_bytes: u64,
    /// Rows in them.
    pub rows: u64,
}

/// Merges `files` of one partition of a table of ours, or as many of them as there is room for in `memory`. `None` if nothing was done: they are
/// not all in the table any more, as they were written, or there is no room for two. What fails leaves the table as it was.
pub async fn merge(
    table: &mut Table,
    files: &[DataFile],
    layout: &Layout,
    memory: &Arc<dyn MemoryPool>,
    pace: Pace,
    stop: &Shutdown,
) -> Result<Option<Merged>, CommitError> {
    if !table.is_ours() {
        return Ok(None);
    }
    let wanted: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let snapshot = table.snapshot()?;
    // Who marks rows of a file as deleted, which Millpond never does, has to write it anew.
    let is_whole = |file: &LogicalFileView| file.deletion_vector_descriptor().is_none();
    let mut found: Vec<LogicalFileView> =
        snapshot.log_data().iter().filter(|file| wanted.contains(&*file.path()) && is_whole(file)).collect();
    if found.len() != wanted.len() {
        return Ok(None);
    }
    found.sort_by_key(|file| (file.modification_time(), file.path().into_owned()));
    let schema = table.arrow_schema()?;
    let layout = Known::new(layout, &schema)?;
    let mut sources = Sources::open(table, &found, &layout, &schema, memory).await?;
    if sources.paths.len() < 2 {
        return Ok(None);
    }
    let mut merged = Merged { files: sources.paths.len() as u64, bytes: sources.bytes, ..Merged::default() };
    let adds = stage(table, std::mem::take(&mut sources.streams), &layout, &schema, pace, stop).await?;
    failpoint::hit("compact_after_stage");
    for add in &adds {
        merged.into_files += 1;
        merged.into_bytes += add.size.unsigned_abs();
    }
    merged.rows = sources.rows;
    let operation = DeltaOperation::Optimize { predicate: None, target_size: TARGET_BYTES.cast_signed() };
    let landed = commit::commit_rewrite(table, &sources.paths, &adds, &operation, Vec::new(), stop).await?;
    failpoint::hit("compact_after_commit");
    Ok(landed.then_some(merged))
}

/// The order, as far as the table has its columns.
struct Known {
    ordering: Option<LexOrdering>,
    /// What the footer says.
    text: String,
    key: Vec<String>,
}

impl Known {
    fn new(layout: &Layout, schema: &SchemaRef) -> Result<Self, TableError> {
        let is_there = |name: &&String| {
            let field = schema.field_with_name(name);
            field.is_ok_and(|field| !field.data_type().is_nested())
        };
        let names: Vec<&String> = layout.key.iter().chain(&layout.then).filter(is_there).collect();
        let options = SortOptions { descending: false, nulls_first: true };
        let expressions = names.iter().map(|name| {
            let column = Column::new_with_schema(name, schema)?;
            Ok(PhysicalSortExpr::new(Arc::new(column), options))
        });
        let ordering = LexOrdering::new(expressions.collect::<Result<Vec<_>, DataFusionError>>().map_err(unsorted)?);
        let text = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(",");
        Ok(Self { ordering, text, key: layout.key.iter().filter(is_there).cloned().collect() })
    }
}

fn unsorted(error: DataFusionError) -> TableError {
    TableError::Arrow(ArrowError::ExternalError(Box::new(error)))
}

/// The rows of files, each file's in the table's order.
struct Sources {
    /// What they take of the memory.
    room: MemoryReservation,
    streams: Vec<SendableRecordBatchStream>,
    paths: BTreeSet<String>,
    rows: u64,
    bytes: u64,
}

impl Sources {
    async fn open(
        table: &Table,
        files: &[LogicalFileView],
        layout: &Known,
        schema: &SchemaRef,
        memory: &Arc<dyn MemoryPool>,
    ) -> Result<Self, TableError> {
        let most = match memory.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / MEMORY_PART,
            _ => usize::MAX,
        };
        let room = MemoryConsumer::new("compaction").register(memory);
        let mut sources = Self { room, streams: Vec::new(), paths: BTreeSet::new(), rows: 0, bytes: 0 };
        for file in files {
            let bytes = file.size().unsigned_abs();
            let fault = |error: ParquetError| table.schema_error(&format!("{}: {error}", file.path()));
            let meta = ObjectMeta {
                location: file.object_store_path(),
                last_modified: DateTime::UNIX_EPOCH,
                size: bytes,
                e_tag: None,
                version: None,
            };
            let reader = BufReader::new(Arc::clone(table.data()), &meta);
            let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(fault)?;
            let metadata = builder.metadata().file_metadata();
            let rows = metadata.num_rows().unsigned_abs();
            let known = metadata.key_value_metadata().into_iter().flatten();
            let is_sorted = layout.ordering.is_none()
                || known
                    .into_iter()
                    .any(|entry| entry.key == SORTED_BY && entry.value.as_deref() == Some(&layout.text));
            let cost = cost_bytes(builder.metadata(), is_sorted);
            if sources.room.size() + cost > most || sources.room.try_grow(cost).is_err() {
                continue;
            }
            let stored = builder.with_batch_size(BATCH_ROWS).build().map_err(fault)?;
            let (shown, values) = (Arc::clone(schema), file.partition_values_map());
            let whole = move |batch: Result<RecordBatch, ParquetError>| {
                with_partition(&batch?, &shown, &values).map_err(DataFusionError::from)
            };
            let batches = stored.map(whole);
            let source: SendableRecordBatchStream = match &layout.ordering {
                Some(ordering) if !is_sorted => {
                    let batches: Vec<RecordBatch> = batches.try_collect().await.map_err(unsorted)?;
                    let batch = concat_batches(schema, &batches)?;
                    drop(batches);
                    let sorted = sort_batch_chunked(&batch, ordering, BATCH_ROWS).map_err(unsorted)?;
                    let sorted = stream::iter(sorted.into_iter().map(Ok));
                    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), sorted))
                }
                _ => Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), batches)),
            };
            sources.streams.push(source);
            sources.paths.insert(file.path().into_owned());
            sources.rows += rows;
            sources.bytes += bytes;
        }
        Ok(sources)
    }
}

/// What reading a file takes in memory: a batch and the row group that it is in, or all of its rows to sort them, in their
/// own order and in the table's.
fn cost_bytes(file: &ParquetMetaData, is_sorted: bool) -> usize {
    let groups = || file.row_groups().iter();
    let size = |bytes: i64| usize::try_from(bytes).unwrap_or(0);
    // Numbers that are written as differences take next to nothing in a file.
    let in_memory = |column: &ColumnChunkMetaData| {
        let (values, encoded) = (size(column.num_values()), size(column.uncompressed_size()));
        match column.column_type() {
            Type::BYTE_ARRAY => encoded * IN_MEMORY,
            Type::FIXED_LEN_BYTE_ARRAY | Type::INT96 => encoded.max(values * 16),
            Type::INT64 | Type::DOUBLE => encoded.max(values * 8),
            Type::INT32 | Type::FLOAT | Type::BOOLEAN => encoded.max(values * 4),
        }
    };
    let all: usize = groups().flat_map(|group| group.columns()).map(in_memory).sum();
    if !is_sorted {
        return all * 2;
    }
    let rows = size(file.file_metadata().num_rows()).max(1);
    let group = groups().map(|group| size(group.compressed_size())).max().unwrap_or(0);
    group + all / rows * rows.min(2 * BATCH_ROWS)
}

/// Rows of a file, in the columns of its table: those that the file does not have are null, or the partition's.
pub(in crate::lake) fn with_partition(
    batch: &RecordBatch,
    schema: &SchemaRef,
    values: &std::collections::HashMap<String, Option<String>>,
) -> Result<RecordBatch, ArrowError> {
    let batch = conform(batch, schema)?;
    let mut columns = batch.columns().to_vec();
    for (name, value) in values {
        let Ok(at) = schema.index_of(name) else { continue };
        let kind = schema.field(at).data_type();
        columns[at] = match value {
            None => new_null_array(kind, batch.num_rows()),
            Some(value) => {
                let value: ArrayRef = Arc::new(StringArray::from(vec![value.as_str()]));
                let value = cast(&value, kind)?;
                let places = arrow::array::UInt32Array::from_value(0, batch.num_rows());
                arrow::compute::take(&value, &places, None)?
            }
        };
    }
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// Writes the rows of all `streams` as new files.
async fn stage(
    table: &Table,
    streams: Vec<SendableRecordBatchStream>,
    layout: &Known,
    schema: &SchemaRef,
    pace: Pace,
    stop: &Shutdown,
) -> Result<Vec<Add>, CommitError> {
    let mut writer = DeltaWriter::new(Arc::clone(table.data()), config(table, layout, schema)?);
    let mut rows: SendableRecordBatchStream = match &layout.ordering {
        Some(ordering) => {
            // What it takes is in what the sources were charged for.
            let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
            StreamingMergeBuilder::new()
                .with_streams(streams)
                .with_schema(Arc::clone(schema))
                .with_expressions(ordering)
                .with_batch_size(BATCH_ROWS)
                .with_metrics(BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), 0))
                .with_reservation(MemoryConsumer::new("merge").register(&pool))
                .build()
                .map_err(unsorted)?
        }
        None => Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), stream::iter(streams).flatten())),
    };
    loop {
        let began = Instant::now();
        let Some(batch) = rows.next().await.transpose().map_err(unsorted)? else { break };
        writer.write(&batch).await.map_err(TableError::from)?;
        if stop.is_cancelled() {
            return Err(CommitError::Stopped);
        }
        pace.rest(began.elapsed()).await;
    }
    Ok(writer.close().await.map_err(TableError::from)?)
}

fn config(table: &Table, known: &Known, schema: &SchemaRef) -> Result<WriterConfig, TableError> {
    let state = table.delta.snapshot()?;
    let mut properties = table.properties(schema, &known.key, 3);
    if known.ordering.is_some() {
        let sorted = KeyValue::new(SORTED_BY.to_owned(), known.text.clone());
        properties = properties.set_key_value_metadata(Some(vec![sorted]));
    }
    Ok(WriterConfig::new(
        Arc::clone(schema),
        state.metadata().partition_columns().to_vec(),
        Some(properties.build()),
        // One file: the writer would count what is not compressed yet.
        None,
        Some(BATCH_ROWS),
        state.table_config().num_indexed_cols(),
        None,
    ))
}

#[cfg(test)]
mod tests;
