//! Records that could not become rows, kept whole with the reason; the table `system.dead_letters`.
//!
//! The table is a log of events: decoding writes `dead`; what happens to a record later is another row.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray, new_null_array,
    },
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType},
    error::ArrowError,
};
use bytes::Bytes;
use serde::Deserialize;

use super::{Header, Record, Records, RecordsBuilder, scan::Fault};
use crate::schema::{ColumnType, push_json_string};

/// Why a record is a dead letter. The codes are stable: people filter by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The payload is not Avro in the wire format, or not a value of its schema.
    NotAvro,
    /// The payload is not Protobuf in the wire format, or not a message of its schema.
    NotProtobuf,
    /// The registry has no schema with the payload's id.
    UnknownSchema,
    /// The payload is JSON, but no change of a database's row.
    NotAChange,
    /// A value whose type is neither in the message nor in the contract, and that cannot be what it looks like.
    UntypedValue,
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
            Reason::NotAvro => "not_avro",
            Reason::NotProtobuf => "not_protobuf",
            Reason::UnknownSchema => "unknown_schema",
            Reason::NotAChange => "not_a_change",
            Reason::UntypedValue => "untyped_value",
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

/// What happens to a record that could not become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It could not become a row.
    Dead,
    /// It was decoded again, and its rows are in the table.
    Retried,
    /// A person gave it up.
    Discarded,
}

impl Event {
    /// The stable code, as the column `event` has it.
    pub fn code(self) -> &'static str {
        match self {
            Event::Dead => "dead",
            Event::Retried => "retried",
            Event::Discarded => "discarded",
        }
    }
}

/// The schema of `system.dead_letters`. All columns are nullable, as in every table; a null `event` is `dead`.
/// `event_at` is when a person had something done; decoding knows no clock and leaves it null.
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
        ("event_at", ColumnType::Timestamp.arrow_type()),
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
        same(Event::Dead.code()),
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
        new_null_array(&ColumnType::Timestamp.arrow_type(), letters.len()),
    ];
    RecordBatch::try_new(dead_letters_schema(), columns)
}

/// One `event` at `at_us` (microseconds since 1970) per row of `letters`, which are rows of the dead letters' table.
/// Of the record only its identity and the reason are repeated.
pub fn events_batch(event: Event, at_us: i64, letters: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    const KEPT: [&str; 8] =
        ["table_name", "_topic", "_incarnation", "_partition", "_offset", "_row", "_timestamp", "reason"];
    let rows = letters.num_rows();
    let schema = dead_letters_schema();
    let column = |field: &Arc<Field>| -> Result<ArrayRef, ArrowError> {
        let name = field.name().as_str();
        match name {
            "event" => Ok(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(event.code(), rows)))),
            "event_at" => Ok(Arc::new(TimestampMicrosecondArray::from_value(at_us, rows).with_timezone("UTC"))),
            _ if KEPT.contains(&name) => letters.column_by_name(name).cloned().ok_or_else(|| missing(name)),
            _ => Ok(new_null_array(field.data_type(), rows)),
        }
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema, columns)
}

/// The records that rows of the dead letters' table keep, per partition in offset order, for decoding them again.
pub fn records_of(letters: &RecordBatch) -> Result<Vec<Records>, ArrowError> {
    let column = |name: &str| letters.column_by_name(name).ok_or_else(|| missing(name));
    let (topics, offsets) = (column("_topic")?.as_string::<i32>(), column("_offset")?.as_primitive::<Int64Type>());
    let incarnations = column("_incarnation")?.as_primitive::<Int32Type>();
    let partitions = column("_partition")?.as_primitive::<Int32Type>();
    let timestamps = column("_timestamp")?.as_primitive::<TimestampMicrosecondType>();
    let (keys, payloads) = (column("key")?.as_binary::<i32>(), column("payload")?.as_binary::<i32>());
    let headers = column("headers")?.as_string::<i32>();
    let mut lanes: BTreeMap<(&str, i32, i32), Vec<usize>> = BTreeMap::new();
    for row in 0..letters.num_rows() {
        let lane = (topics.value(row), incarnations.value(row), partitions.value(row));
        lanes.entry(lane).or_default().push(row);
    }
    let records = lanes.into_iter().map(|((topic, incarnation, partition), mut rows)| {
        rows.sort_by_key(|row| offsets.value(*row));
        rows.dedup_by_key(|row| offsets.value(*row));
        let mut builder = RecordsBuilder::new(rows.first().map_or(0, |row| offsets.value(*row)));
        for row in rows {
            let headers = if headers.is_valid(row) { headers_of(headers.value(row))? } else { Vec::new() };
            builder.push(Record {
                offset: offsets.value(row),
                timestamp_us: timestamps.value(row),
                key: keys.is_valid(row).then(|| keys.value(row)),
                payload: payloads.is_valid(row).then(|| payloads.value(row)),
                headers: &headers,
            });
        }
        Ok(builder.finish(topic.into(), incarnation.cast_unsigned(), partition))
    });
    records.collect()
}

