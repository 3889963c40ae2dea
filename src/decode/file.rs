//! Files of rows to Arrow: all files of a table together, so that a column has one type whatever file a value is from.
//!
//! * A column of CSV has the narrowest type that each of its values is *written as* (`007` is no number: writing it
//!   would lose the zeros); an empty field is null.
//! * What is no scalar in JSON is kept as its text, so that a GeoJSON geometry is what `st_within` takes. Of a
//!   FeatureCollection the features are the rows, with their `properties` as columns beside `geometry`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use chrono::{DateTime, NaiveDate};
use serde_json::Value;

use crate::schema::derive_name;

/// Why files have no rows.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file is not what it should be.
    #[error("{file}{}: {reason}", line.map(|line| format!(":{line}")).unwrap_or_default())]
    File {
        /// Its name.
        file: String,
        /// The line, if it is known.
        line: Option<u64>,
        /// What is wrong.
        reason: String,
    },
    /// A fault of Millpond.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// The rows of CSV files, given with their names; a column that a file does not have is null in its rows.
pub fn rows_of_csv(files: &[(String, Bytes)]) -> Result<RecordBatch, FileError> {
    rows(files, Cells::csv)
}

/// The rows of JSON files.
pub fn rows_of_json(files: &[(String, Bytes)]) -> Result<RecordBatch, FileError> {
    rows(files, Cells::json)
}

fn rows(files: &[(String, Bytes)], read: fn(&mut Cells, &[u8]) -> Result<(), Fault>) -> Result<RecordBatch, FileError> {
    let mut cells = Cells::default();
    for (file, bytes) in files {
        let fault = |(line, reason)| FileError::File { file: file.clone(), line, reason };
        read(&mut cells, bytes).map_err(fault)?;
    }
    Ok(cells.into_batch()?)
}

/// A line, if it is known, and what is wrong.
type Fault = (Option<u64>, String);

/// The column that a name stands for: one that SQL takes without quotes.
pub(super) fn column_name(written: &str) -> String {
    derive_name(&[written.to_owned()], &[])
}

/// A value as it is written.
enum Cell {
    Bool(bool),
    Int(i64, String),
    Float(f64, String),
    Date(i32, String),
    Time(i64, String),
    Text(String),
}

impl Cell {
    /// What a field of a CSV file says.
    fn of_text(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let own = text.to_owned();
        Some(match text {
            "true" | "True" | "TRUE" => Self::Bool(true),
            "false" | "False" | "FALSE" => Self::Bool(false),
            _ if is_number(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(value), _) => Self::Int(value, own),
                // A whole number that no bigint holds would lose its last digits.
                (_, Ok(value)) if text.contains(['.', 'e', 'E']) => Self::Float(value, own),
                _ => Self::Text(own),
            },
            _ => match (NaiveDate::parse_from_str(text, "%Y-%m-%d"), DateTime::parse_from_rfc3339(text)) {
                (Ok(date), _) if text.len() == 10 => Self::Date(days(date), own),
                (_, Ok(time)) => Self::Time(time.timestamp_micros(), own),
                _ => Self::Text(own),
            },
        })
    }

    /// What JSON says: its types are what they are.
    fn of_json(value: Value) -> Option<Self> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(value) => Self::Bool(value),
            Value::String(text) => Self::Text(text),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Self::Int(value, number.to_string()),
                (None, Some(value)) if number.is_f64() => Self::Float(value, number.to_string()),
                _ => Self::Text(number.to_string()),
            },
            other => Self::Text(other.to_string()),
        })
    }

    fn kind(&self) -> DataType {
        match self {
            Self::Bool(_) => DataType::Boolean,
            Self::Int(..) => DataType::Int64,
            Self::Float(..) => DataType::Float64,
            Self::Date(..) => DataType::Date32,
            Self::Time(..) => micros(),
            Self::Text(_) => DataType::Utf8,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
            Self::Int(_, text) | Self::Float(_, text) | Self::Date(_, text) | Self::Time(_, text) => text,
            Self::Text(text) => text,
        }
    }

    fn float(&self) -> Option<f64> {
        match self {
            Self::Int(value, _) => Some(*value as f64),
            Self::Float(value, _) => Some(*value),
            _ => None,
        }
    }
}

