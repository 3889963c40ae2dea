//! What SQL sees of the running engine: a View per table, the dead letters, and the system tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::RwLock;

use super::care::{self, CareStatus};
use super::columns;
use super::latest::KeptTables;
use super::log_table::LogTable;
use super::outbound;
use super::positions::{GAPS, gaps_schema};
use super::retry::Retries;
use super::status::{LaneCounters, Statuses, TableCounters};
use super::stream_queries::StreamQueries;
use super::streams::{self, Streams};
use super::table_queries::{QUERY_RUNS, TableQueries, runs_schema};
use super::versions::Versions;
use crate::config;
use crate::decode::dead_letters_schema;
use crate::deliver::Sinks;
use crate::error::Result;
use crate::lake::{DeadLetters, Lake, LiveView, Past, TopicPartition, View};
use crate::latest::{self, Stats};
use crate::news::News;
use crate::query::{Catalog, FetchedTable, KeyedTable, NewRows, Pinned, Service, SystemTable, ViewTable};
use crate::schema::{ALLOWED_LATENESS, Cause, Change, Contract, DESCRIPTION_KEY, Imported, VersionRecord, change};
use crate::source::{ReaderState, ReaderStatus, TopicStatus};
use crate::task::Budget;

/// Stream queries read each other so deep at most: in a circle nobody gets rows.
const MOST_DEEP: usize = 16;

/// The life of the topic that is read, and how to ask its reader.
pub type ReaderHandle = (u32, Arc<dyn Fn() -> TopicStatus + Send + Sync>);

/// The tables that SQL sees, and what feeds them.
#[derive(Default, Clone)]
pub struct Fed {
    /// View per table, those included that nothing feeds.
    pub tables: BTreeMap<String, Arc<LiveView>>,
    /// Counters per table that has a contract.
    pub statuses: Statuses,
    /// The contracts.
    pub contracts: Vec<Arc<Contract>>,
}

/// The tables of the engine, as they come to be.
pub struct EngineCatalog {
    /// Replaced as a whole when contracts come or go.
    pub fed: ArcSwap<Fed>,
    /// Tables with one row per key. Replaced as a whole when one comes or goes.
    pub kept: ArcSwap<KeptTables>,
    /// The views by name, as they are edited.
    pub views: RwLock<BTreeMap<String, config::View>>,
    /// Where tables lie.
    pub lake: Option<Lake>,
    /// The schema versions of all tables.
    pub versions: Arc<Versions>,
    /// Set once the table is open.
    pub dead_letters: OnceLock<Arc<DeadLetters>>,
    /// The tables that are not fed, because somebody said so.
    pub paused: RwLock<BTreeSet<String>>,
    /// Tables that miss records which neither Kafka nor the lake has.
    pub torn: RwLock<BTreeSet<String>>,
    /// What ingest waits for before it can start; nothing once it runs.
    pub waiting: RwLock<Option<String>>,
    /// Readers' states, by topic.
    pub readers: RwLock<BTreeMap<String, ReaderHandle>>,
    /// The tables' ingest tasks, for dead letters to be tried again.
    pub retries: RwLock<BTreeMap<String, Retries>>,
    /// What ingest holds.
    pub ingest_budget: Budget,
    /// What the rows of tables with one row per key may hold.
    pub latest_bytes: usize,
    /// What the platform told about itself.
    pub news: News,
    /// What was done for the tables' files.
    pub care: Arc<CareStatus>,
    /// Where messages go.
    pub sinks: Sinks,
    /// The rules.
    pub streams: Arc<Streams>,
    /// The stream queries.
    pub stream_queries: Arc<StreamQueries>,
    /// The runs of queries whose rows are tables.
    pub runs: LogTable,
    /// Records that tables were led past.
    pub gaps: LogTable,
    /// The queries whose rows are tables, made anew now and then.
    pub table_queries: Arc<TableQueries>,
    /// The tables that files are imported into.
    pub imported: ArcSwap<Vec<Imported>>,
    /// Who runs queries over these tables, and what they may hold, in bytes.
    pub queries: OnceLock<(Service, usize)>,
    /// Addresses of the brokers; empty where none are asked.
    pub brokers: String,
    /// True if they are inside this process.
    pub embedded: bool,
}