fn missing(column: &str) -> ArrowError {
    ArrowError::SchemaError(format!("dead letters without the column {column}"))
}

/// A JSON array of `{"name", "value"}`, with `"hex"` for a value that is not UTF-8; `None` if there are none.
pub(super) fn headers_json(headers: &[Header]) -> Option<String> {
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

/// The inverse of [`headers_json`].
fn headers_of(json: &str) -> Result<Vec<Header>, ArrowError> {
    #[derive(Deserialize)]
    struct Shown {
        name: String,
        value: Option<String>,
        hex: Option<String>,
    }
    let fault = |reason: &dyn std::fmt::Display| ArrowError::JsonError(format!("headers of a dead letter: {reason}"));
    let shown: Vec<Shown> = serde_json::from_str(json).map_err(|error| fault(&error))?;
    let header = |Shown { name, value, hex }: Shown| {
        let bytes = match (value, hex) {
            (Some(text), _) => Some(text.into_bytes()),
            (None, Some(hex)) => Some(unhex(&hex).ok_or_else(|| fault(&"a value is no hexadecimal number"))?),
            (None, None) => None,
        };
        Ok(Header { name, value: bytes.map(Bytes::from) })
    };
    shown.into_iter().map(header).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Two lower-case digits per byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn letters_give_back_their_records_and_events_only_name_them() {
        let letter = |partition: i32, offset: i64, value: Option<&'static [u8]>| DeadLetter {
            topic: "fleet".into(),
            incarnation: 2,
            partition,
            offset,
            timestamp_us: offset * 10,
            key: (offset % 2 == 0).then(|| vec![0, 0xfe]),
            payload: (offset != 7).then(|| offset.to_string().into_bytes()),
            headers: vec![Header { name: "h\n".into(), value: value.map(Bytes::from_static) }],
            reason: Reason::KeyMissing,
            message: "no key".into(),
            schema_version: 1,
        };
        let letters =
            [letter(1, 9, Some(b"\xff\x01")), letter(0, 4, Some(b"te\"xt")), letter(1, 7, None), letter(1, 9, None)];
        let batch = dead_letters_batch("t", &letters).unwrap();
        let records = records_of(&batch).unwrap();
        let lanes: Vec<_> = records.iter().map(|r| (r.incarnation, r.partition, r.start, r.end, r.len())).collect();
        assert_eq!(lanes, [(2, 0, 4, 5, 1), (2, 1, 7, 10, 2)], "a record that is there twice is tried once");
        for (record, letter) in records.iter().flat_map(Records::iter).zip([&letters[1], &letters[2], &letters[0]]) {
            assert_eq!((record.offset, record.timestamp_us), (letter.offset, letter.timestamp_us));
            assert_eq!((record.key, record.payload), (letter.key.as_deref(), letter.payload.as_deref()));
            assert_eq!(record.headers, letter.headers);
        }
        let events = events_batch(Event::Retried, 77, &batch).unwrap();
        assert_eq!((events.num_rows(), events.schema()), (4, dead_letters_schema()));
        assert_eq!(events["event"].as_string::<i32>().value(3), "retried");
        assert_eq!(&events["_offset"], &batch["_offset"]);
        assert_eq!(events["payload"].null_count(), 4);
        assert_eq!(batch["event_at"].null_count(), 4);
    }
}
