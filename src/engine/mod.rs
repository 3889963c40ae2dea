//! The running project: rooms put together, started and stopped in order.
//!
//! ```text
//! start:  store, probe, format, claim ─ tables ─ sinks, news ─ servers ─ (in the background) Kafka ─ readers ─ ingest
//! stop:   readers ─ last commits ─ stream queries ─ rules ─ news, sinks ─ servers ─ claim
//! ```
//!
//! Servers answer before Kafka does: a lake can be read while the broker is away. Nothing here parses,
//! commits or translates; each room does its own work.

mod admin;
mod back_test;
pub mod care;
mod catalog;
mod columns;
pub mod dead_letters;
mod doors;
mod facts;
mod family;
mod feed;
mod feeder;
mod idle;
pub mod import;
mod ingest;
mod lanes;
pub mod latest;
mod log_table;
mod make;
mod metrics;
mod outbound;
pub mod positions;
mod queries;
mod recover;
mod reload;
pub mod replay;
mod retry;
mod rows;
mod rule_tests;
mod schemas;
mod standby;
mod status;
mod stream_queries;
pub mod streams;
pub mod table_queries;
mod versions;
mod watch;
mod without_server;

use arc_swap::ArcSwap;
use arrow::datatypes::SchemaRef;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::admin::Actions;
pub use self::admin::Told;
pub use self::back_test::{
    BackTest, Differences, Different, Live, OfCondition, OfRule, Progress, Raised, Wanted, back_test,
};
use self::care::Care;
use self::catalog::{EngineCatalog, Fed, SharedCatalog};
use self::dead_letters::Desk;
pub use self::doors::Addresses;
use self::doors::{Doors, Gate, Servers};
use self::feed::SCHEMA_VERSIONS;
use self::feeder::Feeder;
pub use self::feeder::TopicMaker;
use self::import::{Follows, Importer};
use self::latest::{Keeper, Writing};
use self::log_table::LogTable;
use self::positions::{GAPS, Mover, gaps_schema};
use self::reload::{Contracts, Reload};
use self::replay::Replayer;
pub use self::rule_tests::test_rules;
pub use self::standby::{Claimed, Standby};
pub use self::status::{LaneCounters, TableCounters, TableStatus, now_us};
use self::stream_queries::StreamRunner;
use self::streams::Runner;
use self::table_queries::{QUERY_RUNS, TableRunner, runs_schema};
use self::versions::Versions;
use self::watch::Watch;
use self::without_server::{as_writer, committed, existing};
pub use self::without_server::{check_queries, read_only};
use crate::config::{Auth, Config, LoadOptions, Project, SchemaRegistry};
use crate::decode::raw_schema;
use crate::deliver::{Channel, Cluster, Failure, Message, SinkOptions, Sinks};
use crate::error::{Error, Kind, Result};
use crate::iam::Iam;
use crate::lake::{
    Claim, Encoding, Format, Holder, INTERNAL_URL, Lake, Location, S3Keys, S3Options, SYSTEM, SchemaVersions, Stores,
    Table, View, paused, probe,
};
use crate::news::News;
use crate::query::{Service, ServiceOptions};
use crate::schema::{Contract, SchemaVersion, fixed};
use crate::source::{KafkaOptions, PartitionStatus, Registry, RegistryOptions};
use crate::task::{self, Budget, Shutdown};

/// What the process takes with nothing to do: its code, its threads, the clients of Kafka and the store.
const PROCESS_BYTES: usize = 128 * 1024 * 1024;
/// Shares of what `[limits] memory` leaves beside that, in percent; the last 15 are what the allocator keeps of
/// what was freed a moment ago, which is most while a backlog is written.
const INGEST_PERCENT: usize = 30;
const QUERY_PERCENT: usize = 25;
/// Rows of mirrors and latest tables.
const LATEST_PERCENT: usize = 15;
/// Files of commits while they are encoded.
const ENCODING_PERCENT: usize = 10;
/// What librdkafka may hold in its own queues, over all topics.
const KAFKA_PERCENT: usize = 5;
/// Shutdown gives up on a store that does not answer after this long; nothing is lost, it is read again.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);
/// What a commit gets to end by itself once it is told to give up.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the claim is asked for a rival's name once a commit has met it: longer than a heartbeat.
const RIVAL_NAME: Duration = Duration::from_secs(3);
/// While shutting down, who is pending is said this often.
const STILL_WAITING: Duration = Duration::from_secs(5);

