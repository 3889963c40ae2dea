//! Feeds, one after the other. When contracts come, go, or change in what readers and tables are set up for, the feed
//! that runs commits what it has, and the next begins at the positions in the lake. Servers go on meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::catalog::{EngineCatalog, Fed};
use super::feed::{Feed, RETRY};
use super::versions::Versions;
use super::{joined, open_table, suits, tables_of, unreadable, view_of};
use crate::error::{Error, Kind, Result};
use crate::lake::{Encoding, Lake, LiveView, PUBLIC, S3Options, Table};
use crate::news::News;
use crate::schema::Contract;
use crate::source::{Kafka, KafkaOptions, Registry};
use crate::task::{self, Budget, Shutdown};

/// Makes a topic of the broker inside the process, unless it is there.
pub type TopicMaker = Arc<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// What is to be fed.
#[derive(Clone)]
pub struct Plan {
    /// The contracts.
    pub contracts: Vec<Arc<Contract>>,
    /// The contracts as they are edited, by table.
    pub edits: BTreeMap<String, watch::Receiver<Arc<Contract>>>,
}

/// What a feeder is told.
pub enum Order {
    /// To feed something else.
    Feed(Plan),
    /// To do this while nothing is fed, all that was read being committed, and then to go on.
    Rest(BoxFuture<'static, ()>),
}

impl Order {
    /// What is to be fed from now on, `plan` being fed so far; what is to be done first is done.
    async fn carry_out(self, plan: &Plan) -> End {
        match self {
            Self::Feed(next) => End::Next(next),
            Self::Rest(work) => {
                work.await;
                End::Next(plan.clone())
            }
        }
    }
}

/// Delta tables that are open, by name.
pub type OpenTables = BTreeMap<String, Table>;

/// What all feeds of a process share.
pub struct Feeder {
    /// Where tables lie.
    pub lake: Lake,
    /// What SQL sees.
    pub catalog: Arc<EngineCatalog>,
    /// The Kafka cluster; its queued bytes are those of all topics together.
    pub kafka: KafkaOptions,
    /// Where schemas are, for the tables whose format needs them.
    pub registry: Option<Registry>,
    /// How buckets with files of full loads are reached.
    pub s3: S3Options,
    /// Makes topics of the embedded broker, if that is the cluster.
    pub embedded: Option<TopicMaker>,
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
    /// Gives up waiting for the store.
    pub abort: Shutdown,
    /// The lives of the topics that were read so far.
    pub lives: BTreeMap<String, u32>,
}

/// How a feed ended.
enum End {
    /// All is committed and the process stops, or an error ends it.
    Last(Result<()>),
    /// Another plan came first; all is committed.
    Next(Plan),
    /// It could not begin.
    Failed(Error),
}

impl Feeder {
    /// Feeds `plan`, whose tables are `open`, and then as each of `orders` says, until stopped and everything is committed; an
    /// error ends the process. A later plan that cannot be fed is given up for the one before.
    pub async fn run(mut self, plan: Plan, open: OpenTables, mut orders: mpsc::Receiver<Order>) -> Result<()> {
        let (mut plan, mut open) = (plan, open);
        let mut before: Option<Plan> = None;
        loop {
            let failure = match self.feed(&plan, open, &mut orders).await {
                End::Last(result) => return result,
                End::Failed(error) => error,
                End::Next(next) => {
                    before = Some(std::mem::replace(&mut plan, next));
                    match self.open(&plan).await {
                        Ok(tables) => {
                            open = tables;
                            continue;
                        }
                        Err(error) => error,
                    }
                }
            };
            let Some(last) = before.take() else { return Err(failure) };
            let (reason, hint) = (failure.to_string(), failure.hint_text());
            warn!(reason, hint, "contracts not taken over, those before go on");
            plan = last;
            open = self.open(&plan).await?;
        }
    }

