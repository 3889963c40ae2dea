//! `/metrics`: the counters of `system.ingest` for Prometheus, read when they are scraped.

use std::sync::Arc;

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::care::Counted;
use super::catalog::EngineCatalog;
use super::status::{LaneCounters, TableCounters};
use crate::error::{Error, Kind, Result};
use crate::lake::View;

/// A metric: its name, what it says, and where its value comes from. A name that ends in `_total` is that of a
/// counter, every other that of a gauge.
type Described<F> = (&'static str, &'static str, F);
type OfPartition = fn(&LaneCounters) -> i64;
type OfTable = fn(&TableCounters, &View) -> i64;
type OfCared = fn(&Counted) -> i64;
type OfProcess = fn(&EngineCatalog) -> i64;

/// Labels: partition, table, topic.
const PER_PARTITION: [Described<OfPartition>; 5] = [
    ("millpond_ingest_position_offset", "Next offset to decode", |lane| lane.position),
    ("millpond_ingest_records_total", "Records decoded since the start", |lane| lane.records as i64),
    ("millpond_ingest_rows_total", "Rows made since the start", |lane| lane.rows as i64),
    ("millpond_ingest_dead_letters_total", "Dead letters since the start", |lane| lane.dead_letters as i64),
    ("millpond_ingest_skipped_total", "Records skipped with a documented reason since the start", |lane| {
        lane.skipped as i64
    }),
];

/// Label: table.
const PER_TABLE: [Described<OfTable>; 7] = [
    ("millpond_decode_busy_us_total", "Microseconds spent decoding since the start", |table, _| table.decode_us as i64),
    ("millpond_lake_commits_total", "Commits confirmed since the start", |table, _| table.commits as i64),
    ("millpond_lake_table_version", "Newest table version", |_, view| view.table_version().unwrap_or(0) as i64),
    ("millpond_lake_files", "Data files of the table", |_, view| {
        view.committed.as_ref().map_or(0, |committed| committed.log_data().num_files() as i64)
    }),
    ("millpond_lake_hot_rows", "Rows in memory that are not committed yet", |_, view| view.hot_rows() as i64),
    ("millpond_lake_hot_bytes", "Bytes of those rows", |_, view| view.hot_bytes() as i64),
    (
        "millpond_ingest_freshness_us",
        "Age of the newest record when it became visible, by the broker's timestamp",
        |table, _| table.freshness_us.unwrap_or(0),
    ),
];

/// Label: table.
const PER_CARED: [Described<OfCared>; 5] = [
    ("millpond_care_merges_total", "Merges of files since the start", |care| care.merges as i64),
    ("millpond_care_merged_files_total", "Files that merges took away since the start", |care| {
        care.merged_files as i64
    }),
    ("millpond_care_written_bytes_total", "Bytes that merges wrote since the start", |care| care.written_bytes as i64),
    ("millpond_care_deleted_files_total", "Data files deleted since the start", |care| care.deleted_files as i64),
    ("millpond_care_retired_rows_total", "Rows past retention taken away since the start", |care| {
        care.retired_rows as i64
    }),
];

/// No label.
const PER_PROCESS: [Described<OfProcess>; 9] = [
    ("millpond_memory_ingest_used_bytes", "Bytes that ingest holds", |catalog| {
        catalog.ingest_budget.used_bytes() as i64
    }),
    ("millpond_memory_ingest_limit_bytes", "Bytes that ingest may hold", |catalog| {
        catalog.ingest_budget.limit_bytes() as i64
    }),
    ("millpond_memory_queries_used_bytes", "Bytes that queries hold", |catalog| {
        catalog.query_stats().memory_bytes as i64
    }),
    ("millpond_query_running", "Statements that have begun", |catalog| catalog.query_stats().running as i64),
    ("millpond_query_waiting", "Statements that wait for their turn", |catalog| catalog.query_stats().waiting as i64),
    ("millpond_query_sessions", "Sessions of clients that are open", |catalog| catalog.query_stats().sessions as i64),
    ("millpond_query_cache_hits", "Queries answered with a result that was kept", |catalog| {
        catalog.query_stats().cache_hits as i64
    }),
    ("millpond_query_cache_misses", "Queries whose result could have been kept, and was not", |catalog| {
        catalog.query_stats().cache_misses as i64
    }),
    ("millpond_query_cache_used_bytes", "Bytes of results that are kept", |catalog| {
        catalog.query_stats().cache_bytes as i64
    }),
];