fn micros() -> DataType {
    DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()))
}

pub(super) fn days(date: NaiveDate) -> i32 {
    (date - NaiveDate::default()).num_days() as i32
}

/// Whether this is how a number is written by those who write numbers: no sign or zeros in front that mean nothing.
pub(super) fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = digits.len() - digits.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let is_padded = whole > 1 && digits.starts_with('0');
    let legal = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+');
    whole > 0 && !is_padded && digits.chars().all(legal) && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Values by column.
#[derive(Default)]
pub(super) struct Cells {
    columns: Vec<Column>,
    rows: usize,
}

/// The values of a column of a file.
struct Column {
    name: String,
    written: String,
    cells: Vec<Option<Cell>>,
}

impl Cells {
    /// The place of a column.
    fn column(&mut self, written: &str) -> usize {
        let name = column_name(written);
        match self.columns.iter().position(|known| known.name == name) {
            Some(at) => at,
            None => {
                self.columns.push(Column { name, written: written.to_owned(), cells: Vec::new() });
                self.columns.len() - 1
            }
        }
    }

    /// Puts a value into the row that is being read; false if it has one.
    fn put(&mut self, at: usize, cell: Option<Cell>) -> bool {
        let column = &mut self.columns[at].cells;
        let is_first = column.len() <= self.rows;
        if is_first {
            column.resize_with(self.rows, || None);
            column.push(cell);
        }
        is_first
    }

    fn csv(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let fault = |error: csv::Error| {
            let line = error.position().map(csv::Position::line);
            let reason = match error.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    format!("the row has {len} fields, the header {expected_len}")
                }
                csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".to_owned(),
                _ => error.to_string(),
            };
            (line, reason)
        };
        let mut reader = csv::Reader::from_reader(bytes);
        let header = reader.headers().map_err(fault)?.clone();
        let places: Vec<usize> = header.iter().map(|name| self.column(name.trim())).collect();
        if let Some(twice) = places.iter().enumerate().find(|(at, place)| places[..*at].contains(place)) {
            return Err((Some(1), format!("the header names `{}` twice", &header[twice.0])));
        }
        for row in reader.records() {
            let row = row.map_err(fault)?;
            for (at, text) in places.iter().zip(&row) {
                self.put(*at, Cell::of_text(text));
            }
            self.rows += 1;
        }
        Ok(())
    }

    fn json(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for value in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
            let value = value.map_err(|error| (Some(error.line() as u64), error.to_string()))?;
            self.value(value, 0)?;
        }
        Ok(())
    }

    /// The rows of one value of a file, which had `before` rows before those that are here.
    pub(super) fn value(&mut self, value: Value, before: usize) -> Result<(), Fault> {
        match value {
            Value::Array(rows) => rows.into_iter().try_for_each(|row| self.object(row, before)),
            Value::Object(mut object) if object.get("type").is_some_and(|kind| kind == "FeatureCollection") => {
                let features = object.remove("features").and_then(|features| match features {
                    Value::Array(features) => Some(features),
                    _ => None,
                });
                let features = features.ok_or((None, "the FeatureCollection has no features".to_owned()))?;
                features.into_iter().try_for_each(|feature| self.feature(feature, before))
            }
            row => self.object(row, before),
        }
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    fn object(&mut self, row: Value, before: usize) -> Result<(), Fault> {
        let number = before + self.rows + 1;
        let Value::Object(object) = row else {
            return Err((None, format!("row {number} is no object")));
        };
        for (name, value) in object {
            let at = self.column(&name);
            if !self.put(at, Cell::of_json(value)) {
                return Err((None, format!("row {number} names `{}` twice", self.columns[at].name)));
            }
        }
        self.rows += 1;
        Ok(())
    }

    fn feature(&mut self, feature: Value, before: usize) -> Result<(), Fault> {
        let Value::Object(mut feature) = feature else {
            return Err((None, format!("feature {} is no object", before + self.rows + 1)));
        };
        let mut row = match feature.remove("properties") {
            Some(Value::Object(properties)) => properties,
            _ => serde_json::Map::new(),
        };
        for name in ["id", "geometry"] {
            if let Some(value) = feature.remove(name) {
                row.entry(name).or_insert(value);
            }
        }
        self.object(Value::Object(row), before)
    }

    /// What the file calls its columns.
    pub(super) fn written(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.written.clone()).collect()
    }

    pub(super) fn into_batch(self) -> Result<RecordBatch, ArrowError> {
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for Column { name, mut cells, .. } in self.columns {
            cells.resize_with(self.rows, || None);
            let column = column(&cells);
            fields.push(Field::new(name, column.data_type().clone(), true));
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
    }
}

