//! What the ingest of each table has done: counters behind `system.ingest` and the metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::decode::{Decoded, Records};
use crate::lake::TopicPartition;

/// Counters of one table since the process started.
#[derive(Debug, Default)]
pub struct TableStatus(Mutex<TableCounters>);

/// A copy of a table's counters.
#[derive(Debug, Default, Clone)]
pub struct TableCounters {
    /// Per partition.
    pub lanes: BTreeMap<TopicPartition, LaneCounters>,
    /// Time spent decoding, in microseconds.
    pub decode_us: u64,
    /// Commits confirmed.
    pub commits: u64,
    /// Newest table version written.
    pub table_version: Option<u64>,
    /// When the last commit was confirmed, in microseconds since 1970.
    pub last_commit_us: Option<i64>,
    /// How old the newest row was when it became visible: now − broker timestamp, in microseconds.
    pub freshness_us: Option<i64>,
    /// Records waiting for the first schema version to be decided.
    pub deciding: u64,
    /// What the table's ingest waits for, if records do not get on.
    pub waiting: Option<String>,
    /// Why ingest of the table has stopped, if it has.
    pub error: Option<String>,
}

/// Counters of one partition.
#[derive(Debug, Default, Clone)]
pub struct LaneCounters {
    /// Next offset to decode: rows below it are visible.
    pub position: i64,
    /// Records decoded.
    pub records: u64,
    /// Rows made of them.
    pub rows: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Records skipped with a documented reason.
    pub skipped: u64,
    /// Broker timestamp of the newest record, in microseconds since 1970.
    pub last_record_us: Option<i64>,
}

impl TableStatus {
    /// Counts a decoded batch, and the time that it took.
    pub fn decoded(&self, lane: &TopicPartition, records: &Records, decoded: &Decoded, time: Duration) {
        let newest = records.iter().map(|record| record.timestamp_us).max();
        let mut counters = self.0.lock();
        counters.decode_us += u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        counters.freshness_us = newest.map(|newest| now_us() - newest).or(counters.freshness_us);
        let lane = counters.lanes.entry(lane.clone()).or_default();
        lane.position = records.end;
        lane.records += records.len() as u64;
        lane.rows += decoded.rows.num_rows() as u64;
        lane.dead_letters += decoded.dead.len() as u64;
        lane.skipped += decoded.skipped.values().sum::<u64>();
        lane.last_record_us = lane.last_record_us.max(newest);
    }

    /// Rows made since the process started.
    pub fn rows(&self) -> u64 {
        self.0.lock().lanes.values().map(|lane| lane.rows).sum()
    }

    /// Says how many records wait for the first schema version.
    pub fn deciding(&self, records: u64) {
        self.0.lock().deciding = records;
    }

    /// Says what the table waits for, or that it no longer waits.
    pub fn waiting(&self, reason: Option<String>) {
        self.0.lock().waiting = reason;
    }

    /// Counts a confirmed commit.
    pub fn committed(&self, table_version: u64) {
        let mut counters = self.0.lock();
        counters.commits += 1;
        counters.table_version = Some(table_version);
        counters.last_commit_us = Some(now_us());
    }

    /// The position on the newest life of a partition; `None` if the table has read none of it.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        let counters = self.0.lock();
        let lanes = counters.lanes.iter().filter(|(lane, _)| &*lane.topic == topic && lane.partition == partition);
        lanes.max_by_key(|(lane, _)| lane.incarnation).map(|(_, counted)| counted.position)
    }

    /// Says why the table is no longer fed.
    pub fn stopped(&self, error: String) {
        self.0.lock().error = Some(error);
    }

    /// A copy of all counters.
    pub fn counters(&self) -> TableCounters {
        self.0.lock().clone()
    }
}

/// All tables' counters, by table name.
pub type Statuses = BTreeMap<String, Arc<TableStatus>>;

/// The wall clock in microseconds since 1970.
pub fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
