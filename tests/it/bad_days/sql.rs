//! `millpond sql` on bad days: no server, no lake, wrong SQL, wrong usage.

use super::{WINDOW, assert_failed, assert_for_people, assert_says, numbered, project_on, until_rows, until_sql};
use crate::rig::{Kafka, Lake, Millpond, Project};

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_the_way_out() {
    let project = Project::new("127.0.0.1:9", Lake::Local).events("events", "t", "");
    let url = project.flight_sql();
    let words = [format!("no server answers at {url}"), "Connection refused".to_owned()];
    let words: Vec<&str> = words.iter().map(String::as_str).chain(["millpond serve", "--project DIR"]).collect();
    for arguments in [&["sql", "-c", "SELECT 1"][..], &["sql", "--url", &url, "-c", "SELECT 1"], &["ingest", "status"]]
    {
        assert_failed(&project.run(arguments).await, 1, &words);
    }
}

#[tokio::test]
async fn a_lake_is_read_without_its_server_and_says_what_is_missing() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("without", 1).await;
    let project = project_on(&topic).await;
    let read = |project: &Project| {
        let project = project.clone();
        async move { project.run(&["sql", "--project", ".", "-c", "SELECT count(*) AS n FROM events"]).await }
    };
    assert_failed(&read(&project).await, 1, &["there is no lake at ", "/lake", "millpond serve"]);
    assert!(!project.dir().join("lake").exists(), "a reader makes nothing");

    let millpond = Millpond::serve(&project).await;
    kafka.send(&topic, numbered(0..WINDOW));
    until_rows(&millpond, WINDOW).await;
    until_sql(&millpond, "SELECT sum(hot_rows) AS n FROM system.ingest", 0).await;
    // Beside the server, and after it.
    for _ in 0..2 {
        let output = read(&project).await;
        assert_says(&output.stderr, &["reading the lake at", "committed rows only", "hot rows are with the server"]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(output.stdout.contains(&WINDOW.to_string()), "{}", output.stdout);
        millpond.process().kill();
    }
}

#[tokio::test]
async fn wrong_sql_is_pointed_at_and_wrong_usage_explained() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("wrong-sql", 1).await;
    let project = project_on(&topic).await;
    let millpond = Millpond::serve(&project).await;
    for (sql, words) in [
        ("SELECT 1 FRM events x", &["syntax error", "\n  SELECT 1 FRM events x\n", "^"][..]),
        ("SELECT 1 FROM", &["syntax error", "\n  SELECT 1 FROM\n               ^"]),
        (
            "SELECT * FROM event",
            &["table `event` does not exist\n  SELECT * FROM event\n                ^", "did you mean events?"],
        ),
        (
            "SELECT _ofset FROM events",
            &["column `_ofset` does not exist\n  SELECT _ofset FROM events\n         ^", "did you mean _offset?"],
        ),
        ("SELECT abs('a', 'b') FROM events", &["abs"]),
        ("SELECT 1 / 0", &["division by zero"]),
        ("DROP TABLE events", &["DROP"]),
        ("INSERT INTO events VALUES (1)", &["INSERT"]),
        ("COPY events TO '/tmp/x.csv'", &["COPY"]),
    ] {
        let on_server = project.run(&["sql", "--url", &project.flight_sql(), "-c", sql]).await;
        assert_failed(&on_server, 1, words);
    }
    let unread = project.run(&["sql", "--url", &project.flight_sql(), "-f", "nothing.sql"]).await;
    assert_failed(&unread, 2, &["nothing.sql cannot be read: No such file or directory"]);
    assert_for_people(&millpond.process().log());
    millpond.kill();

    for (arguments, words) in [
        (
            &["sql", "--url", "nonsense", "-c", "SELECT 1"][..],
            &["`nonsense` is not the address of a server", "grpc://"][..],
        ),
        (&["sql", "--url", "grpc://127.0.0.1:1", "--project", "."], &["cannot be used with"]),
        (&["sql", "--fromat", "csv"], &["unexpected argument '--fromat'", "--format"]),
        (&["sql", "--format", "xml"], &["invalid value 'xml'", "ndjson"]),
        (&["srve"], &["unrecognized subcommand 'srve'", "serve"]),
        (&["serve", "--set", "lake"], &["--set lake", "is not section.key=value"]),
        (&["ingest", "statu"], &["unrecognized subcommand 'statu'", "status"]),
    ] {
        assert_failed(&project.run(arguments).await, 2, words);
    }
}
