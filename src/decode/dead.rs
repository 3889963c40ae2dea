//! Records that could not become rows, kept whole with the reason; the table `system.dead_letters`.
//!
//! The table is a log of events: decoding writes `dead`; what happens to a record later is another row.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};

use super::{Header, Record, Records, scan::Fault};
use crate::schema::{ColumnType, push_json_string};

/// Why a record is a dead letter. The codes are stable: people filter by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The payload is not UTF-8.
    NotUtf8,
    /// The payload is not JSON.
    NotJson,
    /// JSON, but neither an object nor an array of objects nor several objects.
    NotAnObject,
    /// More than 128 arrays and objects inside each other.
    TooDeep,
    /// A key column's value is missing or null.
    KeyMissing,
    /// A key column's value does not fit its type.
    KeyMisfit,
    /// A value does not fit its column, and the column is `not_null` or `on_type_conflict = "dead_letter"`.
    Misfit,
    /// A value of a column with `not_null` is missing or null.
    ValueMissing,
    /// The rows' text would exceed what one Arrow batch can hold (2 GiB).
    TooLarge,
}

impl Reason {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Reason::NotUtf8 => "not_utf8",
            Reason::NotJson => "not_json",
            Reason::NotAnObject => "not_an_object",
            Reason::TooDeep => "too_deep",
            Reason::KeyMissing => "key_missing",
            Reason::KeyMisfit => "key_misfit",
            Reason::Misfit => "misfit",
            Reason::ValueMissing => "value_missing",
            Reason::TooLarge => "too_large",
        }
    }
}

/// A record that could not become rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Topic name.
    pub topic: Arc<str>,
    /// Which life of the topic.
    pub incarnation: u32,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The broker's timestamp in microseconds since 1970.
    pub timestamp_us: i64,
    /// Message key as it came.
    pub key: Option<Vec<u8>>,
    /// Message value as it came.
    pub payload: Option<Vec<u8>>,
    /// Message headers as they came.
    pub headers: Vec<Header>,
    /// Why.
    pub reason: Reason,
    /// Why, for people: what and where.
    pub message: String,
    /// Number of the schema version that was tried.
    pub schema_version: u32,
}

impl DeadLetter {
    pub(super) fn new(records: &Records, record: &Record<'_>, fault: Fault, schema_version: u32) -> Self {
        Self {
            topic: records.topic.clone(),
            incarnation: records.incarnation,
            partition: records.partition,
            offset: record.offset,
            timestamp_us: record.timestamp_us,
            key: record.key.map(<[u8]>::to_vec),
            payload: record.payload.map(<[u8]>::to_vec),
            headers: record.headers.to_vec(),
            reason: fault.reason,
            message: fault.message,
            schema_version,
        }
    }

    /// Memory held, in bytes.
    pub fn size_bytes(&self) -> usize {
        let headers =
            self.headers.iter().map(|header| header.name.len() + header.value.as_ref().map_or(0, |v| v.len()));
        let parts = self.key.as_ref().map_or(0, Vec::len) + self.payload.as_ref().map_or(0, Vec::len);
        size_of::<Self>() + parts + self.message.len() + headers.sum::<usize>()
    }
}

/// The schema of `system.dead_letters`. All columns are nullable, as in every table.
pub fn dead_letters_schema() -> SchemaRef {
    let timestamp = ColumnType::Timestamp.arrow_type();
    let fields = [
        ("event", DataType::Utf8),
        ("table_name", DataType::Utf8),
        ("_topic", DataType::Utf8),
        ("_incarnation", DataType::Int32),
        ("_partition", DataType::Int32),
        ("_offset", DataType::Int64),
        ("_row", DataType::Int32),
        ("_timestamp", timestamp),
        ("key", DataType::Binary),
        ("payload", DataType::Binary),
        ("headers", DataType::Utf8),
        ("reason", DataType::Utf8),
        ("message", DataType::Utf8),
        ("schema_version", DataType::Int32),
    ];
    Arc::new(Schema::new(fields.map(|(name, kind)| Field::new(name, kind, true)).to_vec()))
}

