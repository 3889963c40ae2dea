//! From a reachable Kafka to running readers: the cluster is the lake's own, every table exists and holds its
//! start positions, then one reader per topic feeds the ingest tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::catalog::EngineCatalog;
use super::import::Load;
use super::ingest::{Beside, Ingest};
use super::make::{Wanted, make};
use super::recover;
use super::retry::Retries;
use super::schemas;
use super::versions::Versions;
use crate::decode::dead_letters_schema;
use crate::error::{Error, Kind, Result};
use crate::lake::{
    self, DEAD_LETTERS_VERSION, DeadLetters, Encoding, Lake, PUBLIC, Positions, S3Options, SYSTEM, SchemaVersions,
    Table, TableError, TopicPartition,
};
use crate::news::News;
use crate::schema::{Contract, SchemaVersion, Start, VersionRecord, fixed};
use crate::source::{self, Consumer, Delivery, Kafka, Reader, Registry, Watermarks, resolve_start};
use crate::task::{self, Budget, Shutdown};

/// Pause between attempts while a component is away.
pub const RETRY: Duration = Duration::from_secs(1);
/// How long the broker may take to answer at start-up before it is called unreachable.
/// (It is asked twice, and again every [`RETRY`]; connecting goes on in between.)
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Batches waiting for one table; their bytes are bounded by the ingest budget.
const DELIVERIES: usize = 64;
/// Name of the dead letters' table.
pub const DEAD_LETTERS: &str = "dead_letters";
/// Name of the schema versions' table.
pub const SCHEMA_VERSIONS: &str = "schema_versions";

/// What feeding needs.
pub struct Feed {
    /// Where tables lie.
    pub lake: Lake,
    /// Contracts of all tables.
    pub contracts: Vec<Arc<Contract>>,
    /// The contracts as they are edited, by table.
    pub edits: BTreeMap<String, watch::Receiver<Arc<Contract>>>,
    /// Tables that were open before Kafka was asked, by name.
    pub open: BTreeMap<String, Table>,
    /// What SQL sees.
    pub catalog: Arc<EngineCatalog>,
    /// The Kafka cluster.
    pub kafka: Kafka,
    /// Where schemas are, for the tables whose format needs them.
    pub registry: Option<Registry>,
    /// How buckets with files of full loads are reached.
    pub s3: S3Options,
    /// The embedded broker forgets: with each start of the process a new life of its topics begins.
    pub embedded: bool,
    /// The lives that have begun in this process, by topic.
    pub lives: BTreeMap<String, u32>,
    /// `[lake] commit_interval`.
    pub commit_interval: Duration,
    /// What ingest may hold.
    pub budget: Budget,
    /// What commits take for their files.
    pub encoding: Arc<Encoding>,
    /// Who is told of what changes.
    pub news: News,
    /// Stops reading; what is hot is committed then.
    pub stop: Shutdown,
    /// The same, because the process stops.
    pub process_stop: Shutdown,
    /// Gives up waiting for the store.
    pub abort: Shutdown,
}

impl Feed {
    /// Waits for Kafka and starts to read; `None` if stopped before. Also tells the life of each topic that is read.
    pub async fn begin(mut self) -> Result<Option<(Running, BTreeMap<String, u32>)>> {
        let stop = self.stop.clone();
        let begun = stop.run_until_cancelled(async {
            self.connect().await?;
            self.start().await
        });
        let Some(begun) = begun.await.transpose()? else { return Ok(None) };
        self.wait_for(None);
        Ok(Some((begun, self.lives)))
    }

