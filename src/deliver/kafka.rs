//! A topic as a sink: one idempotent producer on the project's own cluster.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tracing::debug;

use super::channel::{Cluster, Failure};
use super::message::{Message, MessageKind};
use super::options::KafkaSink;
use crate::error::{Error, Kind, Result};
use crate::iam::Iam;

/// How long librdkafka tries by itself; afterwards the backlog does.
const TRIES_FOR: Duration = Duration::from_secs(10);

/// How long the brokers may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How far the clocks of this machine and of the brokers may differ.
const CLOCKS: TimeDelta = TimeDelta::seconds(60);
/// The header that holds a message's id.
const ID: &str = "Idempotency-Key";

/// Settings that carry the room's promises. `kafka.properties` may override the first ones.
const DEFAULTS: &[(&str, &str)] = &[("client.id", "millpond"), ("compression.type", "none")];
const OWNED: &[(&str, &str)] = &[("enable.idempotence", "true"), ("acks", "all"), ("linger.ms", "0")];

/// A topic, and the client that writes to it.
pub struct KafkaTopic {
    topic: String,
    producer: ThreadedProducer<Reports>,
}

/// Hands each delivery report to whoever waits for it, and keeps the client's own words for those who debug.
struct Reports(Option<Iam>);

type Report = oneshot::Sender<std::result::Result<(), KafkaError>>;
/// What became of a record, once that is known.
pub(super) type Reported = oneshot::Receiver<std::result::Result<(), KafkaError>>;

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> std::result::Result<OAuthToken, Box<dyn std::error::Error>> {
        let token = self.0.as_ref().ok_or("only auth = \"msk-iam\" gives tokens")?.token()?;
        let (token, lifetime_ms) = (token.text, token.ends_at_ms);
        Ok(OAuthToken { token, principal_name: "millpond".to_owned(), lifetime_ms })
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Whoever waits for a report says what failed; consumers' properties are none of a producer's business.
        debug!(target: "kafka", ?level, facility, text, "kafka client says");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "kafka", code = ?error.rdkafka_error_code(), reason, "kafka client reports an error");
    }
}

impl ConsumerContext for Reports {}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Box<Report>;

    fn delivery(&self, result: &DeliveryResult<'_>, report: Box<Report>) {
        // Nobody may be waiting any more.
        let _ = report.send(result.as_ref().map(drop).map_err(|(error, _)| error.clone()));
    }
}

fn config(cluster: &Cluster) -> ClientConfig {
    let mut config = ClientConfig::new();
    let set = DEFAULTS.iter().map(|(key, value)| (*key, *value));
    let set = set.chain(cluster.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    for (key, value) in set.chain(OWNED.iter().copied()) {
        config.set(key, value);
    }
    config.set("bootstrap.servers", &cluster.brokers);
    config
}

/// The messages about alerts that a topic was given since `since`. Blocks.
pub(super) fn read(topic: &str, cluster: &Cluster, since: DateTime<Utc>) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    records(topic, cluster, since, |record| messages.extend(message(record)))?;
    Ok(messages)
}

/// The ids of the records that a topic was given since `since`. Blocks.
pub(super) fn ids(topic: &str, cluster: &Cluster, since: DateTime<Utc>) -> Result<HashSet<String>> {
    let mut ids = HashSet::new();
    records(topic, cluster, since, |record| ids.extend(id(record)))?;
    Ok(ids)
}

/// Hands out what a topic was given since `since`, and some of what it was given before; nothing if there is no such topic.
fn records(
    topic: &str,
    cluster: &Cluster,
    since: DateTime<Utc>,
    mut take: impl FnMut(&BorrowedMessage<'_>),
) -> Result<()> {
    let away =
        |error: KafkaError| Error::new(Kind::Unavailable, format!("topic {topic} cannot be read back")).because(error);
    let mut config = config(cluster);
    // A group is never joined: partitions are assigned.
    config.set("group.id", "millpond").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.set("allow.auto.create.topics", "false");
    let consumer: BaseConsumer<Reports> = config.create_with_context(Reports(cluster.iam.clone())).map_err(away)?;
    if cluster.iam.is_some() {
        // The first token is asked for by polling.
        drop(consumer.poll(Duration::from_millis(100)));
    }
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER).map_err(away)?;
    let known = metadata.topics().first().filter(|topic| topic.error().is_none());
    let Some(known) = known.filter(|topic| !topic.partitions().is_empty()) else { return Ok(()) };
    let mut from = TopicPartitionList::new();
    for partition in known.partitions() {
        let at = Offset::Offset((since - CLOCKS).timestamp_millis());
        from.add_partition_offset(topic, partition.id(), at).map_err(away)?;
    }
    let from = consumer.offsets_for_times(from, ANSWER).map_err(away)?;
    consumer.assign(&from).map_err(away)?;
    let mut ends = 0;
    while ends < from.count() {
        match consumer.poll(ANSWER) {
            Some(Ok(record)) => take(&record),
            Some(Err(KafkaError::PartitionEOF(_))) => ends += 1,
            Some(Err(error)) => return Err(away(error)),
            None => return Err(Error::new(Kind::Unavailable, format!("topic {topic} does not end within {ANSWER:?}"))),
        }
    }
    Ok(())
}

