//! `millpond produce`: a file's records to a topic.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use clap::Args;
use futures::TryStreamExt;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer,
};
use serde_json::Value;

use super::records::{self, Layout};
use super::shell::{Remote, Target};
use super::{ProjectArgs, shell};
use crate::config::{Brokers, Project};
use crate::error::{Error, Kind, Result};
use crate::schema;
use crate::source::{Kafka, KafkaOptions};

/// How long one record may wait for its acknowledgement.
const TRIES_FOR: Duration = Duration::from_secs(30);
/// How long the topic is asked for.
const ASKS_FOR: Duration = Duration::from_secs(10);
/// The embedded broker forgets the oldest of a partition beyond 5 MiB: so much is sent before its readers are waited for.
const AHEAD_BYTES: usize = 1 << 20;
/// A record's own cost in the broker's log, estimated high.
const RECORD_OVERHEAD_BYTES: usize = 80;
/// How often readers, a full queue and the terminal are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Mistakes that are named one by one.
const NAMED: usize = 20;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond produce orders orders.ndjson\n  \
    millpond produce orders orders.json --key customer.id\n  \
    tail -f app.log | millpond produce logs - --format lines")]
pub(super) struct ProduceArgs {
    /// The topic; it must exist
    topic: String,
    /// The file; `-` is standard input
    file: PathBuf,
    /// The field, or the path of one, whose value becomes the message key
    #[arg(long, value_name = "PATH")]
    key: Option<String>,
    /// How the file holds its records
    #[arg(long, value_enum, default_value_t)]
    format: Layout,
    #[command(flatten)]
    project: ProjectArgs,
}

pub(super) async fn run(args: ProduceArgs) -> Result<ExitCode> {
    let key = args.key.as_deref().map(key_path).transpose()?;
    if key.is_some() && args.format == Layout::Lines {
        return Err(Error::new(Kind::Usage, "--key needs records that are JSON, not --format lines"));
    }
    let input = records::open(&args.file)?;
    let (project, _) = args.project.load()?;
    let cluster = Cluster::of(&project).await?;
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || -> Result<ExitCode> {
        let mut producer = Producer::open(cluster, &args.topic, runtime)?;
        let mut mistakes = 0;
        let mut broken = None;
        let read = records::each_record(input, args.format, |line, record| {
            let sent = record.and_then(|payload| {
                let key = key.as_deref().map(|path| key_of(payload, path)).transpose()?;
                Ok(producer.send(line, key.as_deref(), payload))
            });
            match sent {
                Ok(Ok(())) => ControlFlow::Continue(()),
                Ok(Err(error)) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
                Err(message) => {
                    mistakes += 1;
                    if mistakes <= NAMED {
                        eprintln!("{}:{line}: {message}: not sent", args.file.display());
                    }
                    ControlFlow::Continue(())
                }
            }
        });
        let report = producer.finish();
        report.print(&args.topic, &args.file, mistakes);
        if let Some(error) = broken {
            return Err(error);
        }
        read.map_err(|error| {
            Error::new(Kind::Internal, format!("{} was not read to its end", args.file.display())).because(error)
        })?;
        Ok(if report.failed.is_empty() && mistakes == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    });
    work.await.map_err(|error| Error::new(Kind::Internal, "sending failed").because(error))?
}

fn key_path(text: &str) -> Result<Vec<String>> {
    match text.parse() {
        Ok(schema::Path::Value(parts)) => Ok(parts),
        _ => Err(Error::new(Kind::Usage, format!("--key {text} is not the path of a field"))
            .hint("such as --key id or --key customer.id")),
    }
}

/// The value at `path` as a message key: a string's content, another scalar as JSON writes it.
fn key_of(payload: &[u8], path: &[String]) -> Result<Vec<u8>, String> {
    let record: Value = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    let name = || path.join(".");
    match path.iter().try_fold(&record, |value, part| value.get(part)) {
        None | Some(Value::Null) => Err(format!("has no `{}` for the key", name())),
        Some(Value::Object(_) | Value::Array(_)) => Err(format!("`{}` is no scalar, so it is no key", name())),
        Some(Value::String(text)) => Ok(text.clone().into_bytes()),
        Some(scalar) => Ok(scalar.to_string().into_bytes()),
    }
}

/// Where records go.
pub(super) struct Cluster {
    pub brokers: String,
    pub properties: BTreeMap<String, String>,
    /// The server in which the broker is embedded.
    server: Option<Remote>,
}

