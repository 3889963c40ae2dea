//! One Kafka cluster: the client's settings, and the questions asked before reading.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaConfRes;

use super::client::{self, Client, Trouble};
use super::context::Context;
use crate::error::{Error, Kind, Result};
use crate::iam::Iam;

/// Settings that carry the promises of this room, and so are not the user's to change; with the reason.
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("enable.auto.commit", "positions live in the tables' own commits"),
    ("auto.commit.enable", "positions live in the tables' own commits"),
    ("enable.auto.offset.store", "positions live in the tables' own commits"),
    ("auto.offset.reset", "a lost position must stop the topic; use `start` in the schema file for the first run"),
    ("enable.partition.eof", "the end of a partition must be seen"),
    ("allow.auto.create.topics", "a misspelt topic must not be created"),
    ("queued.max.messages.kbytes", "memory is bounded by [limits]"),
    ("queued.min.messages", "memory is bounded by [limits]"),
    ("log.queue", "log lines are routed by millpond"),
    ("enabled_events", "events are routed by millpond"),
];

/// Defaults that `kafka.properties` may override.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "millpond"),
    // Assignment by hand needs a group's name; no group is joined and no offset committed.
    ("group.id", "millpond"),
    ("fetch.wait.max.ms", "50"),
    // The default of 1000 stalls a partition for a second after its queue was full.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.error.backoff.ms", "100"),
    ("check.crcs", "true"),
    ("reconnect.backoff.max.ms", "2000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    ("socket.keepalive.enable", "true"),
];

const KIB: usize = 1024;
const LARGEST_FETCH_BYTES: usize = KIB * KIB;
const SMALLEST_FETCH_BYTES: usize = 16 * KIB;

/// How to reach a cluster.
#[derive(Clone)]
pub struct KafkaOptions {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// librdkafka properties from the configuration, passed through.
    pub properties: BTreeMap<String, String>,
    /// Who gives tokens, if brokers ask for them.
    pub iam: Option<Iam>,
    /// What a topic's clients may hold in their own queues, in bytes, over all partitions; a message above a
    /// partition's share is still read, one at a time.
    pub queued_bytes: usize,
    /// How long a question to the cluster may take.
    pub timeout: Duration,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            properties: BTreeMap::new(),
            iam: None,
            queued_bytes: 32 * KIB * KIB,
            timeout: Duration::from_secs(10),
        }
    }
}

/// The range of offsets a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The lowest offset held.
    pub low: i64,
    /// The offset that the next readable record gets (the last stable offset where transactions are open).
    pub high: i64,
}

/// One cluster. Cheap to clone. All methods block: call them off the async runtime.
#[derive(Clone)]
pub struct Kafka {
    inner: Arc<Inner>,
}

struct Inner {
    options: KafkaOptions,
    client: Arc<Client>,
    stop: Arc<AtomicBool>,
}

