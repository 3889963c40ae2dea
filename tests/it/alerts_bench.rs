//! The numbers of alerts: from a record in Kafka to the message about it, under an open-loop load.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Process, Project, component, wait_until};

/// One record in so many makes an alert.
const ALARM_EVERY: u64 = 500;
const WARM_UP: Duration = Duration::from_secs(15);
const MEASURED: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);
/// The generator wakes so often.
const STEP: Duration = Duration::from_millis(5);

const SIGNALS: &str = r#"
key = ["car"]
time = { path = "sent_us", format = "unix_us" }
[columns.alarm]
type = "boolean"
"#;

/// How many cars there are: `CARS`.
fn how_many_cars() -> u64 {
    static CARS: LazyLock<u64> = LazyLock::new(|| number("CARS", 10_000));
    *CARS
}

/// What can be chosen.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64
}

/// About 1 kB of nested JSON, as devices send it.
fn record(number: u64, sent_us: u64, tails: &[String]) -> String {
    let (car, alarm) = (number % how_many_cars(), number.is_multiple_of(ALARM_EVERY));
    let tail = &tails[(number % tails.len() as u64) as usize];
    format!("{{\"car\":{car},\"sent_us\":{sent_us},\"sent\":{sent_us},\"alarm\":{alarm},\"seq\":{number},{tail}")
}

/// What a record says beside when and of which car.
fn tail(number: u64) -> String {
    let value = |n: u64| (number.wrapping_mul(2_654_435_761).wrapping_add(n * 97) % 10_000) as f64 / 10.0;
    let tyre = |n: u64| json!({"pressure": value(n), "temperature": value(n + 1), "isLow": false});
    let json = json!({
        "firmware": "4.1.7", "vin": format!("KMHTL41MDPU{:06}", number % how_many_cars()),
        "vehicle": {
            "speed": value(1), "odometer": value(2), "isMoving": true, "state": "DRIVING",
            "powertrain": {
                "battery": {"voltage": value(3), "current": value(4), "nominal": 12, "capacity": 60},
                "engine": {"speed": value(5), "torque": value(6), "coolant": {"temperature": value(7), "level": "NORMAL"},
                           "oil": {"temperature": value(8), "pressure": value(9), "isLow": false}},
                "fuel": {"level": value(10), "range": value(11), "consumption": value(12)}
            },
            "location": {"latitude": 37.0 + value(13) / 1000.0, "longitude": 127.0 + value(14) / 1000.0,
                         "altitude": value(15), "heading": value(16), "accuracy": 2.4, "satellites": 11},
            "doors": {"frontLeft": {"isOpen": false, "isLocked": true}, "frontRight": {"isOpen": false, "isLocked": true},
                      "rearLeft": {"isOpen": false, "isLocked": true}, "rearRight": {"isOpen": false, "isLocked": true}},
            "tyres": {"frontLeft": tyre(17), "frontRight": tyre(19)}
        }
    });
    json.to_string()[1..].to_owned()
}

/// Sends `rate` records a second until told to stop, whatever becomes of them.
fn generate(brokers: &str, topic: &str, rate: u64, stop: &AtomicBool, sent: &AtomicU64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("linger.ms", "1").set("queue.buffering.max.messages", "1000000");
    config.set("acks", "1");
    let producer: BaseProducer = config.create().unwrap();
    let tails: Vec<String> = (0..1_000).map(tail).collect();
    let began = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        for number in number..due {
            let (key, text) = ((number % how_many_cars()).to_string(), record(number, now_us(), &tails));
            producer.send(BaseRecord::to(topic).key(&key).payload(&text)).ok();
        }
        number = number.max(due);
        sent.store(number, Ordering::Relaxed);
        producer.poll(Duration::ZERO);
        std::thread::park_timeout(STEP);
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

/// How long each message took from the record's sending until it is read, in microseconds, until told to stop.
fn read(brokers: &str, topic: &str, stop: &AtomicBool, measuring: &AtomicBool, told_of: &AtomicU64) -> Vec<u64> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "bench").set("fetch.wait.max.ms", "5");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::End).unwrap();
    consumer.assign(&from).unwrap();
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) else { continue };
        let now = now_us();
        let told: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        // Millpond's message, and Flink's for a rule without and with a join.
        let sent_us = ["/values/sent", "/sent", "/after/sent"].iter().find_map(|path| told.pointer(path)?.as_u64());
        told_of.fetch_add(u64::from(sent_us.is_some()), Ordering::Relaxed);
        if let Some(sent_us) = sent_us.filter(|_| measuring.load(Ordering::Relaxed)) {
            took.push(now.saturating_sub(sent_us));
        }
    }
    took
}

