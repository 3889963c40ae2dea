//! Apache Superset, the real one, over both doors with accounts and TLS: by its API, and with a browser that looks at
//! its charts.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::access::{add_user, certificate};
use crate::postgres::{CAR_STATE, MOVING, READINGS, SHOWN, TELEMETRY};
use crate::rig::python::{self, Output};
use crate::rig::{Kafka, Lake, Millpond, Process, Project, component, folder, free_port, wait_until};

/// Superset makes its own database first.
const START: Duration = Duration::from_secs(240);

const ROLES: &str = r#"
[roles.analyst]
tables = ["telemetry", "moving"]
filter = { telemetry = "car_id IN ('car-01', 'car-02')" }
mask = { telemetry = ["price"] }
"#;

/// A reading of four days; number 7 of ten says nothing of its speed.
fn reading(n: usize) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let speed = if n % 10 == 7 { "null".to_owned() } else { format!("{}.5", n % 120) };
    let text = format!(
        r#"{{"car_id":"car-{:02}","n":{n},"speed":{speed},"moving":{},"at":"2026-11-{}T23:{:02}:{:02}.25Z","price":"{n}.10","day":"2026-11-2{}","tags":["a","b,c",null]}}"#,
        n % 20,
        n.is_multiple_of(2),
        20 + n % 4,
        n / 60,
        n % 60,
        n % 3,
    );
    (Some(format!("car-{:02}", n % 20).into_bytes()), Some(text.into_bytes()))
}

/// The first value of a query's first row, for root.
async fn number(project: &Project, sql: &str) -> Option<i64> {
    let mut command = Command::new("psql");
    let port = project.postgres().to_string();
    command.args(["-X", "-At", "-h", "127.0.0.1", "-p", &port, "-U", "root", "-d", "millpond", "-c", sql]);
    command.env("PGPASSWORD", "secret of root").env("PGSSLMODE", "verify-full");
    command.env("PGSSLROOTCERT", project.dir().join("server.pem")).stdin(Stdio::null());
    Output::of(command).await.stdout.trim().parse().ok()
}

/// A project with TLS, two accounts, and all readings to be seen.
async fn fleet() -> Millpond {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("superset-telemetry", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local)
        .toml("tls = { cert = \"server.pem\", key = \"server.key\" }\n")
        .events("telemetry", &topic, TELEMETRY)
        .schema("car_state", CAR_STATE)
        .query("moving", MOVING)
        .query("readings", "--! kind = \"view\"\nSELECT * FROM telemetry");
    certificate(&project);
    std::fs::write(project.dir().join("access.toml"), ROLES).unwrap();
    // Writes the project's file.
    let checked = project.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    for (name, role) in [("root", "admin"), ("ann", "analyst")] {
        let added = add_user(&project, name, role, "scram").await;
        assert_eq!(added.code, Some(0), "{}", added.stderr);
    }
    kafka.send(&topic, (0..READINGS).map(reading));
    let millpond = Millpond::start(&project);
    wait_until("all readings can be seen", SHOWN, async || {
        let rows = number(&project, "SELECT count(*) FROM telemetry").await == Some(READINGS as i64);
        let cars = number(&project, "SELECT count(*) FROM car_state").await == Some(20);
        (rows && cars).then_some(())
    })
    .await;
    millpond
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "Superset is a large download and takes minutes; make test-all runs it"]
async fn superset_reads_and_draws_through_both_doors() {
    let millpond = fleet().await;
    let (dir, port) = (folder("superset"), free_port());
    let (shown, url) = (dir.to_str().unwrap(), format!("http://127.0.0.1:{port}"));
    let command = component(&["superset", shown, &port.to_string()]);
    let superset = Process::spawn("superset", &command, &dir.join("superset.log"));
    let health = format!("{url}/health");
    let answers = || async { reqwest::get(&health).await.is_ok_and(|answer| answer.status().is_success()) };
    superset.wait_ready(START, answers).await;

    let project = millpond.project();
    let postgres = project.postgres().to_string();
    let flight = project.flight_sql().rsplit(':').next().unwrap().to_owned();
    let ca = project.dir().join("server.pem");
    let output = python::run("superset.py", &[&url, &postgres, &flight, ca.to_str().unwrap()], &[]).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let charts: Value = serde_json::from_str(&output.stdout).unwrap();
    let charts: Vec<String> = charts.as_object().unwrap().values().map(Value::to_string).collect();

    let program = format!("{}/tests/clients/superset.mjs", env!("CARGO_MANIFEST_DIR"));
    let mut command = component(&["node", &program, &url, shown]);
    command.args(&charts);
    let output = Output::of(command).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);

    // Its process has a child, which ends when it is told so and not when it is killed.
    superset.signal("TERM");
    superset.exited(Duration::from_secs(40)).await;
    assert_eq!(millpond.stop().await, Some(0));
}
