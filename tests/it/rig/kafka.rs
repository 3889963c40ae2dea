//! A real Kafka broker (KRaft, one node, PLAINTEXT on loopback), and clients to make topics and send records.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::OnceCell;

use super::process::{Process, component};
use super::{folder, free_port, wait_until};

const START: Duration = Duration::from_secs(90);
const CALL: Duration = Duration::from_secs(30);

/// A broker and its data folder; killed on drop.
pub struct Kafka {
    port: u16,
    controller_port: u16,
    /// Where it listens with TLS: for who has a password, and for who has a certificate.
    secure_ports: Option<[u16; 2]>,
    dir: PathBuf,
    process: Mutex<Option<Process>>,
}

/// A record the broker has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Where it is.
    pub topic: String,
    /// Where it is.
    pub partition: i32,
    /// Where it is.
    pub offset: i64,
    /// As given.
    pub key: Option<Vec<u8>>,
    /// As given.
    pub payload: Option<Vec<u8>>,
}

/// A record read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// As text.
    pub key: String,
    /// As text.
    pub payload: String,
    /// Names and values, as text.
    pub headers: Vec<(String, String)>,
}

impl Kafka {
    /// The broker all tests share: use topics of your own (`topic`). It lives until the binary ends.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A broker of the test's own, to stop and restart.
    pub async fn start() -> Self {
        Self::make(None).await
    }

    /// The same, with TLS on two more ports.
    pub async fn start_secure() -> Self {
        Self::make(Some([free_port(), free_port()])).await
    }

    async fn make(secure_ports: Option<[u16; 2]>) -> Self {
        let (port, controller_port, dir) = (free_port(), free_port(), folder("kafka"));
        let kafka = Self { port, controller_port, secure_ports, dir, process: Mutex::new(None) };
        kafka.restart().await;
        kafka
    }

    /// The bootstrap servers with TLS: for user `alice` with the password `secret`, and for who has the certificate.
    pub fn secure_brokers(&self) -> [String; 2] {
        self.secure_ports.expect("started with start_secure").map(|port| format!("127.0.0.1:{port}"))
    }

