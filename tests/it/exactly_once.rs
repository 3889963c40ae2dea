//! Invariant 1: a row is in Delta exactly once, whatever crashes, retries or rival writers happen.
//!
//! Every test sends records to the real Kafka while the real executable writes to the real MinIO and something goes
//! wrong, again and again; in the end two outside readers compare the tables with the ledger of what was sent.
//! Among the records are some that cannot be decoded: each must be a dead letter, exactly once as well.

mod care;
mod catch_up;
mod full_size;
mod kills;
mod lost_answers;
mod rivals;
mod tables;
mod traffic;

use std::time::Duration;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::rig::{Kafka, Lake, Millpond, Minio, Project, wait_until};
use traffic::{Books, dead_ledger, rows_ledger};

/// The table of the tests that need only one.
const TABLE: &str = "readings";
/// For all that was sent to be committed.
const CATCH_UP: Duration = Duration::from_secs(240);

/// What a table of the traffic's records says of them.
const COLUMNS: &str = "key = [\"car\"]\n\
    [columns.car]\npath = \"$key\"\ntype = \"string\"\n\
    [columns.hash]\npath = \"hash\"\ntype = \"string\"\n";

/// A project with one table of the traffic's records.
fn project(kafka: &Kafka, lake: Lake, topic: &str) -> Project {
    Project::new(kafka.brokers(), lake).events(TABLE, topic, COLUMNS).commit_interval("300ms")
}

/// Random choices of a test, the same again with `SEED=…`.
fn random(test: &str) -> StdRng {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("{test}: SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Waits until everything that is in the topics now is committed to `table`.
async fn caught_up(millpond: &Millpond, table: &str, kafka: &Kafka, topics: &[&str]) {
    let ends: i64 = topics.iter().flat_map(|topic| kafka.ends(topic)).sum();
    let query = format!("SELECT sum(committed_position) FROM system.ingest WHERE table_name = '{table}'");
    wait_until(&format!("{table} has caught up"), CATCH_UP, async || {
        millpond.number(&query).await.filter(|committed| *committed >= ends)
    })
    .await;
}

/// Table versions of `table` so far.
async fn versions(minio: &Minio, bucket: &str, table: &str) -> usize {
    let log = Path::from(format!("lake/public/{table}/_delta_log"));
    let found: Vec<_> = minio.store(bucket).list(Some(&log)).try_collect().await.unwrap();
    found.iter().filter(|entry| entry.location.as_ref().ends_with(".json")).count()
}

/// Waits until everything is committed, stops the process in order, and has all readers look.
async fn assert_exact(millpond: Millpond, kafka: &Kafka, minio: &Minio, topic: &str, books: &Books) {
    caught_up(&millpond, TABLE, kafka, &[topic]).await;
    let identity = "concat_ws('/', _topic, _incarnation, _partition, _offset, _row)";
    let ours = millpond.sql(&format!("SELECT count(*) AS n, count(DISTINCT {identity}) AS d FROM {TABLE}")).await;
    let sent = Some(books.rows.len() as u64);
    assert_eq!((ours[0]["n"].as_u64(), ours[0]["d"].as_u64()), (sent, sent));
    let project = millpond.project().clone();
    assert_eq!(millpond.stop().await, Some(0));
    rows_ledger(books.rows.clone()).assert_exact(&project.table_url(TABLE), Some(minio)).await;
    dead_ledger(books.dead.clone()).assert_exact(&project.system_table_url("dead_letters"), Some(minio)).await;
}
