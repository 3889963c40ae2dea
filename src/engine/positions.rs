//! Where tables read on, moved by somebody: paused and resumed, led past records, or to the beginning of a topic that was
//! made anew. All of it while nothing is fed; the feed that follows begins at what the tables say then.
//!
//! A position only ever goes forward in the life of a topic: what lies before it is in the table. (`millpond table restore
//! --rewind` takes rows away and reads them again.) A topic that was made anew has another life, whose number rows carry,
//! so that its offsets are others.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::catalog::{EngineCatalog, micros, numbers, schema, texts, timestamps};
use super::feeder::Order;
use super::{Variables, as_writer, cluster, committed, open_table, unreadable};
use crate::config::{Brokers, Config, Project};
use crate::deliver::Cluster;
use crate::error::{Error, Kind, Result};
use crate::lake::{
    self, Lake, Move, Moves, PUBLIC, Table, TopicPartition, accept_kafka_cluster, commit_main, kafka_cluster,
};
use crate::schema::Contract;
use crate::source::{Kafka, KafkaOptions, Watermarks};
use crate::task::Shutdown;

/// Name of the admin action of a [`Request`].
pub const ACTION: &str = "millpond.ingest";
/// The table of records that tables were led past.
pub const GAPS: &str = "gaps";
/// How long the brokers may take to say which cluster they are.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Feeds a table no more.
    Pause(String),
    /// Feeds it again, from where it is.
    Resume(String),
    /// Moves a table's positions.
    Seek(Seek),
}

/// Where a table is to read on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seek {
    /// The table; a mirror by its own name.
    pub table: String,
    /// One of its topics; all if none is named.
    pub topic: Option<String>,
    /// One partition; all if none is named.
    pub partition: Option<i32>,
    /// Where.
    pub to: To,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// A place in partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// The first record that Kafka holds.
    Earliest,
    /// Behind the last.
    Latest,
    /// The first record of that time or later.
    Time(DateTime<Utc>),
    /// An offset.
    Offset(i64),
}

/// A position that was moved, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The table.
    pub table: String,
    /// Its topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The position before, in the same life of the topic.
    pub from: Option<i64>,
    /// The position now.
    pub to: i64,
    /// The life of the topic that begins here, if one does.
    pub life: Option<u32>,
}

/// The columns of `system.gaps`.
pub fn gaps_schema() -> SchemaRef {
    schema(&[
        ("table_name", DataType::Utf8),
        ("topic", DataType::Utf8),
        ("incarnation", DataType::Int32),
        ("partition", DataType::Int32),
        ("first_offset", DataType::Int64),
        ("next_offset", DataType::Int64),
        ("reason", DataType::Utf8),
        ("at", micros()),
    ])
}

fn gap_rows(gaps: &[(String, TopicPartition, Move)]) -> Result<RecordBatch, ArrowError> {
    let now = Utc::now().timestamp_micros();
    let whole = |of: fn(&(String, TopicPartition, Move)) -> i32| gaps.iter().map(of).collect::<Int32Array>();
    RecordBatch::try_new(
        gaps_schema(),
        vec![
            texts(gaps.iter().map(|gap| Some(gap.0.as_str()))),
            texts(gaps.iter().map(|gap| Some(&*gap.1.topic))),
            Arc::new(whole(|gap| gap.1.incarnation.cast_signed())),
            Arc::new(whole(|gap| gap.1.partition)),
            numbers(gaps.iter().map(|gap| Some(gap.2.start))),
            numbers(gaps.iter().map(|gap| Some(gap.2.end))),
            texts(gaps.iter().map(|_| Some("seek"))),
            timestamps(gaps.iter().map(|_| Some(now))),
        ],
    )
}

/// Moves positions.
#[derive(Clone)]
pub struct Mover {
    lake: Lake,
    catalog: Arc<EngineCatalog>,
    kafka: KafkaOptions,
    /// Who is told when nothing is to be fed for a moment; `None` if nothing is fed.
    orders: Option<mpsc::Sender<Order>>,
    abort: Shutdown,
}

impl Mover {
    /// Of the tables of `lake`, which `catalog` shows.
    pub(super) fn new(lake: &Lake, catalog: &Arc<EngineCatalog>, kafka: KafkaOptions, abort: &Shutdown) -> Self {
        let (lake, catalog, abort) = (lake.clone(), Arc::clone(catalog), abort.clone());
        Self { lake, catalog, kafka, orders: None, abort }
    }

