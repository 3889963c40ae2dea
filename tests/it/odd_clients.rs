//! Clients that fewer people have: Arrow Flight's JDBC driver, a pgjdbc from before SCRAM, psqlODBC, harlequin, dbt.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::rig::python::Output;
use crate::rig::{Kafka, Lake, Millpond, Project, component, wait_until};

const SHOWN: Duration = Duration::from_secs(60);
/// Readings of the fleet.
const READINGS: usize = 200;

const TELEMETRY: &str = "key = [\"car_id\"]\ntime = { path = \"at\", format = \"rfc3339\" }\n\
     [columns.speed]\ntype = \"double\"\ndescription = \"km/h; NULL while parked\"\n[columns.day]\ntype = \"date\"\n";
const CAR_STATE: &str = "kind = \"latest\"\nkey = [\"car_id\"]\n[sources.telemetry]\n";
const MOVING: &str =
    "--! kind = \"view\"\nSELECT car_id, speed, price::decimal(12,2) AS price FROM telemetry WHERE speed > 0";

/// A project of a table of events, its latest table and a view, with its readings in Kafka.
async fn project() -> Project {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("odd-telemetry", 1).await;
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

/// Nobody has an account, and all readings can be seen.
async fn open() -> Millpond {
    let millpond = Millpond::serve(&project().await).await;
    let seen = async || {
        let rows = millpond.number("SELECT count(*) FROM telemetry").await == Some(READINGS as i64);
        let cars = millpond.number("SELECT count(*) FROM car_state").await == Some(20);
        (rows && cars).then_some(())
    };
    wait_until("all readings can be seen", SHOWN, seen).await;
    millpond
}

/// The same with TLS and an account for each kind of login, whose password is `secret of <name>`; the certificate.
async fn secured() -> (Millpond, PathBuf) {
    let project = project().await.toml("tls = { cert = \"server.pem\", key = \"server.key\" }\n");
    let (cert, key) = crate::rig::certificate();
    std::fs::copy(key, project.dir().join("server.key")).unwrap();
    std::fs::copy(cert, project.dir().join("server.pem")).unwrap();
    let ca = project.dir().join("server.pem");
    // Writes the project's file.
    let checked = project.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    for (name, login) in [("ann", "scram"), ("old", "md5"), ("quick", "password")] {
        let mut command = Command::new("sh");
        let millpond = crate::rig::executable();
        let line = format!(
            "printf 'secret of {name}\\n' | {} user add {name} --role reader --login {login} --project {}",
            millpond.display(),
            project.dir().display()
        );
        command.args(["-c", &line]);
        let added = Output::of(command).await;
        assert_eq!(added.code, Some(0), "{}", added.stderr);
    }
    let millpond = Millpond::start(&project);
    let seen = async || {
        let rows = psql(&millpond, "SELECT count(*) FROM telemetry").await;
        let cars = psql(&millpond, "SELECT count(*) FROM car_state").await;
        (rows == READINGS.to_string() && cars == "20").then_some(())
    };
    wait_until("all readings can be seen", SHOWN, seen).await;
    (millpond, ca)
}

async fn psql(millpond: &Millpond, sql: &str) -> String {
    let mut command = Command::new("psql");
    let port = millpond.project().postgres().to_string();
    command.args(["-X", "-At", "-h", "127.0.0.1", "-p", &port, "-U", "ann", "-d", "millpond", "-c", sql]);
    command.env("PGPASSWORD", "secret of ann").env("PGSSLMODE", "require");
    Output::of(command).await.stdout.trim().to_owned()
}

/// A program of `tests/clients/` in one of the components.
async fn run(in_component: &str, program: &str, arguments: &[&str]) -> Output {
    let program = format!("{}/tests/clients/{program}", env!("CARGO_MANIFEST_DIR"));
    let mut command = component(&[in_component, &program]);
    command.args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    Output::of(command).await
}

/// The same, which must end well.
async fn passes(in_component: &str, program: &str, arguments: &[&str]) {
    let output = run(in_component, program, arguments).await;
    assert_eq!(output.code, Some(0), "{in_component} {program}: {}{}", output.stdout, output.stderr);
}

/// Only the port of `grpc://host:port`.
fn port(flight_sql: &str) -> &str {
    flight_sql.rsplit(':').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "drivers that are not fetched for every run; make test-all runs it"]
async fn flight_jdbc_sees_rows_types_parameters_and_metadata() {
    let millpond = open().await;
    let flight = millpond.project().flight_sql();
    for driver in ["flight-jdbc", "flight-jdbc-before"] {
        passes(driver, "FlightJdbc.java", &[port(&flight)]).await;
    }
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "drivers that are not fetched for every run; make test-all runs it"]
async fn flight_jdbc_comes_in_with_a_password_over_tls() {
    let (millpond, ca) = secured().await;
    let flight = millpond.project().flight_sql();
    for driver in ["flight-jdbc", "flight-jdbc-before"] {
        passes(driver, "FlightJdbc.java", &[port(&flight), ca.to_str().unwrap(), "ann", "secret of ann"]).await;
    }
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "drivers that are not fetched for every run; make test-all runs it"]
async fn a_pgjdbc_from_before_scram_sees_what_a_new_one_sees() {
    let millpond = open().await;
    passes("pgjdbc-old", "PgJdbc.java", &[&millpond.project().postgres().to_string()]).await;
    assert_eq!(millpond.stop().await, Some(0));

    let (millpond, ca) = secured().await;
    let (port, ca) = (millpond.project().postgres().to_string(), ca.to_str().unwrap());
    for user in ["quick", "old"] {
        passes("pgjdbc-old", "PgJdbc.java", &[&port, ca, user, &format!("secret of {user}")]).await;
    }
    passes("pgjdbc", "PgJdbc.java", &[&port, ca, "ann", "secret of ann"]).await;
    for (arguments, wanted) in [
        (&[port.as_str(), ca, "ann", "secret of ann"][..], "The authentication type 10 is not supported"),
        (&[port.as_str(), ca, "quick", "a wrong one"][..], "password authentication failed for user \"quick\""),
        (&[port.as_str()][..], "speaks TLS only"),
    ] {
        let output = run("pgjdbc-old", "PgJdbc.java", arguments).await;
        assert_ne!(output.code, Some(0), "{arguments:?} came in");
        assert!(output.stderr.contains(wanted), "{arguments:?}: {}", output.stderr);
    }
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a driver that is not fetched for every run; make test-all runs it"]
async fn psqlodbc_sees_rows_types_parameters_and_catalogs() {
    let millpond = open().await;
    passes("harlequin", "pg_odbc.py", &[&millpond.project().postgres().to_string()]).await;
    assert_eq!(millpond.stop().await, Some(0));

    let (millpond, ca) = secured().await;
    let port = millpond.project().postgres().to_string();
    passes("harlequin", "pg_odbc.py", &[&port, ca.to_str().unwrap(), "ann", "secret of ann"]).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "harlequin is not fetched for every run; make test-all runs it"]
async fn harlequin_shows_tables_and_rows_over_both_doors() {
    let millpond = open().await;
    let project = millpond.project();
    let postgres = format!("postgresql://ann@127.0.0.1:{}/millpond", project.postgres());
    passes("harlequin", "harlequin_screen.py", &["postgres", &postgres]).await;
    passes("harlequin", "harlequin_screen.py", &["adbc", "--driver-type", "flightsql", &project.flight_sql()]).await;
    assert_eq!(millpond.stop().await, Some(0));

    let (millpond, ca) = secured().await;
    let (port, ca) = (millpond.project().postgres(), ca.display());
    let secure = format!("127.0.0.1:{port}/millpond?sslmode=verify-full&sslrootcert={ca}");
    let postgres = format!("postgresql://ann:secret%20of%20ann@{secure}");
    passes("harlequin", "harlequin_screen.py", &["postgres", &postgres]).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "dbt is not fetched for every run; make test-all runs it"]
async fn dbt_connects_and_shows_rows() {
    let millpond = open().await;
    passes("dbt", "dbt_show.py", &[&millpond.project().postgres().to_string()]).await;
    assert_eq!(millpond.stop().await, Some(0));
}