    /// Waits for the cluster, and makes sure that it is the one the lake was fed from.
    async fn connect(&self) -> Result<()> {
        let mut said = false;
        let cluster = loop {
            let kafka = self.kafka.clone();
            let asked = tokio::task::spawn_blocking(move || kafka.cluster_id(CONNECT_TIMEOUT)).await;
            match asked {
                Ok(Ok(cluster)) => break cluster,
                Ok(Err(error)) if error.kind() == Kind::Unavailable => {
                    if !std::mem::replace(&mut said, true) {
                        let (reason, hint) = (error.message(), error.hint_text());
                        warn!(brokers = self.kafka.brokers(), reason, hint, "no kafka, trying again until it answers");
                    }
                    self.wait_for(Some(error.message().to_owned()));
                }
                Ok(Err(error)) => return Err(error),
                Err(error) => return Err(Error::new(Kind::Internal, "asking kafka failed").because(error)),
            }
            tokio::time::sleep(RETRY).await;
        };
        self.wait_for(None);
        info!(brokers = self.kafka.brokers(), cluster, "kafka answers");
        match cluster {
            Some(cluster) if !self.embedded => {
                lake::check_kafka_cluster(self.lake.stores(), &cluster, chrono::Utc::now()).await
            }
            _ => Ok(()),
        }
    }

    /// Says what ingest waits for, or that it no longer waits.
    fn wait_for(&self, reason: Option<String>) {
        *self.catalog.waiting.write() = reason;
    }