/// What the process environment says about S3 keys. Read by `cli`, because rooms do not read the environment.
pub type Variables = BTreeMap<String, String>;

/// How to start.
pub struct EngineOptions {
    /// The broker inside the process, if it runs one.
    pub embedded: Option<Embedded>,
    /// Environment variables (`AWS_ACCESS_KEY_ID` and company).
    pub variables: Variables,
    /// How to load the project again when its files are edited; `None` takes no edits over.
    pub reload: Option<LoadOptions>,
    /// Sends nothing to anybody: for a copy of a lake.
    pub muted: bool,
    /// The writer claim, of a process that stood by for it; else it is taken, or the start says who has it.
    pub claimed: Option<Claimed>,
}

/// A broker inside the process.
pub struct Embedded {
    /// Its address.
    pub brokers: String,
    /// Makes topics that it does not have yet.
    pub make_topic: TopicMaker,
}

/// A running project.
pub struct Engine {
    service: Service,
    catalog: Arc<EngineCatalog>,
    claim: Arc<Claim>,
    addresses: Addresses,
    feed: JoinHandle<Result<()>>,
    keeper: Keeper,
    failures: mpsc::Receiver<Error>,
    stream_queries: JoinHandle<()>,
    streams: oneshot::Receiver<()>,
    watch: JoinHandle<()>,
    care: JoinHandle<()>,
    table_queries: JoinHandle<()>,
    follows: Follows,
    news: News,
    sinks: Sinks,
    servers: Servers,
    stop_feed: Shutdown,
    stop_queries: Shutdown,
    stop_streams: Shutdown,
    abort: Shutdown,
    stop_servers: Shutdown,
    stop_claim: Shutdown,
}

