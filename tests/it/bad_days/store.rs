//! The store: not there, locked, lying, silent; a folder that cannot be one; and ports that are taken.

use std::fs::File;
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use object_store::ObjectStore;

use super::{ROWS, SOON, WINDOW, assert_refused, committed, numbered, until_rows, until_sql};
use crate::rig::{Fault, Kafka, Lake, Millpond, Minio, Project, Proxy, Rule, free_port, wait_until};

/// A project that must fail before it asks any Kafka.
fn project(lake: Lake) -> Project {
    Project::new("127.0.0.1:9", lake).events("events", "t", "")
}

fn bucket(endpoint: String, bucket: &str) -> Project {
    project(Lake::S3 { endpoint, bucket: bucket.to_owned() })
}

#[tokio::test]
async fn a_missing_bucket_and_wrong_keys_are_told_apart() {
    let minio = Minio::shared().await;
    let missing = bucket(minio.endpoint(), "bad-days-nowhere");
    assert_refused(
        &missing,
        2,
        &["bucket `bad-days-nowhere` does not exist in the object store at http://127.0.0.1:", "create the bucket"],
    )
    .await;

    let there = project(Lake::on(minio, "bad-days-keys"));
    let unknown = there.clone().env("AWS_ACCESS_KEY_ID", "somebody");
    assert_refused(&unknown, 2, &["does not know the access key", "AWS_ACCESS_KEY_ID"]).await;
    let wrong = there.env("AWS_SECRET_ACCESS_KEY", "hush-hush");
    let log = assert_refused(&wrong, 2, &["the secret key does not fit", "AWS_SECRET_ACCESS_KEY"]).await;
    assert!(!log.contains("hush-hush"), "a secret is not for a log:\n{log}");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_before_anything_is_written() {
    let minio = Minio::shared().await;
    let proxy = Proxy::before(minio);
    let ignored = proxy.add(Rule::new(Fault::IgnoreCondition).header("if-none-match"));
    let project = project(Lake::through(&proxy, minio, "bad-days-careless"));
    assert_refused(
        &project,
        1,
        &["ignores PUT-if-absent", "two writers could overwrite each other's commits", "If-None-Match"],
    )
    .await;
    assert!(proxy.hits(ignored) > 0);
    let left: Vec<_> = minio.store("bad-days-careless").list(None).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_store_that_is_away_or_silent_at_the_start_ends_it() {
    let nowhere = bucket(format!("http://127.0.0.1:{}", free_port()), "bad-days-away");
    assert_refused(&nowhere, 1, &["the object store at http://127.0.0.1:", "cannot be reached", "Connection refused"])
        .await;
    let minio = Minio::shared().await;
    let proxy = Proxy::before(minio);
    proxy.add(Rule::new(Fault::Hang));
    let silent = project(Lake::through(&proxy, minio, "bad-days-silent"));
    assert_refused(&silent, 1, &["does not answer", "[lake.s3] endpoint"]).await;
}

#[tokio::test]
async fn a_lake_that_cannot_be_a_folder_says_why() {
    let project = project(Lake::Local);
    std::fs::write(project.dir().join("in-the-way"), "a file").unwrap();
    for (url, code, words) in [
        ("./in-the-way", 2, ["in-the-way", "is a file", "correct `[lake] url`"]),
        ("./in-the-way/below/lake", 2, ["in-the-way/below/lake", "is a file", "correct `[lake] url`"]),
        // No permission stops root: these two folders stop everybody.
        ("/proc/lake", 1, ["could not open the lake's folder at /proc/lake", "No such file or directory", "error: "]),
        ("/sys/fs", 2, ["the folder /sys/fs is not writable", "change its owner or mode", "hint: "]),
    ] {
        assert_refused(&project.clone().env("MILLPOND__LAKE__URL", url), code, &words).await;
    }
    assert_eq!(std::fs::read_to_string(project.dir().join("in-the-way")).unwrap(), "a file");
}

#[tokio::test]
async fn what_a_killed_writer_left_half_written_is_removed_at_the_next_start() {
    let project = project(Lake::Local);
    let table = project.dir().join("lake/public/events");
    std::fs::create_dir_all(&table).unwrap();
    let left = table.join("part-0.parquet#17");
    File::create(&left).unwrap().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    let millpond = Millpond::start(&project);
    wait_until("the file is gone", SOON, async || (!left.exists()).then_some(())).await;
    millpond.kill();
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_setting_before_anything_is_written() {
    let project = project(Lake::Local);
    for (setting, url) in [("flight_sql", project.flight_sql()), ("http", project.http())] {
        let address = url.split_once("://").unwrap().1.to_owned();
        let port = address.split_once(':').unwrap().1.to_owned();
        let _taken = TcpListener::bind(&address).unwrap();
        let log = assert_refused(
            &project,
            2,
            &[&format!("cannot listen on [serve] {setting} = \"{address}\""), &format!("port {port}")],
        )
        .await;
        assert!(log.contains("another program has port"), "{log}");
    }
    assert!(!project.dir().join("lake").exists(), "the lake is not made yet");
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_costs_no_row() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("failing", 1).await;
    let minio = Minio::shared().await;
    let proxy = Proxy::before(minio);
    let lake = Lake::through(&proxy, minio, "bad-days-failing");
    let project = Project::new(kafka.brokers(), lake).events("events", &topic, "");
    let millpond = Millpond::serve(&project).await;
    kafka.send(&topic, numbered(0..WINDOW));
    until_rows(&millpond, WINDOW).await;
    let failing = proxy.add(Rule::new(Fault::Error503Before).method("PUT").times(12));
    kafka.send(&topic, numbered(WINDOW..2 * WINDOW));
    wait_until("all faults are used up", ROWS, async || (proxy.hits(failing) == 12).then_some(())).await;
    until_rows(&millpond, 2 * WINDOW).await;
    until_sql(&millpond, "SELECT sum(hot_rows) AS n FROM system.ingest", 0).await;
    // Warnings of tries that failed may quote the store's client.
    let log = millpond.process().log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(millpond.stop().await, Some(0));
    let rows = committed(&project, "SELECT count(DISTINCT id) AS n, count(*) AS m FROM events").await;
    assert_eq!((rows[0]["n"].as_i64(), rows[0]["m"].as_i64()), (Some(2 * WINDOW), Some(2 * WINDOW)));
}