    /// Feeds until the end, or until there is another order.
    async fn feed(&mut self, plan: &Plan, open: OpenTables, orders: &mut mpsc::Receiver<Order>) -> End {
        let stop = self.stop.child_token();
        let begun = {
            let feed = match self.prepare(plan, open, &stop) {
                Ok(feed) => feed,
                Err(error) => return End::Failed(error),
            };
            tokio::select! {
                begun = feed.begin() => begun,
                Some(order) = orders.recv() => return order.carry_out(plan).await,
            }
        };
        let running = match begun {
            Ok(Some((running, lives))) => {
                info!(tables = plan.contracts.len(), topics = lives.len(), "reading begins");
                self.lives.extend(lives);
                running
            }
            Ok(None) => return End::Last(Ok(())),
            Err(error) => return End::Failed(error),
        };
        let mut running = task::spawn("feed-run", running.run());
        tokio::select! {
            ended = &mut running => {
                match joined(ended) {
                    Err(error) => return End::Last(Err(error)),
                    Ok(_) if self.stop.is_cancelled() => return End::Last(Ok(())),
                    Ok(true) => return End::Next(plan.clone()),
                    Ok(false) => {}
                }
                // There is nothing to feed.
                tokio::select! {
                    () = self.stop.cancelled() => End::Last(Ok(())),
                    Some(order) = orders.recv() => order.carry_out(plan).await,
                }
            }
            Some(order) = orders.recv() => {
                stop.cancel();
                match joined(running.await) {
                    Ok(_) => order.carry_out(plan).await,
                    Err(error) => End::Last(Err(error)),
                }
            }
        }
    }

    fn prepare(&self, plan: &Plan, open: OpenTables, stop: &Shutdown) -> Result<Feed> {
        let topics: BTreeSet<&String> = plan.contracts.iter().flat_map(|contract| &contract.topics).collect();
        if let Some(make) = &self.embedded {
            topics.iter().try_for_each(|topic| make(topic))?;
        }
        let queued_bytes = self.kafka.queued_bytes / topics.len().max(1);
        Ok(Feed {
            lake: self.lake.clone(),
            contracts: plan.contracts.clone(),
            edits: plan.edits.clone(),
            open,
            catalog: Arc::clone(&self.catalog),
            kafka: Kafka::new(KafkaOptions { queued_bytes, ..self.kafka.clone() })?,
            registry: self.registry.clone(),
            s3: self.s3.clone(),
            embedded: self.embedded.is_some(),
            lives: self.lives.clone(),
            commit_interval: self.commit_interval,
            budget: self.budget.clone(),
            encoding: Arc::clone(&self.encoding),
            news: self.news.clone(),
            stop: stop.clone(),
            process_stop: self.stop.clone(),
            abort: self.abort.clone(),
        })
    }

    /// Opens the tables of a later plan, however long the store is away, and shows them.
    async fn open(&self, plan: &Plan) -> Result<OpenTables> {
        loop {
            let fed = self.catalog.fed();
            match open(&self.lake, &plan.contracts, &self.catalog.versions, &fed).await {
                Ok((fed, open)) => {
                    self.catalog.fed.store(Arc::new(fed));
                    return Ok(open);
                }
                Err(error) if error.kind() == Kind::Unavailable && !self.stop.is_cancelled() => {
                    warn!(error = %error, "tables not opened, trying again");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Opens the tables of `contracts`, and shows them beside those of the lake that nothing feeds. Views of `before`, and
/// what its tables have counted, go on.
pub async fn open(
    lake: &Lake,
    contracts: &[Arc<Contract>],
    versions: &Versions,
    before: &Fed,
) -> Result<(Fed, OpenTables)> {
    let mut fed = Fed { tables: before.tables.clone(), contracts: contracts.to_vec(), ..Fed::default() };
    let mut open = OpenTables::new();
    for contract in contracts {
        for (name, declared) in tables_of(contract) {
            let table = open_table(lake, PUBLIC, &name).await?;
            let live = match before.tables.get(&name) {
                Some(live) => Arc::clone(live),
                None => Arc::new(LiveView::new(view_of(&name, table.as_ref(), declared, versions)?)),
            };
            if name == contract.table {
                suits(contract, &live.pin(), versions)?;
            }
            fed.tables.insert(name.clone(), live);
            open.extend(table.map(|table| (name, table)));
        }
        let status = before.statuses.get(&contract.table).cloned().unwrap_or_default();
        fed.statuses.insert(contract.table.clone(), status);
    }
    for name in lake.table_names(PUBLIC).await.map_err(unreadable)? {
        if fed.tables.contains_key(&name) {
            continue;
        }
        // Nothing depends on these: one that cannot be read keeps nobody from starting.
        match unfed(lake, &name, versions).await {
            Ok(live) => fed.tables.extend(live.map(|live| (name, Arc::new(live)))),
            Err(error) => warn!(table = name, error = %error, "a table without a contract cannot be read"),
        }
    }
    Ok((fed, open))
}

/// A table of the lake that nothing feeds.
async fn unfed(lake: &Lake, name: &str, versions: &Versions) -> Result<Option<LiveView>> {
    let Some(table) = open_table(lake, PUBLIC, name).await? else { return Ok(None) };
    let schema = table.arrow_schema().map_err(unreadable)?;
    Ok(Some(LiveView::new(view_of(name, Some(&table), schema, versions)?)))
}
