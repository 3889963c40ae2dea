//! Rows for a topic, each once: what the topic has of them is read back where that is not known.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::warn;

use super::channel::{Cluster, Failure};
use super::kafka::{self, KafkaTopic};
use super::options::KafkaSink;
use crate::error::{Error, Kind, Result};

/// Pause before the brokers are asked again.
const RETRY: Duration = Duration::from_secs(1);
/// Records on their way at once.
const AT_ONCE: usize = 2_000;

/// A row on its way to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRecord {
    /// Tells it apart from all others of the topic.
    pub id: String,
    /// The record's key.
    pub key: Option<String>,
    /// The row as JSON.
    pub payload: String,
}

/// Writes rows to a topic.
pub struct RowWriter {
    sink: String,
    topic: KafkaTopic,
    name: String,
    cluster: Cluster,
    /// What the topic may have been given before.
    known: HashSet<String>,
}

impl RowWriter {
    pub(super) fn open(sink: &str, options: &KafkaSink, cluster: &Cluster) -> Result<Self> {
        Ok(Self {
            sink: sink.to_owned(),
            topic: KafkaTopic::open(options, cluster)?,
            name: options.topic.clone(),
            cluster: cluster.clone(),
            known: HashSet::new(),
        })
    }

    /// The sink.
    pub fn sink(&self) -> &str {
        &self.sink
    }

    /// Reads back what the topic was given since `since`: what of it is `wanted`, by its id, is not written again.
    pub async fn read_back(&mut self, since: DateTime<Utc>, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let (name, cluster) = (self.name.clone(), self.cluster.clone());
        let read = tokio::task::spawn_blocking(move || kafka::ids(&name, &cluster, since));
        let failed = |error| Err(Error::new(Kind::Internal, "reading a topic failed").because(error));
        self.known.extend(read.await.unwrap_or_else(failed)?.into_iter().filter(|id| wanted(id)));
        Ok(())
    }

    /// Writes rows, however long the brokers are away; `told` hears why it takes long, and when it does not any more.
    /// A row that the topic can never take is left out.
    pub async fn write(&mut self, mut rows: Vec<RowRecord>, told: impl Fn(Option<&str>)) {
        loop {
            rows.retain(|row| !self.known.remove(&row.id));
            let began = Utc::now();
            let (left, failure) = self.attempt(rows).await;
            let Some(failure) = failure else { return told(None) };
            told(Some(failure.reason()));
            rows = left;
            // Who did not hear that a record was taken does not know that it was not.
            loop {
                tokio::time::sleep(RETRY).await;
                let left: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
                match self.read_back(began, |id| left.contains(id)).await {
                    Ok(()) => break,
                    Err(error) => told(Some(error.message())),
                }
            }
        }
    }

    /// Writes rows once; gives back those that may not be taken, and why.
    async fn attempt(&self, rows: Vec<RowRecord>) -> (Vec<RowRecord>, Option<Failure>) {
        let (mut left, mut failed) = (Vec::new(), None);
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let sent: Vec<_> = rows
                .by_ref()
                .take(AT_ONCE)
                .map(|row| (self.topic.send(&row.id, row.key.as_deref(), row.payload.as_bytes()), row))
                .collect();
            for (sent, row) in sent {
                let taken = match sent {
                    Ok(sent) => self.topic.taken(sent).await,
                    Err(failure) => Err(failure),
                };
                match taken {
                    Ok(()) => {}
                    Err(failure) if matches!(failure, Failure::Refused { .. }) => {
                        warn!(sink = self.sink, id = row.id, reason = failure.reason(), "row left out");
                    }
                    Err(failure) => {
                        left.push(row);
                        failed = Some(failure);
                    }
                }
            }
            if failed.is_some() {
                left.extend(rows);
                break;
            }
        }
        (left, failed)
    }
}
