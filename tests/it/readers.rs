//! Who reads what we write: ADBC and `millpond sql` see hot and committed rows; deltalake and DuckDB see the tables on
//! MinIO as plain Delta and agree with the ledger.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::Value;

use crate::rig::{Fault, Kafka, Lake, Ledger, Millpond, Minio, Project, Proxy, Rule, credentials, python, wait_until};
use crate::sql::Client;

const SHOWN: Duration = Duration::from_secs(60);
/// As in `src/engine/ingest.rs`.
const CHECKPOINT_EVERY: i64 = 64;

/// A reading of a car; number 7 of ten says nothing of its speed.
fn reading(i: usize) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let speed = if i % 10 == 7 { "null".to_owned() } else { format!("{}.5", i % 120) };
    let payload = format!(
        r#"{{"car":"car-{}","n":{i},"speed":{speed},"moving":{},"at":"2026-11-2{}T23:59:{:02}.25Z","where":{{"lat":37.5,"name":"서울"}},"hash":"h{i}"}}"#,
        i % 50,
        i.is_multiple_of(2),
        i % 3,
        i % 60,
    );
    (Some(format!("car-{}", i % 50).into_bytes()), Some(payload.into_bytes()))
}

const CARS: &str = "key = [\"car\"]\ntime = { path = \"at\", format = \"rfc3339\" }";

/// The same question for every reader: rows, sum, values that are known, days.
const SUMMARY: &str = "SELECT count(*) AS n, sum(n) AS total, count(speed) AS speeds, count(DISTINCT car) AS cars, \
     count(DISTINCT _day) AS days, max(where_name) AS place FROM t";

fn summary(rows: usize) -> Value {
    let total: usize = (0..rows).sum();
    let unknown = (0..rows).filter(|i| i % 10 == 7).count();
    serde_json::json!({"n": rows, "total": total, "speeds": rows - unknown, "cars": 50, "days": 3, "place": "서울"})
}

fn of(table: &str) -> String {
    SUMMARY.replace(" FROM t", &format!(" FROM {table}"))
}

fn outside(minio: &Minio) -> Vec<(&'static str, String)> {
    let mut env = credentials().to_vec();
    env.push(("AWS_ENDPOINT_URL", minio.endpoint()));
    env
}

/// DuckDB's whole sums are of a wider type and print as floats or texts.
fn same(row: &Value, wanted: &Value) -> bool {
    let number = |value: &Value| {
        value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).map(|number| number.to_string())
    };
    let plain = |value: &Value| number(value).unwrap_or_else(|| value.to_string());
    wanted.as_object().unwrap().iter().all(|(name, value)| plain(&row[name]) == plain(value))
}

/// Waits until `rows` rows of `table` can be seen.
async fn seen(client: &Client, table: &str, rows: usize) {
    let count = format!("SELECT count(*) FROM {table}");
    wait_until("all rows can be seen", SHOWN, async || {
        (client.numbers(&count).await.unwrap() == [[rows as i64]]).then_some(())
    })
    .await;
}

/// Waits until every record of the topic is committed in `table`.
async fn committed(client: &Client, table: &str, records: usize) {
    let sql = format!("SELECT coalesce(sum(committed_position), 0) FROM system.ingest WHERE table_name = '{table}'");
    wait_until("all rows are committed", SHOWN, async || {
        (client.numbers(&sql).await.unwrap() == [[records as i64]]).then_some(())
    })
    .await;
}