fn at(sorted: &[u64], share: f64) -> f64 {
    sorted.get(((sorted.len().max(1) - 1) as f64 * share) as usize).map_or(f64::NAN, |micros| *micros as f64 / 1e3)
}

/// Seconds of processor time that a process has taken.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// The rules of a run; the first one's alerts are read.
fn rules(class: &str) -> BTreeMap<String, String> {
    const HEAD: &str = "--! kind = \"alert\"\n--! key = \"car\"\n--! once = true\n--! to = \"outlier\"\n";
    const STATELESS: &str = "SELECT car, sent, vehicle_speed FROM signals WHERE alarm";
    let mut rules = BTreeMap::new();
    let first = match class {
        "none" => return rules,
        "look-up join" => {
            "SELECT s.car, s.sent, c.plate FROM signals s JOIN cars c ON c.car = s.car AND c.plate <> 'x' WHERE s.alarm"
        }
        "look-back" => {
            "SELECT car, sent, alarm, lag(vehicle_speed) OVER (PARTITION BY car ORDER BY event_time) AS before \
             FROM signals QUALIFY alarm AND coalesce(before, 0) >= 0"
        }
        "sliding frame" => {
            "SELECT car, sent, alarm, avg(vehicle_speed) OVER (PARTITION BY car ORDER BY event_time \
             RANGE INTERVAL '20 seconds' PRECEDING) AS mean FROM signals QUALIFY alarm AND mean >= 0"
        }
        "window" | "100 windows" => {
            "SELECT car, max(sent) AS sent, avg(vehicle_speed) AS mean FROM signals \
             GROUP BY car, tumble(event_time, INTERVAL '10 seconds') HAVING bool_or(alarm)"
        }
        _ => STATELESS,
    };
    rules.insert("first".to_owned(), format!("{HEAD}{first}\n"));
    if class == "100 windows" {
        for number in 1..100 {
            let (seconds, limit) = (10 + number % 7, 1_000.5 + number as f64);
            let sql = format!(
                "SELECT car, max(vehicle_odometer) AS most FROM signals \
                 GROUP BY car, tumble(event_time, INTERVAL '{seconds} seconds') HAVING max(vehicle_odometer) > {limit}\n"
            );
            rules.insert(format!("rule_{number:03}"), format!("{HEAD}{sql}"));
        }
    }
    if class == "1,000 rules" {
        let columns =
            ["vehicle_speed", "vehicle_powertrain_battery_voltage", "vehicle_location_heading", "vehicle_odometer"];
        for number in 1..1_000 {
            let (column, limit) = (columns[number % columns.len()], 1_000.5 + number as f64);
            let sql = format!("SELECT car, {column} FROM signals WHERE {column} > {limit} AND NOT alarm\n");
            rules.insert(
                format!("rule_{number:03}"),
                format!("{}{sql}", HEAD.replace("once = true", "cooldown = \"1m\"")),
            );
        }
    }
    rules
}

/// A generator of records and a reader of what is told about them.
struct Load {
    stop: Arc<AtomicBool>,
    measuring: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    told: Arc<AtomicU64>,
    generator: JoinHandle<()>,
    reader: JoinHandle<Vec<u64>>,
}

/// What a load met between the end of the warm-up and its own.
struct Measured {
    records_per_second: f64,
    cores: f64,
    /// Sorted, in microseconds.
    took: Vec<u64>,
}

impl Load {
    fn start(kafka: &Kafka, topics: &Topics, rate: u64) -> Self {
        let (stop, measuring) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (sent, told) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let generator = {
            let (brokers, topic, stop, sent) =
                (kafka.brokers(), topics.signals.clone(), Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || generate(&brokers, &topic, rate, &stop, &sent))
        };
        let reader = {
            let (brokers, topic, stop) = (kafka.brokers(), topics.outlier.clone(), Arc::clone(&stop));
            let (measuring, told) = (Arc::clone(&measuring), Arc::clone(&told));
            std::thread::spawn(move || read(&brokers, &topic, &stop, &measuring, &told))
        };
        Self { stop, measuring, sent, told, generator, reader }
    }

