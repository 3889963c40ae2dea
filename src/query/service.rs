//! One per process: the memory, spill folder and stores queries share, and the session state they start from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::ScalarUDF;
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::prelude::SessionConfig;
use object_store::ObjectStore;
use tokio::sync::Semaphore;
use url::Url;

use super::activity::Activity;
use super::bins::DateBin;
use super::catalog::{PinnedCatalog, PinnedList};
use super::memory::{self, Memory};
use super::past::PastTables;
use super::planner::Operators;
use super::result_cache::ResultCache;
use super::role::Role;
use super::session::Session;
use super::settings::{self, Settings};
use super::stores::Stores;
use super::threads::{JoinsYield, Threads};
use super::{CATALOG, Catalog, NewRows, PUBLIC, Pinned, SYSTEM, error, geo, spill, windows};
use crate::error::Result;

/// Results that are kept take this part of the memory for queries.
const RESULT_CACHE_PART: usize = 16;

/// What goes on in a query service.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Statements that have begun.
    pub running: usize,
    /// Those of them that wait for their turn.
    pub waiting: usize,
    /// Sessions of clients that are open.
    pub sessions: usize,
    /// Bytes that queries hold.
    pub memory_bytes: usize,
    /// Queries that were answered with a result that was kept.
    pub cache_hits: u64,
    /// Queries whose result could have been kept, and was not.
    pub cache_misses: u64,
    /// Bytes of results that are kept.
    pub cache_bytes: usize,
}

/// How queries run.
#[derive(Clone)]
pub struct ServiceOptions {
    /// Memory of all running queries together. Sorts, joins and aggregations spill before they reach it.
    pub memory_bytes: usize,
    /// The stores that may be read, each under its URL's path only, with paths from the root of the URL's authority
    /// (`file:///data/lake` with an unprefixed local store, `s3://bucket/prefix` with the bucket's).
    pub stores: Vec<(Url, Arc<dyn ObjectStore>)>,
    /// Time zone of new sessions: IANA name or offset.
    pub timezone: String,
    /// Limit of one statement from start to last row, unless its session sets another.
    pub statement_timeout: Option<Duration>,
    /// Parallel parts of a plan.
    pub partitions: usize,
    /// Threads that plan and run queries, apart from the process's runtime.
    pub threads: usize,
    /// Where queries spill; the system's temporary folder if none is given.
    pub spill_dir: Option<PathBuf>,
    /// Most bytes on disk for spilling, of which one query may have half.
    pub spill_bytes: u64,
    /// Memory of one query.
    pub query_memory_bytes: usize,
    /// Statements of clients that run at once. Those that read nothing or what the platform says of itself are not counted.
    pub queries: usize,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 512 << 20,
            stores: Vec::new(),
            timezone: "UTC".to_owned(),
            statement_timeout: Some(Duration::from_secs(600)),
            partitions: 2,
            threads: std::thread::available_parallelism().map_or(2, usize::from).max(2),
            spill_dir: None,
            spill_bytes: 4 << 30,
            query_memory_bytes: usize::MAX,
            queries: 64,
        }
    }
}

/// Each part of a plan, unless it is the only one, has so much memory: what it takes to sort batches of rows that are some
/// hundred bytes long.
const PART_BYTES: usize = 24 << 20;
/// One query may write so many parts of what all may.
const SPILL_PART: u64 = 2;

/// The query service. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Arc<dyn Catalog>,
    defaults: Settings,
    state: SessionState,
    shared: Arc<Shared>,
}

/// What all statements share, whatever tables they are over.
struct Shared {
    threads: Threads,
    activity: Arc<Activity>,
    memory: Arc<Memory>,
    query_memory_bytes: usize,
    /// Where statements of clients wait for each other.
    room: Arc<Semaphore>,
    result_cache: Arc<ResultCache>,
}

impl Service {
    /// A service over `catalog`, with its threads. Fails on an unknown time zone or an unusable spill folder.
    pub fn new(catalog: Arc<dyn Catalog>, options: ServiceOptions) -> Result<Self> {
        let defaults = Settings {
            timezone: settings::timezone(&options.timezone)?,
            statement_timeout: options.statement_timeout,
            wait_for: None,
            result_cache: true,
        };
        let cache_bytes = options.memory_bytes / RESULT_CACHE_PART;
        let memory = Memory::new(options.memory_bytes - cache_bytes);
        let runtime = runtime(&options, &memory).map_err(|e| error::from_datafusion(e, ""))?;
        let state = state(&options, &defaults, &memory, Arc::new(runtime));
        let shared = Shared {
            threads: Threads::new(options.threads)?,
            activity: Arc::default(),
            memory,
            query_memory_bytes: options.query_memory_bytes,
            room: Arc::new(Semaphore::new(options.queries.clamp(1, Semaphore::MAX_PERMITS))),
            result_cache: ResultCache::new(cache_bytes),
        };
        Ok(Self { inner: Arc::new(Inner { catalog, defaults, state, shared: Arc::new(shared) }) })
    }

    /// The same service over other tables.
    #[must_use]
    pub fn over(&self, catalog: Arc<dyn Catalog>) -> Self {
        let Inner { defaults, state, shared, .. } = &*self.inner;
        let inner = Inner { catalog, defaults: defaults.clone(), state: state.clone(), shared: Arc::clone(shared) };
        Self { inner: Arc::new(inner) }
    }

    /// A new session, for one connection.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// The memory that all queries share, for others who work on rows.
    pub fn memory_pool(&self) -> Arc<dyn MemoryPool> {
        self.inner.shared.memory.of_query(usize::MAX, 0)
    }