/// The actions of a Delta log, by table version.
async fn log_of(minio: &Minio, bucket: &str, table: &str) -> Vec<(String, Vec<Value>)> {
    let store = minio.store(bucket);
    let folder = Path::from(format!("lake/public/{table}/_delta_log"));
    let mut files: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    files.sort_by(|a, b| a.location.cmp(&b.location));
    let mut log = Vec::new();
    for file in files.iter().filter(|file| file.location.as_ref().ends_with(".json")) {
        let text = store.get(&file.location).await.unwrap().bytes().await.unwrap();
        let lines = std::str::from_utf8(&text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap());
        log.push((file.location.filename().unwrap().to_owned(), lines.collect()));
    }
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_rows_are_read_by_adbc_and_by_millpond_sql_before_any_commit() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let (topic, bucket) = (kafka.topic("hot", 3).await, Kafka::name("hot"));
    let project = Project::new(kafka.brokers(), Lake::on(minio, &bucket)).commit_interval("1h");
    let project = project.events("hot", &topic, CARS);
    let millpond = Millpond::serve(&project).await;
    let mut ledger = Ledger::default().key_column("car").hash_column("hash");
    ledger.add(kafka.send(&topic, (0..2_500).map(reading)));
    let client = Client::connect(&project.flight_sql()).await;
    seen(&client, "hot", ledger.len()).await;

    let by_adbc = python::adbc(&project.flight_sql(), &of("hot")).await.unwrap();
    assert!(same(&by_adbc[0], &summary(2_500)), "{by_adbc:?}");
    let by_shell = millpond.sql(&of("hot")).await;
    assert!(same(&by_shell[0], &summary(2_500)), "{by_shell:?}");
    let rows = "SELECT car, n, speed, moving, event_time, where_lat, _partition, _offset FROM hot ORDER BY n LIMIT 20";
    let (adbc, shell) = (python::adbc(&project.flight_sql(), rows).await.unwrap(), millpond.sql(rows).await);
    for (ours, theirs) in shell.iter().zip(&adbc) {
        for column in ["car", "n", "speed", "moving", "where_lat", "_partition", "_offset"] {
            assert_eq!(ours[column], theirs[column], "{column}");
        }
    }
    assert_eq!((shell.len(), adbc.len()), (20, 20));
    assert_eq!(adbc[1]["event_time"], "2026-11-21 23:59:01.250000+00:00");

    // None of it was durable yet: no data file in the log, and nothing for others to read.
    let added =
        |log: &[(String, Vec<Value>)]| log.iter().flat_map(|(_, actions)| actions).any(|a| a["add"].is_object());
    assert!(!added(&log_of(minio, &bucket, "hot").await));
    let by_duckdb = python::duckdb(&project.table_url("hot"), "SELECT count(*) AS n FROM t", &outside(minio)).await;
    assert_eq!(by_duckdb.unwrap()[0]["n"], 0);

    // Told to stop, it commits them; whoever reads next finds the same.
    assert_eq!(millpond.stop().await, Some(0));
    assert!(added(&log_of(minio, &bucket, "hot").await));
    ledger.assert_exact(&project.table_url("hot"), Some(minio)).await;
    let millpond = Millpond::serve(&project).await;
    let client = Client::connect(&project.flight_sql()).await;
    assert_eq!(client.numbers("SELECT sum(hot_rows) FROM system.ingest").await.unwrap(), [[0]]);
    assert_eq!(millpond.sql(rows).await, shell);
    assert_eq!(python::adbc(&project.flight_sql(), rows).await.unwrap(), adbc);
}

