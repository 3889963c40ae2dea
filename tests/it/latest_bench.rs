//! The numbers of latest tables: look-ups by key beside PostgreSQL and Redis with the same rows, flushes beside
//! deltalake's MERGE.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use serde_json::{Map, Value, json};

use crate::rig::{Database, Kafka, Lake, Maker, Millpond, Process, Project, folder, free_port, python, wait_until};
use crate::sql::Client;

const DOUBLES: usize = 30;
const TEXTS: usize = 19;
const NUMBERS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(600);
/// Clients that ask at once.
const CLIENTS: usize = 8;
/// Look-ups of each kind by each client, three times.
const LOOKUPS: usize = 2_000;

/// The values of a row, `d…`, `s…` and `n…`, from its key: 59 columns beside it.
fn row(car: i64, more: f64) -> Value {
    let mut row = Map::from_iter([("car".to_owned(), json!(car))]);
    for at in 0..DOUBLES as i64 {
        row.insert(format!("d{at}"), json!((car * (at + 1) % 1000) as f64 + 0.5 + more));
    }
    for at in 0..TEXTS as i64 {
        row.insert(format!("s{at}"), json!(format!("s{}", car * (at + 7) % 9973)));
    }
    for at in 0..NUMBERS as i64 {
        row.insert(format!("n{at}"), json!(car * (at + 3)));
    }
    Value::Object(row)
}

fn send(kafka: &Kafka, topic: &str, cars: impl Iterator<Item = i64>, more: f64) {
    let sender = kafka.sender();
    let cars: Vec<i64> = cars.collect();
    for cars in cars.chunks(20_000) {
        let record = |car: &i64| (Some(car.to_string().into_bytes()), Some(row(*car, more).to_string().into_bytes()));
        sender.send(topic, cars.iter().map(record));
    }
}

fn percentiles(name: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let total: Duration = took.iter().sum();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let (p50, p99, rate) = (at(0.5), at(0.99), took.len() as f64 / total.as_secs_f64());
    println!("  {name:<28} p50 {p50:.3} ms, p99 {p99:.3} ms, {rate:.0} a second by one client");
}

/// Keys that are asked for, one after the other.
fn keys(rows: i64) -> impl Iterator<Item = i64> {
    (0..LOOKUPS as i64).map(move |number| number * 7_919 % rows)
}

fn http(project: &Project, rows: i64) -> Vec<Duration> {
    let mut stream = TcpStream::connect(project.http().trim_start_matches("http://")).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let ask = |car: i64| {
        let began = Instant::now();
        write!(stream, "GET /v1/latest/car_state/{car} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            answers.read_line(&mut line).unwrap();
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        answers.read_exact(&mut body).unwrap();
        assert!(length > 500, "{}", String::from_utf8_lossy(&body));
        began.elapsed()
    };
    keys(rows).map(ask).collect()
}

async fn prepared(client: &Client, rows: i64) -> Vec<Duration> {
    let mut statement = client.prepare("SELECT * FROM car_state WHERE car = ?").await;
    let mut took = Vec::new();
    for car in keys(rows) {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![car]));
        let began = Instant::now();
        statement.set_parameters(RecordBatch::try_from_iter([("$1", values)]).unwrap()).unwrap();
        let found = client.fetch(statement.execute().await.unwrap()).await.unwrap();
        took.push(began.elapsed());
        assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), 1, "car {car}");
    }
    took
}

fn redis_ask(stream: &mut TcpStream, answers: &mut BufReader<TcpStream>, car: i64) -> Duration {
    let began = Instant::now();
    let key = format!("car:{car}");
    write!(stream, "*2\r\n$7\r\nHGETALL\r\n${}\r\n{key}\r\n", key.len()).unwrap();
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    let parts: usize = line.trim().trim_start_matches('*').parse().unwrap();
    assert_eq!(parts, 2 * (1 + DOUBLES + TEXTS + NUMBERS));
    for _ in 0..2 * parts {
        line.clear();
        answers.read_line(&mut line).unwrap();
    }
    began.elapsed()
}