impl EngineCatalog {
    /// Tables that no process feeds.
    pub fn of(fed: Fed) -> Self {
        Self {
            fed: ArcSwap::from_pointee(fed),
            kept: ArcSwap::default(),
            views: RwLock::default(),
            lake: None,
            versions: Arc::default(),
            dead_letters: OnceLock::new(),
            paused: RwLock::default(),
            torn: RwLock::default(),
            waiting: RwLock::default(),
            readers: RwLock::default(),
            retries: RwLock::default(),
            ingest_budget: Budget::new(0),
            latest_bytes: 0,
            news: News::default(),
            care: Arc::default(),
            sinks: Sinks::default(),
            streams: Arc::default(),
            stream_queries: Arc::default(),
            runs: LogTable::new(QUERY_RUNS, runs_schema()),
            gaps: LogTable::new(GAPS, gaps_schema()),
            table_queries: Arc::default(),
            imported: ArcSwap::default(),
            queries: OnceLock::new(),
            brokers: String::new(),
            embedded: false,
        }
    }

    /// The tables of this moment.
    pub fn fed(&self) -> Arc<Fed> {
        self.fed.load_full()
    }

    /// Shows a table from now on.
    pub fn show(&self, name: &str, live: &Arc<LiveView>) {
        self.fed.rcu(|fed| {
            let mut fed = Fed::clone(fed);
            fed.tables.insert(name.to_owned(), Arc::clone(live));
            fed
        });
    }

    /// This is what a table that is fed is declared as from now on.
    pub fn edit(&self, contract: &Contract) {
        self.fed.rcu(|fed| {
            let mut fed = Fed::clone(fed);
            let known = fed.contracts.iter_mut().find(|known| known.table == contract.table);
            known.into_iter().for_each(|known| *known = Arc::new(contract.clone()));
            fed
        });
    }

    /// What goes on in the query service.
    pub fn query_stats(&self) -> crate::query::Stats {
        self.queries.get().map(|(service, _)| service.stats()).unwrap_or_default()
    }

    /// Bytes of the rows of tables with one row per key.
    pub fn kept_bytes(&self) -> usize {
        self.kept.load().values().map(|kept| kept.rows.stats().bytes).sum()
    }

    /// The table that people know the rows called `name` by: those of a latest table are apart from what is derived.
    pub fn table_of(&self, name: &str) -> String {
        let kept = self.kept.load();
        let known = kept.iter().find(|(_, kept)| kept.rows.name() == name);
        known.map_or(name, |(table, _)| table).to_owned()
    }

    /// How far behind the newest event of a table its time is.
    pub fn allowed_lateness(&self, table: &str) -> Duration {
        self.contract(table).map_or(ALLOWED_LATENESS, |contract| contract.allowed_lateness)
    }

    /// A table, the one that it is made of if it is a stream query's, and so on.
    pub(super) fn upstream(&self, table: &str) -> impl Iterator<Item = String> {
        let next = |table: &String| self.stream_queries.stream_of(table);
        std::iter::successors(Some(table.to_owned()), next).take(MOST_DEEP)
    }

    /// The contract that rows of a table come from in the end.
    pub(super) fn contract(&self, table: &str) -> Option<Arc<Contract>> {
        let table = self.upstream(table).last()?;
        let fed = self.fed();
        let is_its = |contract: &&Arc<Contract>| contract.table == table;
        let feeds = |contract: &&Arc<Contract>| super::beside(contract).any(|(name, _)| name == table);
        fed.contracts.iter().find(is_its).or_else(|| fed.contracts.iter().find(feeds)).cloned()
    }

