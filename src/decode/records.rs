//! The input of decoding: consecutive Kafka records of one partition in one allocation.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::writer::{WriterSchemas, schema_id};
use crate::schema::{Format, Path};

/// The partition of records that are rows of a full load: each payload is a change in the form of [`super::change`].
pub const FULL_LOAD: i32 = -1;

/// A Kafka header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Header name.
    pub name: String,
    /// Header value; Kafka allows null.
    pub value: Option<Bytes>,
}

/// One Kafka record, borrowed from [`Records`].
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Offset in the partition.
    pub offset: i64,
    /// The broker's timestamp in microseconds since 1970 (Kafka's milliseconds × 1000).
    pub timestamp_us: i64,
    /// Message key.
    pub key: Option<&'a [u8]>,
    /// Message value; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Message headers.
    pub headers: &'a [Header],
}

impl<'a> Record<'a> {
    /// The bytes at a path that is one text outside the payload; of headers of one name the last counts.
    pub(super) fn bytes_at(&self, path: &Path, records: &'a Records) -> Option<&'a [u8]> {
        match path {
            Path::Topic => Some(records.topic.as_bytes()),
            Path::Header(name) => {
                let last = self.headers.iter().rev().find(|header| header.name == *name);
                last.and_then(|header| header.value.as_deref())
            }
            Path::Key(_) => self.key,
            Path::Value(_) | Path::Timestamp | Path::Index(_) => None,
        }
    }
}

/// Consecutive records of one partition. A batch covers the offsets `start..end`: `end` is the next
/// offset to read, which may lie beyond the last record (transaction markers). Cheap to clone: clones
/// and parts share one allocation.
#[derive(Debug, Clone)]
pub struct Records {
    /// Topic name.
    pub topic: Arc<str>,
    /// Which life of the topic the offsets belong to.
    pub incarnation: u32,
    /// Partition number.
    pub partition: i32,
    /// First offset covered.
    pub start: i64,
    /// Next offset to read after this batch.
    pub end: i64,
    slots: Arc<[Slot]>,
    held: Range<usize>,
    bytes: Bytes,
    header_bytes: usize,
    schemas: WriterSchemas,
}

#[derive(Debug)]
struct Slot {
    offset: i64,
    timestamp_us: i64,
    key: Option<(u32, u32)>,
    payload: Option<(u32, u32)>,
    headers: Box<[Header]>,
}

impl Records {
    /// The records in offset order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        let cut = |range: Option<(u32, u32)>| range.map(|(from, to)| &self.bytes[from as usize..to as usize]);
        self.slots[self.held.clone()].iter().map(move |slot| Record {
            offset: slot.offset,
            timestamp_us: slot.timestamp_us,
            key: cut(slot.key),
            payload: cut(slot.payload),
            headers: &slot.headers,
        })
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True if they are rows of a full load.
    pub fn are_loaded(&self) -> bool {
        self.partition == FULL_LOAD
    }

    /// True if no record is held (the batch may still move the position).
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Memory held, in bytes; a part holds the memory of the whole.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.header_bytes + self.slots.len() * size_of::<Slot>()
    }

    /// Ids of the schemas that the payloads name, and the keys if those are read, too.
    pub fn schema_ids(&self, format: Format) -> BTreeSet<u32> {
        let key = |record: &Record<'_>| record.key.filter(|_| format == Format::DebeziumAvro).and_then(schema_id);
        let named = |record: Record<'_>| [record.payload.and_then(schema_id), key(&record)];
        self.iter().flat_map(named).flatten().collect()
    }

    /// The same batch with the schemas that its payloads name.
    #[must_use]
    pub fn with_schemas(self, schemas: WriterSchemas) -> Self {
        Self { schemas, ..self }
    }

    /// The schemas that came with the batch.
    pub fn schemas(&self) -> &WriterSchemas {
        &self.schemas
    }

    /// The same batch without the records below `position`.
    #[must_use]
    pub fn from_position(&self, position: i64) -> Self {
        let below = self.slots[self.held.clone()].partition_point(|slot| slot.offset < position);
        Self { start: self.start.max(position), held: self.held.start + below..self.held.end, ..self.clone() }
    }