impl Engine {
    /// Starts the project's servers and, in the background, its ingest.
    pub async fn start(project: &Project, options: EngineOptions) -> Result<Self> {
        let began = SystemTime::now();
        let muted = options.muted.then(|| project.clone().muted());
        let project = muted.as_ref().unwrap_or(project);
        let config = &project.config;
        let share = |percent| share(config, percent);
        let (stop_feed, abort, stop_servers) = (Shutdown::new(), Shutdown::new(), Shutdown::new());

        // Addresses first: a taken port is found before anything is written.
        let (claimed, doors) = match options.claimed {
            Some(Claimed { claim, stop, doors }) => (Some((claim, stop)), doors),
            None => (None, Doors::bind(project).await?),
        };
        let addresses = doors.addresses();
        let gate = Gate::new(project, stop_servers.clone())?;

        let stores = Stores::open_or_create(&location(project)?, &s3_options(config, &options.variables)).await?;
        probe(&stores).await?;
        Format::read_or_create(&stores, chrono::Utc::now()).await?;
        let address = addresses.any();
        let (claim, stop_claim) = match claimed {
            Some(claimed) => claimed,
            None => {
                let stop = Shutdown::new();
                (Claim::take(&stores, Holder::here(address, chrono::Utc::now()), &stop).await?, stop)
            }
        };
        let claim = Arc::new(claim);

        let lake = configured(stores, config).claimed(&claim);
        let versions = versions(&lake).await?;
        let swept = lake.clone();
        task::spawn("sweep", async move { swept.sweep(began).await });
        let contracts = Contracts::new(project.tables.iter().cloned());
        let plan = contracts.plan();
        let (fed, open) = feeder::open(&lake, &plan.contracts, &versions, &Fed::default()).await?;
        let budget = Budget::new(share(INGEST_PERCENT));
        let embedded = options.embedded.as_ref();
        let cluster = cluster(config, embedded.map(|broker| broker.brokers.as_str()));
        let sinks = Sinks::start(&config.sinks, &cluster, lake.stores().commit()).await?;
        let news = News::start(config.notify.clone(), sinks.clone());
        let catalog = Arc::new(EngineCatalog {
            fed: ArcSwap::from_pointee(fed),
            kept: ArcSwap::default(),
            views: RwLock::new(views(project)),
            lake: Some(lake.clone()),
            versions,
            dead_letters: OnceLock::new(),
            paused: RwLock::new(paused(lake.stores()).await?),
            torn: RwLock::default(),
            waiting: RwLock::default(),
            readers: RwLock::new(BTreeMap::new()),
            retries: RwLock::default(),
            ingest_budget: budget.clone(),
            latest_bytes: share(LATEST_PERCENT),
            news: news.clone(),
            care: Arc::default(),
            sinks: sinks.clone(),
            streams: Arc::default(),
            stream_queries: Arc::default(),
            runs: LogTable::new(QUERY_RUNS, runs_schema()),
            gaps: LogTable::new(GAPS, gaps_schema()),
            table_queries: Arc::default(),
            imported: ArcSwap::default(),
            queries: OnceLock::new(),
            brokers: cluster.brokers.clone(),
            embedded: embedded.is_some(),
        });
        let service = service(Some(&lake), &catalog, config)?;
        queries::warn(project, &service, &catalog).await;
        let (failed, failures) = mpsc::channel(1);
        let writing = Writing {
            lake: lake.clone(),
            interval: config.lake.commit_interval,
            forgetful: embedded.is_some(),
            finish: Shutdown::new(),
            abort: abort.clone(),
            failed: failed.clone(),
            writers: TaskTracker::new(),
            turns: Arc::default(),
        };
        let s3 = s3_options(config, &options.variables);
        let importer = Importer::new(&lake, &catalog, s3.clone(), &abort);
        let follows = Follows::new(importer.clone());
        follows.take_over(&project.imported);
        let keeper = Keeper { catalog: Arc::clone(&catalog), service: service.clone(), s3, writing: Some(writing) };
        keeper.keep(&plan.contracts, &project.latest, &project.references, &project.streams);

        let watch =
            Watch { catalog: Arc::clone(&catalog), news: news.clone(), commit_interval: config.lake.commit_interval };
        let feeder = Feeder {
            lake,
            catalog: Arc::clone(&catalog),
            kafka: KafkaOptions {
                brokers: cluster.brokers,
                properties: cluster.properties,
                iam: cluster.iam,
                queued_bytes: share(KAFKA_PERCENT),
                ..KafkaOptions::default()
            },
            registry: registry(config)?,
            s3: s3_options(config, &options.variables),
            embedded: options.embedded.map(|broker| broker.make_topic),
            commit_interval: config.lake.commit_interval,
            budget,
            encoding: Arc::new(Encoding::new(share(ENCODING_PERCENT))),
            news: news.clone(),
            stop: stop_feed.clone(),
            abort: abort.clone(),
            lives: BTreeMap::new(),
        };
        let (asks, asked) = mpsc::channel(1);
        let (orders, ordered) = mpsc::channel(1);
        let care = Care::new(&feeder.lake, &catalog, &service, config, &abort).beside(orders.clone());
        let care = task::spawn_behind("care", care.run(asked, stop_feed.clone()));
        let mut servers = Vec::new();
        if let Some(flight) = doors.flight {
            let desk = Desk::new(service.clone(), Arc::clone(&catalog), abort.clone());
            let actions = Actions {
                replayer: Replayer::new(&feeder.lake, &catalog, desk.clone(), feeder.kafka.clone(), &abort)
                    .beside(keeper.clone()),
                catalog: Arc::clone(&catalog),
                service: service.clone(),
                desk,
                keeper: keeper.clone(),
                care: asks,
                importer: importer.clone(),
                mover: Mover::new(&feeder.lake, &catalog, feeder.kafka.clone(), &abort).beside(orders.clone()),
            };
            let flight = flight.admin(actions.admin()).takes(importer.clone().takes());
            gate.serve_flight(Some(flight), &service, &mut servers);
        }
        gate.serve_postgres(doors.postgres, &service, &mut servers);
        let ready = Arc::clone(&catalog);
        gate.serve_http(
            doors.http,
            Arc::new(move || ready.not_ready()),
            metrics::registry(Arc::clone(&catalog))?,
            latest::lookup(Arc::clone(&catalog), service.clone()),
            &mut servers,
        );
        if let Some(options) = options.reload {
            let (dir, catalog) = (project.dir.clone(), Arc::clone(&catalog));
            let (keeper, follows) = (keeper.clone(), follows.clone());
            let muted = muted.is_some();
            let accounts = Arc::clone(&gate.accounts);
            let reload = Reload { dir, options, muted, accounts, contracts, orders, catalog, keeper, follows };
            task::spawn("reload", reload.run(stop_feed.clone()));
        }
        catalog.stream_queries.take_over(project.streams.clone());
        let queries = StreamRunner {
            catalog: Arc::clone(&catalog),
            service: service.clone(),
            sinks: sinks.clone(),
            lake: feeder.lake.clone(),
            encoding: Arc::clone(&feeder.encoding),
            commit_interval: config.lake.commit_interval,
            abort: abort.clone(),
            failed: failed.clone(),
        };
        let stop_queries = Shutdown::new();
        let stream_queries = task::spawn("stream-queries", queries.run(stop_queries.clone()));
        catalog.gaps.open(&feeder.lake).await;
        catalog.table_queries.take_over(project.made.clone());
        let tables = TableRunner {
            lake: feeder.lake.clone(),
            catalog: Arc::clone(&catalog),
            service: service.clone(),
            news: news.clone(),
            abort: abort.clone(),
            pauses: table_queries::PAUSES,
        };
        let table_queries = task::spawn("table-queries", tables.run(stop_feed.clone()));
        catalog.streams.take_over(project.alerts.clone());
        let runner = Runner {
            streams: Arc::clone(&catalog.streams),
            catalog: Arc::clone(&catalog),
            service: service.clone(),
            sinks: sinks.clone(),
            lake: feeder.lake.clone(),
            commit_interval: config.lake.commit_interval,
            abort: abort.clone(),
            failed,
        };
        let stop_streams = Shutdown::new();
        let streams = task::spawn_thread("alerts", runner.run(stop_streams.clone()))
            .map_err(|error| Error::new(Kind::Internal, "a thread for alerts cannot be started").because(error))?;
        let feed = task::spawn("feed", feeder.run(plan, open, ordered));
        let watch = task::spawn("watch", watch.run(stop_feed.clone()));
        Ok(Self {
            service,
            catalog,
            claim,
            addresses,
            feed,
            keeper,
            failures,
            stream_queries,
            streams,
            watch,
            care,
            table_queries,
            follows,
            news,
            sinks,
            servers,
            stop_feed,
            stop_queries,
            stop_streams,
            abort,
            stop_servers,
            stop_claim,
        })
    }