    /// Why the engine is not ready to be relied on; nothing when it is.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let readers = self.readers.read();
        if self.dead_letters.get().is_none() {
            let waiting = self.waiting.read();
            reasons.push(format!("ingest has not started: {}", waiting.as_deref().unwrap_or("connecting to kafka")));
        } else {
            let (fed, paused) = (self.fed(), self.paused.read());
            let is_read = |contract: &&Arc<Contract>| !paused.contains(&contract.table);
            let topics: BTreeSet<&String> =
                fed.contracts.iter().filter(is_read).flat_map(|contract| &contract.topics).collect();
            let unread = topics.into_iter().filter(|topic| !readers.contains_key(*topic));
            reasons.extend(unread.map(|topic| format!("topic {topic}: not read yet")));
        }
        for (topic, (_, status)) in readers.iter() {
            let status = status();
            let own = status.consumers.iter().filter_map(|(table, own)| Some((Some(table), own.as_ref()?)));
            for (table, reader) in std::iter::once((None, &status.shared)).chain(own) {
                let table = table.map(|table| format!(", table {table}")).unwrap_or_default();
                match reader.state {
                    ReaderState::Reading | ReaderState::CatchingUp | ReaderState::Paused => {}
                    state => reasons.push(format!("topic {topic}{table}: {state}{}", detail(reader.error.as_deref()))),
                }
            }
        }
        let fed = self.fed();
        for (name, kept) in self.kept.load().iter() {
            if let Some(reason) = kept.rows.stopped() {
                reasons.push(format!("table {name}: stopped: {reason}"));
            } else if kept.rows.is_loading() && kept.followed().iter().all(|of| fed.tables.contains_key(&of.source)) {
                reasons.push(format!("table {name}: its rows are being put together"));
            }
        }
        for (table, status) in &fed.statuses {
            let counters = status.counters();
            if let Some(error) = counters.error {
                reasons.push(format!("table {table}: stopped: {error}"));
            } else if let Some(reason) = counters.waiting {
                reasons.push(format!("table {table}: {WAITING}: {reason}"));
            }
        }
        reasons
    }
}

fn detail(error: Option<&str>) -> String {
    error.map(|error| format!(": {error}")).unwrap_or_default()
}

/// A catalog handed to the query room. (A newtype, because system tables keep a handle of their own.)
pub struct SharedCatalog(pub Arc<EngineCatalog>);

