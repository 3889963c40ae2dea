//! What became of produced messages: counters, how far ahead of the reader they are, and the ledger.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rdkafka::Message;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::error::{Error, Kind, Result};

/// Bytes per partition that a producer to the embedded broker may be ahead of the slowest reader.
pub const AHEAD_BYTES: u64 = 2 * 1024 * 1024;
/// What a record costs in the log besides its key and payload, estimated high: a batch of one.
const RECORD_OVERHEAD_BYTES: u64 = 80;

/// The next offset the slowest reader of a topic's partition will read; `None` if nobody has begun to.
pub type Progress = Arc<dyn Fn(&str, i32) -> Option<i64> + Send + Sync>;

/// What a simulator has done so far.
#[derive(Debug, Default)]
pub struct Counters {
    messages: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    stalls: AtomicU64,
}

impl Counters {
    /// Messages the broker has taken.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Bytes of their payloads.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Messages the broker did not take.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Waits (of a few milliseconds each) for a reader to catch up.
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    pub(super) fn count_stall(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }
}

/// Bytes a message takes in the broker's log, at most.
pub(super) fn size_bytes(key: &[u8], payload: &[u8]) -> u64 {
    key.len() as u64 + payload.len() as u64 + RECORD_OVERHEAD_BYTES
}

/// How far the producer is ahead in one partition, in bytes.
#[derive(Debug, Default)]
pub(super) struct Lane {
    sent_bytes: u64,
    delivered_bytes: u64,
    read_bytes: u64,
    /// Offset of each delivered, unread message, and `delivered_bytes` after it.
    unread: VecDeque<(i64, u64)>,
}

impl Lane {
    /// Whether a message of `bytes` may be sent. Asks for the reader's position only when it matters.
    pub fn has_room(&mut self, bytes: u64, position: impl FnOnce() -> Option<i64>) -> bool {
        let room = |lane: &Self| lane.sent_bytes - lane.read_bytes + bytes <= AHEAD_BYTES;
        if !room(self)
            && let Some(position) = position()
        {
            while let Some(&(offset, end_bytes)) = self.unread.front()
                && offset < position
            {
                self.read_bytes = end_bytes;
                self.unread.pop_front();
            }
        }
        room(self)
    }

    /// A message was handed to the client library.
    pub fn sent(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
    }

    fn delivered(&mut self, offset: i64, bytes: u64) {
        self.delivered_bytes += bytes;
        self.unread.push_back((offset, self.delivered_bytes));
    }

    /// It never got there, or was not even taken by the client library.
    pub fn failed(&mut self, bytes: u64) {
        self.sent_bytes -= bytes;
    }
}

/// The producer's context: librdkafka tells it the fate of each message. A message's opaque is its lane's index.
pub(super) struct Deliveries {
    pub counters: Arc<Counters>,
    /// One lane per partition of each topic; empty if nobody needs to be waited for.
    lanes: Mutex<Vec<Lane>>,
    ledger: Mutex<Option<Ledger>>,
}

impl Deliveries {
    pub fn new(counters: Arc<Counters>, ledger: Option<Ledger>) -> Self {
        Self { counters, lanes: Mutex::new(Vec::new()), ledger: Mutex::new(ledger) }
    }

    /// Begins to keep track of `count` partitions.
    pub fn track(&self, count: usize) {
        self.lanes.lock().resize_with(count, Lane::default);
    }

    /// Does something with a lane, if there is one.
    pub fn lane<T>(&self, index: usize, f: impl FnOnce(&mut Lane) -> T) -> Option<T> {
        self.lanes.lock().get_mut(index).map(f)
    }

    /// Writes out the ledger; the first error of a delivery comes out here, too.
    pub fn finish(&self) -> Result<()> {
        self.ledger.lock().as_mut().map_or(Ok(()), Ledger::finish)
    }