fn redis_load(stream: &mut TcpStream, answers: &mut BufReader<TcpStream>, rows: i64) {
    let mut line = String::new();
    for first in (0..rows).step_by(1_000) {
        let cars = first..rows.min(first + 1_000);
        let mut text = String::new();
        for car in cars.clone() {
            let Value::Object(row) = row(car, 0.0) else { unreachable!() };
            let mut words = vec!["HSET".to_owned(), format!("car:{car}")];
            for (name, value) in row {
                words.extend([name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)]);
            }
            text.push_str(&format!("*{}\r\n", words.len()));
            words.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        }
        stream.write_all(text.as_bytes()).unwrap();
        for _ in cars {
            line.clear();
            answers.read_line(&mut line).unwrap();
        }
    }
}

/// Looks up as many rows by several clients at once; prints how many a second.
fn http_together(project: &Project, rows: i64) {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| http(project, rows));
        }
    });
    let rate = (CLIENTS * LOOKUPS) as f64 / began.elapsed().as_secs_f64();
    println!("  {:<28} {rate:.0} a second by {CLIENTS} clients", "HTTP");
}

async fn prepared_together(project: &Project, rows: i64) {
    let (mut clients, mut asking) = (Vec::new(), tokio::task::JoinSet::new());
    for _ in 0..CLIENTS {
        clients.push(Client::connect(&project.flight_sql()).await);
    }
    let began = Instant::now();
    for client in clients {
        asking.spawn(async move { prepared(&client, rows).await });
    }
    asking.join_all().await;
    let rate = (CLIENTS * LOOKUPS) as f64 / began.elapsed().as_secs_f64();
    println!("  {:<28} {rate:.0} a second by {CLIENTS} clients", "prepared SQL, Flight SQL");
}

/// pgbench asks by prepared statement and writes down how long each took, in microseconds; prints how many a second
/// if there are several clients.
fn postgres(database: &Database, rows: i64, clients: usize) -> Vec<Duration> {
    let dir = folder("pgbench");
    std::fs::write(dir.join("get.sql"), "\\set car random(0, :rows - 1)\nSELECT * FROM car_state WHERE car = :car;\n")
        .unwrap();
    let pgbench = std::fs::read_dir("/usr/lib/postgresql").unwrap().next().unwrap().unwrap().path().join("bin/pgbench");
    let output = Command::new(pgbench)
        .args(["-n", "-M", "prepared", "-t", &LOOKUPS.to_string(), "-D", &format!("rows={rows}")])
        .args(["-c", &clients.to_string()])
        .args([
            "-f",
            "get.sql",
            "--log",
            "-h",
            "127.0.0.1",
            "-p",
            &database.port().to_string(),
            "-U",
            "postgres",
            "fleet",
        ])
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if clients > 1 {
        let told = String::from_utf8_lossy(&output.stdout);
        let rate = told.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap();
        println!("  {:<28} {rate} by {clients} clients", "PostgreSQL 15, pgbench");
    }
    let mut files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let log = files.find(|path| path.to_string_lossy().contains("pgbench_log")).unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    log.lines().map(|line| Duration::from_micros(line.split(' ').nth(2).unwrap().parse().unwrap())).collect()
}

