//! One per process: the memory, spill folder and stores queries share, and the session state they start from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::prelude::SessionConfig;
use object_store::ObjectStore;
use url::Url;

use super::activity::Activity;
use super::catalog::{PinnedCatalog, PinnedList};
use super::past::PastTables;
use super::role::Role;
use super::session::Session;
use super::settings::{self, Settings};
use super::stores::Stores;
use super::threads::{JoinsYield, Threads};
use super::{CATALOG, Catalog, NewRows, PUBLIC, Pinned, SYSTEM, error, geo, windows};
use crate::error::Result;

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
    /// Most bytes on disk for spilling.
    pub spill_bytes: u64,
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
        }
    }
}

/// The query service. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Arc<dyn Catalog>,
    defaults: Settings,
    state: SessionState,
    threads: Arc<Threads>,
    activity: Arc<Activity>,
}

impl Service {
    /// A service over `catalog`, with its threads. Fails on an unknown time zone or an unusable spill folder.
    pub fn new(catalog: Arc<dyn Catalog>, options: ServiceOptions) -> Result<Self> {
        let defaults = Settings {
            timezone: settings::timezone(&options.timezone)?,
            statement_timeout: options.statement_timeout,
            wait_for: None,
        };
        let runtime = runtime(&options).map_err(|e| error::from_datafusion(e, ""))?;
        let state = state(&options, &defaults, Arc::new(runtime));
        let threads = Arc::new(Threads::new(options.threads)?);
        Ok(Self { inner: Arc::new(Inner { catalog, defaults, state, threads, activity: Arc::default() }) })
    }

    /// The same service over other tables.
    #[must_use]
    pub fn over(&self, catalog: Arc<dyn Catalog>) -> Self {
        let Inner { defaults, state, threads, activity, .. } = &*self.inner;
        let (threads, activity) = (Arc::clone(threads), Arc::clone(activity));
        let inner = Inner { catalog, defaults: defaults.clone(), state: state.clone(), threads, activity };
        Self { inner: Arc::new(inner) }
    }

    /// A new session, for one connection.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// Bytes that running queries hold now.
    pub fn memory_used_bytes(&self) -> usize {
        self.inner.state.runtime_env().memory_pool.reserved()
    }

    /// The memory that all queries share, for others who work on rows.
    pub fn memory_pool(&self) -> Arc<dyn MemoryPool> {
        Arc::clone(&self.inner.state.runtime_env().memory_pool)
    }

    /// Statements that run now.
    pub fn running(&self) -> usize {
        self.inner.activity.running()
    }

    /// Sessions of clients that are open now.
    pub fn sessions(&self) -> usize {
        self.inner.activity.sessions()
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.inner.activity
    }

    pub(super) fn defaults(&self) -> &Settings {
        &self.inner.defaults
    }

    /// Where statements are planned and run.
    pub(super) fn threads(&self) -> &Threads {
        &self.inner.threads
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
            let own = self.inner.activity.tables();
            system.extend(own.into_iter().map(|(name, table)| (name.to_owned(), table)));
        }
        if let Some(role) = role {
            role.restrict(&mut pinned);
        }
        PinnedCatalog::new(pinned, Some(Arc::new(past)), role.cloned())
    }
}

fn runtime(options: &ServiceOptions) -> datafusion::common::Result<RuntimeEnv> {
    let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(options.memory_bytes));
    let spill = match &options.spill_dir {
        Some(dir) => DiskManagerMode::Directories(vec![dir.clone()]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let spill = DiskManagerBuilder::default().with_mode(spill).with_max_temp_directory_size(options.spill_bytes);
    RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_disk_manager_builder(spill)
        .with_object_store_registry(Arc::new(Stores::new(options.stores.clone())))
        .build()
}

fn state(options: &ServiceOptions, defaults: &Settings, runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, PUBLIC)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true)
        .with_target_partitions(options.partitions.max(1));
    let values = config.options_mut();
    values.execution.time_zone = Some(defaults.timezone.clone());
    values.execution.parquet.pushdown_filters = true;
    values.execution.parquet.reorder_filters = true;
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
    builder.build()
}

/// The usual ones, behind the one that says what windows are.
fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let windows: Arc<dyn AnalyzerRule + Send + Sync> = Arc::new(windows::Windows);
    std::iter::once(windows).chain(Analyzer::new().rules).collect()
}
