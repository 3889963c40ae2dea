use std::io::Write;

use arrow::array::{ArrayRef, Int32Array, StructArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use proptest::prelude::*;
use std::sync::Arc;

use super::*;
use crate::schema::FileFormat;

/// The rows of a file whose bytes come in pieces of `size`.
fn read(format: FileFormat, packing: Packing, bytes: &[u8], size: usize) -> Result<Vec<FileRows>, String> {
    let mut reader = FileReader::new("f", format, packing).map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        rows.extend(reader.push(piece).map_err(|error| error.to_string())?);
    }
    rows.extend(reader.finish().map_err(|error| error.to_string())?);
    Ok(rows)
}

/// Reads a file as often as it takes; the rows in the columns of their table, and those.
fn import(fitter: &mut Fitter, rows: &[FileRows]) -> Vec<RecordBatch> {
    'again: for _ in 0..10 {
        let mut fitted = Vec::new();
        for piece in rows {
            match fitter.fit(piece).unwrap() {
                Some(batch) => fitted.push(batch),
                None => {
                    for piece in rows {
                        fitter.learn(piece).unwrap();
                    }
                    continue 'again;
                }
            }
        }
        return fitted;
    }
    panic!("what was learned does not fit");
}

/// The columns, and a line for each row.
fn shown(batches: &[RecordBatch]) -> Vec<String> {
    let kinds: Vec<String> =
        batches[0].schema().fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    let table = pretty_format_batches(batches).unwrap().to_string();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
    let rows = rows.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    [kinds.join(", ")].into_iter().chain(rows).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

#[test]
fn numbers_fit_columns_that_another_format_made() {
    let column = |name: &str, kind: DataType| Field::new(name, kind, true);
    let kinds = [("price", DataType::Decimal128(10, 2)), ("ratio", DataType::Float32)];
    let schema = Arc::new(Schema::new(kinds.map(|(name, kind)| column(name, kind)).to_vec()));
    let mut fitter = Fitter::new(&schema);
    let rows = read(FileFormat::Csv, Packing::None, b"price,ratio\n5,1\n5.10,0.1\n5.123,x\n", 7).unwrap();
    let wanted = [
        "price Decimal128(10, 2), ratio Float32, _rescued Utf8",
        "| 5.00 | 1.0 | |",
        "| 5.10 | 0.1 | |",
        "| | | {\"price\":\"5.123\",\"ratio\":\"x\"} |",
    ];
    assert_eq!(shown(&import(&mut fitter, &rows)), wanted);
    let mut fitter = Fitter::new(&schema);
    let rows = read(FileFormat::Json, Packing::None, b"{\"ratio\": 0.1}\n{\"ratio\": 1e300}\n", 7).unwrap();
    let fitted = shown(&import(&mut fitter, &rows));
    assert_eq!(fitted[1..], ["| | 0.1 | |", "| | | {\"ratio\":\"1e300\"} |"]);
}

#[test]
fn times_that_are_finer_than_a_table_keeps_them_are_cut_off() {
    let times: ArrayRef =
        Arc::new(arrow::array::TimestampNanosecondArray::from(vec![1_999, 2_000]).with_timezone("UTC"));
    let batch = RecordBatch::try_from_iter([("at", times)]).unwrap();
    let fitted = import(&mut Fitter::default(), &[FileRows { batch, is_written: false }]);
    assert_eq!(shown(&fitted)[1..], ["| 1970-01-01T00:00:00.000001Z |", "| 1970-01-01T00:00:00.000002Z |"]);
}

#[test]
fn csv_has_the_narrowest_types_however_it_is_packed_and_cut() {
    let text = "\u{feff}Zone Id;name;plate;speed;since;at;open\n\
                1;\"Gangnam;\nsouth\";0042;50;2026-01-31;2026-01-31T10:00:00+09:00;true\n\
                2;;12가3456;30.5;2026-02-01;2026-01-31T10:00:00.25Z;false\n";
    let expected = [
        "zone_id Int64, name Utf8, plate Utf8, speed Float64, since Date32, at Timestamp(µs, \"UTC\"), open Boolean",
        "| 1 | Gangnam; | 0042 | 50.0 | 2026-01-31 | 2026-01-31T01:00:00Z | true |",
        "| | south | | | | | |",
        "| 2 | | 12가3456 | 30.5 | 2026-02-01 | 2026-01-31T10:00:00.250Z | false |",
    ];
    let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
    let two = [gzip(&text.as_bytes()[..40]), gzip(&text.as_bytes()[40..])].concat();
    for (packing, bytes) in [(Packing::None, text.as_bytes()), (Packing::Gzip, &two), (Packing::Zstd, &zstd)] {
        for size in [1, 7, 1_000] {
            let rows = read(FileFormat::Csv, packing, bytes, size).unwrap();
            assert_eq!(shown(&import(&mut Fitter::default(), &rows)), expected, "{packing:?} {size}");
        }
    }
}

#[test]
fn a_file_that_is_cut_off_or_broken_is_named_with_its_line() {
    let packed = gzip(b"a,b\n1,2\n3,4\n");
    let zstd = zstd::encode_all(&b"a,b\n1,2\n3,4\n"[..], 1).unwrap();
    let json = "{\"a\": 1}\n{\"a\": 2}\n{\"a\": ";
    for (format, packing, bytes, expected) in [
        (
            FileFormat::Csv,
            Packing::None,
            &b"a,b\n1,2\n3\n"[..],
            "f:3: incorrect number of fields for line 3, expected 2 got 1",
        ),
        (FileFormat::Csv, Packing::None, b"a,A\n1,2\n", "f:1: the header names `A` twice"),
        (FileFormat::Csv, Packing::None, b"", "f: it is empty: the first line names the columns"),
        (FileFormat::Csv, Packing::Gzip, &packed[..packed.len() - 9], "f: it is cut off, or no gzip"),
        (FileFormat::Csv, Packing::Zstd, &zstd[..zstd.len() - 4], "f: it is cut off"),
        (FileFormat::Json, Packing::None, json.as_bytes(), "f:3: it is cut off"),
        (FileFormat::Json, Packing::None, b"{\"a\": 1}\n{\"a\": }", "f:2: expected value at line 2 column 7"),
        (FileFormat::Json, Packing::None, b"{\"a\": 1}\n[2]", "f: row 2 is no object"),
    ] {
        for size in [1, 5, 1_000] {
            let read = read(format, packing, bytes, size);
            assert_eq!(read.unwrap_err(), expected, "{format:?} {packing:?} {size}");
        }
    }
}

#[test]
fn a_column_of_the_table_stays_what_it_is_and_what_does_not_fit_is_rescued() {
    let table = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("speed", DataType::Float64, true),
        Field::new("gone", DataType::Utf8, true),
    ]);
    let text = "id,speed,new\n1,2.5,x\nA7,3,\n007,fast,y\n";
    let rows = read(FileFormat::Csv, Packing::None, text.as_bytes(), 5).unwrap();
    let mut fitter = Fitter::new(&table);
    let expected = [
        "id Int64, speed Float64, gone Utf8, new Utf8, _rescued Utf8",
        "| 1 | 2.5 | | x | |",
        "| | 3.0 | | | {\"id\":\"A7\"} |",
        "| | | | y | {\"id\":\"007\",\"speed\":\"fast\"} |",
    ];
    assert_eq!(shown(&import(&mut fitter, &rows)), expected);
    assert_eq!(fitter.take_rescued(), 3);
}

