//! The doors on bad days: what is too much, what changes under a client, and a server that comes back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::rig::{Kafka, Lake, Millpond, Project, component, python, wait_until};
use crate::sql::Client;

const SHOWN: Duration = Duration::from_secs(60);

async fn fleet(memory: &str) -> (Millpond, String) {
    let topic = Kafka::shared().await.topic("doors-telemetry", 1).await;
    let project = Project::new(Kafka::shared().await.brokers(), Lake::Local)
        .commit_interval("300ms")
        .toml(&format!("[limits]\nmemory = \"{memory}\"\n"))
        .events("telemetry", &topic, "key = [\"car\"]")
        .query("cars", "--! kind = \"view\"\nSELECT DISTINCT car FROM telemetry");
    let millpond = Millpond::serve(&project).await;
    Kafka::shared().await.send_text(&topic, [r#"{"car":"a","n":1}"#, r#"{"car":"b","n":2}"#]);
    let count = async || (millpond.number("SELECT count(*) FROM telemetry").await == Some(2)).then_some(());
    wait_until("both rows are seen", SHOWN, count).await;
    (millpond, topic)
}

/// Sends `begin` and then up to a hundred megabytes; how much was taken, and what was answered.
fn flood(port: u16, begin: &[u8]) -> (usize, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let (piece, mut taken) = (vec![b'x'; 1 << 20], 0);
    if stream.write_all(begin).is_ok() {
        while taken < 100 << 20 && stream.write_all(&piece).is_ok() {
            taken += piece.len();
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    (taken, answer)
}

fn port(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_a_hundred_megabytes_is_refused_at_each_door() {
    let (millpond, _) = fleet("4GiB").await;
    let project = millpond.project();
    let before = millpond.memory();
    let doors = [
        ("http", port(&project.http()), b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: ".to_vec()),
        ("http without a line", port(&project.http()), Vec::new()),
        ("flight", port(&project.flight_sql()), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("flight without a preface", port(&project.flight_sql()), Vec::new()),
        ("postgres", project.postgres(), (100u32 << 20).to_be_bytes().to_vec()),
        ("postgres without a length", project.postgres(), Vec::new()),
    ];
    for (door, port, begin) in doors {
        let (taken, _) = flood(port, &begin);
        assert!(taken < 20 << 20, "{door}: {taken} bytes were taken");
    }
    let grown = millpond.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more are held");
    assert_eq!(millpond.number("SELECT count(*) FROM telemetry").await, Some(2));
    assert_eq!(millpond.stop().await, Some(0));
}

/// A statement with so many operators.
type Chain = fn(usize) -> String;

#[tokio::test(flavor = "multi_thread")]
async fn statements_as_deep_as_is_allowed_are_answered_and_deeper_ones_refused() {
    let (millpond, _) = fleet("4GiB").await;
    let client = Client::connect(&millpond.project().flight_sql()).await;
    let port = millpond.project().postgres().to_string();
    let chains: [(Chain, i64); 4] = [
        (|length| format!("SELECT 0{} AS n", " + 1".repeat(length)), 1_990),
        (|length| format!("SELECT count(*) AS n FROM telemetry WHERE {} n > 0", "n = 0 OR ".repeat(length / 2)), 2),
        (|length| format!("SELECT count(*) AS n FROM (SELECT 1{})", " UNION ALL SELECT 1".repeat(length / 4)), 498),
        (|length| format!("SELECT 1{} AS n", "::bigint".repeat(length)), 1),
    ];
    for (chain, answer) in chains {
        let deep = chain(1_990);
        assert_eq!(
            client.numbers(&deep).await.map_err(|refusal| refusal.to_string()),
            Ok(vec![vec![answer]]),
            "{}",
            &deep[..60]
        );
        let refusal = client.query(&chain(400_000)).await.unwrap_err();
        assert!(refusal.message.contains("operators in one statement"), "{refusal}");
        let file = millpond.project().dir().join("deep.sql");
        std::fs::write(&file, chain(400_000)).unwrap();
        let mut psql = std::process::Command::new("psql");
        psql.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "ann", "-d", "millpond", "-f"]).arg(file);
        let told = python::Output::of(psql).await;
        assert!(told.stderr.contains("operators in one statement"), "{}", told.stderr);
    }
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_queries_at_once_are_answered_beside_one_that_takes_too_much() {
    let (millpond, _) = fleet("320MiB").await;
    let project = millpond.project();
    let client = Client::connect(&project.flight_sql()).await;
    // The side of a join that is kept in memory, of some gigabytes.
    let greedy =
        "SELECT count(*) FROM generate_series(1, 400000000) a(x) JOIN generate_series(1, 400000000) b(y) ON x = y";
    let refused = async {
        let refusal = client.query(greedy).await.unwrap_err();
        assert_eq!(refusal.code, tonic::Code::ResourceExhausted, "{refusal}");
    };
    let port = project.postgres().to_string();
    let arguments = [port.as_str(), "1000", "100"];
    let many = async {
        let output = python::run("pg_pool.py", &arguments, &[]).await;
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    };
    tokio::join!(refused, many);
    assert!(millpond.memory() < 700 << 20, "{}", millpond.memory());
    assert_eq!(millpond.stop().await, Some(0));
}

/// A session that asks what it is told to, one line after another.
struct Asker {
    process: Child,
    lines: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Asker {
    fn new(project: &Project) -> Self {
        let script = format!("{}/tests/clients/pg_session.py", env!("CARGO_MANIFEST_DIR"));
        let mut command = component(&["python", &script, &project.postgres().to_string()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (lines, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, lines, answers }
    }

    fn ask(&mut self, sql: &str) -> String {
        writeln!(self.lines, "{sql}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_lives_with_what_becomes_of_its_tables() {
    let (millpond, topic) = fleet("4GiB").await;
    let mut asker = Asker::new(millpond.project());
    let (sum, all, view) =
        ("SELECT sum(n) FROM telemetry", "SELECT * FROM telemetry ORDER BY n", "SELECT car FROM cars ORDER BY 1");
    assert_eq!(asker.ask(sum), "[(3,)]");
    let rows = asker.ask(all);
    assert!(rows.starts_with("[('a', "), "{rows}");
    assert_eq!(asker.ask(view), "[('a',), ('b',)]");
    // A column that comes, and one that widens: bigint becomes double.
    Kafka::shared().await.send_text(&topic, [r#"{"car":"c","n":2.5,"fresh":true}"#]);
    wait_until("the new column is seen", SHOWN, async || {
        (millpond.number("SELECT count(*) FROM telemetry WHERE fresh").await == Some(1)).then_some(())
    })
    .await;
    let sum_now = asker.ask(sum);
    assert!(sum_now.starts_with("0A000 the types of the rows have changed"), "5.5 is no bigint: {sum_now}");
    let changed = asker.ask(all);
    assert!(changed.starts_with("0A000 the columns of the rows have changed"), "{changed}");
    assert_eq!(asker.ask("SELECT sum(n) AS total FROM telemetry"), "[(5.5,)]");
    std::fs::remove_file(millpond.project().dir().join("queries/cars.sql")).unwrap();
    let asker = std::cell::RefCell::new(asker);
    wait_until("the view is gone", SHOWN, async || asker.borrow_mut().ask(view).starts_with("42P01").then_some(()))
        .await;
    let mut asker = asker.into_inner();
    assert_eq!(asker.ask("SELECT count(*) FROM telemetry"), "[(3,)]");
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_back_to_a_server_that_comes_back() {
    let (millpond, _) = fleet("4GiB").await;
    let project = millpond.project().clone();
    let mut asker = Asker::new(&project);
    assert_eq!(asker.ask("SELECT count(*) FROM telemetry"), "[(2,)]");
    let began = Instant::now();
    assert_eq!(millpond.stop().await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(15), "an idle session does not hold the server up");
    assert!(asker.ask("SELECT 1").starts_with("57P01"), "it is told that the server goes");
    let millpond = Millpond::serve(&project).await;
    let mut again = Asker::new(&project);
    assert_eq!(again.ask("SELECT count(*) FROM telemetry"), "[(2,)]");
    assert_eq!(millpond.stop().await, Some(0));
}