    /// The same beside a feeder.
    pub(super) fn beside(self, orders: mpsc::Sender<Order>) -> Self {
        Self { orders: Some(orders), ..self }
    }

    /// Carries out `request`; the positions that it moved.
    pub async fn run(&self, request: Request) -> Result<Vec<Moved>> {
        let wanted = match &request {
            Request::Pause(table) | Request::Resume(table) => table,
            Request::Seek(seek) => &seek.table,
        };
        let contract = self.contract(wanted)?;
        let is_dry = matches!(&request, Request::Seek(seek) if seek.dry_run);
        let mover = self.clone();
        let work = async move { mover.carry_out(request, &contract).await };
        let Some(orders) = self.orders.as_ref().filter(|_| !is_dry) else { return work.await };
        let (reply, answer) = oneshot::channel();
        let rest = async move { _ = reply.send(work.await) };
        let stopped = || Error::new(Kind::Unavailable, "stopped before it was done");
        orders.send(Order::Rest(Box::pin(rest))).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    fn contract(&self, table: &str) -> Result<Arc<Contract>> {
        let fed = self.catalog.fed();
        let is_meant = |contract: &&Arc<Contract>| contract.table == table || contract.file == table;
        fed.contracts.iter().find(is_meant).cloned().ok_or_else(|| {
            let names: Vec<&str> = fed.contracts.iter().map(|contract| contract.file.as_str()).collect();
            let hint = format!("fed are: {}", names.join(", "));
            Error::new(Kind::NotFound, format!("no topic feeds a table `{table}`")).hint(hint)
        })
    }

    async fn carry_out(&self, request: Request, contract: &Contract) -> Result<Vec<Moved>> {
        let table = contract.table.clone();
        let mut paused = self.catalog.paused.read().clone();
        match request {
            Request::Pause(_) => _ = paused.insert(table.clone()),
            Request::Resume(_) => _ = paused.remove(&table),
            Request::Seek(seek) => return self.seek(&seek, contract).await,
        }
        lake::pause(self.lake.stores(), &paused).await?;
        info!(table, paused = paused.contains(&table), "feeding changes");
        *self.catalog.paused.write() = paused;
        Ok(Vec::new())
    }

    async fn seek(&self, seek: &Seek, contract: &Contract) -> Result<Vec<Moved>> {
        let name = &contract.table;
        let missing = || {
            Error::new(Kind::NotFound, format!("table {name} has no positions yet"))
                .hint("`start` in its file says where it begins")
        };
        let mut table = open_table(&self.lake, PUBLIC, name).await?.ok_or_else(missing)?;
        let topics: Vec<&String> = match &seek.topic {
            Some(topic) if !contract.topics.contains(topic) => {
                let message = format!("table {name} is not fed by topic {topic}");
                return Err(Error::new(Kind::Usage, message).hint(format!("but by: {}", contract.topics.join(", "))));
            }
            Some(topic) => vec![topic],
            None => contract.topics.iter().collect(),
        };
        let (mut moves, mut moved) = (Moves::new(), Vec::new());
        for topic in topics {
            let places = self.places(topic, seek.to).await?;
            let partition = seek.partition;
            if let Some(partition) = partition.filter(|partition| !places.contains_key(partition)) {
                return Err(Error::new(Kind::Usage, format!("topic {topic} has no partition {partition}")));
            }
            self.lead(&table, topic, partition, &places, &mut moves, &mut moved)?;
        }
        if seek.dry_run || moves.is_empty() {
            return Ok(moved);
        }
        self.commit(&mut table, moves).await?;
        Ok(moved)
    }

    /// What each partition of a topic holds, and which place in it is meant.
    async fn places(&self, topic: &str, to: To) -> Result<BTreeMap<i32, (Watermarks, i64)>> {
        let (options, name) = (self.kafka.clone(), topic.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let kafka = Kafka::new(options)?;
            let partitions = kafka
                .partitions(&name)?
                .ok_or_else(|| Error::new(Kind::NotFound, format!("kafka has no topic {name}")))?;
            let held = kafka.watermarks(&name, &partitions)?;
            let times = match to {
                To::Time(at) => kafka.offsets_for_time(&name, &partitions, at.timestamp_millis())?,
                _ => BTreeMap::new(),
            };
            let mut places = BTreeMap::new();
            for (partition, held) in held {
                let place = match to {
                    To::Earliest => held.low,
                    To::Latest => held.high,
                    To::Time(_) => times.get(&partition).copied().unwrap_or(held.high),
                    To::Offset(offset) if (held.low..=held.high).contains(&offset) => offset,
                    To::Offset(offset) => {
                        let (low, high) = (held.low, held.high);
                        let message = format!("partition {partition} of topic {name} does not hold offset {offset}");
                        return Err(Error::new(Kind::Usage, message).hint(format!("it holds {low} to {high}")));
                    }
                };
                places.insert(partition, (held, place));
            }
            Ok(places)
        });
        asked.await.map_err(|error| Error::new(Kind::Internal, "asking kafka failed").because(error))?
    }