#[test]
fn typed_values_are_never_cut_off() {
    let nested: ArrayRef = Arc::new(StructArray::from(vec![(
        Arc::new(Field::new("x", DataType::Int32, true)),
        Arc::new(Int32Array::from(vec![Some(1), None, Some(3)])) as ArrayRef,
    )]));
    let numbers: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.0, 2.5, 3e12]));
    let batch = RecordBatch::try_from_iter([("n", numbers), ("deep", nested)]).unwrap();
    let table = Schema::new(vec![Field::new("n", DataType::Int32, true)]);
    let rows = [FileRows { batch, is_written: false }];
    let expected = [
        "n Int32, deep Utf8, _rescued Utf8",
        "| 1 | {\"x\":1} | |",
        "| | {} | {\"n\":\"2.5\"} |",
        "| | {\"x\":3} | {\"n\":\"3000000000000.0\"} |",
    ];
    assert_eq!(shown(&import(&mut Fitter::new(&table), &rows)), expected);
}

#[test]
fn json_is_read_by_pieces() {
    let line =
        |at: usize| format!("{{\"id\": {at}, \"tags\": [\"a\"], \"x\": {}}}\n", if at < 9_000 { "1" } else { "1.5" });
    let text: String = (0..10_000).map(line).collect();
    let rows = read(FileFormat::Json, Packing::None, text.as_bytes(), 100_000).unwrap();
    assert!(rows.len() > 1);
    let fitted = import(&mut Fitter::default(), &rows);
    assert_eq!(fitted.iter().map(RecordBatch::num_rows).sum::<usize>(), 10_000);
    assert_eq!(shown(&fitted[..1])[..2], ["id Int64, tags Utf8, x Float64", "| 0 | [\"a\"] | 1.0 |"]);
    let array = format!("[{}]", text.trim_end().replace('\n', ","));
    let of_array = read(FileFormat::Json, Packing::None, array.as_bytes(), 100_000).unwrap();
    assert_eq!(shown(&import(&mut Fitter::default(), &of_array)), shown(&fitted));
}

proptest! {
    /// Whatever is in it and however it comes: the same values, none lost.
    #[test]
    fn what_csv_says_is_in_the_rows(
        cells in prop::collection::vec(prop::collection::vec("[a-z0-9.,\"\n -]{0,6}", 3), 0..30),
        size in 1_usize..50,
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["a", "b", "c"]).unwrap();
        for row in &cells {
            writer.write_record(row).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        let rows = read(FileFormat::Csv, Packing::None, &bytes, size).unwrap();
        let fitted = import(&mut Fitter::default(), &rows);
        let mut found = Vec::new();
        for batch in fitted {
            let texts: Vec<ArrayRef> = batch.columns().iter().map(|column| super::kinds::text(column).unwrap()).collect();
            for row in 0..batch.num_rows() {
                let cell = |column: &ArrayRef| arrow::array::AsArray::as_string::<i32>(column).value(row).to_owned();
                found.push(texts.iter().map(cell).collect::<Vec<_>>());
            }
        }
        prop_assert_eq!(found.len(), cells.len());
        for (found, wanted) in found.iter().zip(&cells) {
            for (found, wanted) in found.iter().zip(wanted) {
                // Numbers are the same number, whatever they are written as.
                let same = found == wanted || found.parse::<f64>().ok().zip(wanted.parse::<f64>().ok()).is_some_and(|(a, b)| a == b);
                prop_assert!(same, "{found:?} {wanted:?}");
            }
        }
    }
}
