//! A table that is new to a topic reads it from the beginning, while the tables that were there go on with what is new.

use super::traffic::{Traffic, rows_ledger};
use super::{CATCH_UP, COLUMNS, caught_up};
use crate::rig::{Kafka, Lake, Millpond, Project, wait_until};

/// Far more than tables may be apart that share a reader, whatever partition a record goes to.
const BACKLOG: u64 = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_table_catches_up_and_joins_the_old_one() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("catch-up", 3).await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("old", &topic, COLUMNS);
    let backlog = Traffic::to(kafka, &topic);
    backlog.share(BACKLOG);
    let backlog = backlog.finish().await;
    let millpond = Millpond::serve(&project).await;
    caught_up(&millpond, "old", kafka, &[&topic]).await;
    assert_eq!(millpond.stop().await, Some(0));

    let project = project
        .events("young", &topic, &format!("start = \"earliest\"\n{COLUMNS}"))
        .env("MILLPOND_LOG", "warn,kafka=info");
    let traffic = Traffic::to(kafka, &topic);
    traffic.share(3_000);
    let millpond = Millpond::serve(&project).await;
    wait_until("the young table joins while records keep coming", CATCH_UP, async || {
        let log = millpond.process().log();
        traffic.share(100);
        log.contains("table has caught up").then_some(())
    })
    .await;
    traffic.share(1_000);
    let fresh = traffic.finish().await;
    for table in ["old", "young"] {
        caught_up(&millpond, table, kafka, &[&topic]).await;
    }
    let states = millpond.sql("SELECT DISTINCT state, lag, error FROM system.ingest").await;
    assert_eq!(states, [serde_json::json!({"state": "reading", "lag": 0, "error": null})]);
    let log = millpond.process().log();
    let behind: Vec<&str> = log.lines().filter(|line| line.contains("catching up on its own")).collect();
    assert!(behind.len() == 1 && behind[0].contains("young"), "{log}");
    assert_eq!(millpond.stop().await, Some(0));
    let ledger = rows_ledger(backlog.rows.into_iter().chain(fresh.rows));
    for table in ["old", "young"] {
        ledger.assert_exact(&project.table_url(table), None).await;
    }
}