#[tokio::test(flavor = "multi_thread")]
async fn outsiders_read_plain_delta_and_agree_with_the_ledger() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let (topic, bucket) = (kafka.topic("plain", 3).await, Kafka::name("plain"));
    let project = Project::new(kafka.brokers(), Lake::on(minio, &bucket)).commit_interval("250ms");
    let project = project.events("plain", &topic, CARS);
    let millpond = Millpond::serve(&project).await;
    let client = Client::connect(&project.flight_sql()).await;
    let mut ledger = Ledger::default().key_column("car").hash_column("hash");
    for part in 0..4 {
        ledger.add(kafka.send(&topic, (part * 1_500..(part + 1) * 1_500).map(reading)));
        seen(&client, "plain", ledger.len()).await;
    }
    committed(&client, "plain", ledger.len()).await;

    // Everybody gives the same answer.
    let (url, env) = (project.table_url("plain"), outside(minio));
    ledger.assert_exact(&url, Some(minio)).await;
    let wanted = summary(ledger.len());
    let by_duckdb = python::duckdb(&url, SUMMARY, &env).await.unwrap();
    let by_adbc = python::adbc(&project.flight_sql(), &of("plain")).await.unwrap();
    let by_shell = millpond.sql(&of("plain")).await;
    let offline = project.run(&["sql", "--project", ".", "--format", "ndjson", "-c", &of("plain")]).await;
    let by_lake: Value = serde_json::from_str(offline.stdout.lines().next().unwrap_or_default()).unwrap();
    for (reader, row) in
        [("duckdb", &by_duckdb[0]), ("adbc", &by_adbc[0]), ("shell", &by_shell[0]), ("shell on the lake", &by_lake)]
    {
        assert!(same(row, &wanted), "{reader}: {row}");
    }

    // Plain types, an old protocol, positions per partition.
    let apps: Vec<String> = (0..3).map(|partition| format!("plain/{topic}#0/{partition}")).collect();
    let mut arguments = vec![url.as_str()];
    arguments.extend(apps.iter().map(String::as_str));
    let output = python::run("describe.py", &arguments, &env).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let found: Value = serde_json::from_str(&output.stdout).unwrap();
    let (time, text) = ("timestamp[us, tz=UTC]", "string");
    for (column, arrow, duckdb) in [
        ("car", text, "VARCHAR"),
        ("n", "int64", "BIGINT"),
        ("speed", "double", "DOUBLE"),
        ("moving", "bool", "BOOLEAN"),
        ("where_name", text, "VARCHAR"),
        ("event_time", time, "TIMESTAMP WITH TIME ZONE"),
        ("_topic", text, "VARCHAR"),
        ("_incarnation", "int32", "INTEGER"),
        ("_partition", "int32", "INTEGER"),
        ("_offset", "int64", "BIGINT"),
        ("_row", "int32", "INTEGER"),
        ("_timestamp", time, "TIMESTAMP WITH TIME ZONE"),
        ("_schema_version", "int32", "INTEGER"),
        ("_rescued", text, "VARCHAR"),
        ("_day", "date32[day]", "DATE"),
    ] {
        // Arrow has several names for one text.
        let theirs = found["deltalake"][column].as_str().unwrap_or("none").replace("large_string", text);
        assert_eq!((theirs.as_str(), &found["duckdb"][column]), (arrow, &Value::from(duckdb)), "{column}");
    }
    let dictionary = |kind: &Value| kind.as_str().unwrap().contains("dictionary");
    assert!(!found["deltalake"].as_object().unwrap().values().any(dictionary), "{}", found["deltalake"]);
    assert_eq!(found["partition_columns"], serde_json::json!(["_day"]));
    assert_eq!(found["min_reader_version"], 1, "{found}");
    assert_eq!(found["features"], serde_json::json!([]), "{found}");
    for (partition, end) in kafka.ends(&topic).into_iter().enumerate() {
        assert_eq!(found["positions"][&apps[partition]], end, "partition {partition}");
    }

    // In the log: positions beside the rows they belong to, never going back, and never expiring.
    let mut positions = std::collections::BTreeMap::new();
    for (file, actions) in log_of(minio, &bucket, "plain").await {
        let txns = || actions.iter().map(|action| &action["txn"]).filter(|txn| txn.is_object());
        if actions.iter().any(|action| action["add"].is_object()) {
            assert!(txns().count() > 0, "{file} has rows without positions");
        }
        for txn in txns() {
            let (app, version) = (txn["appId"].as_str().unwrap().to_owned(), txn["version"].as_i64().unwrap());
            assert!(apps.contains(&app), "{file}: {app}");
            assert!(txn["lastUpdated"].is_null(), "{file}: {txn}");
            assert!(positions.insert(app, version).is_none_or(|before| before <= version), "{file}: {txn}");
        }
        let forbidden = ["delta.columnMapping.mode", "delta.enableDeletionVectors", "delta.appendOnly"];
        let metadata = actions.iter().map(|action| &action["metaData"]["configuration"]);
        for configuration in metadata.filter(|configuration| configuration.is_object()) {
            assert!(!forbidden.iter().any(|key| configuration.get(key).is_some()), "{configuration}");
        }
    }
    assert_eq!(positions.len(), 3);
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_opens_from_its_checkpoint_with_its_positions() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let (topic, bucket) = (kafka.topic("checkpoint", 2).await, Kafka::name("checkpoint"));
    let project = Project::new(kafka.brokers(), Lake::on(minio, &bucket)).commit_interval("10ms");
    let project = project.events("checked", &topic, CARS);
    let millpond = Millpond::serve(&project).await;
    let mut ledger = Ledger::default().key_column("car").hash_column("hash");
    // The first schema version waits for a thousand records or ten seconds.
    ledger.add(kafka.send(&topic, (0..1_000).map(reading)));
    let store = minio.store(&bucket);
    let log = Path::from("lake/public/checked/_delta_log");
    let last = log.clone().join("_last_checkpoint");
    let (mut sent, deadline) = (1_000, Instant::now() + SHOWN);
    let at = loop {
        assert!(Instant::now() < deadline, "no checkpoint within {SHOWN:?}");
        ledger.add(kafka.send(&topic, (sent..sent + 20).map(reading)));
        sent += 20;
        if let Ok(found) = store.get(&last).await {
            let text = found.bytes().await.unwrap();
            break serde_json::from_slice::<Value>(&text).unwrap()["version"].as_i64().unwrap();
        }
    };
    assert!(at >= CHECKPOINT_EVERY, "{at}");
    let client = Client::connect(&project.flight_sql()).await;
    // Some more, whose commits are only in JSON.
    ledger.add(kafka.send(&topic, (sent..sent + 500).map(reading)));
    committed(&client, "checked", ledger.len()).await;
    let positions = "SELECT partition, committed_position FROM system.ingest ORDER BY partition";
    let before = millpond.sql(positions).await;
    millpond.kill();

    // As a clean-up of the log would: what the checkpoint covers is gone, so only it can tell.
    let old = |name: &str| name.strip_suffix(".json").and_then(|name| name.parse::<i64>().ok()).is_some_and(|v| v < at);
    let mut removed = 0;
    let files: Vec<_> = store.list(Some(&log)).try_collect().await.unwrap();
    for file in files.iter().filter(|file| file.location.filename().is_some_and(old)) {
        store.delete(&file.location).await.unwrap();
        removed += 1;
    }
    assert!(removed >= CHECKPOINT_EVERY, "{removed}");
    let millpond = Millpond::serve(&project).await;
    assert_eq!(millpond.sql(positions).await, before);
    ledger.add(kafka.send(&topic, (sent + 500..sent + 1_000).map(reading)));
    let client = Client::connect(&project.flight_sql()).await;
    committed(&client, "checked", ledger.len()).await;
    seen(&client, "checked", ledger.len()).await;
    ledger.assert_exact(&project.table_url("checked"), Some(minio)).await;
    assert_eq!(millpond.stop().await, Some(0));
}

