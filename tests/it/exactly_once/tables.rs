//! Several tables on one topic, several topics in one table.

use std::time::Duration;

use rand::Rng;

use super::traffic::{Traffic, rows_ledger};
use super::{COLUMNS, caught_up, random};
use crate::rig::{Kafka, Lake, Millpond, Minio, Project, credentials, python};

const NAME: &str = "tables";
const DEATH: Duration = Duration::from_secs(90);

/// Each table has positions of its own: after a kill they are read from one topic at different offsets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_share_topics_are_exact_each_for_itself() {
    let mut random = random(NAME);
    let (kafka, minio) = tokio::join!(Kafka::shared(), Minio::shared());
    let (wide, narrow) = (kafka.topic("wide", 5).await, kafka.topic("narrow", 1).await);
    let project = Project::new(kafka.brokers(), Lake::on(minio, NAME))
        .events("quick", &wide, &format!("commit_interval = \"100ms\"\n{COLUMNS}"))
        .events("slow", &wide, &format!("commit_interval = \"1500ms\"\n{COLUMNS}"))
        .schema(
            "both",
            &format!("kind = \"events\"\ntopics = [\"{wide}\", \"{narrow}\"]\nformat = \"json\"\n{COLUMNS}"),
        );
    let (to_wide, to_narrow) = (Traffic::to(kafka, &wide), Traffic::to(kafka, &narrow));
    for life in 0..3 {
        to_wide.share(3_000);
        to_narrow.share(1_500);
        let millpond = Millpond::serve(&project).await;
        let moment = Duration::from_millis(random.random_range(500..3_000));
        let early = tokio::time::timeout(moment, millpond.process().exited(DEATH)).await;
        assert!(early.is_err(), "life {life} ended by itself: {early:?}");
        millpond.kill();
    }
    // The tables commit one after another: one has this commit, the others do not.
    to_wide.share(1_000);
    let (code, _) = Millpond::start(&project.clone().failpoint("after_commit", 3)).ended(DEATH).await;
    assert_eq!(code, None);

    let (wide_books, narrow_books) = tokio::join!(to_wide.finish(), to_narrow.finish());
    let millpond = Millpond::serve(&project).await;
    for (table, topics) in [("quick", &[&*wide][..]), ("slow", &[&*wide]), ("both", &[&*wide, &*narrow])] {
        caught_up(&millpond, table, kafka, topics).await;
    }
    assert_eq!(millpond.stop().await, Some(0));

    let wide_rows = rows_ledger(wide_books.rows.clone());
    wide_rows.assert_exact(&project.table_url("quick"), Some(minio)).await;
    wide_rows.assert_exact(&project.table_url("slow"), Some(minio)).await;
    let all = rows_ledger(wide_books.rows.into_iter().chain(narrow_books.rows));
    all.assert_exact(&project.table_url("both"), Some(minio)).await;

    let mut env = credentials().to_vec();
    env.push(("AWS_ENDPOINT_URL", minio.endpoint()));
    let sql = "SELECT table_name, count(*) AS n, count(DISTINCT (_topic, _incarnation, _partition, _offset, _row)) AS d \
               FROM t GROUP BY ALL ORDER BY table_name";
    let found = python::duckdb(&project.system_table_url("dead_letters"), sql, &env).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|row| (row["table_name"].as_str().unwrap(), row["n"].as_u64().unwrap(), row["d"].as_u64().unwrap()))
        .collect();
    let (wide_dead, narrow_dead) = (wide_books.dead.len() as u64, narrow_books.dead.len() as u64);
    let both = wide_dead + narrow_dead;
    assert_eq!(found, [("both", both, both), ("quick", wide_dead, wide_dead), ("slow", wide_dead, wide_dead)]);
}