impl Kafka {
    /// Checks the settings and prepares a client; does not wait for a connection.
    pub fn new(options: KafkaOptions) -> Result<Self> {
        let mut config = base_config(&options)?;
        // Without a group the client answers questions only.
        config.remove("group.id");
        let client = create(&config, options.iam.as_ref())?;
        let stop = Arc::new(AtomicBool::new(false));
        let (polled, stopped) = (client.clone(), stop.clone());
        // Log lines and token refreshes are served by polling alone, and log lines pile up without it.
        std::thread::Builder::new()
            .name("kafka-client".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    drop(polled.poll(Duration::from_millis(200)));
                }
            })
            .map_err(|e| Error::new(Kind::Exhausted, "cannot start a thread for kafka").because(e))?;
        Ok(Self { inner: Arc::new(Inner { options, client, stop }) })
    }

    /// The brokers as configured.
    pub fn brokers(&self) -> &str {
        &self.inner.options.brokers
    }

    /// The cluster's own id; `None` if it has none.
    pub fn cluster_id(&self, timeout: Duration) -> Result<Option<String>> {
        let client = &self.inner.client;
        if let Some(id) = client.client().fetch_cluster_id(timeout) {
            return Ok(Some(id));
        }
        // No id and no answer look the same: metadata tells them apart.
        client
            .fetch_metadata(None, timeout)
            .map_err(|e| Trouble::Unreachable(client.context().take_last_error().unwrap_or_else(|| e.to_string())))?;
        Ok(None)
    }

    /// Partition numbers of `topic`, ascending; `None` if there is no such topic.
    pub fn partitions(&self, topic: &str) -> Result<Option<Vec<i32>>> {
        Ok(self.partitions_within(topic, self.inner.options.timeout)?)
    }

    pub(super) fn partitions_within(&self, topic: &str, timeout: Duration) -> Result<Option<Vec<i32>>, Trouble> {
        client::partitions(&self.inner.client, topic, timeout)
    }

    /// The offsets held by each of `partitions`; one request to each leader.
    pub fn watermarks(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, Watermarks>> {
        Ok(watermarks(&self.inner.client, topic, partitions, self.inner.options.timeout)?)
    }

    /// The first offset at or after `at_millis` (since 1970, by the records' timestamps) in each of `partitions`;
    /// a partition with nothing that late is left out.
    pub fn offsets_for_time(&self, topic: &str, partitions: &[i32], at_millis: i64) -> Result<BTreeMap<i32, i64>> {
        let at = Offset::Offset(at_millis.max(0));
        Ok(client::offsets(&self.inner.client, topic, partitions, at, self.inner.options.timeout)?)
    }

    /// A client, one of `readers`, that reads one topic of `partitions` partitions.
    pub(super) fn consumer(&self, partitions: usize, readers: usize) -> Result<Arc<Client>> {
        let mut config = base_config(&self.inner.options)?;
        // Queues are bounded per partition, and a fetch may overshoot by what it brings: half for each.
        let share = self.inner.options.queued_bytes / (partitions * readers).max(1);
        let fetch = (share / 2).clamp(SMALLEST_FETCH_BYTES, LARGEST_FETCH_BYTES);
        config.set("queued.max.messages.kbytes", (share.saturating_sub(fetch) / KIB).clamp(1, 2_097_151).to_string());
        // A queued message costs some 400 bytes besides its own: small ones are bounded by number.
        config.set("queued.min.messages", (share / 512).clamp(100, 100_000).to_string());
        if !self
            .inner
            .options
            .properties
            .keys()
            .any(|k| k == "fetch.message.max.bytes" || k == "max.partition.fetch.bytes")
        {
            config.set("fetch.message.max.bytes", fetch.to_string());
        }
        create(&config, self.inner.options.iam.as_ref())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Low and high watermarks by a client that may be the reader's own.
pub(super) fn watermarks(
    client: &Client,
    topic: &str,
    partitions: &[i32],
    timeout: Duration,
) -> Result<BTreeMap<i32, Watermarks>, Trouble> {
    let low = client::offsets(client, topic, partitions, Offset::Beginning, timeout)?;
    let mut high = client::offsets(client, topic, partitions, Offset::End, timeout)?;
    Ok(low.into_iter().filter_map(|(p, low)| high.remove(&p).map(|high| (p, Watermarks { low, high }))).collect())
}

fn base_config(options: &KafkaOptions) -> Result<ClientConfig> {
    if options.brokers.split(',').all(|broker| broker.trim().is_empty()) {
        return Err(Error::new(Kind::Usage, "kafka.brokers is empty").hint("for example brokers = \"127.0.0.1:9092\""));
    }
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    for (key, value) in DEFAULTS {
        config.set(*key, *value);
    }
    for (key, value) in &options.properties {
        if let Some((_, reason)) = OWNED.iter().find(|(owned, _)| owned == key) {
            return Err(
                Error::new(Kind::Usage, format!("kafka.properties: \"{key}\" is set by millpond")).hint(*reason)
            );
        }
        config.set(key, value);
    }
    config
        .set("bootstrap.servers", &options.brokers)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false");
    Ok(config)
}

fn create(config: &ClientConfig, iam: Option<&Iam>) -> Result<Arc<Client>> {
    let create = || Client::from_config_and_context(config, Context::new(iam.cloned()));
    create().map(Arc::new).map_err(|error| match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, key, _) => {
            Error::new(Kind::Usage, format!("kafka.properties: there is no property \"{key}\""))
                .hint("the names are those of librdkafka's CONFIGURATION.md")
        }
        KafkaError::ClientConfig(_, text, key, _) => {
            Error::new(Kind::Usage, format!("kafka.properties: \"{key}\": {text}"))
        }
        other => Error::new(Kind::Usage, "the kafka client refuses its settings")
            .because(other)
            .hint("check kafka.brokers and kafka.properties in millpond.toml"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(key: &str, value: &str) -> Error {
        let properties = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let options = KafkaOptions { brokers: "127.0.0.1:1".into(), properties, ..KafkaOptions::default() };
        Kafka::new(options).err().unwrap()
    }

    #[test]
    fn a_wrong_property_is_refused_by_name() {
        for (key, value) in [
            ("sesurity.protocol", "SSL"),
            ("fetch.wait.max.ms", "soon"),
            ("security.protocol", "carrier-pigeon"),
            ("enable.auto.commit", "true"),
            ("bootstrap.servers", "elsewhere:9092"),
        ] {
            let error = refusal(key, value);
            assert_eq!(error.kind(), Kind::Usage, "{key}");
            assert!(error.to_string().contains(key), "{key}: {error}");
        }
        let none = Kafka::new(KafkaOptions { brokers: " ,".into(), ..KafkaOptions::default() }).err().unwrap();
        assert_eq!(none.kind(), Kind::Usage);
    }

    #[test]
    fn an_unreachable_cluster_is_said_to_be_unavailable() {
        let options = KafkaOptions {
            brokers: "127.0.0.1:1".into(),
            timeout: Duration::from_millis(300),
            ..KafkaOptions::default()
        };
        let kafka = Kafka::new(options).unwrap();
        let error = kafka.partitions("t").unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert_eq!(kafka.cluster_id(Duration::from_millis(300)).unwrap_err().kind(), Kind::Unavailable);
    }
}