    /// The newest life of a topic that any table knows.
    fn life(&self, topic: &str) -> Option<u32> {
        let fed = self.catalog.fed();
        let of_topic = fed.contracts.iter().filter(|contract| contract.topics.iter().any(|name| name == topic));
        let views = of_topic.filter_map(|contract| Some(fed.tables.get(&contract.table)?.pin()));
        let lives = views.flat_map(|view| {
            let lanes = view.positions.keys().filter(|lane| &*lane.topic == topic).map(|lane| lane.incarnation);
            lanes.collect::<Vec<_>>()
        });
        lives.max()
    }

    /// Adds the moves of a table in one topic.
    fn lead(
        &self,
        table: &Table,
        topic: &str,
        only: Option<i32>,
        places: &BTreeMap<i32, (Watermarks, i64)>,
        moves: &mut Moves,
        moved: &mut Vec<Moved>,
    ) -> Result<()> {
        let name = table.name();
        let life = self.life(topic).unwrap_or(0);
        let lane = |incarnation, partition| TopicPartition { topic: topic.into(), incarnation, partition };
        let known = table.positions_of(name);
        let known: BTreeMap<i32, i64> = known
            .into_iter()
            .filter(|(lane, _)| &*lane.topic == topic && lane.incarnation == life)
            .map(|(lane, position)| (lane.partition, position))
            .collect();
        let is_gone =
            |(partition, position): (&i32, &i64)| places.get(partition).is_none_or(|(held, _)| *position > held.high);
        if known.iter().any(is_gone) {
            // It is another topic by now: all of it is new.
            for (partition, (held, place)) in places {
                let place = if only.is_none_or(|only| only == *partition) { *place } else { held.low };
                moves.insert(lane(life + 1, *partition), begin(place));
                let (table, topic) = (name.to_string(), topic.to_owned());
                let (partition, to, life) = (*partition, place, Some(life + 1));
                moved.push(Moved { table, topic, partition, from: None, to, life });
            }
            return Ok(());
        }
        for (partition, (_, place)) in
            places.iter().filter(|(partition, _)| only.is_none_or(|only| only == **partition))
        {
            let from = known.get(partition).copied();
            match from {
                Some(from) if from == *place => continue,
                Some(from) if from > *place => {
                    let message = format!(
                        "table {name} has read partition {partition} of topic {topic} up to {from} already, and {place} lies before"
                    );
                    let hint = "`millpond table restore --rewind` takes rows away and reads them again";
                    return Err(Error::new(Kind::Usage, message).hint(hint));
                }
                _ => {}
            }
            let step = from.map_or_else(|| begin(*place), |from| Move { start: from, end: *place, young: false });
            moves.insert(lane(life, *partition), step);
            let (table, topic) = (name.to_string(), topic.to_owned());
            moved.push(Moved { table, topic, partition: *partition, from, to: *place, life: None });
        }
        Ok(())
    }

    /// Notes what positions are led past, and makes them durable: better noted twice than not at all.
    async fn commit(&self, table: &mut Table, moves: Moves) -> Result<()> {
        let name = table.name().to_string();
        let gaps: Vec<(String, TopicPartition, Move)> = moves
            .clone()
            .into_iter()
            .filter(|(_, step)| !step.young)
            .map(|(lane, step)| (name.clone(), lane, step))
            .collect();
        if !gaps.is_empty()
            && let Ok(rows) = gap_rows(&gaps)
        {
            self.catalog.gaps.add(&self.lake, &rows, &self.abort).await;
        }
        let partitions = moves.len();
        commit_main(table, &[], moves, &self.abort).await?;
        info!(table = name, partitions, "positions moved");
        if let Some(live) = self.catalog.fed().tables.get(&name) {
            live.committed(table).map_err(unreadable)?;
        }
        Ok(())
    }
}