/// A registry of everything the engine counts.
pub fn registry(catalog: Arc<EngineCatalog>) -> Result<Registry> {
    let registry = Registry::new();
    registry
        .register(Box::new(Metrics(catalog)))
        .map_err(|error| Error::new(Kind::Internal, "the metrics cannot be registered").because(error))?;
    Ok(registry)
}

/// Keeps no values of its own: each scrape reads the engine's.
struct Metrics(Arc<EngineCatalog>);

impl Collector for Metrics {
    // Descriptions are for telling several collectors apart; this one is alone.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let fed = self.0.fed();
        let tables: Vec<_> = fed
            .tables
            .iter()
            .filter_map(|(name, live)| Some((name.as_str(), fed.statuses.get(name)?.counters(), live.pin())))
            .collect();
        let per_partition = PER_PARTITION.iter().map(|(name, help, pick)| {
            let lanes = tables.iter().flat_map(|(table, counters, _)| {
                counters.lanes.iter().map(move |(lane, counted)| {
                    let partition = lane.partition.to_string();
                    metric(name, &[("partition", &partition), ("table", table), ("topic", &lane.topic)], pick(counted))
                })
            });
            family(name, help, lanes.collect())
        });
        let per_table = PER_TABLE.iter().map(|(name, help, pick)| {
            let values =
                tables.iter().map(|(table, counters, view)| metric(name, &[("table", table)], pick(counters, view)));
            family(name, help, values.collect())
        });
        let cared = self.0.care.all();
        let per_cared = PER_CARED.iter().map(|(name, help, pick)| {
            let values = cared.iter().map(|(table, counted)| metric(name, &[("table", table)], pick(counted)));
            family(name, help, values.collect())
        });
        let per_process =
            PER_PROCESS.iter().map(|(name, help, pick)| family(name, help, vec![metric(name, &[], pick(&self.0))]));
        per_partition.chain(per_table).chain(per_cared).chain(per_process).collect()
    }
}

fn kind(name: &str) -> MetricType {
    if name.ends_with("_total") { MetricType::COUNTER } else { MetricType::GAUGE }
}

fn family(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind(name));
    family.set_metric(metrics);
    family
}

fn metric(name: &str, labels: &[(&str, &str)], value: i64) -> Metric {
    let labels = labels.iter().map(|(name, value)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    });
    let mut metric = Metric::from_label(labels.collect());
    if kind(name) == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value as f64);
        metric.set_gauge(gauge);
    }
    metric
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::datatypes::Schema;
    use prometheus::TextEncoder;

    use super::*;
    use crate::engine::catalog::Fed;
    use crate::engine::status::TableStatus;
    use crate::lake::LiveView;
    use crate::task::Budget;

    #[test]
    fn totals_are_counters_and_the_rest_are_gauges() {
        let view = View {
            table: "trips".into(),
            schema: Arc::new(Schema::empty()),
            schema_version: 0,
            committed: None,
            positions: BTreeMap::new(),
            hot: Vec::new(),
            retries: 0,
            remade: 0,
        };
        let status = TableStatus::default();
        status.committed(7);
        let fed = Fed {
            tables: BTreeMap::from([("trips".to_owned(), Arc::new(LiveView::new(view)))]),
            statuses: BTreeMap::from([("trips".to_owned(), Arc::new(status))]),
            contracts: Vec::new(),
        };
        let catalog = EngineCatalog { ingest_budget: Budget::new(64), ..EngineCatalog::of(fed) };
        let families = registry(Arc::new(catalog)).unwrap().gather();
        let text = TextEncoder::new().encode_to_string(&families).unwrap();
        for line in [
            "# TYPE millpond_lake_commits_total counter",
            "millpond_lake_commits_total{table=\"trips\"} 1",
            "# TYPE millpond_lake_hot_rows gauge",
            "millpond_lake_hot_rows{table=\"trips\"} 0",
            "# TYPE millpond_memory_ingest_limit_bytes gauge",
            "millpond_memory_ingest_limit_bytes 64",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