fn flushes(log: &str) -> Vec<String> {
    log.lines().filter(|line| line.contains("rows written") && line.contains("car_state")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "a measurement of some minutes; needs redis-server; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_latest_table_beside_postgresql_redis_and_merge() {
    let rows: i64 = std::env::var("ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000);
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("cars", 4).await;
    println!("{rows} rows of {} columns", 1 + DOUBLES + TEXTS + NUMBERS);
    send(kafka, &topic, 0..rows, 0.0);
    let state = "kind = \"latest\"\nkey = [\"car\"]\n[sources.cars]\n";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("5s")
        .toml("[limits]\nmemory = \"16GiB\"")
        .env("MILLPOND_LOG", "warn,millpond=debug,deltalake=off,buoyant=off")
        .events("cars", &topic, "key = [\"car\"]")
        .schema("car_state", state);
    let began = Instant::now();
    let millpond = Millpond::serve(&project).await;
    let count = |sql: &'static str| {
        let millpond = &millpond;
        async move { millpond.number(sql).await }
    };
    let hot = "SELECT hot_rows AS n FROM system.tables WHERE table_name = 'car_state'";
    wait_until("all rows are there", PATIENCE, async || count(hot).await.filter(|found| *found >= rows)).await;
    let seconds = began.elapsed().as_secs_f64();
    println!("from Kafka into car_state: {seconds:.1} s, {:.0} upserts a second", rows as f64 / seconds);
    let bytes = count("SELECT hot_bytes AS n FROM system.tables WHERE table_name = 'car_state'").await.unwrap();
    println!("in memory: {} bytes a row", bytes / rows);
    let files = "SELECT files AS n FROM system.tables WHERE table_name = 'car_state'";
    wait_until("all rows are written", PATIENCE, async || {
        count(files).await.filter(|files| *files > 0)?;
        let sql = "SELECT count(*) AS n FROM t";
        let found = python::duckdb(&project.table_url("car_state"), sql, &[]).await.ok()?;
        (found[0]["n"] == json!(rows)).then_some(())
    })
    .await;
    println!("flushes while it grew:\n  {}", flushes(&millpond.process().log()).join("\n  "));

    let before = flushes(&millpond.process().log()).len();
    send(kafka, &topic, (0..rows).step_by(100), 1.0);
    let flush =
        wait_until("1 % is written", PATIENCE, async || flushes(&millpond.process().log()).get(before).cloned()).await;
    println!("a flush of 1 % of the keys: {flush}");
    for _ in 0..2 {
        let output =
            python::run("delta_merge.py", &[&project.table_url("car_state"), &(rows / 100).to_string()], &[]).await;
        println!("deltalake's MERGE of as many: {}{}", output.stdout.trim(), output.stderr);
    }
    assert_eq!(millpond.stop().await, Some(0));
    let began = Instant::now();
    let millpond = Millpond::serve(&project).await;
    wait_until("it is ready again", PATIENCE, async || {
        let (status, _) = millpond.get("/readyz").await?;
        (status == 200).then_some(())
    })
    .await;
    println!("a restart, until the rows can be read: {:.1} s", began.elapsed().as_secs_f64());

    let database = Database::start(Maker::PostgreSql).await;
    let columns =
        |name: &str, count: usize, kind: &str| (0..count).map(|at| format!(", {name}{at} {kind}")).collect::<String>();
    let kinds =
        columns("d", DOUBLES, "double precision") + &columns("s", TEXTS, "text") + &columns("n", NUMBERS, "bigint");
    database.run(&format!("CREATE TABLE car_state (car bigint{kinds})"));
    let values = (0..DOUBLES).map(|at| format!(", (car * {} % 1000) + 0.5", at + 1)).collect::<String>()
        + &(0..TEXTS).map(|at| format!(", 's' || (car * {} % 9973)", at + 7)).collect::<String>()
        + &(0..NUMBERS).map(|at| format!(", car * {}", at + 3)).collect::<String>();
    database
        .run(&format!("INSERT INTO car_state SELECT car{values} FROM generate_series(0::bigint, {}) car", rows - 1));
    database.run("ALTER TABLE car_state ADD PRIMARY KEY (car); ANALYZE car_state");
    database.run("CHECKPOINT");
    let (port, dir) = (free_port(), folder("redis"));
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir", dir.to_str().unwrap()]);
    let redis = Process::spawn("redis", &command, &dir.join("redis.log"));
    redis.wait_ready(Duration::from_secs(30), async || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    redis_load(&mut stream, &mut answers, rows);

    println!("one row by its key, all of its columns, over loopback:");
    let client = Client::connect(&project.flight_sql()).await;
    for _ in 0..3 {
        percentiles("HTTP", http(&project, rows));
        percentiles("prepared SQL, Flight SQL", prepared(&client, rows).await);
        percentiles("PostgreSQL 15, pgbench", postgres(&database, rows, 1));
        percentiles("Redis, HGETALL", keys(rows).map(|car| redis_ask(&mut stream, &mut answers, car)).collect());
    }
    for _ in 0..2 {
        http_together(&project, rows);
        prepared_together(&project, rows).await;
        postgres(&database, rows, CLIENTS);
    }
    drop(redis);
    assert_eq!(millpond.stop().await, Some(0));
}