/// Values of one column, in the type that all of them are written as.
fn column(cells: &[Option<Cell>]) -> ArrayRef {
    /// The greatest whole number below which a double holds each.
    const EXACT: u64 = 1 << 53;
    let mut kind = None;
    for cell in cells.iter().flatten() {
        let both = match (kind.take(), cell.kind()) {
            (None, own) => own,
            (Some(known), own) if known == own => own,
            (Some(DataType::Int64 | DataType::Float64), DataType::Int64 | DataType::Float64) => DataType::Float64,
            _ => DataType::Utf8,
        };
        kind = Some(both);
    }
    let is_inexact = |cell: &Cell| matches!(cell, Cell::Int(value, _) if value.unsigned_abs() > EXACT);
    if kind == Some(DataType::Float64) && cells.iter().flatten().any(is_inexact) {
        kind = Some(DataType::Utf8);
    }
    fn each<T>(cells: &[Option<Cell>], read: impl Fn(&Cell) -> Option<T>) -> impl Iterator<Item = Option<T>> {
        cells.iter().map(move |cell| cell.as_ref().and_then(&read))
    }
    match kind {
        Some(DataType::Boolean) => Arc::new(BooleanArray::from_iter(each(cells, |cell| match cell {
            Cell::Bool(value) => Some(*value),
            _ => None,
        }))),
        Some(DataType::Int64) => Arc::new(Int64Array::from_iter(each(cells, |cell| match cell {
            Cell::Int(value, _) => Some(*value),
            _ => None,
        }))),
        Some(DataType::Float64) => Arc::new(Float64Array::from_iter(each(cells, Cell::float))),
        Some(DataType::Date32) => Arc::new(Date32Array::from_iter(each(cells, |cell| match cell {
            Cell::Date(value, _) => Some(*value),
            _ => None,
        }))),
        Some(DataType::Timestamp(..)) => {
            let times = each(cells, |cell| match cell {
                Cell::Time(value, _) => Some(*value),
                _ => None,
            });
            Arc::new(TimestampMicrosecondArray::from_iter(times).with_timezone("UTC"))
        }
        _ => Arc::new(StringArray::from_iter(cells.iter().map(|cell| cell.as_ref().map(Cell::text)))),
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    type Read = fn(&[(String, Bytes)]) -> Result<RecordBatch, FileError>;

    fn read(read: Read, files: &[&str]) -> Result<RecordBatch, FileError> {
        let named = |(at, text): (usize, &&str)| (format!("f{at}"), Bytes::from((*text).to_owned()));
        read(&files.iter().enumerate().map(named).collect::<Vec<_>>())
    }

    /// The columns, and a line for each row.
    fn shown(of: Read, files: &[&str]) -> Vec<String> {
        let rows = read(of, files).unwrap();
        let kinds: Vec<String> =
            rows.schema().fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        let table = pretty_format_batches(&[rows]).unwrap().to_string();
        let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
        let rows = rows.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        [kinds.join(", ")].into_iter().chain(rows).collect()
    }

    fn refused(of: Read, files: &[&str]) -> String {
        read(of, files).unwrap_err().to_string()
    }

    #[test]
    fn a_column_of_csv_has_the_narrowest_type_that_all_files_allow() {
        let first = "\u{feff}Zone Id,name,plate,speed,since,at,open,big\n\
                     1,\"Gangnam, south\",0042,50,2026-01-31,2026-01-31T10:00:00+09:00,true,1\n\
                     2,,12가3456,30.5,2026-02-01,2026-01-31T10:00:00.25Z,false,\n";
        let second = "name,Zone Id,big\nMapo,3,9223372036854775808\n";
        let lines = shown(rows_of_csv, &[first, second]);
        assert_eq!(
            lines[0],
            "zone_id Int64, name Utf8, plate Utf8, speed Float64, since Date32, at Timestamp(µs, \"UTC\"), open Boolean, big Utf8"
        );
        let cells = [
            "| 1 | Gangnam, south | 0042 | 50.0 | 2026-01-31 | 2026-01-31T01:00:00Z | true | 1 |",
            "| 2 | | 12가3456 | 30.5 | 2026-02-01 | 2026-01-31T10:00:00.250Z | false | |",
            "| 3 | Mapo | | | | | | 9223372036854775808 |",
        ];
        assert_eq!(lines[1..], cells);
        assert_eq!(shown(rows_of_csv, &["a,b\n"]), ["a Utf8, b Utf8"]);
    }

    #[test]
    fn what_is_no_scalar_in_json_is_text_and_features_are_rows() {
        let rows = "{\"id\": 1, \"tags\": [\"a\"], \"x\": 1}\n{\"id\": 2, \"x\": 1.5, \"id\": 3}";
        let array = "[{\"id\": 4, \"more\": {\"deep\": true}, \"x\": null}]";
        let expected = [
            "id Int64, tags Utf8, x Float64, more Utf8",
            "| 1 | [\"a\"] | 1.0 | |",
            "| 3 | | 1.5 | |",
            "| 4 | | | {\"deep\":true} |",
        ];
        assert_eq!(shown(rows_of_json, &[rows, array]), expected);
        let features = r#"{"type": "FeatureCollection", "features": [
            {"type": "Feature", "id": 7, "properties": {"name": "Seoul"},
             "geometry": {"type": "Point", "coordinates": [127.0, 37.5]}},
            {"type": "Feature", "properties": null, "geometry": null}]}"#;
        let expected = [
            "name Utf8, id Int64, geometry Utf8",
            "| Seoul | 7 | {\"type\":\"Point\",\"coordinates\":[127.0,37.5]} |",
            "| | | |",
        ];
        assert_eq!(shown(rows_of_json, &[features]), expected);
    }

    #[test]
    fn a_number_is_what_is_written_as_one() {
        for (text, kind) in [
            ("0", DataType::Int64),
            ("-7", DataType::Int64),
            ("007", DataType::Utf8),
            ("+7", DataType::Utf8),
            ("1e3", DataType::Float64),
            ("0.5", DataType::Float64),
            (".5", DataType::Utf8),
            ("1e999", DataType::Utf8),
            ("NaN", DataType::Utf8),
            ("2026-13-01", DataType::Utf8),
            ("9007199254740993", DataType::Int64),
        ] {
            assert_eq!(Cell::of_text(text).unwrap().kind(), kind, "{text}");
        }
        // A double would be another number.
        let rows = read(rows_of_csv, &["a\n9007199254740993\n0.5\n"]).unwrap();
        assert_eq!(rows.column(0).data_type(), &DataType::Utf8);
    }

    #[test]
    fn a_broken_file_is_named_with_its_line() {
        assert_eq!(refused(rows_of_csv, &["a\n1\n", "a,b\n1,2\n3\n"]), "f1:3: the row has 1 fields, the header 2");
        assert_eq!(refused(rows_of_csv, &["a,A\n"]), "f0:1: the header names `A` twice");
        assert_eq!(refused(rows_of_json, &["{\"a\": 1}\n{\"a\": }"]), "f0:2: expected value at line 2 column 7");
        assert_eq!(refused(rows_of_json, &["[1]"]), "f0: row 1 is no object");
        assert_eq!(refused(rows_of_json, &["{\"a b\": 1, \"a_b\": 2}"]), "f0: row 1 names `a_b` twice");
    }
}
