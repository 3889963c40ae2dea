//! A table becomes what it was, because somebody asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::info;

use super::past::gone;
use super::{Care, Cared, Done, unreadable};
use crate::decode::FULL_LOAD;
use crate::engine::feeder::Order;
use crate::engine::open_table;
use crate::error::{Error, Kind, Result};
use crate::lake::care::{self, Restored};
use crate::lake::{Lake, LiveView, PUBLIC, Past, Positions, RecordSet, TopicPartition};
use crate::source::{Kafka, KafkaOptions};
use crate::task::Shutdown;

/// Which of its versions a table becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// A table version.
    Version(u64),
    /// The newest that was committed by then.
    Time(DateTime<Utc>),
}

impl From<Moment> for Past {
    fn from(moment: Moment) -> Self {
        match moment {
            Moment::Version(version) => Self::Version(version),
            Moment::Time(time) => Self::Time(time),
        }
    }
}

/// What becomes of the positions of a table that is fed by Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfPositions {
    /// They are those of the version: what came since is read again.
    Rewind,
    /// They stay: what came since is gone.
    Keep,
}

/// Restores `cared`.
pub(super) async fn restore(
    care: &Care,
    cared: &Cared,
    moment: Moment,
    positions: Option<OfPositions>,
    dry_run: bool,
) -> Result<Done> {
    let name = &cared.name;
    let is_fed = care.catalog.fed().contracts.iter().any(|contract| contract.table == *name);
    let is_followed = is_fed || care.catalog.stream_queries.has_table(name);
    let refused = |message: String, hint: &str| Err(Error::new(Kind::Usage, message).hint(hint));
    match positions {
        _ if cared.folder != PUBLIC => return refused(format!("{} cannot be restored", cared.shown()), "it is a log"),
        _ if cared.is_replaced => {
            let message = format!("table {name} is put together from others and cannot be restored by itself");
            return refused(message, "restore the tables that it comes from");
        }
        None if is_followed => {
            return refused(
                format!("what becomes of the records that table {name} has read since?"),
                "--rewind reads them again, --keep-positions leaves them out for good",
            );
        }
        Some(OfPositions::Rewind) if !is_fed => {
            let message = format!("table {name} is not fed by Kafka: there is nothing to read again");
            return refused(message, "--keep-positions restores its rows");
        }
        _ => {}
    }
    let at = Past::from(moment);
    let of_table = (cared.folder, name.as_str());
    let past = match care.lake.past(cared.folder, name, at).await {
        Ok(Some(past)) => past,
        Ok(None) => return Err(Error::new(Kind::NotFound, format!("the lake has no table `{name}`"))),
        Err(error) => return Err(gone(&care.lake, of_table, at, Some(error)).await),
    };
    let snapshot = past.snapshot().map_err(unreadable)?;
    if !care::has_files(&care.lake, cared.folder, name, &snapshot).await.map_err(unreadable)? {
        return Err(gone(&care.lake, of_table, at, None).await);
    }
    let rewind = positions == Some(OfPositions::Rewind);
    let version = past.version();
    if rewind && care.orders.is_none() && care.forgets {
        return refused(
            "the embedded broker forgets: nothing can be read again without the server that runs it".to_owned(),
            "ask while it runs, or --keep-positions",
        );
    }
    let work = Work {
        lake: care.lake.clone(),
        name: name.clone(),
        live: cared.live.clone(),
        version,
        rewind,
        dry_run,
        kafka: care.kafka.clone(),
        abort: care.abort.clone(),
    };
    let restored = match &care.orders {
        // What is read again must not be read on meanwhile.
        Some(orders) if rewind && !dry_run => {
            let (reply, answer) = oneshot::channel();
            let rest = async move { _ = reply.send(work.run().await) };
            let stopped = || Error::new(Kind::Unavailable, "stopped before the table was restored");
            orders.send(Order::Rest(Box::pin(rest))).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())??
        }
        _ => work.run().await?,
    };
    if !dry_run {
        let (rows_gone, rows_back) = (restored.rows_gone, restored.rows_back);
        info!(table = name, version, rewind, rows_gone, rows_back, "table restored");
    }
    let Restored { files_gone, rows_gone, files_back, rows_back } = restored;
    Ok(Done { restored_to: Some(version), files_gone, rows_gone, files_back, rows_back, ..Done::default() })
}

struct Work {
    lake: Lake,
    name: String,
    live: Option<Arc<LiveView>>,
    version: u64,
    rewind: bool,
    dry_run: bool,
    /// Who is asked whether records are still there; `None` if they are, as long as the broker runs.
    kafka: Option<KafkaOptions>,
    abort: Shutdown,
}