    /// The query service.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Where its doors are.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What the engine does, for somebody who watches.
    pub fn monitor(&self) -> Monitor {
        Monitor(Arc::clone(&self.catalog))
    }

    /// Runs until `asked` to stop, or until something ends that must not: then that is the error. Stops in
    /// order either way.
    pub async fn run(mut self, asked: impl Future<Output = ()>) -> Result<()> {
        let (mut result, mut fed) = (Ok(()), false);
        tokio::select! {
            () = asked => info!("stopping"),
            error = self.claim.lost() => result = Err(error),
            ended = &mut self.feed => {
                fed = true;
                result = joined(ended);
            }
            Some(error) = self.failures.recv() => result = Err(error),
            error = ended(&mut self.servers) => result = Err(error),
        }
        if result.as_ref().is_err_and(|error| error.kind() == Kind::Refused) {
            // A commit may notice a rival before the heartbeat does, but only the claim knows its name.
            result = tokio::time::timeout(RIVAL_NAME, self.claim.lost()).await.map_or(result, Err);
        }
        self.stop_feed.cancel();
        self.follows.stop();
        if result.is_err() {
            // Another writer is at work, or writing is broken: what is hot is read again by whoever is next.
            self.abort.cancel();
        }
        if !fed {
            let stopped = self.wait_for_feed().await;
            result = result.and(stopped);
        }
        // They take what the last commits hold.
        self.stop_queries.cancel();
        // Nothing is lost if they do not end: the next start goes on at the positions in their tables.
        let late = "rows of stream queries are not committed, the store did not answer in time";
        in_time(&mut self.stream_queries, &self.abort, late).await;
        self.finish_latest().await;
        // What the last rows raise is told, and so is what the end of ingest told.
        self.stop_streams.cancel();
        // Nothing is lost if they do not end: what was told is read back from the topics, and told again to all others.
        let late = "alerts are not written down, the store did not answer in time";
        in_time(&mut self.streams, &self.abort, late).await;
        let _ = self.watch.await;
        // What it is in the middle of is what a kill would leave: nothing of it is in a table.
        let _ = self.care.await;
        let _ = self.table_queries.await;
        self.news.stop().await;
        self.sinks.stop().await;
        self.stop_servers.cancel();
        for (name, server) in self.servers.drain(..) {
            if tokio::time::timeout(Duration::from_secs(5), server).await.is_err() {
                warn!(server = name, "server did not stop in time");
            }
        }
        self.claim.release().await;
        self.stop_claim.cancel();
        result
    }