    /// The same batch without the records at or above `position`.
    #[must_use]
    pub fn below_position(&self, position: i64) -> Self {
        let below = self.slots[self.held.clone()].partition_point(|slot| slot.offset < position);
        Self { end: self.end.min(position), held: self.held.start..self.held.start + below, ..self.clone() }
    }
}

/// Builds [`Records`] from messages in offset order.
#[derive(Debug)]
pub struct RecordsBuilder {
    start: i64,
    end: i64,
    slots: Vec<Slot>,
    bytes: Vec<u8>,
    header_bytes: usize,
}

impl RecordsBuilder {
    /// An empty batch that starts at the position `start`.
    pub fn new(start: i64) -> Self {
        Self { start, end: start, slots: Vec::new(), bytes: Vec::new(), header_bytes: 0 }
    }

    /// Adds one record; its offset must be above all earlier ones.
    pub fn push(&mut self, record: Record<'_>) {
        let mut put = |part: Option<&[u8]>| {
            part.map(|part| {
                let from = self.bytes.len() as u32;
                self.bytes.extend_from_slice(part);
                (from, self.bytes.len() as u32)
            })
        };
        let (key, payload) = (put(record.key), put(record.payload));
        self.end = record.offset + 1;
        self.header_bytes += record.headers.iter().map(Header::size_bytes).sum::<usize>();
        self.slots.push(Slot {
            offset: record.offset,
            timestamp_us: record.timestamp_us,
            key,
            payload,
            headers: record.headers.into(),
        });
    }

    /// Moves the end to `end` although no record lies there: only transaction markers do.
    pub fn cover(&mut self, end: i64) {
        self.end = self.end.max(end);
    }

    /// Bytes of keys, payloads and headers so far.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.header_bytes
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Next offset after what the batch covers so far.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// The finished batch; `end` is the offset after the last record, or what [`Self::cover`] made it.
    pub fn finish(mut self, topic: Arc<str>, incarnation: u32, partition: i32) -> Records {
        // A vector grown by doubling would hold up to twice what the budget is charged for.
        self.bytes.shrink_to_fit();
        Records {
            topic,
            incarnation,
            partition,
            start: self.start,
            end: self.end,
            held: 0..self.slots.len(),
            slots: self.slots.into(),
            schemas: WriterSchemas::default(),
            bytes: self.bytes.into(),
            header_bytes: self.header_bytes,
        }
    }
}

impl Header {
    fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(start: i64, offsets: &[i64]) -> RecordsBuilder {
        let mut builder = RecordsBuilder::new(start);
        for &offset in offsets {
            let payload = offset.to_string();
            let record = Record { offset, timestamp_us: 0, key: None, payload: Some(payload.as_bytes()), headers: &[] };
            builder.push(record);
        }
        builder
    }

    fn payloads(records: &Records) -> Vec<String> {
        records.iter().map(|r| String::from_utf8(r.payload.unwrap().to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_part_starts_exactly_at_the_position_asked_for() {
        let whole = batch(3, &[3, 4, 9, 10]).finish("t".into(), 0, 0);
        assert_eq!((whole.start, whole.end, whole.len()), (3, 11, 4));
        let part = whole.from_position(5).from_position(6);
        assert_eq!((part.start, part.end), (6, 11));
        assert_eq!(payloads(&part), ["9", "10"]);
        assert!(part.from_position(11).is_empty());
        assert_eq!(payloads(&whole.from_position(0)), ["3", "4", "9", "10"]);
        assert_eq!(payloads(&whole.below_position(9)), ["3", "4"]);
        assert_eq!((whole.below_position(9).end, whole.below_position(99).len()), (9, 4));
        assert!(whole.below_position(3).is_empty() && part.below_position(6).is_empty());
    }

    #[test]
    fn an_empty_batch_can_move_the_position_over_markers() {
        let mut builder = batch(7, &[]);
        builder.cover(9);
        let records = builder.finish("t".into(), 0, 0);
        assert_eq!((records.start, records.end, records.len()), (7, 9, 0));
    }
}