/// Polls per client of the test below, and how many of them must have seen more than the one before.
const POLLS: usize = 100;
const GROWTHS: usize = 30;

/// One statement that would show a row twice, a row missing between others, or a row gone since.
async fn polls(address: String, partitions: usize) -> usize {
    let client = Client::connect(&address).await;
    let sql = "SELECT CAST(_partition AS BIGINT), count(*), count(DISTINCT _offset * 1000 + _row), min(_offset), \
               max(_offset) FROM seam GROUP BY 1 ORDER BY 1";
    let mut before = vec![0; partitions];
    let (mut growths, mut poll, deadline) = (0, 0, Instant::now() + 2 * SHOWN);
    // On a busy machine fewer polls must do, as long as they saw rows move.
    while growths < GROWTHS || (poll < POLLS && Instant::now() < deadline) {
        assert!(growths >= GROWTHS || Instant::now() < deadline, "after {poll} polls only {growths} saw more");
        let rows = client.numbers(sql).await.unwrap();
        let mut now = vec![0; partitions];
        for row in rows {
            let [partition, count, distinct, min, max] = row[..] else { panic!("{row:?}") };
            assert_eq!(count, distinct, "poll {poll}: a row twice in partition {partition}: {row:?}");
            assert_eq!((min, max), (0, count - 1), "poll {poll}: a row missing in partition {partition}: {row:?}");
            now[partition as usize] = count;
        }
        assert!(now.iter().zip(&before).all(|(now, before)| now >= before), "poll {poll}: {before:?}, then {now:?}");
        growths += usize::from(now != before);
        before = now;
        poll += 1;
    }
    growths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn invariant_2_a_query_sees_each_row_once_hot_or_committed() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let (topic, bucket) = (kafka.topic("seam", 3).await, Kafka::name("seam"));
    let proxy = Proxy::before(minio);
    // Commits whose answer is late or lost stay in between for longer.
    let lost =
        proxy.add(Rule::on_commit(Fault::LoseAnswer).path("public/seam/_delta_log").skip(5).chance(0.3).times(20));
    proxy.add(Rule::on_commit(Fault::Delay(Duration::from_millis(60))).path("public/seam/_delta_log").chance(0.3));
    let project = Project::new(kafka.brokers(), Lake::through(&proxy, minio, &bucket)).commit_interval("200ms");
    let project = project.events("seam", &topic, CARS);
    let millpond = Millpond::serve(&project).await;
    let done = AtomicBool::new(false);
    let mut ledger = Ledger::default().key_column("car").hash_column("hash");
    let produce = async {
        let mut sent = 0;
        while !done.load(Ordering::Relaxed) {
            // On a thread of its own: sending blocks until the broker has acknowledged.
            let (name, from) = (topic.clone(), sent);
            let records = tokio::task::spawn_blocking(move || {
                let kafka = futures::executor::block_on(Kafka::shared());
                kafka.send(&name, (from..from + 50).map(reading))
            });
            ledger.add(records.await.unwrap());
            sent += 50;
        }
    };
    let poll = async {
        let client = Client::connect(&project.flight_sql()).await;
        wait_until("the first rows can be seen", SHOWN, async || {
            (client.numbers("SELECT count(*) FROM seam").await.unwrap() != [[0]]).then_some(())
        })
        .await;
        let grown = tokio::join!(polls(project.flight_sql(), 3), polls(project.flight_sql(), 3));
        done.store(true, Ordering::Relaxed);
        grown
    };
    let ((), grown) = tokio::join!(produce, poll);
    let client = Client::connect(&project.flight_sql()).await;
    seen(&client, "seam", ledger.len()).await;
    committed(&client, "seam", ledger.len()).await;
    seen(&client, "seam", ledger.len()).await;
    let versions = client.numbers("SELECT max(table_version) FROM system.tables").await.unwrap()[0][0];
    println!("polls that saw more: {grown:?}; {versions} commits, {} answers lost", proxy.hits(lost));
    // Else nothing was tried.
    assert!(versions >= 15 && proxy.hits(lost) > 0, "{versions} commits, {} answers lost", proxy.hits(lost));
    assert_eq!(millpond.stop().await, Some(0));
    ledger.assert_exact(&project.table_url("seam"), Some(minio)).await;
}