impl Catalog for SharedCatalog {
    fn pin(&self) -> Pinned {
        let catalog = &self.0;
        let mut public: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
        let (known, fed, kept) = (catalog.views.read().clone(), catalog.fed(), catalog.kept.load_full());
        let mut views: BTreeMap<String, String> =
            known.iter().map(|(name, view)| (name.clone(), view.sql.clone())).collect();
        // A view may have the name of a table that has no contract any more; what the lake has of a table that is kept
        // in memory is for others.
        let is_shown = |name: &&String| !views.contains_key(*name) && !kept.contains_key(*name);
        for (name, live) in fed.tables.iter().filter(|(name, _)| is_shown(name)) {
            public.insert(name.clone(), Arc::new(ViewTable::new(&live.pin())));
        }
        for (name, kept) in kept.iter() {
            public.insert(kept.rows.name().to_owned(), Arc::new(KeyedTable::new(Arc::clone(&kept.rows))));
            views.extend(kept.derived.clone().map(|sql| (name.clone(), sql)));
        }
        let mut system: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
        // The table is made once Kafka answers; until then it has no rows.
        let dead_letters = catalog.dead_letters.get().map(|table| table.snapshot());
        let dead_letters = ViewTable::committed(dead_letters, &dead_letters_schema());
        system.insert("dead_letters".to_owned(), Arc::new(dead_letters));
        let (alerts, schema) = (catalog.streams.alerts(), streams::alerts_schema());
        let alerts = match alerts.map(|(snapshot, rows)| (snapshot, rows.ok())) {
            Some((snapshot, Some(rows))) => ViewTable::committed(snapshot, &schema).and(rows),
            _ => ViewTable::committed(None, &schema),
        };
        system.insert("alerts".to_owned(), Arc::new(alerts));
        for log in [&catalog.runs, &catalog.gaps] {
            let table = ViewTable::committed(log.shown(), log.schema());
            system.insert(log.name().to_owned(), Arc::new(table));
        }
        for (name, schema, rows) in system_tables() {
            let catalog = Arc::clone(catalog);
            let make = Arc::new(move || rows(&catalog));
            system.insert(name.to_owned(), Arc::new(SystemTable::new(schema, make)));
        }
        let logs = Arc::clone(catalog);
        let fetch = Arc::new(move |only| care::history(Arc::clone(&logs), only).boxed());
        system.insert("history".to_owned(), Arc::new(FetchedTable::new(care::history_schema(), fetch)));
        let described = Arc::clone(catalog);
        let fetch = Arc::new(move |_| columns::columns(Arc::clone(&described)).boxed());
        system.insert("columns".to_owned(), Arc::new(FetchedTable::new(columns::schema(), fetch)));
        let schemas = BTreeMap::from([("public".to_owned(), public), ("system".to_owned(), system)]);
        let keys = kept.iter().map(|(name, kept)| (name.clone(), kept.rows.key().to_vec())).collect();
        let comments = move |table: &str| {
            if let Some(view) = known.get(table) {
                return view.columns.clone().into_iter().collect();
            }
            // A mirror's columns are those of its changes.
            let changes = kept.contains_key(table).then(|| change::table_of(table));
            let live = fed.tables.get(changes.as_deref().unwrap_or(table));
            let schema = live.map(|live| Arc::clone(&live.pin().schema));
            let fields = schema.iter().flat_map(|schema| schema.fields());
            fields
                .filter_map(|field| Some((field.name().clone(), field.metadata().get(DESCRIPTION_KEY)?.clone())))
                .collect()
        };
        Pinned { schemas, views, keys, comments: Some(Arc::new(comments)) }
    }

    fn is_seen(&self, topic: &str, partition: i32, offset: i64) -> Option<bool> {
        let fed = self.0.fed();
        let fed_by = |contract: &&Arc<Contract>| contract.topics.iter().any(|name| name == topic);
        let tables: Vec<&str> = fed.contracts.iter().filter(fed_by).map(|contract| contract.table.as_str()).collect();
        if tables.is_empty() {
            return None;
        }
        let seen = |name: &&str| fed.tables.get(*name).is_some_and(|live| live.pin().is_seen(topic, partition, offset));
        let kept = self.0.kept.load();
        Some(tables.iter().all(seen) && kept.values().all(|kept| kept.is_seen(&tables, topic, partition, offset)))
    }

    fn keyed(&self, table: &str) -> Option<Arc<dyn latest::Rows>> {
        self.0.kept.load().get(table).map(|kept| Arc::clone(&kept.rows))
    }

    fn follow(&self, table: &str, service: &Service) -> BoxFuture<'static, Result<Option<NewRows>>> {
        Box::pin(streams::follow(Arc::clone(&self.0), service.clone(), table.to_owned()))
    }

    fn past(&self, table: &str, at: Past) -> BoxFuture<'static, Result<Option<Arc<dyn TableProvider>>>> {
        let (catalog, name) = (Arc::clone(&self.0), table.to_owned());
        Box::pin(async move {
            let past = care::past(&catalog, &name, at).await?;
            let table = past.map(|(snapshot, schema)| ViewTable::committed(Some(snapshot), &schema));
            Ok(table.map(|table| Arc::new(table) as Arc<dyn TableProvider>))
        })
    }
}

type Rows = fn(&EngineCatalog) -> Result<RecordBatch, ArrowError>;

