//! The way out to one receiver, whatever its protocol: one attempt to deliver one message.

use std::collections::BTreeMap;
use std::time::Duration;

use super::email::Email;
use super::kafka::KafkaTopic;
use super::message::Message;
use super::options::SinkOptions;
use super::webhook::Webhook;
use crate::error::Result;
use crate::iam::Iam;

/// An attempt that has not ended after this long has failed.
pub(super) const ATTEMPT: Duration = Duration::from_secs(20);

/// The project's Kafka cluster, for sinks that are topics.
#[derive(Clone, Default)]
pub struct Cluster {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// librdkafka properties.
    pub properties: BTreeMap<String, String>,
    /// Who gives tokens, if brokers ask for them.
    pub iam: Option<Iam>,
}

/// A way out.
pub enum Channel {
    /// To a topic.
    Kafka(KafkaTopic),
    /// To an HTTP server.
    Webhook(Webhook),
    /// To mailboxes.
    Email(Email),
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It may succeed later; the receiver may have asked for a pause.
    Again {
        /// What happened.
        reason: String,
        /// What the receiver asked for.
        pause: Option<Duration>,
    },
    /// This message will never be taken.
    Refused {
        /// What happened.
        reason: String,
    },
}

impl Channel {
    /// Prepares the way; connects to nobody.
    pub fn open(options: &SinkOptions, cluster: &Cluster) -> Result<Self> {
        Ok(match options {
            SinkOptions::Kafka(kafka) => Self::Kafka(KafkaTopic::open(kafka, cluster)?),
            SinkOptions::Webhook(webhook) => Self::Webhook(Webhook::open(webhook)?),
            SinkOptions::Email(email) => Self::Email(Email::open(email)?),
        })
    }

    /// How many messages may be under way at once; they arrive in order all the same.
    pub fn at_once(&self) -> usize {
        match self {
            // One idempotent producer: librdkafka keeps the order.
            Self::Kafka(_) => 256,
            Self::Webhook(_) | Self::Email(_) => 1,
        }
    }

    /// Tries once. It ends within 20 s.
    pub async fn deliver(&self, message: &Message) -> std::result::Result<(), Failure> {
        let attempt = async {
            match self {
                Self::Kafka(kafka) => kafka.deliver(message).await,
                Self::Webhook(webhook) => webhook.deliver(message).await,
                Self::Email(email) => email.deliver(message).await,
            }
        };
        let silent = || Failure::again(format!("no answer within {} s", ATTEMPT.as_secs()));
        tokio::time::timeout(ATTEMPT, attempt).await.unwrap_or_else(|_| Err(silent()))
    }
}

impl Failure {
    /// It may succeed later.
    pub(super) fn again(reason: impl Into<String>) -> Self {
        Self::Again { reason: reason.into(), pause: None }
    }

    /// This message will never be taken.
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }

    /// What happened.
    pub fn reason(&self) -> &str {
        match self {
            Self::Again { reason, .. } | Self::Refused { reason } => reason,
        }
    }
}

/// The innermost cause of an error: the outer ones say only that something failed.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = std::iter::successors(Some(error), |error| error.source()).last();
    innermost.map_or_else(String::new, ToString::to_string)
}