fn id(record: &BorrowedMessage<'_>) -> Option<String> {
    let is_id = |header: &Header<'_, &[u8]>| header.key == ID;
    String::from_utf8(record.headers()?.iter().find(is_id)?.value?.to_vec()).ok()
}

/// A message about an alert, if a record is one.
fn message(record: &BorrowedMessage<'_>) -> Option<Message> {
    let payload: Map<String, Value> = serde_json::from_slice(record.payload()?).ok()?;
    let at = DateTime::parse_from_rfc3339(payload.get("emitted_at")?.as_str()?).ok()?.to_utc();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(Message { id: id(record)?, kind: MessageKind::Alert, key: text(record.key()?)?, at, payload })
}

impl KafkaTopic {
    pub(super) fn open(options: &KafkaSink, cluster: &Cluster) -> Result<Self> {
        let mut config = config(cluster);
        config.set("message.timeout.ms", TRIES_FOR.as_millis().to_string());
        let producer =
            ThreadedProducer::from_config_and_context(&config, Reports(cluster.iam.clone())).map_err(|error| {
                Error::new(Kind::Usage, format!("a client that writes to topic {} cannot be made", options.topic))
                    .because(error)
                    .hint("check kafka.properties in millpond.toml")
            })?;
        Ok(Self { topic: options.topic.clone(), producer })
    }

    pub(super) async fn deliver(&self, message: &Message) -> std::result::Result<(), Failure> {
        let payload = serde_json::to_vec(&message.payload).map_err(|error| Failure::refused(error.to_string()))?;
        let sent = self.send(&message.id, Some(&message.key), &payload)?;
        self.taken(sent).await
    }

    /// Hands a record to the client, which tells what became of it.
    pub(super) fn send(&self, id: &str, key: Option<&str>, payload: &[u8]) -> std::result::Result<Reported, Failure> {
        let (report, reported) = oneshot::channel();
        let id = Header { key: ID, value: Some(id) };
        let mut record: BaseRecord<'_, str, [u8], _> = BaseRecord::with_opaque_to(&self.topic, Box::new(report))
            .payload(payload)
            .headers(OwnedHeaders::new().insert(id));
        record.key = key;
        self.producer.send(record).map_err(|(error, _)| self.failure(&error))?;
        Ok(reported)
    }

    /// Waits until a record is taken.
    pub(super) async fn taken(&self, sent: Reported) -> std::result::Result<(), Failure> {
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_) => Err(Failure::again("the kafka client ended")),
        }
    }

    fn failure(&self, error: &KafkaError) -> Failure {
        use RDKafkaErrorCode as E;
        let topic = &self.topic;
        match error.rdkafka_error_code() {
            Some(E::MessageSizeTooLarge) => Failure::refused(format!("the message is too large for topic {topic}")),
            Some(E::UnknownTopic | E::UnknownTopicOrPartition | E::UnknownPartition) => {
                Failure::again(format!("there is no topic {topic}"))
            }
            Some(E::TopicAuthorizationFailed) => Failure::again(format!("no permission to write to topic {topic}")),
            Some(E::MessageTimedOut | E::AllBrokersDown | E::BrokerTransportFailure) => {
                let seconds = TRIES_FOR.as_secs();
                Failure::again(format!(
                    "not taken within {seconds} s: does kafka answer, and is there a topic {topic}?"
                ))
            }
            Some(code) => Failure::again(format!("kafka: {code}")),
            None => Failure::again(error.to_string()),
        }
    }
}