fn system_tables() -> [(&'static str, SchemaRef, Rows); 11] {
    [
        ("ingest", ingest_schema(), ingest),
        ("tables", tables_schema(), tables),
        ("files", care::files_schema(), care::files),
        ("memory", memory_schema(), memory),
        ("kafka", kafka_schema(), kafka),
        ("schema_versions", VersionRecord::schema(), schema_versions),
        ("schema_changes", schema_changes_schema(), schema_changes),
        ("news", outbound::news_schema(), |catalog| outbound::news(&catalog.news)),
        ("sinks", outbound::sinks_schema(), |catalog| outbound::sinks(&catalog.sinks)),
        ("queries", streams::queries_schema(), streams::queries),
        ("alerts_active", streams::active_schema(), |catalog| streams::active(&catalog.streams)),
    ]
}

pub(super) fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), true);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

pub(super) fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(super) fn timestamps(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

pub(super) fn texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

pub(super) fn numbers(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

fn small(values: impl IntoIterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int32Array>())
}

/// `system.ingest`: a row per table and partition, both sides of the seam between hot and committed.
pub fn ingest_schema() -> SchemaRef {
    schema(&[
        ("table_name", DataType::Utf8),
        ("topic", DataType::Utf8),
        ("incarnation", DataType::Int32),
        ("partition", DataType::Int32),
        ("committed_position", DataType::Int64),
        ("position", DataType::Int64),
        ("high_watermark", DataType::Int64),
        ("lag", DataType::Int64),
        ("hot_rows", DataType::Int64),
        ("records", DataType::Int64),
        ("rows", DataType::Int64),
        ("dead_letters", DataType::Int64),
        ("skipped", DataType::Int64),
        ("last_record_at", micros()),
        ("last_commit_at", micros()),
        ("table_version", DataType::Int64),
        ("state", DataType::Utf8),
        ("error", DataType::Utf8),
    ])
}

/// The state of a table whose next records wait for their schemas.
const WAITING: &str = "waiting for schemas";
/// The state of a table whose first records wait for its first schema version.
const DECIDING: &str = "deciding types";

/// Why a table does not get on.
fn troubled(counters: &TableCounters) -> Option<String> {
    counters.error.clone().or_else(|| counters.waiting.clone())
}

struct IngestRow {
    table: String,
    lane: Option<TopicPartition>,
    topic: Option<String>,
    committed: Option<i64>,
    high_watermark: Option<i64>,
    hot_rows: i64,
    counters: Option<LaneCounters>,
    position: Option<i64>,
    table_counters: TableCounters,
    state: String,
    error: Option<String>,
}

fn ingest(catalog: &EngineCatalog) -> Result<RecordBatch, ArrowError> {
    let topics: Topics =
        catalog.readers.read().iter().map(|(topic, (life, status))| (topic.clone(), (*life, status()))).collect();
    // Tables beside others are fed with them, and own no position.
    let fed = catalog.fed();
    let imported = catalog.imported.load();
    let is_made =
        |name: &str| catalog.table_queries.of(name).is_some() || imported.iter().any(|spec| spec.table == name);
    let tables = fed.tables.iter().filter(|(name, _)| matches!(kind(name), EVENTS | CHANGES) && !is_made(name));
    let rows: Vec<IngestRow> =
        tables.flat_map(|(name, live)| ingest_rows(catalog, &topics, name, &live.pin())).collect();
    let lag = |row: &IngestRow| Some((row.high_watermark? - row.position?).max(0));
    let count = |pick: fn(&LaneCounters) -> u64| {
        numbers(rows.iter().map(|row| Some(row.counters.as_ref().map_or(0, pick) as i64)).collect::<Vec<_>>())
    };
    RecordBatch::try_new(
        ingest_schema(),
        vec![
            texts(rows.iter().map(|row| Some(row.table.as_str()))),
            texts(rows.iter().map(|row| row.topic.as_deref())),
            small(rows.iter().map(|row| row.lane.as_ref().map(|lane| lane.incarnation.cast_signed()))),
            small(rows.iter().map(|row| row.lane.as_ref().map(|lane| lane.partition))),
            numbers(rows.iter().map(|row| row.committed)),
            numbers(rows.iter().map(|row| row.position)),
            numbers(rows.iter().map(|row| row.high_watermark)),
            numbers(rows.iter().map(lag)),
            numbers(rows.iter().map(|row| Some(row.hot_rows))),
            count(|lane| lane.records),
            count(|lane| lane.rows),
            count(|lane| lane.dead_letters),
            count(|lane| lane.skipped),
            timestamps(rows.iter().map(|row| row.counters.as_ref().and_then(|lane| lane.last_record_us))),
            timestamps(rows.iter().map(|row| row.table_counters.last_commit_us)),
            numbers(rows.iter().map(|row| row.table_counters.table_version.map(|version| version as i64))),
            texts(rows.iter().map(|row| Some(row.state.as_str()))),
            texts(rows.iter().map(|row| row.error.as_deref())),
        ],
    )
}

/// The life of each topic that is read, and its readers.
type Topics = BTreeMap<String, (u32, TopicStatus)>;

/// One table's rows of `system.ingest`: partitions, and topics that have none yet.
fn ingest_rows(catalog: &EngineCatalog, topics: &Topics, table: &str, view: &View) -> Vec<IngestRow> {
    let counters = catalog.fed().statuses.get(table).map(|status| status.counters()).unwrap_or_default();
    let is_paused = catalog.paused.read().contains(table);
    let row = |topic: Option<&str>, reader: Option<&ReaderStatus>, without: &str| IngestRow {
        table: table.to_owned(),
        lane: None,
        topic: topic.map(str::to_owned),
        committed: None,
        high_watermark: None,
        hot_rows: 0,
        counters: None,
        position: None,
        error: troubled(&counters).or_else(|| reader.and_then(|reader| reader.error.clone())),
        state: match reader {
            _ if is_paused => "paused".to_owned(),
            _ if counters.error.is_some() => "stopped".to_owned(),
            _ if counters.waiting.is_some() => WAITING.to_owned(),
            _ if counters.deciding > 0 => DECIDING.to_owned(),
            Some(reader) => reader.state.to_string(),
            None => without.to_owned(),
        },
        table_counters: counters.clone(),
    };
    let mut lanes: BTreeMap<TopicPartition, Option<LaneCounters>> =
        view.positions.keys().map(|lane| (lane.clone(), None)).collect();
    let mut rows = Vec::new();
    for (topic, (incarnation, status)) in topics {
        let Some(reader) = status.of(table) else { continue };
        let name: Arc<str> = topic.as_str().into();
        let lane = |&partition| TopicPartition { topic: name.clone(), incarnation: *incarnation, partition };
        lanes.extend(reader.partitions.keys().map(|partition| (lane(partition), None)));
        if lanes.keys().all(|lane| *lane.topic != **topic) {
            rows.push(row(Some(topic), Some(reader), ""));
        }
    }
    lanes.extend(counters.lanes.iter().map(|(lane, counted)| (lane.clone(), Some(counted.clone()))));
    if lanes.is_empty() && rows.is_empty() {
        let mut waiting = row(None, None, "waiting");
        waiting.error = waiting.error.or_else(|| catalog.waiting.read().clone());
        rows.push(waiting);
    }
    for (lane, counted) in lanes {
        // Only the newest life of a topic is read; older ones are history.
        let status = topics.get(&*lane.topic).filter(|(life, _)| *life == lane.incarnation);
        let reader = status.and_then(|(_, status)| status.of(table));
        let partition = reader.and_then(|reader| reader.partitions.get(&lane.partition));
        let committed = view.positions.get(&lane).copied();
        let decoded = counted.as_ref().map(|counted| counted.position);
        rows.push(IngestRow {
            committed,
            high_watermark: partition.and_then(|partition| partition.high_watermark),
            hot_rows: view.hot.iter().filter(|hot| hot.lane == lane).map(|hot| hot.rows.num_rows() as i64).sum(),
            position: decoded.or(committed).or(partition.map(|partition| partition.start)),
            counters: counted,
            lane: Some(lane.clone()),
            ..row(Some(&lane.topic), reader, "not reading")
        });
    }
    rows
}

fn tables_schema() -> SchemaRef {
    schema(&[
        ("table_name", DataType::Utf8),
        ("kind", DataType::Utf8),
        ("schema_version", DataType::Int32),
        ("table_version", DataType::Int64),
        ("files", DataType::Int64),
        ("hot_rows", DataType::Int64),
        ("hot_bytes", DataType::Int64),
    ])
}

fn tables(catalog: &EngineCatalog) -> Result<RecordBatch, ArrowError> {
    let (fed, imported) = (catalog.fed(), catalog.imported.load());
    let mut rows: Vec<TableRow<'_>> = Vec::new();
    let kept = catalog.kept.load_full();
    for (name, live) in fed.tables.iter().filter(|(name, _)| !kept.contains_key(*name)) {
        let view = live.pin();
        rows.push(TableRow {
            name,
            kind: match name {
                name if catalog.stream_queries.has_table(name) => STREAM,
                name if catalog.table_queries.of(name).is_some() => TABLE,
                name if imported.iter().any(|spec| spec.table == *name) => REFERENCE,
                name => kind(name),
            },
            schema_version: view.schema_version,
            table_version: view.table_version().map(|version| version as i64),
            files: view.committed.as_ref().map(|at| at.log_data().num_files() as i64),
            hot_rows: view.hot_rows(),
            hot_bytes: view.hot_bytes(),
        });
    }
    for (name, kept) in kept.iter() {
        let changes = fed.tables.get(&change::table_of(name)).map(|live| live.pin().schema_version);
        let Stats { rows: hot_rows, bytes: hot_bytes, .. } = kept.rows.stats();
        let (kind, schema_version) = (kept.kind(), changes.unwrap_or_default());
        let flushed = kept.flushed.lock().clone();
        let (table_version, files) = flushed.map(|at| (at.table_version as i64, at.files as i64)).unzip();
        rows.push(TableRow { name, kind, schema_version, table_version, files, hot_rows, hot_bytes });
    }
    rows.sort_by_key(|row| row.name);
    RecordBatch::try_new(
        tables_schema(),
        vec![
            texts(rows.iter().map(|row| Some(row.name))),
            texts(rows.iter().map(|row| Some(row.kind))),
            small(rows.iter().map(|row| Some(row.schema_version.cast_signed()))),
            numbers(rows.iter().map(|row| row.table_version)),
            numbers(rows.iter().map(|row| row.files)),
            numbers(rows.iter().map(|row| Some(row.hot_rows as i64))),
            numbers(rows.iter().map(|row| Some(row.hot_bytes as i64))),
        ],
    )
}

/// A row of `system.tables`. All rows of a mirror, latest or reference table are hot: they are kept in memory.
struct TableRow<'a> {
    name: &'a str,
    kind: &'static str,
    schema_version: u32,
    table_version: Option<i64>,
    files: Option<i64>,
    hot_rows: usize,
    hot_bytes: usize,
}