    /// A file of the broker's certificates: `ca.pem`, `client.pem`, `client.key`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join("tls").join(name)
    }

    /// The bootstrap servers.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// kill -9: the data folder stays.
    pub fn stop(&self) {
        self.process.lock().unwrap().take();
    }

    /// Starts it (again) on the same ports and data, and waits until it answers.
    pub async fn restart(&self) {
        self.stop();
        let (port, controller) = (self.port.to_string(), self.controller_port.to_string());
        let mut command = component(&["kafka", self.dir.to_str().unwrap(), &port, &controller]);
        command.args(self.secure_ports.iter().flatten().map(u16::to_string));
        let process = Process::spawn("kafka", &command, &self.dir.join("kafka.log"));
        process
            .wait_ready(START, || async {
                // A closed port costs the client a second of back-off: look before asking.
                if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                    return false;
                }
                let client: BaseConsumer = self.client().create().unwrap();
                let metadata = tokio::task::spawn_blocking(move || {
                    client.fetch_metadata(None, Duration::from_secs(5)).map(|metadata| metadata.brokers().len())
                });
                matches!(metadata.await.unwrap(), Ok(1..))
            })
            .await;
        *self.process.lock().unwrap() = Some(process);
    }

    /// Freezes the broker: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Goes on after `pause`.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        self.process.lock().unwrap().as_ref().expect("the broker is stopped").signal(signal);
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        config
    }

    /// A name no other test has, beginning with `stem`.
    pub fn name(stem: &str) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        format!("{stem}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a topic with a name of its own, beginning with `stem`.
    pub async fn topic(&self, stem: &str, partitions: i32) -> String {
        let name = Self::name(stem);
        self.create(&name, partitions).await;
        name
    }

    /// Makes the topic `name`.
    pub async fn create(&self, name: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let made = admin.create_topics(&[topic], &AdminOptions::new().operation_timeout(Some(CALL))).await.unwrap();
        made.into_iter().next().unwrap().unwrap_or_else(|(name, code)| panic!("cannot create {name}: {code}"));
        // Metadata follow the broker's yes by a moment.
        wait_until("the topic is in the metadata", CALL, async || {
            (self.ends(name).len() as i32 == partitions).then_some(())
        })
        .await;
    }

    /// Deletes the topic `name`, and waits until it is gone.
    pub async fn delete(&self, name: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let gone = admin.delete_topics(&[name], &AdminOptions::new().operation_timeout(Some(CALL))).await.unwrap();
        gone.into_iter().next().unwrap().unwrap_or_else(|(name, code)| panic!("cannot delete {name}: {code}"));
        wait_until("the topic is gone", CALL, async || self.ends(name).is_empty().then_some(())).await;
    }

    /// Grows the topic `name` to `partitions`.
    pub async fn grow(&self, name: &str, partitions: usize) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let grown = rdkafka::admin::NewPartitions::new(name, partitions);
        let done = admin.create_partitions(&[grown], &AdminOptions::new()).await.unwrap();
        done.into_iter().next().unwrap().unwrap_or_else(|(name, code)| panic!("cannot grow {name}: {code}"));
        wait_until("the partitions are there", CALL, async || (self.ends(name).len() == partitions).then_some(()))
            .await;
    }

    /// Has a partition of `topic` forget its records below `offset`.
    pub async fn forget_below(&self, topic: &str, partition: i32, offset: i64) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let mut below = TopicPartitionList::new();
        below.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        admin.delete_records(&below, &AdminOptions::new()).await.unwrap();
    }

    /// The next offset of each partition of `topic` (the high watermark); empty if there is no such topic.
    pub fn ends(&self, topic: &str) -> Vec<i64> {
        let client: BaseConsumer = self.client().set("allow.auto.create.topics", "false").create().unwrap();
        let metadata = client.fetch_metadata(Some(topic), CALL).unwrap();
        let topic_metadata = &metadata.topics()[0];
        if topic_metadata.error().is_some() {
            return Vec::new();
        }
        let partitions = topic_metadata.partitions().len() as i32;
        (0..partitions).map_while(|partition| Some(client.fetch_watermarks(topic, partition, CALL).ok()?.1)).collect()
    }

    /// Everything in partition 0 of `topic`, from its beginning to its end.
    pub fn read(&self, topic: &str) -> Vec<Received> {
        let end = self.ends(topic)[0];
        let client: BaseConsumer = self.client().set("group.id", "reader").create().unwrap();
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        client.assign(&from).unwrap();
        let mut received = Vec::new();
        while (received.len() as i64) < end {
            let record = client.poll(CALL).expect("the rest of the topic").unwrap();
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
            let headers = record
                .headers()
                .map(|headers| headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect());
            let headers = headers.unwrap_or_default();
            received.push(Received { key: text(record.key()), payload: text(record.payload()), headers });
        }
        received
    }

    /// A client to send with again and again: making one takes half a second.
    pub fn sender(&self) -> Sender {
        let acknowledged = Acknowledged::default();
        let producer = self
            .client()
            .set("enable.idempotence", "true")
            .set("message.max.bytes", "16777216")
            .set("linger.ms", "5")
            .create_with_context(acknowledged.clone())
            .unwrap();
        Sender { producer, acknowledged }
    }

    /// Sends records once: see [`Sender::send`].
    pub fn send(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = (Option<Vec<u8>>, Option<Vec<u8>>)>,
    ) -> Vec<Sent> {
        self.sender().send(topic, records)
    }

    /// Sends text payloads without keys.
    pub fn send_text<'a>(&self, topic: &str, payloads: impl IntoIterator<Item = &'a str>) -> Vec<Sent> {
        self.send(topic, payloads.into_iter().map(|text| (None, Some(text.as_bytes().to_vec()))))
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.stop();
        super::discard(&self.dir);
    }
}

/// A key and a payload.
pub type Record = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A client that sends.
pub struct Sender {
    producer: BaseProducer<Acknowledged>,
    acknowledged: Acknowledged,
}

impl Sender {
    /// Sends records (key, payload; `None` is null) and returns them where the broker put them, in no certain order.
    /// Blocks until all are acknowledged; panics if one is refused.
    pub fn send(&self, topic: &str, records: impl IntoIterator<Item = Record>) -> Vec<Sent> {
        self.send_at(topic, records.into_iter().map(|record| (None, record)))
    }

    /// The same, of records that say when they were made, in milliseconds since 1970.
    pub fn send_at(&self, topic: &str, records: impl IntoIterator<Item = (Option<i64>, Record)>) -> Vec<Sent> {
        let producer = &self.producer;
        for (at, (key, payload)) in records {
            let mut record = BaseRecord::<Vec<u8>, Vec<u8>>::to(topic);
            record.timestamp = at;
            record.key = key.as_ref();
            record.payload = payload.as_ref();
            // The client's own queue is bounded: let acknowledgements come in and offer it again.
            while let Err((error, refused)) = producer.send(record) {
                let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
                assert_eq!(error, full, "cannot send to {topic}");
                producer.poll(Duration::from_millis(10));
                record = refused;
            }
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(60)).unwrap();
        std::mem::take(&mut self.acknowledged.sent.lock().unwrap())
    }
}

#[derive(Clone, Default)]
struct Acknowledged {
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl rdkafka::client::ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let record = result.as_ref().unwrap_or_else(|(error, _)| panic!("a record was refused: {error}"));
        self.sent.lock().unwrap().push(Sent {
            topic: record.topic().to_owned(),
            partition: record.partition(),
            offset: record.offset(),
            key: record.key().map(<[u8]>::to_vec),
            payload: record.payload().map(<[u8]>::to_vec),
        });
    }
}
