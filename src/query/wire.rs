//! What clients get: plain types that every driver reads. One function for every place that names a schema
//! (prepare, flight info, table metadata, rows), because drivers refuse a stream whose schema differs.
//!
//! String and binary views and large variants become `Utf8` and `Binary`, dictionaries and runs are hydrated,
//! small decimals become `Decimal128`, and every field is nullable, nested ones too.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, OffsetSizeTrait, RecordBatch, RecordBatchOptions,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::schema::DESCRIPTION_KEY;

/// Bytes of column data in one message; Grafana stops reading at 4 MiB.
pub const MESSAGE_BYTES: usize = 2 * 1024 * 1024 - 64 * 1024;

/// The wire schema of rows of `schema`.
pub fn schema(schema: &Schema) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(|field| nullable(field)).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The same schema with what people should know of its columns, by position, in their metadata.
pub fn with_comments(schema: &SchemaRef, comments: impl IntoIterator<Item = Option<String>>) -> SchemaRef {
    let commented = |(field, comment): (&FieldRef, Option<String>)| match comment {
        Some(comment) => {
            let metadata = HashMap::from([(DESCRIPTION_KEY.to_owned(), comment)]);
            Arc::new(field.as_ref().clone().with_metadata(metadata))
        }
        None => Arc::clone(field),
    };
    let fields: Fields = schema.fields().iter().zip(comments).map(commented).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// `batch` in the wire schema `to`: columns by position.
pub fn batch(batch: &RecordBatch, to: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.num_columns() != to.fields().len() {
        let (have, want) = (batch.num_columns(), to.fields().len());
        return Err(ArrowError::SchemaError(format!("{have} columns where the schema has {want}")));
    }
    let columns = batch.columns().iter().zip(to.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() { Ok(Arc::clone(column)) } else { cast(column, field.data_type()) }
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(to), columns, &options)
}

/// Slices of `batch` in order, each of at most `limit` bytes or of one row.
pub fn split(batch: RecordBatch, limit: usize) -> Vec<RecordBatch> {
    let mut done = Vec::new();
    let mut todo = vec![batch];
    while let Some(batch) = todo.pop() {
        let rows = batch.num_rows();
        if rows <= 1 || bytes(&batch) <= limit {
            done.push(batch);
            continue;
        }
        let half = rows / 2;
        todo.push(batch.slice(half, rows - half));
        todo.push(batch.slice(0, half));
    }
    done
}

fn nullable(field: &Field) -> FieldRef {
    Arc::new(field.clone().with_data_type(data_type(field.data_type())).with_nullable(true))
}

/// The wire type of an Arrow type.
pub fn data_type(from: &DataType) -> DataType {
    use DataType as T;
    match from {
        T::Utf8View | T::LargeUtf8 => T::Utf8,
        T::BinaryView | T::LargeBinary => T::Binary,
        T::Dictionary(_, value) => data_type(value),
        T::RunEndEncoded(_, value) => data_type(value.data_type()),
        T::Decimal32(precision, scale) | T::Decimal64(precision, scale) => T::Decimal128(*precision, *scale),
        T::List(item) | T::LargeList(item) | T::ListView(item) | T::LargeListView(item) => T::List(nullable(item)),
        T::FixedSizeList(item, size) => T::FixedSizeList(nullable(item), *size),
        T::Struct(fields) => T::Struct(fields.iter().map(|field| nullable(field)).collect()),
        T::Map(entries, sorted) => T::Map(map_entries(entries), *sorted),
        other => other.clone(),
    }
}

/// Entries and keys of a map are never null: the format says so.
fn map_entries(entries: &Field) -> FieldRef {
    let DataType::Struct(fields) = entries.data_type() else { return Arc::new(entries.clone()) };
    let of = |(i, field): (usize, &FieldRef)| nullable(field).as_ref().clone().with_nullable(i > 0);
    let fields: Fields = fields.iter().enumerate().map(of).collect();
    Arc::new(entries.clone().with_data_type(DataType::Struct(fields)).with_nullable(false))
}

/// Bytes that rows in a wire schema take in a message.
pub fn bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| array_bytes(column)).sum()
}

/// Bytes the rows of a wire array take in a message. (Arrow's own measure of a slice counts the whole child of a
/// list, so halving would never end.)
fn array_bytes(array: &dyn Array) -> usize {
    let validity = if array.null_count() > 0 { array.len() / 8 + 1 } else { 0 };
    validity
        + match array.data_type() {
            DataType::List(_) => list_bytes(array.as_list::<i32>()),
            DataType::LargeList(_) => list_bytes(array.as_list::<i64>()),
            DataType::Map(_, _) => {
                let map = array.as_map();
                let (start, end) = ends(map.value_offsets());
                let entries = map.entries().slice(start, end - start);
                array.len() * 4 + entries.columns().iter().map(|column| array_bytes(column)).sum::<usize>()
            }
            DataType::FixedSizeList(_, _) => {
                let list: &FixedSizeListArray = array.as_fixed_size_list();
                let size = usize::try_from(list.value_length()).unwrap_or(0);
                array_bytes(&list.values().slice(list.offset() * size, list.len() * size))
            }
            DataType::Struct(_) => array.as_struct().columns().iter().map(|column| array_bytes(column)).sum(),
            _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_buffer_memory_size()),
        }
}

fn list_bytes<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> usize {
    let (start, end) = ends(list.value_offsets());
    list.len() * size_of::<O>() + array_bytes(&list.values().slice(start, end - start))
}

fn ends<O: OffsetSizeTrait>(offsets: &[O]) -> (usize, usize) {
    let at = |offset: Option<&O>| offset.map_or(0, |offset| offset.as_usize());
    (at(offsets.first()), at(offsets.last()))
}