/// Microseconds since 1970.
fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}

/// Sends `rate` records a second for `time`, each with the moment it was handed to the client, round-robin over the
/// partitions; returns those moments by partition and offset.
fn send_steadily(brokers: &str, topic: &str, partitions: usize, rate: u64, time: Duration) -> Vec<Vec<i64>> {
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).set("linger.ms", "0").create().unwrap();
    let mut sent = vec![Vec::new(); partitions];
    let start = Instant::now();
    for i in 0..rate * time.as_secs() {
        let due = start + Duration::from_micros(i * 1_000_000 / rate);
        while Instant::now() < due {
            std::thread::park_timeout(due - Instant::now());
        }
        let (lane, at) = (i as usize % partitions, now_us());
        let payload = format!(r#"{{"car":"car-{}","n":{i},"sent_us":{at},"speed":{}.5}}"#, i % 50, i % 120);
        producer.send(BaseRecord::<(), _>::to(topic).partition(lane as i32).payload(&payload)).unwrap();
        sent[lane].push(at);
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    sent
}

fn percentiles(mut ages_us: Vec<i64>) -> String {
    ages_us.sort_unstable();
    let at = |share: usize| ages_us[(ages_us.len() - 1) * share / 100] as f64 / 1000.0;
    format!("p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms of {} events", at(50), at(99), at(100), ages_us.len())
}

/// Rows a second and for how long.
const STEADY: (u64, Duration) = (1_000, Duration::from_secs(30));

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "a measurement of a minute or two; make bench runs it"]
async fn bench_event_to_visible() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    for interval in ["1s", "5s"] {
        let (topic, bucket) = (kafka.topic("fresh", 3).await, Kafka::name("fresh"));
        let project = Project::new(kafka.brokers(), Lake::on(minio, &bucket)).commit_interval(interval);
        let project = project.events("fresh", &topic, "key = [\"car\"]");
        let millpond = Millpond::serve(&project).await;
        let client = Client::connect(&project.flight_sql()).await;
        // The first window decides the schema and is not what is measured.
        let first = send_steadily(&kafka.brokers(), &topic, 3, 3_000, Duration::from_secs(1));
        seen(&client, "fresh", 3_000).await;
        committed(&client, "fresh", 3_000).await;

        let (rate, time) = STEADY;
        let (url, env) = (project.table_url("fresh"), outside(minio));
        let rows = (rate * time.as_secs()) as usize;
        let (since, rows_text) = (first.iter().flatten().max().unwrap().to_string(), rows.to_string());
        let arguments = [url.as_str(), &since, &rows_text];
        let outsider = python::run("freshness.py", &arguments, &env);
        let (brokers, name) = (kafka.brokers(), topic.clone());
        let producer = tokio::task::spawn_blocking(move || send_steadily(&brokers, &name, 3, rate, time));
        let ours = async {
            // By partition: when the row of each offset was seen first.
            let mut seen: Vec<Vec<i64>> = first.iter().map(|lane| vec![0; lane.len()]).collect();
            let mut polls = 0;
            while seen.iter().map(Vec::len).sum::<usize>() < rows + 3_000 {
                let from = seen.iter().map(Vec::len).min().unwrap();
                let sql = format!(
                    "SELECT CAST(_partition AS BIGINT), max(_offset) FROM fresh WHERE _offset >= {from} GROUP BY 1"
                );
                let found = client.numbers(&sql).await.unwrap();
                let at = now_us();
                for row in found {
                    let lane = &mut seen[row[0] as usize];
                    lane.resize(lane.len().max(row[1] as usize + 1), at);
                }
                polls += 1;
            }
            (seen, polls)
        };
        let (outsider, sent, (seen, polls)) = tokio::join!(outsider, producer, ours);
        let (sent, mut ages) = (sent.unwrap(), Vec::new());
        for (lane, sent) in sent.iter().enumerate() {
            ages.extend(sent.iter().zip(&seen[lane][first[lane].len()..]).map(|(sent, seen)| seen - sent));
        }
        println!("commit interval {interval}, {rate} events/s for {time:?}");
        println!("  event to our SQL: {} ({polls} polls)", percentiles(ages));
        println!("  event to deltalake-Python: {}{}", outsider.stdout.trim(), outsider.stderr);
        assert_eq!(millpond.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "a measurement; make bench runs it"]
async fn bench_start_and_idle_memory_on_a_warm_lake() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let (topic, bucket) = (kafka.topic("warm", 3).await, Kafka::name("warm"));
    let project = Project::new(kafka.brokers(), Lake::on(minio, &bucket)).commit_interval("200ms");
    let project = project.events("warm", &topic, CARS);
    let millpond = Millpond::serve(&project).await;
    let client = Client::connect(&project.flight_sql()).await;
    for part in 0..20 {
        kafka.send(&topic, (part * 5_000..(part + 1) * 5_000).map(reading));
        committed(&client, "warm", (part + 1) * 5_000).await;
    }
    assert_eq!(millpond.stop().await, Some(0));
    let resident = |millpond: &Millpond| {
        let text = std::fs::read_to_string(format!("/proc/{}/status", millpond.process().id())).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("Rss") || line.starts_with("VmRSS"));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
    };
    for run in 0..5 {
        let began = Instant::now();
        let millpond = Millpond::serve(&project).await;
        let ready = began.elapsed();
        let client = Client::connect(&project.flight_sql()).await;
        seen(&client, "warm", 100_000).await;
        let first = began.elapsed();
        println!("run {run}: ready after {ready:?}, first answer over 100,000 rows after {first:?}");
        println!("  idle: {}", resident(&millpond));
        assert_eq!(millpond.stop().await, Some(0));
    }
}