    async fn start(&mut self) -> Result<Running> {
        let dead_letters = self.dead_letters().await?;
        let versions = self.versions().await?;
        let mut topics: BTreeMap<String, Vec<Arc<Contract>>> = BTreeMap::new();
        for contract in &self.contracts {
            for topic in &contract.topics {
                topics.entry(topic.clone()).or_default().push(Arc::clone(contract));
            }
        }
        // Of a feed before this one.
        self.catalog.readers.write().clear();
        self.catalog.retries.write().clear();
        // Every table's position on every topic, resolved before anything is read.
        let mut starts: BTreeMap<String, Positions> = BTreeMap::new();
        let mut partitions_of: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, contracts) in &topics {
            let incarnation = self.incarnation(topic);
            self.lives.insert(topic.clone(), incarnation);
            let partitions = self.partitions(topic).await?;
            for contract in contracts {
                let positions = self.resolve(contract, topic, incarnation, &partitions).await?;
                starts.entry(contract.table.clone()).or_default().extend(positions);
            }
            partitions_of.insert(topic, partitions);
        }
        let mut held: BTreeMap<String, BTreeMap<i32, Watermarks>> = BTreeMap::new();
        // Who reads a topic alone stops nobody, and what Kafka has lost only a raw table has.
        let is_asked = |(topic, partitions): &(&&str, &Vec<i32>)| {
            let readers = topics.get(**topic).map_or(&[][..], Vec::as_slice);
            !partitions.is_empty() && (readers.len() > 1 || readers.iter().any(|contract| contract.raw))
        };
        for (topic, partitions) in partitions_of.iter().filter(is_asked) {
            held.insert((*topic).to_owned(), self.held(topic, partitions.clone()).await?);
        }
        let paused = self.catalog.paused.read().clone();
        // Who is paused gets no records, and its task goes on: dead letters can be tried again.
        let (mut idle, mut recovering) = (Vec::new(), Vec::new());
        let mut ingests = JoinSet::new();
        let mut senders: BTreeMap<String, mpsc::Sender<Delivery>> = BTreeMap::new();
        for contract in self.contracts.clone() {
            let positions = starts.entry(contract.table.clone()).or_default();
            let table = match self.open.remove(&contract.table) {
                Some(table) => table,
                None => self.create(&contract, positions).await?,
            };
            // The table may have been created by an earlier start whose answer was lost: its positions count.
            positions.extend(
                table
                    .positions_of(&contract.table)
                    .into_iter()
                    .filter(|(lane, _)| self.lives.get(&*lane.topic) == Some(&lane.incarnation)),
            );
            let fed = self.catalog.fed();
            let (Some(live), Some(status), Some(edits)) = (
                fed.tables.get(&contract.table).cloned(),
                fed.statuses.get(&contract.table).cloned(),
                self.edits.get(&contract.table).cloned(),
            ) else {
                continue;
            };
            let committed = table.positions_of(&contract.table);
            live.committed(&table).map_err(unreadable)?;
            let beside = self.beside(&contract, &committed).await?;
            let (sender, mut deliveries) = mpsc::channel(DELIVERIES);
            if contract.load.is_some() && !paused.contains(&contract.table) {
                let (versions, name) = (Arc::clone(&versions), contract.table.clone());
                let load = Load {
                    contract: Arc::clone(&contract),
                    live: Arc::clone(&live),
                    version: Box::new(move || versions.newest(&name).map(|newest| Arc::clone(&newest.version))),
                    sender: sender.clone(),
                    s3: self.s3.clone(),
                    budget: self.budget.at_most(self.budget.limit_bytes() / 2),
                    stop: self.stop.clone(),
                };
                task::spawn_behind("full-load", load.run());
            }
            let is_torn = self.catalog.torn.read().contains(&contract.table);
            match paused.contains(&contract.table) {
                true => idle.push(sender),
                false if is_torn => _ = senders.insert(contract.table.clone(), sender),
                false => match recover::missing(&contract, &self.contracts, positions, &held, sender) {
                    Ok(missing) => recovering.push(missing),
                    Err(sender) => _ = senders.insert(contract.table.clone(), sender),
                },
            }
            let (sender, retries) = mpsc::channel(1);
            let (again, agains) = mpsc::channel(1);
            let registry = self.registry.clone().and_then(|registry| registry.of(contract.format));
            let ask = Retries::new(sender, again, registry.clone());
            self.catalog.retries.write().insert(contract.table.clone(), ask);
            let name = contract.table.clone();
            if let Some(registry) = registry {
                // One batch at a time is known to be readable: nothing is gained by more.
                let (resolved, rest) = mpsc::channel(1);
                let from = std::mem::replace(&mut deliveries, rest);
                let (status, stop) = (Arc::clone(&status), self.stop.clone());
                task::spawn("schemas", schemas::resolve(registry, name.clone(), from, resolved, status, stop));
            }
            let ingest = Ingest {
                commit_interval: self.commit_interval,
                live,
                table,
                beside,
                dead_letters: Arc::clone(&dead_letters),
                versions: Arc::clone(&versions),
                edits,
                deliveries,
                retries,
                agains,
                budget: self.budget.clone(),
                encoding: Arc::clone(&self.encoding),
                status,
                news: self.news.clone(),
                stop: self.process_stop.clone(),
                abort: self.abort.clone(),
                contract,
            };
            ingests.spawn(async move { (name, ingest.run().await.map_err(Error::from)) });
        }
        // From now on they can be retried, too.
        let _ = self.catalog.dead_letters.set(dead_letters);
        let mut readers = Vec::new();
        for (topic, contracts) in &topics {
            let incarnation = self.lives.get(topic).copied().unwrap_or(0);
            let consumers = contracts.iter().filter_map(|contract| {
                let lanes = starts.get(&contract.table)?.iter();
                let of_topic = lanes.filter(|(lane, _)| *lane.topic == **topic && lane.incarnation == incarnation);
                Some(Consumer {
                    name: contract.table.clone(),
                    positions: of_topic.map(|(lane, position)| (lane.partition, *position)).collect(),
                    sender: senders.get(&contract.table)?.clone(),
                })
            });
            let consumers: Vec<Consumer> = consumers.collect();
            if consumers.is_empty() {
                continue;
            }
            // Nobody can be stopped by who reads alone.
            let held = held.remove(topic).filter(|_| consumers.len() > 1).unwrap_or_default();
            let (budget, stop) = (self.budget.clone(), &self.stop);
            let reader = Reader::start(&self.kafka, topic, incarnation, consumers, &held, budget, stop)?;
            let reader = Arc::new(reader);
            let asked = Arc::clone(&reader);
            self.catalog.readers.write().insert(topic.clone(), (incarnation, Arc::new(move || asked.status())));
            readers.push(reader);
        }
        let (catalog, stop, abort) = (Arc::clone(&self.catalog), self.stop.clone(), self.abort.clone());
        let until = stop.clone();
        task::spawn("paused", async move {
            until.cancelled().await;
            drop(idle);
        });
        let (budget, next) = (self.budget.clone(), Arc::new(AtomicBool::new(false)));
        if !recovering.is_empty() {
            let (stop, next) = (stop.clone(), Arc::clone(&next));
            let (lake, catalog) = (self.lake.clone(), Arc::clone(&catalog));
            task::spawn_behind("recover", async move {
                for missing in recovering {
                    let table = missing.table.clone();
                    match missing.hand_out(&lake, &budget, &stop).await {
                        recover::End::Done => {}
                        // Its reader says what there is to do.
                        recover::End::Torn => _ = catalog.torn.write().insert(table),
                        recover::End::Stopped => return,
                    }
                }
                // From where they stand then, they are read from Kafka like all others.
                next.store(true, Ordering::Release);
                stop.cancel();
            });
        }
        Ok(Running { readers, ingests, catalog, stop, abort, next })
    }

    /// The life of `topic` that is read now: the newest any table knows; with the embedded broker the next, unless that
    /// has begun in this process.
    fn incarnation(&self, topic: &str) -> u32 {
        let known = self.open.iter().flat_map(|(name, table)| table.positions_of(name).into_keys());
        let newest = known.filter(|lane| &*lane.topic == topic).map(|lane| lane.incarnation).max();
        match (self.lives.get(topic), newest) {
            // Somebody may have begun the next one since.
            (Some(begun), newest) => newest.map_or(*begun, |newest| newest.max(*begun)),
            (None, Some(newest)) if self.embedded => newest + 1,
            (None, newest) => newest.unwrap_or(0),
        }
    }

    /// Partitions of `topic`; none if it does not exist yet.
    async fn partitions(&self, topic: &str) -> Result<Vec<i32>> {
        let name = topic.to_owned();
        self.ask(move |kafka| Ok(kafka.partitions(&name)?.unwrap_or_default())).await
    }

    /// What `partitions` of `topic` hold.
    async fn held(&self, topic: &str, partitions: Vec<i32>) -> Result<BTreeMap<i32, Watermarks>> {
        let name = topic.to_owned();
        self.ask(move |kafka| kafka.watermarks(&name, &partitions)).await
    }

    /// Asks Kafka until it answers.
    async fn ask<T: Send + 'static>(&self, ask: impl Fn(&Kafka) -> Result<T> + Clone + Send + 'static) -> Result<T> {
        loop {
            let (kafka, ask) = (self.kafka.clone(), ask.clone());
            match blocking(move || ask(&kafka)).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.kind() == Kind::Unavailable => {
                    self.wait_for(Some(error.message().to_owned()));
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn resolve(
        &self,
        contract: &Contract,
        topic: &str,
        incarnation: u32,
        partitions: &[i32],
    ) -> Result<Positions> {
        let known = self.open.get(&contract.table).map(|table| table.positions_of(&contract.table)).unwrap_or_default();
        let known: BTreeMap<i32, i64> = known
            .into_iter()
            .filter(|(lane, _)| &*lane.topic == topic && lane.incarnation == incarnation)
            .map(|(lane, position)| (lane.partition, position))
            .collect();
        // A topic's second life is read from its beginning: `start` is for the first run only.
        let start = match contract.start {
            _ if incarnation > 0 => source::Start::Earliest,
            Start::Earliest => source::Start::Earliest,
            Start::Latest => source::Start::Latest,
            Start::At(millis) => source::Start::AtMillis(millis),
        };
        let (name, partitions) = (topic.to_owned(), partitions.to_vec());
        let resolved = self.ask(move |kafka| resolve_start(kafka, &name, &partitions, &known, start)).await?;
        let topic: Arc<str> = topic.into();
        let lane = |partition| TopicPartition { topic: Arc::clone(&topic), incarnation, partition };
        Ok(resolved.into_iter().map(|(partition, position)| (lane(partition), position)).collect())
    }

    async fn create(&self, contract: &Contract, positions: &Positions) -> Result<Table> {
        let schema = SchemaVersion::declared(contract).arrow_schema();
        self.make(PUBLIC, &contract.table, &schema, 0, &[fixed::DAY], positions).await
    }

    /// The tables beside the contract's own, which stands at `committed`.
    async fn beside(&mut self, contract: &Contract, committed: &Positions) -> Result<Vec<Beside>> {
        let mut beside = Vec::new();
        for (name, schema) in super::beside(contract) {
            let Some(live) = self.catalog.fed().tables.get(&name).cloned() else { continue };
            let table = match self.open.remove(&name) {
                Some(table) => table,
                None => self.make(PUBLIC, &name, &schema, 0, &[fixed::DAY], &Positions::new()).await?,
            };
            live.committed_beside(&table, committed).map_err(unreadable)?;
            beside.push(Beside { live, table });
        }
        Ok(beside)
    }

    async fn dead_letters(&self) -> Result<Arc<DeadLetters>> {
        if let Some(open) = self.catalog.dead_letters.get() {
            return Ok(Arc::clone(open));
        }
        let schema = dead_letters_schema();
        let table = self.make(SYSTEM, DEAD_LETTERS, &schema, DEAD_LETTERS_VERSION, &[], &Positions::new()).await?;
        DeadLetters::new(table, schema).map(Arc::new).map_err(unreadable)
    }

    /// The schema versions, with somewhere to record them.
    async fn versions(&self) -> Result<Arc<Versions>> {
        let versions = Arc::clone(&self.catalog.versions);
        if !versions.is_open() {
            let table = self.make(SYSTEM, SCHEMA_VERSIONS, &VersionRecord::schema(), 0, &[], &Positions::new()).await?;
            versions.open(SchemaVersions::new(table));
        }
        Ok(versions)
    }

    /// Opens or creates a table, however long the store is away.
    async fn make(
        &self,
        folder: &str,
        name: &str,
        schema: &arrow::datatypes::SchemaRef,
        schema_version: u32,
        partition_by: &[&str],
        positions: &Positions,
    ) -> Result<Table> {
        let wanted = Wanted { schema, schema_version, partition_by, positions };
        let told = |error: &TableError| {
            warn!(table = name, error = %error, "table not created, trying again");
            self.wait_for(Some(format!("table {name} cannot be created: {error}")));
        };
        let table = make(&self.lake, folder, name, wanted, told).await.map_err(unreadable)?;
        self.wait_for(None);
        Ok(table)
    }
}

/// Readers and the ingest tasks that they feed.
pub struct Running {
    readers: Vec<Arc<Reader>>,
    ingests: JoinSet<(String, Result<()>)>,
    catalog: Arc<EngineCatalog>,
    stop: Shutdown,
    abort: Shutdown,
    /// It stopped so that another feed begins with the same plan.
    next: Arc<AtomicBool>,
}

impl Running {
    /// Runs until stopped and everything is committed; an error ends the process. True if the same is to be fed anew.
    pub async fn run(mut self) -> Result<bool> {
        let mut result = Ok(());
        while let Some(ended) = self.ingests.join_next().await {
            let (table, outcome) = match ended {
                Ok(ended) => ended,
                Err(error) => (String::new(), Err(Error::new(Kind::Internal, "an ingest task failed").because(error))),
            };
            if let Err(error) = outcome {
                if let Some(status) = self.catalog.fed().statuses.get(&table) {
                    status.stopped(error.to_string());
                }
                // One writer that is out of step must not go on with other tables either, nor wait for the store.
                self.stop.cancel();
                self.abort.cancel();
                if result.is_ok() {
                    result = Err(error);
                }
            }
        }
        let readers = self.readers;
        tokio::task::spawn_blocking(move || drop(readers)).await.ok();
        result.map(|()| self.next.load(Ordering::Acquire))
    }
}

fn unreadable(error: TableError) -> Error {
    Error::new(Kind::Internal, "a table of the lake cannot be used").because(error)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(Kind::Internal, "a background call failed").because(error)),
    }
}
