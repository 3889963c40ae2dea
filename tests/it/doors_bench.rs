//! Measurements of docs/benchmarks.md: what the doors do for many clients at once, beside PostgreSQL; and how fast a whole
//! table goes through them.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::sql::CommandGetTables;
use serde_json::json;
use tokio::task::JoinSet;

use crate::rig::{Database, Kafka, Lake, Maker, Millpond, Project, folder, python, wait_until};
use crate::sql::Client;

const PATIENCE: Duration = Duration::from_secs(600);
const CLIENTS: [usize; 3] = [1, 16, 64];
const ROUNDS: usize = 3;
/// Columns beside the key: 10 numbers, 8 fractions, 3 texts.
const COLUMNS: usize = 21;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// How long one round of one kind lasts.
fn round() -> Duration {
    Duration::from_secs(number("SECONDS", 4) as u64)
}

/// What came of many questions: how many a second, and how long each took.
struct Answered {
    rate: f64,
    took: Vec<Duration>,
}

impl Answered {
    fn cells(mut all: Vec<Self>) -> String {
        all.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let median = all.swap_remove(all.len() / 2);
        let mut took = median.took;
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        format!("{:.2} / {:.2} / {:.0}", at(0.5), at(0.99), median.rate)
    }
}

/// pgbench with a statement, prepared or as it stands.
fn pgbench(port: u16, user: &str, database: &str, sql: &str, mode: &str, clients: usize) -> Answered {
    let dir = folder("pgbench");
    std::fs::write(dir.join("ask.sql"), sql).unwrap();
    let program = std::fs::read_dir("/usr/lib/postgresql").unwrap().next().unwrap().unwrap().path().join("bin/pgbench");
    let mut command = Command::new(program);
    command.args(["-n", "-M", mode, "-f", "ask.sql", "--log", "-T", &round().as_secs().to_string()]);
    command.args(["-c", &clients.to_string(), "-j", "2", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", user]);
    let output = command.arg(database).current_dir(&dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stdout);
    let rate = told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok()).unwrap();
    let logs = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let logs = logs.filter(|path| path.to_string_lossy().contains("pgbench_log"));
    let lines: Vec<String> = logs
        .flat_map(|path| std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let micros = |line: &String| Duration::from_micros(line.split(' ').nth(2).unwrap().parse().unwrap());
    Answered { rate, took: lines.iter().map(micros).collect() }
}

#[derive(Clone, Copy)]
enum Ask {
    One,
    Key(i64),
    Tables,
}

/// Flight SQL clients that ask one thing again and again.
async fn flight(project: &Project, ask: Ask, clients: usize) -> Answered {
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(Client::connect(&project.flight_sql()).await);
    }
    let (began, mut asking) = (Instant::now(), JoinSet::new());
    for (at, mut client) in connected.into_iter().enumerate() {
        asking.spawn(async move {
            let mut took = Vec::new();
            let mut statement = match ask {
                Ask::Key(_) => Some(client.prepare("SELECT * FROM car_state WHERE car = ?").await),
                _ => None,
            };
            let mut car = at as i64 * 104_729;
            while began.elapsed() < round() {
                let asked = Instant::now();
                let info = match (ask, &mut statement) {
                    (Ask::Key(rows), Some(statement)) => {
                        car += 7_919;
                        let key: ArrayRef = Arc::new(Int64Array::from(vec![car % rows]));
                        statement.set_parameters(RecordBatch::try_from_iter([("$1", key)]).unwrap()).unwrap();
                        statement.execute().await.unwrap()
                    }
                    (Ask::Tables, _) => client.inner().get_tables(CommandGetTables::default()).await.unwrap(),
                    _ => client.inner().execute("SELECT 1".to_owned(), None).await.unwrap(),
                };
                let found = client.fetch(info).await.unwrap();
                took.push(asked.elapsed());
                assert!(found.iter().map(RecordBatch::num_rows).sum::<usize>() > 0);
            }
            took
        });
    }
    let took: Vec<Duration> = asking.join_all().await.into_iter().flatten().collect();
    Answered { rate: took.len() as f64 / began.elapsed().as_secs_f64(), took }
}

fn car(car: i64) -> serde_json::Value {
    let mut row = serde_json::Map::from_iter([("car".to_owned(), json!(car))]);
    for at in 0..COLUMNS as i64 {
        let value = match at {
            0..10 => json!(car * (at + 3)),
            10..18 => json!((car * (at + 1) % 1000) as f64 + 0.5),
            _ => json!(format!("s{}", car * (at + 7) % 9973)),
        };
        row.insert(format!("c{at}"), value);
    }
    row.into()
}

/// A table of one row per car in Millpond, from Kafka, and the same in PostgreSQL.
async fn cars(rows: i64) -> (Project, Millpond, Database) {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("cars", 4).await;
    let sender = kafka.sender();
    for first in (0..rows).step_by(20_000) {
        let record = |at: i64| (Some(at.to_string().into_bytes()), Some(car(at).to_string().into_bytes()));
        sender.send(&topic, (first..rows.min(first + 20_000)).map(record));
    }
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("5s")
        .toml("[limits]\nmemory = \"12GiB\"")
        .events("cars", &topic, "key = [\"car\"]")
        .schema("car_state", "kind = \"latest\"\nkey = [\"car\"]\n[sources.cars]\n");
    let millpond = Millpond::serve(&project).await;
    let held = "SELECT hot_rows AS n FROM system.tables WHERE table_name = 'car_state'";
    wait_until("all rows are there", PATIENCE, async || millpond.number(held).await.filter(|found| *found >= rows))
        .await;
    let database = Database::start(Maker::PostgreSql).await;
    let kind = |at: usize| {
        if at < 10 {
            "bigint"
        } else if at < 18 {
            "double precision"
        } else {
            "text"
        }
    };
    let kinds: String = (0..COLUMNS).map(|at| format!(", c{at} {}", kind(at))).collect();
    let value = |at: usize| match at {
        0..10 => format!(", car * {}", at + 3),
        10..18 => format!(", (car * {} % 1000) + 0.5", at + 1),
        _ => format!(", 's' || (car * {} % 9973)", at + 7),
    };
    let values: String = (0..COLUMNS).map(value).collect();
    database.run(&format!("CREATE TABLE car_state (car bigint{kinds})"));
    database
        .run(&format!("INSERT INTO car_state SELECT car{values} FROM generate_series(0::bigint, {}) car", rows - 1));
    database.run("ALTER TABLE car_state ADD PRIMARY KEY (car); ANALYZE car_state");
    database.run("CHECKPOINT");
    (project, millpond, database)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some minutes; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_small_questions_of_many_clients() {
    let rows = number("ROWS", 1_000_000) as i64;
    let (project, millpond, database) = cars(rows).await;
    let key = format!("\\set car random(0, {})\nSELECT * FROM car_state WHERE car = :car;\n", rows - 1);
    println!("{rows} cars of {} columns; p50 ms / p99 ms / a second, median of {ROUNDS}", COLUMNS + 1);
    println!("| question | clients | Millpond, Flight SQL | Millpond, PostgreSQL wire | PostgreSQL 15 |");
    println!("|---|---|---|---|---|");
    for (name, sql, ask) in
        [("SELECT 1", "SELECT 1;\n", Ask::One), ("a row by its key, prepared", key.as_str(), Ask::Key(rows))]
    {
        for clients in CLIENTS {
            let (mut arrow, mut wire, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                arrow.push(flight(&project, ask, clients).await);
                wire.push(pgbench(project.postgres(), "ann", "millpond", sql, "prepared", clients));
                theirs.push(pgbench(database.port(), "postgres", "fleet", sql, "prepared", clients));
            }
            let cells = [arrow, wire, theirs].map(Answered::cells);
            println!("| {name} | {clients} | {} |", cells.join(" | "));
        }
    }
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some minutes; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_metadata_of_a_thousand_tables() {
    let mut project = Project::new("embedded", Lake::Local);
    let tables = number("TABLES", 1_000);
    let columns: String = (0..20).map(|at| format!(",c{at}")).collect();
    let values = ",1".repeat(20);
    let database = Database::start(Maker::PostgreSql).await;
    let kinds: String = (0..20).map(|at| format!(", c{at} bigint")).collect();
    for at in 0..tables {
        let file = project.dir().join(format!("t{at}.csv"));
        std::fs::write(&file, format!("id{columns}\n{at}{values}\n")).unwrap();
        let contract = format!("kind = \"reference\"\nkey = [\"id\"]\nurl = \"{}\"\n", file.display());
        project = project.schema(&format!("t{at}"), &contract);
        database.run(&format!("CREATE TABLE t{at} (id bigint PRIMARY KEY{kinds})"));
    }
    let millpond = Millpond::serve(&project).await;
    let count = "SELECT count(*) AS n FROM information_schema.tables WHERE table_schema = 'public'";
    wait_until("all tables are there", PATIENCE, async || {
        millpond.number(count).await.filter(|found| *found >= tables as i64)
    })
    .await;
    let sql =
        "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema = 'public';\n";
    println!("{tables} tables of 21 columns; p50 ms / p99 ms / a second, median of {ROUNDS}");
    println!("| question | clients | Flight SQL, GetTables | PostgreSQL wire | PostgreSQL 15 |");
    println!("|---|---|---|---|---|");
    for clients in CLIENTS {
        let (mut arrow, mut wire, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            arrow.push(flight(&project, Ask::Tables, clients).await);
            wire.push(pgbench(project.postgres(), "ann", "millpond", sql, "simple", clients));
            theirs.push(pgbench(database.port(), "postgres", "fleet", sql, "simple", clients));
        }
        let cells = [arrow, wire, theirs].map(Answered::cells);
        println!("| all tables | {clients} | {} |", cells.join(" | "));
    }
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some minutes; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_whole_tables_to_a_client() {
    let dir = folder("transfer");
    let database = Database::start(Maker::PostgreSql).await;
    let (rows, more) = (number("ROWS", 1_000_000), number("MORE", 10_000_000));
    for (table, rows, rounds, compression) in
        [("million", rows, 5, "lz4"), ("smaller", rows, 5, "zstd"), ("millions", more, 1, "lz4")]
    {
        let project = Project::new("embedded", Lake::Local)
            .env("MILLPOND__LAKE__COMPRESSION", compression)
            .schema(table, "kind = \"reference\"\nmode = \"append\"\nkey = [\"id\"]\n");
        let file = dir.join(format!("{table}.parquet")).display().to_string();
        let made = python::run("transfer.py", &["make", &file, &rows.to_string()], &[]).await;
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        // There is a lake once a server has been there.
        assert_eq!(Millpond::serve(&project).await.stop().await, Some(0));
        let said = project.run(&["import", table, &file]).await;
        assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
        let millpond = Millpond::serve(&project).await;
        let flight = project.flight_sql().rsplit(':').next().unwrap().to_owned();
        let (wire, peer) = (project.postgres().to_string(), database.port().to_string());
        let (rounds, pid) = (rounds.to_string(), millpond.process().id().to_string());
        let arguments = ["move", &flight, &wire, &peer, &file, table, &rounds, &pid];
        let moved = python::run("transfer.py", &arguments, &[]).await;
        assert_eq!(moved.code, Some(0), "{}{}", moved.stdout, moved.stderr);
        let files = std::fs::read_dir(project.table_url(table)).unwrap().map(|entry| entry.unwrap());
        let files = files.filter(|entry| entry.path().extension().is_some_and(|is| is == "parquet"));
        let bytes: u64 = files.map(|entry| entry.metadata().unwrap().len()).sum();
        println!("{compression}, {} MB of files: {}", bytes / 1_000_000, moved.stdout);
        assert_eq!(millpond.stop().await, Some(0));
    }
}
