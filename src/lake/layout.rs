//! How data files are laid out.

use std::str::FromStr;

use arrow::datatypes::{DataType, Schema};
use parquet::basic::{Compression as Codec, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::schema::types::ColumnPath;

use crate::schema::fixed::OFFSET;

/// Rows of a row group.
pub(super) const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Rows of a page: who asks for ten minutes of a day reads few others. A dictionary's pages would hold some 20,000.
const PAGE_ROWS: usize = 4 * 1024;
/// A larger dictionary of numbers seldom makes a file smaller, and takes half the time of writing it.
const NUMBERS_DICTIONARY_BYTES: usize = 128 * 1024;
/// A page that LZ4 cannot make smaller than this part lies in the file as it is: it is read several times as fast.
const WORTH_LZ4: f64 = 0.75;

/// What makes data files smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Unpacked several times as fast as the other.
    Lz4,
    /// A fifth to a half smaller.
    Zstd,
}

impl FromStr for Compression {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            _ => Err(()),
        }
    }
}

/// Properties of a file with these columns, of which those of the `key` get a bloom filter; `zstd_level` is for ZSTD. Times
/// and whole numbers are written as differences where they have no dictionary: that is smaller, and of times, which grow,
/// read in a third of the time.
pub(super) fn properties(
    schema: &Schema,
    key: &[String],
    compression: Compression,
    zstd_level: i32,
) -> WriterPropertiesBuilder {
    let mut properties = WriterProperties::builder()
        .set_encoding(Encoding::PLAIN)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS);
    properties = match compression {
        // Only pages of the second version say each for itself whether they are compressed.
        Compression::Lz4 => properties
            .set_compression(Codec::LZ4_RAW)
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_data_page_v2_compression_ratio_threshold(WORTH_LZ4),
        Compression::Zstd => {
            properties.set_compression(Codec::ZSTD(ZstdLevel::try_new(zstd_level).unwrap_or_default()))
        }
    };
    for field in schema.fields() {
        let column = || ColumnPath::from(field.name().as_str());
        let data_type = field.data_type();
        if data_type.is_integer() || matches!(data_type, DataType::Timestamp(_, _)) {
            properties = properties.set_column_encoding(column(), Encoding::DELTA_BINARY_PACKED);
        }
        if matches!(data_type, DataType::Timestamp(_, _)) || field.name() == OFFSET {
            properties = properties.set_column_dictionary_enabled(column(), false);
        } else if data_type.is_numeric() {
            properties = properties.set_column_dictionary_page_size_limit(column(), NUMBERS_DICTIONARY_BYTES);
        }
        if key.contains(field.name()) {
            properties = properties.set_column_bloom_filter_enabled(column(), true);
        }
    }
    properties
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::compute::concat_batches;
    use arrow::record_batch::RecordBatch;
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::metadata::ColumnChunkMetaData;
    use proptest::prelude::*;

    use super::*;

    /// The rows as they are read again, and what the file says of the columns of its first row group.
    fn written(rows: &RecordBatch, compression: Compression) -> (RecordBatch, Vec<ColumnChunkMetaData>) {
        let properties = properties(&rows.schema(), &["id".to_owned()], compression, 1).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
        writer.write(rows).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(writer.into_inner().unwrap())).unwrap();
        let columns = reader.metadata().row_group(0).columns().to_vec();
        let read: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        (concat_batches(&rows.schema(), &read).unwrap(), columns)
    }

    fn column<'a>(columns: &'a [ColumnChunkMetaData], name: &str) -> &'a ColumnChunkMetaData {
        columns.iter().find(|column| column.column_path().string() == name).unwrap()
    }

    #[test]
    fn lz4_leaves_pages_as_they_are_that_it_makes_hardly_smaller() {
        let noise: Vec<f64> = (0..20_000_u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64).collect();
        let words = (0..20_000).map(|at| format!("the same words and number {}", at / 2));
        let rows = RecordBatch::try_from_iter([
            ("noise", Arc::new(Float64Array::from(noise)) as ArrayRef),
            ("words", Arc::new(StringArray::from_iter_values(words)) as ArrayRef),
        ])
        .unwrap();
        let (read, columns) = written(&rows, Compression::Lz4);
        assert_eq!(read, rows);
        let saved = |name: &str| {
            let column = column(&columns, name);
            1.0 - column.compressed_size() as f64 / column.uncompressed_size() as f64
        };
        assert!(columns.iter().all(|column| column.compression() == Codec::LZ4_RAW));
        assert!(saved("noise").abs() < 0.01 && saved("words") > 0.5, "{} {}", saved("noise"), saved("words"));
        let (read, columns) = written(&rows, Compression::Zstd);
        assert_eq!(read, rows);
        assert!(columns.iter().all(|column| matches!(column.compression(), Codec::ZSTD(_))));
    }

    #[test]
    fn many_numbers_have_no_dictionary_for_long_and_times_none() {
        let numbers: Vec<i64> = (0..100_000).map(|at| at * 7_919 % 100_003).collect();
        let rows = RecordBatch::try_from_iter([
            ("many", Arc::new(Int64Array::from(numbers.clone())) as ArrayRef),
            ("few", Arc::new(Int64Array::from_iter_values(numbers.iter().map(|number| number % 100))) as ArrayRef),
            ("at", Arc::new(TimestampMicrosecondArray::from(numbers)) as ArrayRef),
        ])
        .unwrap();
        for compression in [Compression::Lz4, Compression::Zstd] {
            let (read, columns) = written(&rows, compression);
            assert_eq!(read, rows);
            let encodings = |name: &str| column(&columns, name).encodings().collect::<Vec<_>>();
            assert!(encodings("many").contains(&Encoding::DELTA_BINARY_PACKED), "{:?}", encodings("many"));
            assert!(!encodings("few").contains(&Encoding::DELTA_BINARY_PACKED), "{:?}", encodings("few"));
            assert!(column(&columns, "at").dictionary_page_offset().is_none());
        }
    }

    proptest! {
        #[test]
        fn rows_are_read_as_they_were_written(
            ids in prop::collection::vec(any::<Option<i32>>(), 1..200),
            numbers in prop::collection::vec(any::<Option<i64>>(), 1..200),
            doubles in prop::collection::vec(prop::option::of(any::<u64>().prop_map(f64::from_bits)), 1..200),
            texts in prop::collection::vec(any::<Option<String>>(), 1..200),
            times in prop::collection::vec(any::<Option<i64>>(), 1..200),
        ) {
            let columns: [ArrayRef; 5] = [
                Arc::new(Int32Array::from(ids)),
                Arc::new(Int64Array::from(numbers)),
                Arc::new(Float64Array::from(doubles)),
                Arc::new(StringArray::from(texts)),
                Arc::new(TimestampMicrosecondArray::from(times)),
            ];
            let rows = columns.iter().map(|column| column.len()).min().unwrap();
            let names = ["id", "number", "double", "text", "at"];
            let columns = names.iter().zip(&columns).map(|(name, column)| (*name, column.slice(0, rows), true));
            let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            for compression in [Compression::Lz4, Compression::Zstd] {
                let (read, _) = written(&rows, compression);
                // NaN is not what it is.
                prop_assert_eq!(format!("{:?}", read), format!("{:?}", &rows));
            }
        }
    }
}