impl Work {
    async fn run(self) -> Result<Restored> {
        let Self { lake, name, live, version, rewind, dry_run, kafka, abort } = self;
        let missing = || Error::new(Kind::NotFound, format!("the lake has no table `{name}`"));
        let mut table = open_table(&lake, PUBLIC, &name).await?.ok_or_else(missing)?;
        let past = lake.past(PUBLIC, &name, Past::Version(version)).await.map_err(unreadable)?.ok_or_else(missing)?;
        // What was imported since may be imported again.
        let mut numbers = care::numbers_at(&lake, PUBLIC, &table, version).await.map_err(unreadable)?;
        if rewind {
            let then = care::positions_at(&lake, PUBLIC, &name, version).await.map_err(unreadable)?;
            let now = table.positions_of(&name);
            let newest =
                |topic: &str| now.keys().filter(|lane| *lane.topic == *topic).map(|lane| lane.incarnation).max();
            let is_over = |lane: &TopicPartition| newest(&lane.topic) > Some(lane.incarnation);
            if let Some((lane, _)) = now.iter().find(|(lane, end)| is_over(lane) && then.get(*lane) != Some(*end)) {
                let message = format!("records of {lane} cannot be read again: the topic was made anew since");
                return Err(Error::new(Kind::Refused, message).hint("--keep-positions restores the rows"));
            }
            let moved = now.iter().filter(|(lane, end)| then.get(*lane) != Some(*end));
            let mut back: Positions =
                moved.map(|(lane, _)| (lane.clone(), then.get(lane).copied().unwrap_or(0))).collect();
            if let Some(kafka) = kafka {
                can_be_read(&lake, &name, kafka, (&then, &now), &mut back).await?;
            }
            numbers.extend(back.into_iter().map(|(lane, position)| (lane.app_id(&name), position)));
        }
        let columns = table.arrow_schema().map_err(unreadable)?;
        let restored = care::restore(&mut table, &past, &numbers, dry_run, &abort).await?;
        let restored = restored.ok_or_else(|| {
            Error::new(Kind::Unavailable, format!("table {name} was written to by another at that moment"))
                .hint("try again: nothing was done")
        })?;
        if let Some(live) = live.filter(|_| !dry_run) {
            // Nothing is hot while positions go back. Whoever follows the table from now on must not see them as they were.
            let shown = match rewind {
                true => live.committed(&table),
                false if table.arrow_schema().map_err(unreadable)? != columns => live.remade(&table),
                false => live.rewritten(&table),
            };
            shown.map_err(unreadable)?;
        }
        Ok(restored)
    }
}

/// An error if what lies between the positions `back` and those of `now` cannot be read again: Kafka does not hold it any
/// more, and the table's raw records do not either. Partitions that came since `then` are read from their beginning.
async fn can_be_read(
    lake: &Lake,
    name: &str,
    kafka: KafkaOptions,
    (then, now): (&Positions, &Positions),
    back: &mut Positions,
) -> Result<()> {
    let lanes = || back.keys().filter(|lane| lane.partition != FULL_LOAD);
    let topics: BTreeSet<String> = lanes().map(|lane| lane.topic.to_string()).collect();
    let asked = tokio::task::spawn_blocking(move || {
        let kafka = Kafka::new(kafka)?;
        let mut held = BTreeMap::new();
        for topic in topics {
            let Some(partitions) = kafka.partitions(&topic)? else { continue };
            held.insert(topic.clone(), kafka.watermarks(&topic, &partitions)?);
        }
        Ok::<_, Error>(held)
    });
    let held = asked.await.map_err(|error| Error::new(Kind::Internal, "asking kafka failed").because(error))??;
    let raw = open_table(lake, PUBLIC, &format!("{name}__raw")).await?;
    let refused = |message: String| {
        let hint = "--keep-positions restores the rows, and leaves out what came since; `millpond ingest replay --from raw` \
                    decodes again what the table's raw records have of it";
        Err(Error::new(Kind::Refused, message).hint(hint))
    };
    for (lane, from) in back.iter_mut().filter(|(lane, _)| lane.partition != FULL_LOAD) {
        let end = now.get(lane).copied().unwrap_or(0);
        let held = held.get(&*lane.topic).and_then(|held| held.get(&lane.partition));
        let Some(held) = held.filter(|held| end <= held.high) else {
            return refused(format!("kafka does not hold {lane} any more: the topic is gone, or was made anew"));
        };
        if !then.contains_key(lane) {
            *from = held.low.min(end);
        }
        let (from, low) = (*from, held.low.min(end));
        if from >= low {
            continue;
        }
        let kept = match &raw {
            Some(raw) => RecordSet::has_all(raw, lane, from..low).await.map_err(unreadable)?,
            None => false,
        };
        if !kept {
            return refused(format!("kafka holds {lane} from {low} on, and {from} to {low} would be lost"));
        }
    }
    Ok(())
}

/// The tables with one row per key that are put together from `table`.
pub fn made_of(catalog: &Arc<crate::engine::catalog::EngineCatalog>, table: &str) -> Vec<String> {
    let kept = catalog.kept.load();
    let is_made = |followed: &[crate::engine::latest::Followed]| followed.iter().any(|of| of.source == table);
    kept.iter().filter(|(_, kept)| is_made(&kept.followed())).map(|(name, _)| name.clone()).collect()
}