const EVENTS: &str = "events";
const STREAM: &str = "stream";
const REFERENCE: &str = "reference";
const TABLE: &str = "table";
const CHANGES: &str = "changes";

/// What a table is. Names with `__` are those of tables beside others.
fn kind(table: &str) -> &'static str {
    match table.split_once("__") {
        None => EVENTS,
        Some((_, CHANGES)) => CHANGES,
        Some((_, beside)) if beside.ends_with("raw") => "raw",
        Some(_) => "child",
    }
}

/// Also those that are not recorded yet: their rows are there, too.
fn schema_versions(catalog: &EngineCatalog) -> Result<RecordBatch, ArrowError> {
    let records = catalog.versions.all();
    VersionRecord::write(&records.iter().map(|record| &**record).collect::<Vec<_>>())
}

fn schema_changes_schema() -> SchemaRef {
    schema(&[
        ("table_name", DataType::Utf8),
        ("version", DataType::Int32),
        ("change", DataType::Utf8),
        ("column_name", DataType::Utf8),
        ("type", DataType::Utf8),
        ("was", DataType::Utf8),
        ("path", DataType::Utf8),
        ("topic", DataType::Utf8),
        ("partition", DataType::Int32),
        ("offset", DataType::Int64),
        ("sample", DataType::Utf8),
        ("file", DataType::Utf8),
        ("at", micros()),
    ])
}