    /// Whether the ledger still records every delivery.
    pub fn is_sound(&self) -> bool {
        self.ledger.lock().as_ref().is_none_or(|ledger| ledger.error.is_none())
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel::{Debug, Info, Notice};
        if matches!(level, Debug | Info | Notice) {
            tracing::debug!(facility, message, "kafka client of the simulator");
        } else {
            tracing::warn!(facility, message, "kafka client of the simulator");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client of the simulator");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, lane: usize) {
        let size = |message: &rdkafka::message::BorrowedMessage<'_>| {
            size_bytes(message.key().unwrap_or_default(), message.payload().unwrap_or_default())
        };
        match result {
            Ok(message) => {
                let payload = message.payload().unwrap_or_default();
                self.counters.messages.fetch_add(1, Ordering::Relaxed);
                self.counters.bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
                self.lane(lane, |lane| lane.delivered(message.offset(), size(message)));
                if let Some(ledger) = self.ledger.lock().as_mut() {
                    let key = message.key().unwrap_or_default();
                    ledger.record(message.topic(), message.partition(), message.offset(), key, payload);
                }
            }
            Err((error, message)) => {
                if self.counters.failures.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(%error, topic = message.topic(), "a message was not delivered");
                }
                self.lane(lane, |lane| lane.failed(size(message)));
            }
        }
    }
}

/// A CSV file of everything the broker took: `topic,partition,offset,key,crc32`, with a heading, in order of
/// delivery. The checksum of the payload is zlib's, in decimal.
#[derive(Debug)]
pub(super) struct Ledger {
    file: BufWriter<File>,
    path: String,
    error: Option<std::io::Error>,
}

impl Ledger {
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::create(path).map_err(|error| ledger_error(&name).because(error))?;
        let mut ledger = Self { file: BufWriter::with_capacity(1 << 16, file), path: name, error: None };
        ledger.write(format_args!("topic,partition,offset,key,crc32\n"));
        Ok(ledger)
    }

    fn record(&mut self, topic: &str, partition: i32, offset: i64, key: &[u8], payload: &[u8]) {
        let key = String::from_utf8_lossy(key);
        self.write(format_args!("{topic},{partition},{offset},{key},{}\n", crc32(payload)));
    }

    fn write(&mut self, line: std::fmt::Arguments<'_>) {
        if self.error.is_none() {
            self.error = self.file.write_fmt(line).err();
        }
    }

    fn finish(&mut self) -> Result<()> {
        if self.error.is_none() {
            self.error = self.file.flush().err();
        }
        self.error.take().map_or(Ok(()), |error| Err(ledger_error(&self.path).because(error)))
    }
}

fn ledger_error(path: &str) -> Error {
    Error::new(Kind::Usage, format!("the ledger {path} cannot be written"))
}

/// CRC-32 as in zlib (IEEE 802.3, reflected).
pub(super) fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0_u32; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !data.iter().fold(!0_u32, |crc, &byte| TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn checksums_are_those_of_zlib() {
        // The check value of CRC-32/ISO-HDLC, and the empty string.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    proptest! {
        /// Whatever happens in which order, what is unread or in flight never exceeds the limit, and a reader that
        /// has read everything always makes room.
        #[test]
        fn the_unread_bytes_stay_within_the_limit(
            steps in prop::collection::vec((0..4_u8, 1..400_000_u64), 1..400),
        ) {
            let mut lane = Lane::default();
            let (mut in_flight, mut log, mut position) = (VecDeque::new(), Vec::<u64>::new(), 0_usize);
            for (step, bytes) in steps {
                match step {
                    0 | 1 => {
                        if lane.has_room(bytes, || Some(position as i64)) {
                            lane.sent(bytes);
                            in_flight.push_back(bytes);
                        } else {
                            let unread: u64 = log[position..].iter().chain(&in_flight).sum();
                            prop_assert!(unread + bytes > AHEAD_BYTES);
                        }
                    }
                    2 => if let Some(bytes) = in_flight.pop_front() {
                        if bytes % 10 == 0 {
                            lane.failed(bytes);
                        } else {
                            lane.delivered(log.len() as i64, bytes);
                            log.push(bytes);
                        }
                    },
                    _ => position = log.len(),
                }
                let unread: u64 = log[position..].iter().chain(&in_flight).sum();
                prop_assert!(unread <= AHEAD_BYTES);
            }
        }
    }
}