impl Cluster {
    /// The project's brokers; an embedded one is asked for at the running server.
    pub async fn of(project: &Project) -> Result<Self> {
        let properties = project.config.kafka.properties.0.clone();
        if let Brokers::At(brokers) = &project.config.kafka.brokers {
            return Ok(Self { brokers: brokers.clone(), properties, server: None });
        }
        let address = project.config.serve.flight_sql.ok_or_else(|| {
            Error::new(Kind::Usage, "the embedded broker cannot be found: the project serves no Flight SQL")
                .hint("set `flight_sql` in [serve], or name brokers with --set kafka.brokers=HOST:PORT")
        })?;
        let mut server =
            shell::Remote::connect(&super::place::own(&project.config.serve, address)).await.map_err(|error| {
                Error::new(Kind::Unavailable, "the embedded broker is not running")
                    .because(error.message().to_owned())
                    .hint("start this project with `millpond serve`: the broker is inside of it")
            })?;
        let batches = rows(&mut server, "SELECT brokers FROM system.kafka WHERE embedded").await?;
        let found = batches.iter().find(|batch| batch.num_rows() > 0);
        let brokers = found.and_then(|batch| batch.column(0).as_string_opt::<i32>()).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("the server at {address} has no embedded broker"))
                .hint("another project's server has this address? set `flight_sql` in [serve]")
        })?;
        Ok(Self { brokers: brokers.value(0).to_owned(), properties, server: Some(server) })
    }

    /// A client that asks about topics, within ten seconds.
    pub fn kafka(&self) -> Result<Kafka> {
        Kafka::new(KafkaOptions {
            brokers: self.brokers.clone(),
            properties: self.properties.clone(),
            timeout: ASKS_FOR,
            ..KafkaOptions::default()
        })
    }
}

/// There is no such topic.
pub(super) fn no_topic(topic: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no topic \"{topic}\""))
        .hint("create it; the embedded broker has the topics of schemas/ and sinks")
}

async fn rows(server: &mut Remote, sql: &str) -> Result<Vec<arrow::array::RecordBatch>> {
    let (_, batches) = server.query(sql).await?;
    batches.try_collect().await
}

/// What became of the records.
#[derive(Default)]
struct Fates {
    bytes: u64,
    /// First and last offset, and how many, by partition.
    partitions: BTreeMap<i32, (i64, i64, u64)>,
    /// Line and reason.
    failed: Vec<(u64, String)>,
}

/// librdkafka tells it the fate of each record. A record's opaque is its line.
#[derive(Clone, Default)]
struct Fate(Arc<Mutex<Fates>>);

impl ClientContext for Fate {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(target: "kafka", ?level, facility, text, "kafka producer says");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "kafka", %error, reason, "kafka producer reports an error");
    }
}

impl ProducerContext<NoCustomPartitioner> for Fate {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, line: usize) {
        let mut fates = self.0.lock();
        match result {
            Ok(message) => {
                fates.bytes += message.payload().map_or(0, |payload| payload.len() as u64);
                let offset = message.offset();
                let (first, last, count) = fates.partitions.entry(message.partition()).or_insert((offset, offset, 0));
                (*first, *last, *count) = (offset.min(*first), offset.max(*last), *count + 1);
            }
            Err((error, _)) => fates.failed.push((line as u64, reason(error))),
        }
    }
}

fn reason(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageTimedOut) => format!("not acknowledged within {} s", TRIES_FOR.as_secs()),
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}

struct Producer {
    topic: String,
    client: ThreadedProducer<Fate>,
    fate: Fate,
    server: Option<Remote>,
    runtime: tokio::runtime::Handle,
    unread_bytes: usize,
    began: Instant,
    shown: Option<Instant>,
}

impl Producer {
    fn open(cluster: Cluster, topic: &str, runtime: tokio::runtime::Handle) -> Result<Self> {
        if cluster.kafka()?.partitions(topic)?.is_none() {
            return Err(no_topic(topic));
        }
        let mut config = ClientConfig::new();
        // Keys go to the partitions where Java's clients put them.
        config.set("client.id", "millpond").set("partitioner", "murmur2_random").set("linger.ms", "5");
        for (key, value) in &cluster.properties {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &cluster.brokers).set("acks", "all").set("enable.idempotence", "true");
        config.set("message.timeout.ms", TRIES_FOR.as_millis().to_string());
        let fate = Fate::default();
        let client = ThreadedProducer::from_config_and_context(&config, fate.clone()).map_err(|error| {
            Error::new(Kind::Usage, "a client that writes to kafka cannot be made")
                .because(error)
                .hint("check kafka.properties in millpond.toml")
        })?;
        let shown = io::stderr().is_terminal().then(Instant::now);
        let (topic, server) = (topic.to_owned(), cluster.server);
        Ok(Self { topic, client, fate, server, runtime, unread_bytes: 0, began: Instant::now(), shown })
    }

    /// Hands a record to the client, which sends it when it sees fit.
    fn send(&mut self, line: u64, key: Option<&[u8]>, payload: &[u8]) -> Result<()> {
        self.make_room(key.map_or(0, <[u8]>::len) + payload.len() + RECORD_OVERHEAD_BYTES)?;
        let topic = self.topic.clone();
        let mut record = BaseRecord::with_opaque_to(&topic, line as usize).payload(payload);
        if let Some(key) = key {
            record = record.key(key);
        }
        loop {
            match self.client.send(record) {
                Ok(()) => break,
                Err((error, again)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    record = again;
                    std::thread::sleep(LOOK);
                }
                Err((error, _)) => {
                    self.fate.0.lock().failed.push((line, reason(&error)));
                    break;
                }
            }
            self.show();
        }
        self.show();
        Ok(())
    }