    /// Waits for the last flushes of tables with one row per key, until the deadline.
    async fn finish_latest(&self) {
        if tokio::time::timeout(SHUTDOWN_DEADLINE, self.keeper.finish()).await.is_err() {
            // Nothing is lost: the next start reads what they come from.
            self.abort.cancel();
            let seconds = SHUTDOWN_DEADLINE.as_secs();
            warn!(seconds, "mirrors and latest tables are not written, the store did not answer in time");
        }
    }

    /// Waits for the last commits, until the deadline.
    async fn wait_for_feed(&mut self) -> Result<()> {
        let patience = if self.abort.is_cancelled() { Duration::ZERO } else { SHUTDOWN_DEADLINE };
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            tokio::select! {
                ended = &mut self.feed => return joined(ended),
                () = tokio::time::sleep(STILL_WAITING) => warn!(hot_rows = self.hot_rows(), "still committing"),
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.abort.cancel();
        match tokio::time::timeout(LAST_WORDS, &mut self.feed).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(_) => {}
            // A request that is under way hears of nothing. Dropped, it is what a kill leaves to the next start.
            Err(_) => self.feed.abort(),
        }
        let (rows, seconds) = (self.hot_rows(), patience.as_secs());
        Err(Error::new(
            Kind::Unavailable,
            format!("the store did not answer within {seconds} s of the stop: {rows} rows are not committed"),
        )
        .hint("nothing is lost: they are read again from Kafka at the next start"))
    }

    fn hot_rows(&self) -> usize {
        self.catalog.fed().tables.values().map(|live| live.pin().hot_rows()).sum()
    }
}

/// Watches a running engine. Cheap to clone.
#[derive(Clone)]
pub struct Monitor(Arc<EngineCatalog>);

impl Monitor {
    /// Counters per table.
    pub fn counters(&self) -> BTreeMap<String, TableCounters> {
        self.0.fed().statuses.iter().map(|(name, status)| (name.clone(), status.counters())).collect()
    }

    /// Why the engine is not ready; nothing when it is.
    pub fn not_ready(&self) -> Vec<String> {
        self.0.not_ready()
    }

    /// What the platform told about itself lately, oldest first.
    pub fn news(&self) -> Vec<Message> {
        self.0.news.recent()
    }

    /// What was told of alerts lately, newest first.
    pub fn alerts(&self) -> Vec<Message> {
        self.0.streams.recent()
    }

    /// Rows in memory that are not committed yet.
    pub fn hot_rows(&self) -> usize {
        self.0.fed().tables.values().map(|live| live.pin().hot_rows()).sum()
    }

    /// Records that Kafka holds and no table has decoded yet.
    pub fn lag(&self) -> i64 {
        let readers = self.0.readers.read();
        let lags = readers.values().flat_map(|(_, status)| {
            let status = status();
            status.shared.partitions.values().map(PartitionStatus::lag).map(|lag| lag.unwrap_or(0)).collect::<Vec<_>>()
        });
        lags.sum()
    }

    /// The position of the slowest table that reads a partition; `None` if none does yet.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        self.0.fed().statuses.values().filter_map(|status| status.position(topic, partition)).min()
    }
}

/// Delivers one message to a sink of the project, without a queue: for whoever wants to know whether it works.
pub async fn try_sink(
    config: &Config,
    sink: &SinkOptions,
    message: &Message,
) -> Result<std::result::Result<(), Failure>> {
    let is_embedded = config.kafka.brokers == crate::config::Brokers::Embedded;
    if is_embedded && matches!(sink, SinkOptions::Kafka(_)) {
        let error =
            Error::new(Kind::Usage, "the embedded broker is inside `millpond serve`: nobody else can write to it");
        return Err(error.hint("try the sink with kafka.brokers set to a broker of its own"));
    }
    let channel = Channel::open(sink, &cluster(config, None))?;
    Ok(channel.deliver(message).await)
}