    /// Measures the process `pid`, which works by now.
    async fn measure(self, pid: u32, before_end: impl AsyncFnOnce()) -> Measured {
        let pause = async |what: &str, time: Duration| {
            let began = Instant::now();
            wait_until(what, PATIENCE, async || (began.elapsed() >= time).then_some(())).await;
            began.elapsed().as_secs_f64()
        };
        pause("it is warm", WARM_UP).await;
        self.measuring.store(true, Ordering::Relaxed);
        let (cpu, first) = (cpu_seconds(pid), self.sent.load(Ordering::Relaxed));
        let seconds = pause("it is measured", MEASURED).await;
        let cores = (cpu_seconds(pid) - cpu) / seconds;
        let records_per_second = (self.sent.load(Ordering::Relaxed) - first) as f64 / seconds;
        before_end().await;
        self.stop.store(true, Ordering::Relaxed);
        self.generator.join().unwrap();
        let mut took = self.reader.join().unwrap();
        took.sort_unstable();
        Measured { records_per_second, cores, took }
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { records_per_second, cores, took } = self;
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| at(took, share));
        let count = took.len();
        write!(
            f,
            "{records_per_second:.0} records/s, {cores:.2} cores; producer to consumer p50 {p50:.1} p99 {p99:.1} p99.9 {p999:.1} ms of {count}"
        )
    }
}

struct Topics {
    signals: String,
    cars: String,
    outlier: String,
}

impl Topics {
    /// New ones; the cars are told already.
    async fn new(kafka: &Kafka) -> Self {
        let (signals, cars) = (kafka.topic("signals", 2).await, kafka.topic("cars", 1).await);
        let row = |car: u64| {
            let row = json!({"data": {"car": car, "plate": format!("{car}")}, "metadata": {"record-type": "data", "operation": "load"}});
            (Some(format!("{{\"car\":{car}}}").into_bytes()), Some(row.to_string().into_bytes()))
        };
        kafka.send(&cars, (0..how_many_cars()).map(row));
        Self { signals, cars, outlier: kafka.topic("outlier", 1).await }
    }
}

/// What is measured (`CLASSES`: those of the default, `look-back`, `sliding frame`, `window`, `100 windows`), at which rate (`RATE`) and how often (`ROUNDS`) can be chosen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of ten minutes; needs Flink; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_alerts_under_load() {
    let (rate, rounds) = (number("RATE", 20_000), number("ROUNDS", 1));
    let kafka = Kafka::start().await;
    println!(
        "{rate} records/s of {} bytes, {} s after {} s",
        record(1, now_us(), &[tail(1)]).len(),
        MEASURED.as_secs(),
        WARM_UP.as_secs()
    );
    let classes = std::env::var("CLASSES").unwrap_or_else(|_| "none,stateless,look-up join,1,000 rules".to_owned());
    for _ in 0..rounds {
        for class in classes.split(',') {
            run(&kafka, class, rate).await;
            if let "stateless" | "look-up join" = class {
                run_flink(&kafka, class, rate, "as it comes", &[], "").await;
                run_flink(&kafka, class, rate, "lowest latency", FASTEST, FASTEST_SINK).await;
            }
        }
    }
}