    /// Waits until the embedded broker's readers have what was sent, before it forgets it.
    fn make_room(&mut self, bytes: usize) -> Result<()> {
        self.unread_bytes += bytes;
        if self.server.is_none() || self.unread_bytes <= AHEAD_BYTES {
            return Ok(());
        }
        self.unread_bytes = bytes;
        // Each record has its fate within `TRIES_FOR`.
        let _ = self.client.flush(TRIES_FOR);
        loop {
            if self.unread_records()? == 0 {
                return Ok(());
            }
            self.show();
            std::thread::sleep(LOOK);
        }
    }

    /// Records sent that a table fed by the topic has not read; 0 if there is no such table.
    fn unread_records(&mut self) -> Result<i64> {
        let ends: Vec<String> =
            self.fate.0.lock().partitions.iter().map(|(p, (_, last, _))| format!("({p}, {})", last + 1)).collect();
        let Some(server) = self.server.as_mut().filter(|_| !ends.is_empty()) else { return Ok(0) };
        let topic = self.topic.replace('\'', "''");
        let sql = format!(
            "SELECT CAST(coalesce(sum(greatest(sent.upto - coalesce(i.position, 0), 0)), 0) AS BIGINT) \
             FROM system.ingest i JOIN (VALUES {}) AS sent(part, upto) ON i.partition = sent.part \
             WHERE i.topic = '{topic}'",
            ends.join(", ")
        );
        let batches = self.runtime.block_on(rows(server, &sql))?;
        let batch = batches.iter().find(|batch| batch.num_rows() > 0);
        Ok(batch.and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>()).map_or(0, |lag| lag.value(0)))
    }

    /// On a terminal: how far it is.
    fn show(&mut self) {
        if let Some(shown) = &mut self.shown
            && shown.elapsed() >= LOOK
        {
            *shown = Instant::now();
            let sent = self.fate.0.lock().sent();
            let _ = write!(io::stderr(), "\r\x1b[2K{sent} acknowledged, {}", rate(sent, self.began.elapsed()));
        }
    }

    fn finish(self) -> Report {
        let _ = self.client.flush(TRIES_FOR);
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
        let took = self.began.elapsed();
        let unknown = self.client.in_flight_count();
        drop(self.client);
        let mut fates = std::mem::take(&mut *self.fate.0.lock());
        fates.failed.sort();
        Report {
            sent: fates.sent(),
            bytes: fates.bytes,
            partitions: fates.partitions,
            failed: fates.failed,
            unknown,
            took,
        }
    }
}

impl Fates {
    fn sent(&self) -> u64 {
        self.partitions.values().map(|(_, _, count)| count).sum()
    }
}

struct Report {
    sent: u64,
    bytes: u64,
    partitions: BTreeMap<i32, (i64, i64, u64)>,
    failed: Vec<(u64, String)>,
    unknown: i32,
    took: Duration,
}

impl Report {
    fn print(&self, topic: &str, file: &Path, mistakes: usize) {
        for (line, reason) in self.failed.iter().take(NAMED) {
            eprintln!("{}:{line}: {reason}", file.display());
        }
        let (sent, seconds) = (self.sent, self.took.as_secs_f64());
        let plural = if sent == 1 { "" } else { "s" };
        say!(
            "{topic}: {sent} record{plural} acknowledged, {} bytes in {seconds:.1} s, {}",
            self.bytes,
            rate(sent, self.took)
        );
        for (partition, (first, last, count)) in &self.partitions {
            say!("  partition {partition}: {count}, offsets {first} to {last}");
        }
        for (count, what) in [
            (mistakes, "could not be read and were not sent"),
            (self.failed.len(), "were not acknowledged"),
            (usize::try_from(self.unknown).unwrap_or(0), "may or may not have arrived"),
        ] {
            if count > 0 {
                eprintln!("{count} {what}");
            }
        }
    }
}

fn rate(records: u64, took: Duration) -> String {
    format!("{:.0} per second", records as f64 / took.as_secs_f64().max(0.001))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_scalar_at_a_path() {
        let payload = br#"{"id":7,"customer":{"name":"Kim","tags":[]},"none":null}"#;
        for (path, expected) in [
            ("id", Ok("7")),
            ("customer.name", Ok("Kim")),
            ("customer", Err("`customer` is no scalar, so it is no key")),
            ("customer.tags", Err("`customer.tags` is no scalar, so it is no key")),
            ("none", Err("has no `none` for the key")),
            ("customer.age", Err("has no `customer.age` for the key")),
        ] {
            let key = key_of(payload, &key_path(path).unwrap()).map(|key| String::from_utf8(key).unwrap());
            assert_eq!(key, expected.map(str::to_owned).map_err(str::to_owned), "{path}");
        }
        assert_eq!(key_path("$key").unwrap_err().exit_code(), 2);
    }
}