/// So much of the memory that is to be shared out, in bytes.
fn share(config: &Config, percent: usize) -> usize {
    let memory = usize::try_from(config.limits.memory.0).unwrap_or(usize::MAX);
    memory.saturating_sub(PROCESS_BYTES) / 100 * percent
}

fn service(lake: Option<&Lake>, catalog: &Arc<EngineCatalog>, config: &Config) -> Result<Service> {
    let memory_bytes = share(config, QUERY_PERCENT);
    let url =
        INTERNAL_URL.parse().map_err(|error| Error::new(Kind::Internal, "the lake's inner url").because(error))?;
    let options = ServiceOptions {
        memory_bytes,
        stores: lake.map(|lake| (url, Arc::clone(lake.stores().data()))).into_iter().collect(),
        timezone: config.project.timezone.to_string(),
        queries: config.limits.queries,
        query_memory_bytes: match config.limits.query_memory {
            Some(size) => usize::try_from(size.0).unwrap_or(usize::MAX),
            None => memory_bytes / 4 * 3,
        },
        ..ServiceOptions::default()
    };
    let service = Service::new(Arc::new(SharedCatalog(Arc::clone(catalog))), options)?;
    let _ = catalog.queries.set((service.clone(), memory_bytes));
    Ok(service)
}

async fn open_table(lake: &Lake, folder: &str, name: &str) -> Result<Option<Table>> {
    lake.open(folder, name).await.map_err(|error| {
        Error::new(
            Kind::Unavailable,
            format!("table {name} of the lake at {} cannot be opened", lake.stores().location()),
        )
        .because(error)
    })
}

/// The schema versions that the lake has recorded.
async fn versions(lake: &Lake) -> Result<Arc<Versions>> {
    Ok(Arc::new(match open_table(lake, SYSTEM, SCHEMA_VERSIONS).await? {
        Some(table) => Versions::load(SchemaVersions::new(table)).await?,
        None => Versions::default(),
    }))
}

/// The tables of a contract with the columns they begin with: its own, child tables, then records as they came.
fn tables_of(contract: &Contract) -> impl Iterator<Item = (String, SchemaRef)> {
    let family = contract.family().into_iter();
    let family = family.map(|member| (SchemaVersion::declared(&member).arrow_schema(), member.table));
    let raw = contract.raw_table().map(|name| (raw_schema(), name));
    family.chain(raw).map(|(schema, name)| (name, schema))
}

/// Those of them beside the contract's own.
fn beside(contract: &Contract) -> impl Iterator<Item = (String, SchemaRef)> {
    tables_of(contract).skip(1)
}

/// Refuses a contract that its table contradicts.
fn suits(contract: &Contract, view: &View, versions: &Versions) -> Result<()> {
    let missing = fixed::ALL.iter().find(|name| view.schema.field_with_name(name).is_err());
    if let (Some(missing), true) = (missing, view.committed.is_some()) {
        return Err(Error::new(
            Kind::Refused,
            format!("table {} of the lake is not one that Millpond made: it has no column `{missing}`", contract.table),
        )
        .hint("give the schema file another name, or move that table away"));
    }
    let version = match versions.newest(&contract.table) {
        Some(newest) => Arc::clone(&newest.version),
        None if view.schema_version == 0 => return Ok(()),
        // Without a record nobody knows the key: it is taken for the contract's.
        None => match SchemaVersion::from_arrow(&view.schema, view.schema_version, contract.key.len()) {
            Ok(version) => Arc::new(version),
            Err(_) => return Ok(()),
        },
    };
    contract.suits(&version).map_err(|refusal| {
        Error::new(Kind::Refused, format!("schemas/{}.toml: {refusal}", contract.file)).hint(refusal.hint)
    })
}

