//! Who may write a lake: one process, of a Millpond that knows its layout.

use super::{SOON, WINDOW, assert_failed, assert_refused, assert_says, numbered, until_rows};
use crate::rig::{Kafka, Lake, Ledger, Millpond, Minio, Project};

#[tokio::test]
async fn invariant_9_one_writer_per_lake() {
    let kafka = Kafka::shared().await;
    let minio = Minio::shared().await;
    for lake in [Lake::Local, Lake::on(minio, "bad-days-writers")] {
        let topic = kafka.topic("writers", 1).await;
        let mut ledger = Ledger::default();
        ledger.add(kafka.send(&topic, numbered(0..WINDOW)));
        let project = Project::new(kafka.brokers(), lake.clone()).events("events", &topic, "");
        let first = Millpond::serve(&project).await;
        until_rows(&first, WINDOW).await;

        // The living are named: host, pid, address.
        let rival = project.rival();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let pid = format!("pid {} on host `{}`", first.process().id(), host.trim());
        let address = format!("serving at {}", project.flight_sql().trim_start_matches("grpc://"));
        assert_refused(&rival, 1, &["another Millpond writes to the lake at ", &pid, &address, "stop it first"]).await;
        assert_eq!(first.get("/readyz").await.unwrap().0, 200, "the first goes on");
        ledger.add(kafka.send(&topic, numbered(WINDOW..WINDOW + 1)));
        until_rows(&first, WINDOW + 1).await;

        // The dead of the same host are taken over without watching their heartbeat.
        first.kill();
        let second = Millpond::serve(&rival).await;
        let log = second.process().log();
        assert_says(&log, &["the last writer is dead; taking over", &pid]);
        assert!(!log.contains("watching the heartbeat"), "at once:\n{log}");
        ledger.add(kafka.send(&topic, numbered(WINDOW + 1..WINDOW + 2)));
        until_rows(&second, WINDOW + 2).await;
        assert_eq!(second.stop().await, Some(0));

        // Who has left leaves nothing to take over.
        let third = Millpond::serve(&project).await;
        until_rows(&third, WINDOW + 2).await;
        let log = third.process().log();
        assert_eq!(log.matches("taking over").count(), 0, "{log}");
        assert_eq!(third.stop().await, Some(0));
        let minio = matches!(lake, Lake::S3 { .. }).then_some(minio);
        ledger.assert_exact(&project.table_url("events"), minio).await;
    }
}

#[tokio::test]
async fn a_lake_of_a_newer_millpond_is_refused_and_left_alone() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("newer", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("events", &topic, "");
    let millpond = Millpond::serve(&project).await;
    assert_eq!(millpond.stop().await, Some(0));
    let path = project.dir().join("lake/_millpond/format.json");
    let known = std::fs::read_to_string(&path).unwrap();
    let mut format: serde_json::Value = serde_json::from_str(&known).unwrap();
    format["layout"] = 2.into();
    format["created_by"] = "9.9.9".into();
    format["something_new"] = true.into();
    let newer = format.to_string();
    std::fs::write(&path, &newer).unwrap();

    let words = [
        "written by a newer Millpond 9.9.9",
        "its layout is 2, this program knows up to 1",
        "run that version or a later one",
    ];
    assert_refused(&project, 1, &words).await;
    let read = project.run(&["sql", "--project", ".", "-c", "SELECT 1"]).await;
    assert_failed(&read, 1, &words);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer, "left alone");

    std::fs::write(&path, "{\"layout\": ").unwrap();
    assert_refused(&project, 1, &["`_millpond/format.json` of the lake at ", "cannot be read", "restore the file"])
        .await;

    std::fs::write(&path, known).unwrap();
    let millpond = Millpond::start(&project);
    millpond.ready().await;
    millpond.process().signal("INT");
    assert_eq!(millpond.ended(SOON).await.0, Some(0), "Ctrl-C is a clean stop, too");
}