fn schema_changes(catalog: &EngineCatalog) -> Result<RecordBatch, ArrowError> {
    let records = catalog.versions.all();
    let rows: Vec<(&VersionRecord, &Change)> =
        records.iter().flat_map(|record| record.changes.iter().map(|change| (&**record, change))).collect();
    let of_record = |text: for<'a> fn(&'a VersionRecord) -> Option<&'a str>| texts(rows.iter().map(|row| text(row.0)));
    let of_change = |text: for<'a> fn(&'a Change) -> Option<&'a str>| texts(rows.iter().map(|row| text(row.1)));
    let places = || rows.iter().map(|row| row.1.place.as_ref());
    RecordBatch::try_new(
        schema_changes_schema(),
        vec![
            of_record(|record| Some(&record.table)),
            small(rows.iter().map(|row| Some(row.0.number().cast_signed()))),
            of_change(|change| Some(change.change.word())),
            of_change(|change| Some(&change.column)),
            of_change(|change| Some(&change.kind)),
            of_change(|change| change.was.as_deref()),
            of_change(|change| Some(&change.path)),
            of_change(|change| Some(&change.place.as_ref()?.topic)),
            small(places().map(|place| Some(place?.partition))),
            numbers(places().map(|place| Some(place?.offset))),
            of_change(|change| change.sample.as_deref()),
            of_record(|record| match &record.cause {
                Cause::Edit(file) => Some(file),
                _ => None,
            }),
            timestamps(rows.iter().map(|row| Some(row.0.at_us))),
        ],
    )
}