fn view_of(
    name: &str,
    table: Option<&Table>,
    declared: arrow::datatypes::SchemaRef,
    versions: &Versions,
) -> Result<View> {
    let mut view = View {
        table: name.into(),
        schema: declared,
        schema_version: 0,
        committed: None,
        positions: BTreeMap::new(),
        hot: Vec::new(),
        retries: 0,
        remade: 0,
    };
    if let Some(table) = table {
        view.schema = table.arrow_schema().map_err(unreadable)?;
        view.schema_version = table.schema_version();
        view.positions = table.positions_of(name);
        view.retries = table.retries();
        view.remade = table.remade();
        view.committed = Some(table.snapshot().map_err(unreadable)?);
    }
    if let Some(newest) = versions.newest(name).filter(|newest| newest.number() > view.schema_version) {
        (view.schema, view.schema_version) = (newest.version.arrow_schema(), newest.number());
    }
    Ok(view)
}

fn unreadable(error: crate::lake::TableError) -> Error {
    Error::new(Kind::Internal, "a table of the lake cannot be used").because(error)
}

fn views(project: &Project) -> BTreeMap<String, crate::config::View> {
    project.views.iter().map(|view| (view.name.clone(), view.clone())).collect()
}

/// The project's Kafka; `embedded` is the address of the broker inside the process.
fn cluster(config: &Config, embedded: Option<&str>) -> Cluster {
    let brokers = match &config.kafka.brokers {
        crate::config::Brokers::At(brokers) => brokers.clone(),
        crate::config::Brokers::Embedded => embedded.unwrap_or_default().to_owned(),
    };
    let mut properties = config.kafka.properties.0.clone();
    let iam = match &config.kafka.auth {
        Auth::None => None,
        Auth::MskIam { region } => {
            properties.insert("security.protocol".to_owned(), "SASL_SSL".to_owned());
            properties.insert("sasl.mechanism".to_owned(), "OAUTHBEARER".to_owned());
            Some(Iam::new(region))
        }
    };
    Cluster { brokers, properties, iam }
}

/// The schema registry of the project, if it has one.
pub fn registry(config: &Config) -> Result<Option<Registry>> {
    let SchemaRegistry { url, username, password, ca } = config.kafka.schema_registry.clone();
    url.map(|url| Registry::new(RegistryOptions { url, username, password, ca })).transpose()
}

fn location(project: &Project) -> Result<Location> {
    Location::parse(project.config.lake.url.as_str(), Path::new(&project.dir))
}

/// The lake in `stores`, as it is configured.
fn configured(stores: Stores, config: &Config) -> Lake {
    Lake::new(stores).with_history(config.lake.history).with_compression(config.lake.compression)
}

/// How buckets are reached, the lake's and others.
pub fn s3_options(config: &Config, variables: &Variables) -> S3Options {
    let s3 = &config.lake.s3;
    let variable = |name: &str| variables.get(name).filter(|value| !value.is_empty()).cloned();
    let keys = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    S3Options {
        endpoint: s3.endpoint.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned()),
        region: s3.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION")),
        keys: keys.map(|(access_key_id, secret_access_key)| S3Keys {
            access_key_id,
            secret_access_key,
            session_token: variable("AWS_SESSION_TOKEN"),
        }),
    }
}

/// Waits for work that stops, until the deadline; then the store is given up, and it is said that it was `late`.
async fn in_time(work: &mut (impl Future + Unpin), abort: &Shutdown, late: &'static str) {
    if tokio::time::timeout(SHUTDOWN_DEADLINE, &mut *work).await.is_err() {
        abort.cancel();
        warn!(seconds = SHUTDOWN_DEADLINE.as_secs(), "{late}");
        let _ = tokio::time::timeout(LAST_WORDS, work).await;
    }
}

fn joined<T>(ended: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    ended.unwrap_or_else(|error| Err(Error::new(Kind::Internal, "a background task failed").because(error)))
}

/// Resolves when a server ends by itself.
async fn ended(servers: &mut [(&'static str, JoinHandle<Result<()>>)]) -> Error {
    let waiting: VecDeque<_> =
        servers.iter_mut().map(|(name, server)| Box::pin(async move { (*name, joined(server.await)) })).collect();
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    let ((name, result), ..) = futures::future::select_all(waiting).await;
    result.err().unwrap_or_else(|| Error::new(Kind::Internal, format!("the {name} server ended")))
}
