//! Other readers of the lake's tables, after each thing that is done to them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Project, python, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// The tables, and what is asked of each: how many rows, and what tells them from others.
const ASKED: [(&str, &str); 6] = [
    ("trips", "SELECT count(*) AS n, CAST(sum(n) AS BIGINT) AS a, count(DISTINCT _offset) AS b FROM"),
    ("trips__legs", "SELECT count(*) AS n, CAST(sum(km) AS BIGINT) AS a, count(DISTINCT _offset) AS b FROM"),
    ("trips__raw", "SELECT count(*) AS n, CAST(sum(_offset) AS BIGINT) AS a, count(DISTINCT _offset) AS b FROM"),
    ("last", "SELECT count(*) AS n, CAST(sum(n) AS BIGINT) AS a, count(DISTINCT car) AS b FROM"),
    ("prices", "SELECT count(*) AS n, CAST(sum(price) AS BIGINT) AS a, count(DISTINCT id) AS b FROM"),
    ("daily", "SELECT count(*) AS n, CAST(sum(trips) AS BIGINT) AS a, count(DISTINCT car) AS b FROM"),
];

fn send(kafka: &Kafka, topic: &str, numbers: std::ops::Range<i64>) {
    let record = |n: i64| json!({"car": format!("c{}", n % 7), "n": n, "legs": [{"km": n}, {"km": n + 1}]}).to_string();
    kafka.send(topic, numbers.map(|n| (None, Some(record(n).into_bytes()))));
}

/// All readers find in all tables what our own SQL finds.
async fn agree(millpond: &Millpond, what: &str, with_spark: bool) {
    let project = millpond.project();
    let hot = "SELECT count(*) AS n FROM system.ingest WHERE hot_rows > 0 OR lag > 0";
    wait_until("all is committed", SOON, async || (millpond.number(hot).await == Some(0)).then_some(())).await;
    let (mut asked, mut answers) = (Vec::new(), Vec::new());
    for (table, sql) in ASKED {
        let ours = millpond.sql(&format!("{sql} {table}")).await;
        if ours[0]["n"] == 0 {
            continue;
        }
        let (url, sql) = (project.table_url(table), format!("{sql} t"));
        // The latest table is written a moment after its sources.
        wait_until(&format!("{what}: DuckDB reads {table}"), SOON, async || {
            (python::duckdb(&url, &sql, &[]).await.as_ref() == Ok(&ours)).then_some(())
        })
        .await;
        assert_eq!(python::deltalake(&url, &sql).await, Ok(ours.clone()), "{what}: deltalake, {table}");
        asked.extend([url, sql]);
        answers.extend(ours);
    }
    if with_spark {
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        assert_eq!(python::spark(&asked).await, Ok(answers), "{what}: Spark");
    }
}

async fn run(project: &Project, arguments: &[&str]) -> String {
    let said = project.run(arguments).await;
    assert_eq!(said.code, Some(0), "{arguments:?}: {}{}", said.stdout, said.stderr);
    said.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn other_readers_read_every_table_after_everything_that_is_done_to_them() {
    drill("after-care", false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "Spark is a large download; make test-all runs it"]
async fn spark_reads_every_table_after_everything_that_is_done_to_them() {
    drill("after-care-spark", true).await;
}

async fn drill(name: &str, with_spark: bool) {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic(name, 1).await;
    let daily = "--! kind = \"table\"\n--! partition_by = \"day\"\n\
         SELECT _day AS day, car, count(*) AS trips FROM trips GROUP BY 1, 2";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .events("trips", &topic, "key = [\"car\"]\nraw = true\n[arrays.legs]\nas = \"child\"\n")
        .schema("last", "kind = \"latest\"\nkey = [\"car\"]\n[sources.trips]\n")
        .schema("prices", "kind = \"reference\"\nmode = \"upsert\"\nkey = [\"id\"]\n")
        .query("daily", daily);
    let millpond = Millpond::serve(&project).await;
    for start in (0..1_000).step_by(100) {
        send(kafka, &topic, start..start + 100);
        wait_until("rows", SOON, async || {
            (millpond.number("SELECT count(*) FROM trips").await == Some(start + 100)).then_some(())
        })
        .await;
    }
    for (file, text) in [("a.csv", "id,price\n1,10\n2,20\n3,30\n"), ("b.csv", "id,price\n2,25\n4,40\n")] {
        std::fs::write(project.dir().join(file), text).unwrap();
        let path = project.dir().join(file).display().to_string();
        run(&project, &["import", "prices", &path]).await;
    }
    run(&project, &["query", "run", "daily"]).await;
    agree(&millpond, "appends, an upsert and a query", with_spark).await;
    let version = millpond.number("SELECT max(table_version) FROM system.history WHERE table_name = 'trips'").await;

    run(&project, &["table", "optimize"]).await;
    agree(&millpond, "a merge", with_spark).await;
    send(kafka, &topic, 1_000..1_100);
    run(&project, &["ingest", "replay", "trips", "--from", "raw"]).await;
    run(&project, &["query", "run", "daily"]).await;
    agree(&millpond, "a replay and a replacement of a day", with_spark).await;
    let version = version.unwrap().to_string();
    run(&project, &["table", "restore", "trips", "--version", &version, "--rewind"]).await;
    wait_until("all is read again", SOON, async || {
        (millpond.number("SELECT count(*) FROM trips").await == Some(1_100)).then_some(())
    })
    .await;
    agree(&millpond, "a restore", with_spark).await;
    run(&project, &["table", "optimize"]).await;
    run(&project, &["table", "vacuum", "--full"]).await;
    agree(&millpond, "a vacuum", with_spark).await;
    let all: Vec<Value> = millpond.sql("SELECT count(*) AS n, count(DISTINCT n) AS numbers FROM trips").await;
    assert_eq!(all, [json!({"n": 1_100, "numbers": 1_100})]);
    assert_eq!(millpond.stop().await, Some(0));
}