async fn run(kafka: &Kafka, class: &str, rate: u64) {
    let topics = Topics::new(kafka).await;
    let Topics { signals, cars, outlier } = &topics;
    let mut project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("5s")
        .toml(&format!("[sinks.outlier]\ntype = \"kafka\"\ntopic = \"{outlier}\"\n"))
        .events("signals", signals, SIGNALS)
        .schema("cars", &format!("kind = \"mirror\"\nformat = \"dms-json\"\nkey = [\"car\"]\ntopic = \"{cars}\"\n"));
    for (name, text) in rules(class) {
        project = project.query(&name, &text);
    }
    let millpond = Millpond::serve(&project).await;
    let load = Load::start(kafka, &topics, rate);
    if class != "none" {
        let running = "SELECT count(*) AS n FROM system.queries WHERE state = 'running'";
        let count = rules(class).len() as i64;
        wait_until("all rules run", PATIENCE, async || (millpond.number(running).await == Some(count)).then_some(()))
            .await;
    }
    let (mut inner, mut lag) = (Vec::new(), 0);
    // Files are merged meanwhile as fast as they can be, which the server itself does not do.
    let merging = async {
        if class == "stateless while merging" {
            loop {
                project.run(&["table", "optimize", "signals"]).await;
            }
        }
        std::future::pending().await
    };
    let measured = load.measure(millpond.process().id(), async || {
        inner = millpond
            .sql(
                "SELECT p50_us, p99_us, p999_us, rows, fired, ns_per_row, rows_late, kept_rows, kept_bytes \
                 FROM system.queries WHERE query_name = 'first'",
            )
            .await;
        lag = millpond.number("SELECT max(lag) AS n FROM system.ingest").await.unwrap_or(0);
    });
    let measured = tokio::select! {
        measured = measured => measured,
        () = merging => unreachable!("it goes on"),
    };
    println!("  {class:<14} Millpond: {measured}; lag {lag}; inside: {}", json!(inner));
    assert_eq!(millpond.stop().await, Some(0));
}

/// The options with which Flink waits for nothing; the other, of the table that it writes to, is of Kafka's client.
const FASTEST: &[&str] = &["execution.buffer-timeout.interval=0 ms", "pipeline.object-reuse=true"];
const FASTEST_SINK: &str = ", 'properties.linger.ms' = '0'";

/// The first rule of the class in Flink's SQL. A join tells changes, so it needs a format that has words for them.
fn statements(class: &str, kafka: &Kafka, topics: &Topics, sink: &str) -> String {
    let Topics { signals, cars, outlier } = topics;
    let brokers = kafka.brokers();
    let (written, select) = match class {
        "stateless" => {
            ("car BIGINT, sent BIGINT, speed DOUBLE", "SELECT car, sent, vehicle.speed FROM signals WHERE alarm")
        }
        _ => (
            "car BIGINT, sent BIGINT, plate STRING",
            "SELECT s.car, s.sent, c.data.plate FROM signals s JOIN cars c ON c.car = s.car AND c.data.plate <> 'x' WHERE s.alarm",
        ),
    };
    let format = if class == "stateless" { "json" } else { "debezium-json" };
    format!(
        "CREATE TABLE signals (car BIGINT, sent BIGINT, alarm BOOLEAN, vehicle ROW<speed DOUBLE>) WITH (
            'connector' = 'kafka', 'topic' = '{signals}', 'properties.bootstrap.servers' = '{brokers}',
            'properties.group.id' = 'flink', 'scan.startup.mode' = 'latest-offset', 'format' = 'json');
        CREATE TABLE cars (car BIGINT, data ROW<plate STRING>, PRIMARY KEY (car) NOT ENFORCED) WITH (
            'connector' = 'upsert-kafka', 'topic' = '{cars}', 'properties.bootstrap.servers' = '{brokers}',
            'key.format' = 'json', 'value.format' = 'json', 'value.fields-include' = 'EXCEPT_KEY');
        CREATE TABLE outlier ({written}) WITH (
            'connector' = 'kafka', 'topic' = '{outlier}', 'properties.bootstrap.servers' = '{brokers}',
            'format' = '{format}'{sink});
        INSERT INTO outlier {select}"
    )
}

async fn run_flink(kafka: &Kafka, class: &str, rate: u64, how: &str, options: &[&str], sink: &str) {
    let topics = Topics::new(kafka).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rule.sql");
    std::fs::write(&file, statements(class, kafka, &topics, sink)).unwrap();
    let mut command = component(&["flink", file.to_str().unwrap()]);
    command.args(options);
    let load = Load::start(kafka, &topics, rate);
    let flink = Process::spawn("flink", &command, &folder.path().join("flink.log"));
    let told = Arc::clone(&load.told);
    flink.wait_ready(PATIENCE, async || told.load(Ordering::Relaxed) > 0).await;
    println!("  {class:<14} Flink, {how}: {}", load.measure(flink.id(), async || ()).await);
}
