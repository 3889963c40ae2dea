//! Clients that fewer people have: Arrow Flight's JDBC driver, a pgjdbc from before SCRAM, psqlODBC, harlequin, dbt.

use std::path::PathBuf;
use std::process::Command;

use crate::access::{add_user, certificate};
use crate::postgres::{READINGS, SHOWN, fleet, project};
use crate::rig::python::Output;
use crate::rig::{Millpond, component, wait_until};

/// The readings behind TLS and an account for each kind of login, whose password is `secret of <name>`; the certificate.
async fn secured() -> (Millpond, PathBuf) {
    let project = project().await.toml("tls = { cert = \"server.pem\", key = \"server.key\" }\n");
    let ca = certificate(&project);
    // Writes the project's file.
    let checked = project.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    for (name, login) in [("ann", "scram"), ("old", "md5"), ("quick", "password")] {
        let added = add_user(&project, name, "reader", login).await;
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
    let millpond = fleet().await;
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
    let millpond = fleet().await;
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
    let millpond = fleet().await;
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
    let millpond = fleet().await;
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
    let millpond = fleet().await;
    passes("dbt", "dbt_show.py", &[&millpond.project().postgres().to_string()]).await;
    assert_eq!(millpond.stop().await, Some(0));
}