    /// What goes on in it.
    pub fn stats(&self) -> Stats {
        let Shared { activity, memory, result_cache, .. } = &*self.inner.shared;
        let (running, waiting) = activity.running();
        let (cache_hits, cache_misses, cache_bytes) = result_cache.stats();
        let (memory_bytes, sessions) = (memory.used(), activity.sessions());
        Stats { running, waiting, sessions, memory_bytes, cache_hits, cache_misses, cache_bytes }
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.inner.shared.activity
    }

    /// Where statements of clients wait for each other.
    pub(super) fn room(&self) -> &Arc<Semaphore> {
        &self.inner.shared.room
    }

    pub(super) fn result_cache(&self) -> &Arc<ResultCache> {
        &self.inner.shared.result_cache
    }

    /// Where one query runs that sorts so many parts of rows at once: with memory and disk space of its own, of which its
    /// role may have `memory` and `spill` bytes.
    pub(super) fn runtime_of_query(&self, sorts: usize, memory: Option<usize>, spill: Option<u64>) -> Arc<RuntimeEnv> {
        let shared = &self.inner.shared;
        let of_all = self.inner.state.runtime_env();
        let spill = spill.unwrap_or(u64::MAX).min(of_all.disk_manager.max_temp_directory_size() / SPILL_PART);
        Arc::new(RuntimeEnv {
            memory_pool: shared.memory.of_query(memory.unwrap_or(usize::MAX).min(shared.query_memory_bytes), sorts),
            disk_manager: spill::of_query(&of_all.disk_manager, spill),
            cache_manager: Arc::clone(&of_all.cache_manager),
            object_store_registry: Arc::clone(&of_all.object_store_registry),
        })
    }

    pub(super) fn defaults(&self) -> &Settings {
        &self.inner.defaults
    }

    /// Where statements are planned and run.
    pub(super) fn threads(&self) -> &Threads {
        &self.inner.shared.threads
    }

    /// The state sessions start from; it has no tables.
    pub(super) fn state(&self) -> &SessionState {
        &self.inner.state
    }

    /// Whether a record can be seen in all tables that its topic feeds; `None` if it feeds none.
    pub(super) fn is_seen(&self, topic: &str, partition: i32, offset: i64) -> Option<bool> {
        self.inner.catalog.is_seen(topic, partition, offset)
    }

    /// The rows of a table of schema `public` that has one row per key.
    pub(super) fn keyed(&self, table: &str) -> Option<Arc<dyn crate::latest::Rows>> {
        self.inner.catalog.keyed(table)
    }

    /// The rows that come to a table from now on; `None` if it is no stream.
    pub(super) async fn follow(&self, table: &str) -> Result<Option<NewRows>> {
        self.inner.catalog.follow(table, self).await
    }

    /// The tables as they are now, as `role` sees them.
    pub(super) fn pin(&self, role: Option<&Arc<Role>>) -> Arc<PinnedCatalog> {
        let past = PastTables::new(Arc::clone(&self.inner.catalog), role.cloned());
        let mut pinned = self.inner.catalog.pin();
        if let Some(system) = pinned.schemas.get_mut(SYSTEM) {
            let own = self.inner.shared.activity.tables();
            system.extend(own.into_iter().map(|(name, table)| (name.to_owned(), table)));
        }
        if let Some(role) = role {
            role.restrict(&mut pinned);
        }
        PinnedCatalog::new(pinned, Some(Arc::new(past)), role.cloned())
    }
}

/// The parallel parts of a plan, `most` of them, where a query may hold so many bytes.
pub(super) fn parts(most: usize, bytes: usize) -> usize {
    most.min(bytes / PART_BYTES).max(1)
}

fn runtime(options: &ServiceOptions, memory: &Arc<Memory>) -> datafusion::common::Result<RuntimeEnv> {
    let spill = match &options.spill_dir {
        Some(dir) => DiskManagerMode::Directories(vec![dir.clone()]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let spill = DiskManagerBuilder::default().with_mode(spill).with_max_temp_directory_size(options.spill_bytes);
    RuntimeEnvBuilder::new()
        .with_memory_pool(memory.of_query(usize::MAX, 0))
        .with_disk_manager_builder(spill)
        .with_object_store_registry(Arc::new(Stores::new(options.stores.clone())))
        .build()
}

fn state(options: &ServiceOptions, defaults: &Settings, memory: &Memory, runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, PUBLIC)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true)
        .with_target_partitions(parts(options.partitions, memory.most_of_query(options.query_memory_bytes)));
    let values = config.options_mut();
    values.execution.time_zone = Some(defaults.timezone.clone());
    values.execution.sort_spill_reservation_bytes = memory::READY;
    values.sql_parser.collect_spans = true;
    let mut builder = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_catalog_list(Arc::new(PinnedList(PinnedCatalog::new(Pinned::default(), None, None))))
        // What reads or writes files by name stays out: no file formats, no table factories, and of the default
        // table functions only those that count.
        .with_file_formats(Vec::new())
        .with_table_factories(std::collections::HashMap::new())
        .with_analyzer_rules(analyzer_rules())
        .with_physical_optimizer_rule(Arc::new(JoinsYield));
    let functions = builder.scalar_functions().get_or_insert_default();
    functions.extend(geo::functions().into_iter().chain(windows::functions()));
    // A function of the same name that comes later is the one.
    functions.push(Arc::new(ScalarUDF::from(DateBin::new())));
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(Operators::new()));
    builder.build()
}

/// The usual ones, behind the one that says what windows are.
fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let windows: Arc<dyn AnalyzerRule + Send + Sync> = Arc::new(windows::Windows);
    std::iter::once(windows).chain(Analyzer::new().rules).collect()
}
