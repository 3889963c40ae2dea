//! `/metrics`: the counters of `system.ingest` for Prometheus, read when they are scraped.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

use super::catalog::EngineCatalog;
use crate::error::{Error, Kind, Result};

const PARTITION: [&str; 3] = ["table", "topic", "partition"];
const TABLE: [&str; 1] = ["table"];

struct Metrics {
    catalog: Arc<EngineCatalog>,
    per_partition: Vec<(IntGaugeVec, Pick)>,
    commits: IntGaugeVec,
    table_version: IntGaugeVec,
    hot_rows: IntGaugeVec,
    hot_bytes: IntGaugeVec,
    freshness: IntGaugeVec,
    ingest_used: IntGauge,
    ingest_limit: IntGauge,
    query_used: IntGauge,
}

type Pick = fn(&super::status::LaneCounters) -> i64;

/// A registry of everything the engine counts.
pub fn registry(catalog: Arc<EngineCatalog>) -> Result<Registry> {
    let fault = |error: prometheus::Error| Error::new(Kind::Internal, "a metric cannot be registered").because(error);
    let registry = Registry::new();
    registry.register(Box::new(Metrics::new(catalog).map_err(fault)?)).map_err(fault)?;
    Ok(registry)
}

impl Metrics {
    fn new(catalog: Arc<EngineCatalog>) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let lane = |name: &str, help: &str, pick: Pick| prometheus::Result::Ok((gauge(name, help, &PARTITION)?, pick));
        let per_partition = vec![
            lane("millpond_ingest_position_offset", "Next offset to decode", |lane| lane.position)?,
            lane("millpond_ingest_records_total", "Records decoded since the start", |lane| lane.records as i64)?,
            lane("millpond_ingest_rows_total", "Rows made since the start", |lane| lane.rows as i64)?,
            lane("millpond_ingest_dead_letters_total", "Dead letters since the start", |lane| {
                lane.dead_letters as i64
            })?,
            lane(
                "millpond_ingest_skipped_total",
                "Records skipped with a documented reason since the start",
                |lane| lane.skipped as i64,
            )?,
        ];
        Ok(Self {
            catalog,
            per_partition,
            commits: gauge("millpond_lake_commits_total", "Commits confirmed since the start", &TABLE)?,
            table_version: gauge("millpond_lake_table_version", "Newest table version", &TABLE)?,
            hot_rows: gauge("millpond_lake_hot_rows", "Rows in memory that are not committed yet", &TABLE)?,
            hot_bytes: gauge("millpond_lake_hot_bytes", "Bytes of those rows", &TABLE)?,
            freshness: gauge(
                "millpond_ingest_freshness_us",
                "Age of the newest record when it became visible, by the broker's timestamp",
                &TABLE,
            )?,
            ingest_used: IntGauge::new("millpond_memory_ingest_used_bytes", "Bytes that ingest holds")?,
            ingest_limit: IntGauge::new("millpond_memory_ingest_limit_bytes", "Bytes that ingest may hold")?,
            query_used: IntGauge::new("millpond_memory_queries_used_bytes", "Bytes that queries hold")?,
        })
    }

    fn gauges(&self) -> impl Iterator<Item = &dyn Collector> {
        let vectors = [&self.commits, &self.table_version, &self.hot_rows, &self.hot_bytes, &self.freshness];
        let single = [&self.ingest_used, &self.ingest_limit, &self.query_used];
        self.per_partition
            .iter()
            .map(|(gauge, _)| gauge as &dyn Collector)
            .chain(vectors.into_iter().map(|gauge| gauge as &dyn Collector))
            .chain(single.into_iter().map(|gauge| gauge as &dyn Collector))
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (name, status) in &self.catalog.statuses {
            let counters = status.counters();
            for (lane, counted) in &counters.lanes {
                let labels = [name.as_str(), &lane.topic, &lane.partition.to_string()];
                for (gauge, pick) in &self.per_partition {
                    gauge.with_label_values(&labels).set(pick(counted));
                }
            }
            let set = |gauge: &IntGaugeVec, value: i64| gauge.with_label_values(&[name.as_str()]).set(value);
            set(&self.commits, counters.commits as i64);
            set(&self.freshness, counters.freshness_us.unwrap_or(0));
            if let Some(live) = self.catalog.tables.get(name) {
                let view = live.pin();
                set(&self.table_version, view.table_version().unwrap_or(0) as i64);
                set(&self.hot_rows, view.hot_rows() as i64);
                set(&self.hot_bytes, view.hot_bytes() as i64);
            }
        }
        self.ingest_used.set(self.catalog.ingest_budget.used_bytes() as i64);
        self.ingest_limit.set(self.catalog.ingest_budget.limit_bytes() as i64);
        self.query_used.set(self.catalog.query_memory.get().map_or(0, |memory| memory().0) as i64);
        self.gauges().flat_map(Collector::collect).collect()
    }
}
