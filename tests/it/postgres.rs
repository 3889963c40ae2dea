//! The PostgreSQL wire, asked by the clients that people have: psql, psycopg, asyncpg, SQLAlchemy, ADBC, polars; and by those
//! that nobody wants.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::rig::python::{self, Output};
use crate::rig::{Kafka, Lake, Millpond, Project, component, wait_until};

pub const SHOWN: Duration = Duration::from_secs(60);
/// Readings of the fleet.
pub const READINGS: usize = 200;

pub const TELEMETRY: &str = "key = [\"car_id\"]\ntime = { path = \"at\", format = \"rfc3339\" }\n\
     [columns.speed]\ntype = \"double\"\ndescription = \"km/h; NULL while parked\"\n[columns.day]\ntype = \"date\"\n";
pub const CAR_STATE: &str = "kind = \"latest\"\nkey = [\"car_id\"]\n[sources.telemetry]\n";
pub const MOVING: &str =
    "--! kind = \"view\"\nSELECT car_id, speed, price::decimal(12,2) AS price FROM telemetry WHERE speed > 0";

/// A project of a table of events, its latest table and a view, with its readings in Kafka.
pub async fn project() -> Project {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("postgres-telemetry", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("1h")
        .events("telemetry", &topic, TELEMETRY)
        .schema("car_state", CAR_STATE)
        .query("moving", MOVING);
    kafka.send(&topic, (0..READINGS).map(|i| {
        let speed = if i % 10 == 7 { "null".to_owned() } else { format!("{}.5", i % 120) };
        let text = format!(
            r#"{{"car_id":"car-{:02}","n":{i},"speed":{speed},"gear":{},"moving":{},"at":"2026-11-20T23:{:02}:{:02}.25Z","price":"{}.10","day":"2026-11-2{}","where":{{"lat":37.5,"name":"서울"}},"tags":["a","b,c",null]}}"#,
            i % 20, i % 6, i % 2 == 0, i / 60, i % 60, i, i % 3
        );
        (Some(format!("car-{:02}", i % 20).into_bytes()), Some(text.into_bytes()))
    }));
    project
}

/// It is served, and all readings can be seen.
pub async fn fleet() -> Millpond {
    let millpond = Millpond::serve(&project().await).await;
    let seen = async || {
        let rows = millpond.number("SELECT count(*) FROM telemetry").await == Some(READINGS as i64);
        let cars = millpond.number("SELECT count(*) FROM car_state").await == Some(20);
        (rows && cars).then_some(())
    };
    wait_until("all readings can be seen", SHOWN, seen).await;
    millpond
}

async fn psql(millpond: &Millpond, arguments: &[&str]) -> Output {
    let mut command = Command::new("psql");
    let port = millpond.project().postgres().to_string();
    command.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "ann", "-d", "millpond", "-v", "ON_ERROR_STOP=1"]);
    command.args(arguments).env("PAGER", "cat").env("LC_ALL", "C.UTF-8");
    Output::of(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_of_python_see_rows_types_nulls_parameters_and_metadata() {
    let millpond = fleet().await;
    let port = millpond.project().postgres().to_string();
    for script in ["pg_drivers.py", "pg_metadata.py"] {
        let output = python::run(script, &[&port], &[]).await;
        assert_eq!(output.code, Some(0), "{script}: {}{}", output.stdout, output.stderr);
    }
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn pgjdbc_sees_rows_and_metadata_in_each_of_its_modes() {
    let millpond = fleet().await;
    let program = format!("{}/tests/clients/PgJdbc.java", env!("CARGO_MANIFEST_DIR"));
    let output = Output::of(component(&["pgjdbc", &program, &millpond.project().postgres().to_string()])).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn node_postgres_sees_rows_and_errors() {
    let millpond = fleet().await;
    let program = format!("{}/tests/clients/pg_node.mjs", env!("CARGO_MANIFEST_DIR"));
    let output = Output::of(component(&["node", &program, &millpond.project().postgres().to_string()])).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_sql_gives_the_same_rows_through_both_doors() {
    let millpond = fleet().await;
    let slt = format!("{}/tests/slt", env!("CARGO_MANIFEST_DIR"));
    let (flight, port) = (millpond.project().flight_sql(), millpond.project().postgres().to_string());
    let arguments = [&flight, &port, &slt].map(String::as_str);
    let output = python::run("pg_and_flight.py", &arguments, &[]).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_describes_tables_copies_rows_and_is_told_what_is_wrong() {
    let millpond = fleet().await;
    let shows = async |command: &str, wanted: &[&str]| {
        let output = psql(&millpond, &["-c", command]).await;
        assert_eq!(output.code, Some(0), "{command}: {}", output.stderr);
        for text in wanted {
            assert!(output.stdout.contains(text), "{command}: no {text} in\n{}", output.stdout);
        }
    };
    shows("\\d", &["public | car_state", "public | moving    | view", "| table | ann"]).await;
    shows("\\d telemetry", &["speed", "| double precision", "tags", "| text[]", "| timestamp with time zone"]).await;
    shows("\\d car_state", &["car_id", "| not null", "\"car_state_pkey\" PRIMARY KEY, btree (car_id)"]).await;
    shows("\\d+ telemetry", &["km/h; NULL while parked"]).await;
    shows("\\d+ moving", &["| numeric(12,2)", "SELECT car_id, speed, price::decimal(12,2) AS price FROM telemetry"])
        .await;
    shows("\\dv", &["moving"]).await;
    shows("\\di", &["car_state_pkey"]).await;
    shows("\\dn", &["public", "system"]).await;
    shows("\\l", &["millpond", "UTF8"]).await;
    shows("\\du", &["ann"]).await;
    for quiet in
        ["\\dt+", "\\dT", "\\df", "\\dx", "\\dp", "\\db", "\\dd", "\\dL", "\\dRp", "\\dconfig", "\\dA", "\\dc", "\\dO"]
    {
        shows(quiet, &[]).await;
    }
    let csv = psql(
        &millpond,
        &["-c", "\\copy (SELECT n, speed, tags FROM telemetry WHERE n IN (6, 7) ORDER BY n) TO STDOUT CSV HEADER"],
    )
    .await;
    assert_eq!(
        csv.stdout, "n,speed,tags\n6,6.5,\"{a,\"\"b,c\"\",NULL}\"\n7,,\"{a,\"\"b,c\"\",NULL}\"\n",
        "{}",
        csv.stderr
    );
    let several = psql(
        &millpond,
        &[
            "-At",
            "-c",
            "SELECT 1; SET timezone = 'Asia/Seoul'; SHOW timezone; SELECT event_time FROM telemetry WHERE n = 0",
        ],
    )
    .await;
    assert_eq!(several.stdout, "1\nSET\nAsia/Seoul\n2026-11-21 08:00:00.25+09\n", "{}", several.stderr);
    for (sql, state, text) in [
        (
            "SELECT nope FROM telemetry",
            "42703",
            "column `nope` does not exist\nLINE 1: SELECT nope FROM telemetry\n               ^",
        ),
        ("SELECT * FROM nope", "42P01", "table `nope` does not exist"),
        ("SELEC 1", "42601", "syntax error"),
        ("SELECT 1 / 0", "22012", "division by zero"),
        ("DELETE FROM telemetry", "42501", "DELETE is not allowed: SQL reads here and changes nothing"),
        ("COPY telemetry TO '/tmp/out.csv'", "42501", "COPY is allowed to STDOUT only"),
        ("SET work_mem_of_others = 1", "42704", "unrecognized configuration parameter"),
    ] {
        let output = psql(&millpond, &["-v", "VERBOSITY=verbose", "-c", sql]).await;
        assert!(output.stderr.contains(state) && output.stderr.contains(text), "{sql}: {}", output.stderr);
    }
    assert_eq!(millpond.stop().await, Some(0));
}

/// A query that takes a minute and gives nothing before its end.
const LONG: &str =
    "SELECT count(*) FROM generate_series(1, 100000) a(x), generate_series(1, 100000) b(y) WHERE (x * y) % 7 = 3";

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_when_it_is_cancelled_and_when_its_client_is_gone() {
    let millpond = fleet().await;
    let (project, port) = (millpond.project(), millpond.project().postgres().to_string());
    let start = || {
        let mut command = Command::new("psql");
        command.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "ann", "-d", "millpond", "-c", LONG]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running = async || metric(project, "millpond_query_running").await;
    let until = async |count: f64| {
        wait_until(&format!("{count} queries run"), Duration::from_secs(20), async || {
            (running().await == Some(count)).then_some(())
        })
        .await;
    };
    // Ctrl-C in psql sends a cancel request.
    let mut client = start();
    until(1.0).await;
    let began = Instant::now();
    assert!(Command::new("kill").args(["-INT", &client.id().to_string()]).status().unwrap().success());
    let mut told = String::new();
    client.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    client.wait().unwrap();
    assert!(told.contains("canceling statement due to user request"), "{told}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    until(0.0).await;
    let mut client = start();
    until(1.0).await;
    client.kill().unwrap();
    client.wait().unwrap();
    until(0.0).await;
    assert_eq!(millpond.stop().await, Some(0));
}

/// A sample of the server's metrics.
async fn metric(project: &Project, name: &str) -> Option<f64> {
    let text = reqwest::get(format!("{}/metrics", project.http())).await.ok()?.text().await.ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// What a server answers to bytes, until it closes the connection or says nothing for a while.
fn answer(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let _ = stream.write_all(bytes);
    let mut found = Vec::new();
    let _ = stream.read_to_end(&mut found);
    found
}

fn startup(user: &str) -> Vec<u8> {
    let body = [&196_608u32.to_be_bytes()[..], b"user\0", user.as_bytes(), b"\0\0"].concat();
    [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_are_refused_and_harm_nobody() {
    let millpond = fleet().await;
    let port = millpond.project().postgres();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let tls = [8u32.to_be_bytes(), 80_877_103u32.to_be_bytes()].concat();
    assert_eq!(answer(port, &tls), b"N");
    let injected = answer(port, &[tls, startup("ann")].concat());
    assert!(
        injected.is_empty(),
        "what follows a request for TLS is not taken for what came through it: {}",
        text(&injected)
    );
    for (bytes, wanted) in [
        (vec![0, 0, 0, 3, 0, 0], "invalid message length"),
        (u32::MAX.to_be_bytes().to_vec(), "message too long"),
        ([&(100u32 << 20).to_be_bytes()[..], &[0; 4096]].concat(), "message too long"),
        ([12u32, 131_072, 0].iter().flat_map(|word| word.to_be_bytes()).collect(), "unsupported frontend protocol 2.0"),
        ([8u32, 196_608].iter().flat_map(|word| word.to_be_bytes()).collect(), "insufficient data left in message"),
        (startup(""), "no PostgreSQL user name"),
        ([startup("ann"), b"Q\0\0\0\x03".to_vec()].concat(), "invalid message length"),
        ([startup("ann"), b"Q\x7f\xff\xff\xff".to_vec()].concat(), "message too long"),
        ([startup("ann"), b"?\0\0\0\x04".to_vec()].concat(), "invalid frontend message type"),
        ([startup("ann"), b"B\0\0\0\x06\0\0".to_vec()].concat(), "insufficient data left in message"),
        ([startup("ann"), b"Q\0\0\0\x06\xff\0".to_vec()].concat(), "invalid byte sequence"),
        ([startup("ann"), b"p\0\0\0\x05\0".to_vec()].concat(), "nobody asked for a password"),
    ] {
        let found = text(&answer(port, &bytes));
        assert!(found.contains(wanted), "no {wanted} in {found:?}");
    }
    assert!(answer(port, b"GET / HTTP/1.1\r\n\r\n").len() < 200);
    let alive = psql(&millpond, &["-At", "-c", "SELECT count(*) FROM telemetry"]).await;
    assert_eq!(alive.stdout.trim(), READINGS.to_string());
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_slow_clients_leave_the_others_their_answers() {
    let millpond = fleet().await;
    let port = millpond.project().postgres();
    let session = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(&startup("ann")).unwrap();
        stream
    };
    let idle: Vec<TcpStream> = (0..200).map(|_| session()).collect();
    // Clients that ask for much and read nothing of it.
    let sql = b"SELECT x, x, x, x FROM generate_series(1, 100000000) a(x)\0";
    let slow: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = session();
            stream.write_all(&[b"Q".as_slice(), &(sql.len() as u32 + 4).to_be_bytes(), sql].concat()).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        let output = psql(&millpond, &["-At", "-c", "SELECT count(*) FROM telemetry"]).await;
        assert_eq!(output.stdout.trim(), READINGS.to_string(), "{}", output.stderr);
    }
    let sessions = metric(millpond.project(), "millpond_query_sessions").await.unwrap();
    assert!(sessions >= 208.0, "{sessions}");
    drop((idle, slow));
    let ended = async || (metric(millpond.project(), "millpond_query_running").await == Some(0.0)).then_some(());
    wait_until("the queries of clients that left have ended", Duration::from_secs(20), ended).await;
    assert_eq!(millpond.stop().await, Some(0));
}