fn memory_schema() -> SchemaRef {
    schema(&[("part", DataType::Utf8), ("used_bytes", DataType::Int64), ("limit_bytes", DataType::Int64)])
}

fn memory(catalog: &EngineCatalog) -> Result<RecordBatch, ArrowError> {
    let queries = catalog.query_stats().memory_bytes;
    let queries_limit = catalog.queries.get().map_or(0, |(_, limit_bytes)| *limit_bytes);
    let ingest = &catalog.ingest_budget;
    let latest = catalog.kept_bytes();
    RecordBatch::try_new(
        memory_schema(),
        vec![
            texts([Some("ingest"), Some("latest"), Some("queries")]),
            numbers([ingest.used_bytes(), latest, queries].map(|bytes| Some(bytes as i64))),
            numbers([ingest.limit_bytes(), catalog.latest_bytes, queries_limit].map(|bytes| Some(bytes as i64))),
        ],
    )
}

/// `system.kafka`: where the records come from; other programs find the embedded broker here.
pub fn kafka_schema() -> SchemaRef {
    schema(&[("brokers", DataType::Utf8), ("embedded", DataType::Boolean)])
}

fn kafka(catalog: &EngineCatalog) -> Result<RecordBatch, ArrowError> {
    let brokers = (!catalog.brokers.is_empty()).then_some(catalog.brokers.as_str());
    RecordBatch::try_new(kafka_schema(), vec![texts([brokers]), Arc::new(BooleanArray::from(vec![catalog.embedded]))])
}

#[cfg(test)]
mod tests;
