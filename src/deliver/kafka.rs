//! A topic as a sink: one idempotent producer on the project's own cluster.

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;
use tracing::debug;

use super::channel::{Cluster, Failure};
use super::message::Message;
use super::options::KafkaSink;
use crate::error::{Error, Kind, Result};

/// How long librdkafka tries by itself; afterwards the backlog does.
const TRIES_FOR: Duration = Duration::from_secs(10);

/// Settings that carry the room's promises. `kafka.properties` may override the first ones.
const DEFAULTS: &[(&str, &str)] = &[("client.id", "millpond"), ("compression.type", "none")];
const OWNED: &[(&str, &str)] = &[("enable.idempotence", "true"), ("acks", "all"), ("linger.ms", "0")];

/// A topic, and the client that writes to it.
pub struct KafkaTopic {
    topic: String,
    producer: ThreadedProducer<Reports>,
}

/// Hands each delivery report to whoever waits for it.
struct Reports;

type Report = oneshot::Sender<std::result::Result<(), KafkaError>>;

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Whoever waits for a report says what failed; consumers' properties are none of a producer's business.
        debug!(target: "kafka", ?level, facility, text, "kafka producer says");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "kafka", code = ?error.rdkafka_error_code(), reason, "kafka producer reports an error");
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Box<Report>;

    fn delivery(&self, result: &DeliveryResult<'_>, report: Box<Report>) {
        // Nobody may be waiting any more.
        let _ = report.send(result.as_ref().map(drop).map_err(|(error, _)| error.clone()));
    }
}

impl KafkaTopic {
    pub(super) fn open(options: &KafkaSink, cluster: &Cluster) -> Result<Self> {
        let mut config = ClientConfig::new();
        let set = DEFAULTS.iter().map(|(key, value)| (*key, *value));
        let set = set.chain(cluster.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        for (key, value) in set.chain(OWNED.iter().copied()) {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &cluster.brokers);
        config.set("message.timeout.ms", TRIES_FOR.as_millis().to_string());
        let producer = ThreadedProducer::from_config_and_context(&config, Reports).map_err(|error| {
            Error::new(Kind::Usage, format!("a client that writes to topic {} cannot be made", options.topic))
                .because(error)
                .hint("check kafka.properties in millpond.toml")
        })?;
        Ok(Self { topic: options.topic.clone(), producer })
    }

    pub(super) async fn deliver(&self, message: &Message) -> std::result::Result<(), Failure> {
        let payload = serde_json::to_vec(&message.payload).map_err(|error| Failure::refused(error.to_string()))?;
        let (report, reported) = oneshot::channel();
        let id = Header { key: "Idempotency-Key", value: Some(&message.id) };
        let record = BaseRecord::with_opaque_to(&self.topic, Box::new(report))
            .key(&message.key)
            .payload(&payload)
            .headers(OwnedHeaders::new().insert(id));
        self.producer.send(record).map_err(|(error, _)| self.failure(&error))?;
        match reported.await {
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
