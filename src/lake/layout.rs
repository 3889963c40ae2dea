//! How the files are laid out that are read again and again: those that merges and imports make.

use arrow::datatypes::{DataType, Schema};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use crate::schema::fixed::OFFSET;

/// Rows of a row group.
pub(super) const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Rows of a page: who asks for ten minutes of a day reads few others. A dictionary's pages would hold some 20,000.
const PAGE_ROWS: usize = 4 * 1024;

/// Properties of a file with these columns, of which those of the `key` get a bloom filter. Times and offsets, which grow,
/// are written as differences: that is smaller than a dictionary of them, and read in a third of the time.
pub(super) fn properties(schema: &Schema, key: &[String], zstd_level: i32) -> WriterPropertiesBuilder {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(zstd_level).unwrap_or_default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS);
    for field in schema.fields() {
        let column = || ColumnPath::from(field.name().as_str());
        if matches!(field.data_type(), DataType::Timestamp(_, _)) || field.name() == OFFSET {
            properties = properties
                .set_column_dictionary_enabled(column(), false)
                .set_column_encoding(column(), Encoding::DELTA_BINARY_PACKED);
        }
        if key.contains(field.name()) {
            properties = properties.set_column_bloom_filter_enabled(column(), true);
        }
    }
    properties
}
