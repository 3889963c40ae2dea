//! Messages to people and machines outside: sinks, templates, retry and backlog, for news and for alerts.
//!
//! ```text
//! send ─▶ queue of the sink ─▶ courier ─▶ channel: Kafka topic · webhook · e-mail
//!         bounded, in order     │ one task per sink: tries, pauses, tries again
//!                               └▶ backlog in the lake: what has waited for a second, and all that is left at a stop;
//!                                  the next start goes on with it
//! ```
//!
//! [`Sinks::send`] never waits and never fails: a sink that is away fills its own queue and slows nothing. A full queue
//! gives up the oldest news first, and says so. Delivery is at least once: a crash may repeat a message, with the same
//! [`Message::id`], which travels as Kafka header and HTTP header `Idempotency-Key` and in a mail's `Message-ID`.
//!
//! Rows of stream queries do not queue: whoever writes them ([`RowWriter`]) waits until a topic has them.
//!
//! It never decides what to say, or to whom: that is `news`' and the rules' business.

mod backlog;
mod channel;
mod courier;
mod email;
mod kafka;
mod message;
mod options;
mod queue;
mod rows;
mod smtp;
mod template;
#[cfg(test)]
mod tests;
mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tracing::{error, warn};

pub use lettre::message::Mailbox;

pub use self::channel::{Channel, Cluster, Failure};
pub use self::courier::Counters;
pub use self::message::{Message, MessageKind};
pub use self::options::{
    EmailSink, KafkaSink, Mailer, Secret, Security, SigningKey, SinkOptions, SmtpServer, WebhookSink,
};
pub use self::rows::{RowRecord, RowWriter};
pub use self::template::{Escape, Template, TemplateError};

use self::backlog::Backlog;
use self::courier::{Courier, Outbox};
use crate::error::{Error, Kind, Result};
use crate::task::{self, Shutdown};

/// The sinks of a project. Cheap to clone; the default has none.
#[derive(Clone, Default)]
pub struct Sinks(Arc<Inner>);

#[derive(Default)]
struct Inner {
    sinks: BTreeMap<String, (SinkOptions, Arc<Outbox>)>,
    couriers: Mutex<Vec<JoinHandle<()>>>,
    cluster: Cluster,
    stop: Shutdown,
}

/// What a sink does.
#[derive(Debug, Clone)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// `kafka`, `webhook` or `email`.
    pub kind: &'static str,
    /// Where messages go, without secrets.
    pub target: String,
    /// What became of its messages.
    pub counters: Counters,
}

impl Sinks {
    /// Starts a task for each of `options`; what earlier processes left in `store` (the lake's) goes first.
    pub async fn start(
        options: &BTreeMap<String, SinkOptions>,
        cluster: &Cluster,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<Self> {
        let (mut inner, mut couriers) = (Inner { cluster: cluster.clone(), ..Inner::default() }, Vec::new());
        for (name, options) in options {
            let outbox = Arc::new(Outbox::new(name));
            couriers.push(Courier {
                outbox: Arc::clone(&outbox),
                channel: Channel::open(options, cluster)?,
                backlog: Backlog::new(Arc::clone(store), name),
                stop: inner.stop.clone(),
            });
            inner.sinks.insert(name.clone(), (options.clone(), outbox));
        }
        for name in backlog::sinks(store).await.unwrap_or_default() {
            if !inner.sinks.contains_key(&name) {
                warn!(sink = name, "the lake keeps undelivered messages of a sink that the project does not have");
            }
        }
        let spawn = |courier: Courier| task::spawn("sink", courier.run());
        *inner.couriers.get_mut() = couriers.into_iter().map(spawn).collect();
        Ok(Self(Arc::new(inner)))
    }

    /// Hands `message` to `sink`. Returns at once.
    pub fn send(&self, sink: &str, message: Message) {
        match self.0.sinks.get(sink) {
            Some((_, outbox)) => outbox.take(message),
            None => error!(sink, id = message.id, "a message for a sink that does not exist"),
        }
    }

    /// Whether a sink is a topic: what it has can be read back.
    pub fn is_topic(&self, sink: &str) -> bool {
        matches!(self.0.sinks.get(sink), Some((SinkOptions::Kafka(_), _)))
    }

    /// The sinks that are topics.
    pub fn topics(&self) -> Vec<&str> {
        self.0.sinks.keys().map(String::as_str).filter(|sink| self.is_topic(sink)).collect()
    }

    /// The messages about alerts that a topic was given since `since`; none if there is no such topic. An error if the
    /// brokers do not answer.
    pub async fn read_topic(&self, sink: &str, since: DateTime<Utc>) -> Result<Vec<Message>> {
        let Some((SinkOptions::Kafka(options), _)) = self.0.sinks.get(sink) else { return Ok(Vec::new()) };
        let (topic, cluster) = (options.topic.clone(), self.0.cluster.clone());
        let read = tokio::task::spawn_blocking(move || kafka::read(&topic, &cluster, since));
        read.await.unwrap_or_else(|error| Err(Error::new(Kind::Internal, "reading a topic failed").because(error)))
    }

    /// Writes rows to a sink that is a topic; `None` if it is none.
    pub fn rows(&self, sink: &str) -> Option<Result<RowWriter>> {
        let Some((SinkOptions::Kafka(options), _)) = self.0.sinks.get(sink) else { return None };
        Some(RowWriter::open(sink, options, &self.0.cluster))
    }

    /// Whether `sink` is told when an alert is over.
    pub fn sends_resolved(&self, sink: &str) -> bool {
        self.0.sinks.get(sink).is_some_and(|(options, _)| options.sends_resolved())
    }

    /// What each sink does, by name.
    pub fn statuses(&self) -> Vec<SinkStatus> {
        let status = |(name, (options, outbox)): (&String, &(SinkOptions, Arc<Outbox>))| SinkStatus {
            name: name.clone(),
            kind: options.kind(),
            target: options.target(),
            counters: outbox.counters(),
        };
        self.0.sinks.iter().map(status).collect()
    }

    /// Delivers for a moment more, writes down what is left, and ends. Takes 11 s at most.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        let couriers = std::mem::take(&mut *self.0.couriers.lock());
        for courier in couriers {
            if let Err(error) = courier.await {
                error!(error = %error, "a sink's task failed");
            }
        }
    }
}