/// A partition that the table has no position of begins here.
fn begin(place: i64) -> Move {
    // A move leads somewhere; where it comes from does not matter where nothing is.
    Move { start: place - 1, end: place, young: true }
}

/// The project's Kafka, for questions.
pub(super) fn questions(config: &Config) -> Result<KafkaOptions> {
    if config.kafka.brokers == Brokers::Embedded {
        let message = "the embedded broker is inside `millpond serve`, and forgets when that ends";
        return Err(Error::new(Kind::Usage, message).hint("ask while the server runs"));
    }
    let Cluster { brokers, properties, iam } = cluster(config, None);
    Ok(KafkaOptions { brokers, properties, iam, ..KafkaOptions::default() })
}

/// Carries out `request` on a lake that no server writes to: as its one writer, for as long as it takes.
pub async fn without_server(project: &Project, variables: &Variables, request: Request) -> Result<Vec<Moved>> {
    let kafka = match &request {
        Request::Seek(_) => questions(&project.config)?,
        _ => KafkaOptions::default(),
    };
    as_writer(project, variables, async |lake: &Lake, abort: &Shutdown| {
        let catalog = committed(project, Some(lake)).await?;
        *catalog.paused.write() = lake::paused(lake.stores()).await?;
        catalog.gaps.open(lake).await;
        Mover::new(lake, &catalog, kafka, abort).run(request).await
    })
    .await
}

/// What came of accepting another cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The cluster that the lake was fed from; none before the first contact.
    pub before: Option<String>,
    /// The one that it is fed from now.
    pub now: String,
    /// Where tables begin in it.
    pub moved: Vec<Moved>,
}

/// The lake of a project, which no server writes to, is fed from now on from the cluster that its brokers belong to. Its topics
/// have other offsets: they are read from their beginning, in another life, unless positions are kept (a mirror of the
/// cluster that has the same offsets).
pub async fn accept_cluster(
    project: &Project,
    variables: &Variables,
    keep_positions: bool,
    dry_run: bool,
) -> Result<Accepted> {
    let options = questions(&project.config)?;
    let asking = options.clone();
    let asked = tokio::task::spawn_blocking(move || Kafka::new(asking)?.cluster_id(PATIENCE)).await;
    let now = asked.map_err(|error| Error::new(Kind::Internal, "asking kafka failed").because(error))??;
    let now = now.ok_or_else(|| Error::new(Kind::Unavailable, "the brokers do not say which cluster they are"))?;
    as_writer(project, variables, async |lake: &Lake, abort: &Shutdown| {
        let before = kafka_cluster(lake.stores()).await?;
        let mut accepted = Accepted { before, now: now.clone(), moved: Vec::new() };
        if accepted.before.as_ref() == Some(&now) {
            return Ok(accepted);
        }
        let catalog = committed(project, Some(lake)).await?;
        let mover = Mover::new(lake, &catalog, options.clone(), abort);
        // All is asked before anything is written: half of the tables in another cluster would be read twice.
        let mut all = Vec::new();
        for contract in project.tables.iter().filter(|_| !keep_positions) {
            let Some(table) = open_table(lake, PUBLIC, &contract.table).await? else { continue };
            let mut moves = Moves::new();
            for topic in &contract.topics {
                let places = match mover.places(topic, To::Earliest).await {
                    Err(error) if error.kind() == Kind::NotFound => {
                        let known = table.positions_of(&contract.table);
                        if known.keys().all(|lane| *lane.topic != **topic) {
                            continue;
                        }
                        let hint = "make the topic there first: its records would be taken for those that were read";
                        return Err(error.hint(hint));
                    }
                    places => places?,
                };
                // The catalog shows positions as they were: all tables of a topic begin the same life.
                let life = mover.life(topic).map_or(0, |life| life + 1);
                for (partition, (_, place)) in places {
                    let lane = TopicPartition { topic: topic.as_str().into(), incarnation: life, partition };
                    moves.insert(lane, begin(place));
                    let (table, topic) = (contract.table.clone(), topic.clone());
                    accepted.moved.push(Moved { table, topic, partition, from: None, to: place, life: Some(life) });
                }
            }
            if !moves.is_empty() {
                all.push((table, moves));
            }
        }
        if !dry_run {
            for (mut table, moves) in all {
                commit_main(&mut table, &[], moves, abort).await?;
            }
            accept_kafka_cluster(lake.stores(), &now, Utc::now()).await?;
        }
        Ok(accepted)
    })
    .await
}