/// One `dead` event per letter of `table`, in order. `headers` is a JSON array of `{"name", "value"}`, with
/// `"hex"` for a value that is not UTF-8, and null if there are none. Fails only beyond 2 GiB of payloads.
pub fn dead_letters_batch(table: &str, letters: &[DeadLetter]) -> Result<RecordBatch, ArrowError> {
    let bytes: usize = letters.iter().map(DeadLetter::size_bytes).sum();
    if i32::try_from(bytes).is_err() {
        return Err(ArrowError::OffsetOverflowError(bytes));
    }
    let texts = |text: fn(&DeadLetter) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(letters.iter().map(text)))
    };
    let ints =
        |int: fn(&DeadLetter) -> i32| -> ArrayRef { Arc::new(Int32Array::from_iter_values(letters.iter().map(int))) };
    let binaries = |part: fn(&DeadLetter) -> Option<&[u8]>| -> ArrayRef {
        Arc::new(letters.iter().map(part).collect::<BinaryArray>())
    };
    let same =
        |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, letters.len()))) };
    let timestamps = TimestampMicrosecondArray::from_iter_values(letters.iter().map(|letter| letter.timestamp_us));
    let headers: StringArray = letters.iter().map(|letter| headers_json(&letter.headers)).collect();
    let columns: Vec<ArrayRef> = vec![
        same("dead"),
        same(table),
        texts(|letter| &letter.topic),
        ints(|letter| letter.incarnation as i32),
        ints(|letter| letter.partition),
        Arc::new(Int64Array::from_iter_values(letters.iter().map(|letter| letter.offset))),
        ints(|_| 0),
        Arc::new(timestamps.with_timezone("UTC")),
        binaries(|letter| letter.key.as_deref()),
        binaries(|letter| letter.payload.as_deref()),
        Arc::new(headers),
        texts(|letter| letter.reason.code()),
        texts(|letter| &letter.message),
        ints(|letter| letter.schema_version as i32),
    ];
    RecordBatch::try_new(dead_letters_schema(), columns)
}

fn headers_json(headers: &[Header]) -> Option<String> {
    let mut json = String::from("[");
    for header in headers {
        json.push_str(if json.len() > 1 { ",{\"name\":" } else { "{\"name\":" });
        push_json_string(&mut json, &header.name);
        match header.value.as_deref().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => json.push_str(",\"value\":null}"),
            Some((_, Ok(text))) => {
                json.push_str(",\"value\":");
                push_json_string(&mut json, text);
                json.push('}');
            }
            Some((bytes, Err(_))) => json.push_str(&format!(",\"hex\":\"{}\"}}", hex(bytes))),
        }
    }
    json.push(']');
    (!headers.is_empty()).then_some(json)
}

/// Two lower-case digits per byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_letter_keeps_the_record_whole() {
        let header = |name: &str, value: Option<&'static [u8]>| Header {
            name: name.into(),
            value: value.map(Bytes::from_static),
        };
        let letter = DeadLetter {
            topic: "fleet".into(),
            incarnation: 2,
            partition: 3,
            offset: 4,
            timestamp_us: 5,
            key: None,
            payload: Some(vec![0xff, 0]),
            headers: vec![header("a\"", Some(b"x")), header("b", Some(b"\xff")), header("c", None)],
            reason: Reason::NotUtf8,
            message: "at byte 0".into(),
            schema_version: 6,
        };
        let batch =
            dead_letters_batch("telemetry", &[letter.clone(), DeadLetter { headers: vec![], ..letter }]).unwrap();
        assert_eq!(batch.num_rows(), 2);
        let text = |name: &str| batch[name].as_string::<i32>().value(0).to_owned();
        assert_eq!(
            (text("event"), text("table_name"), text("reason")),
            ("dead".into(), "telemetry".into(), "not_utf8".into())
        );
        assert_eq!(
            text("headers"),
            r#"[{"name":"a\"","value":"x"},{"name":"b","hex":"ff"},{"name":"c","value":null}]"#
        );
        assert!(batch["headers"].is_null(1) && batch["key"].is_null(0));
        assert_eq!(batch["payload"].as_binary::<i32>().value(0), [0xff, 0]);
    }
}
