//! The input of decoding: consecutive Kafka records of one partition in one allocation.

use std::sync::Arc;

use bytes::Bytes;

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

/// Consecutive records of one partition. A batch covers the offsets `start..end`: `end` is the next
/// offset to read, which may lie beyond the last record (transaction markers).
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
    slots: Vec<Slot>,
    bytes: Bytes,
}

#[derive(Debug, Clone)]
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
        self.slots.iter().map(move |slot| Record {
            offset: slot.offset,
            timestamp_us: slot.timestamp_us,
            key: cut(slot.key),
            payload: cut(slot.payload),
            headers: &slot.headers,
        })
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if no record is held (the batch may still move the position).
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Memory held, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.slots.len() * size_of::<Slot>()
    }

    /// The same batch without the records below `position`.
    #[must_use]
    pub fn from_position(&self, position: i64) -> Self {
        let first = self.slots.partition_point(|slot| slot.offset < position);
        Self { start: self.start.max(position), slots: self.slots[first..].to_vec(), ..self.clone() }
    }
}

/// Builds [`Records`] from messages in offset order.
#[derive(Debug)]
pub struct RecordsBuilder {
    start: i64,
    slots: Vec<Slot>,
    bytes: Vec<u8>,
}

impl RecordsBuilder {
    /// An empty batch that starts at the position `start`.
    pub fn new(start: i64) -> Self {
        Self { start, slots: Vec::new(), bytes: Vec::new() }
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
        self.slots.push(Slot {
            offset: record.offset,
            timestamp_us: record.timestamp_us,
            key,
            payload,
            headers: record.headers.into(),
        });
    }

    /// Bytes of keys and payloads so far.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The finished batch; `end` is the offset after the last record.
    pub fn finish(self, topic: Arc<str>, incarnation: u32, partition: i32) -> Records {
        let end = self.slots.last().map_or(self.start, |slot| slot.offset + 1);
        Records { topic, incarnation, partition, start: self.start, end, slots: self.slots, bytes: self.bytes.into() }
    }
}
