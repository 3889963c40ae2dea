//! A lake on an S3 server that is not MinIO: its conditional PUT lets one of many win, and rows are exact over kills.

use std::time::Duration;

use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde_json::json;

use crate::rig::{Kafka, Lake, Ledger, Millpond, Minio, Project, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// Objects that many want to make at once, and how many that are.
const ROUNDS: usize = 50;
const RACERS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_on_another_s3_server_is_exact_over_kills_merges_and_restores() {
    let server = Minio::other().await;
    server.bucket("races");
    let store = server.store("races");
    for round in 0..ROUNDS {
        let path = Path::from(format!("object-{round}"));
        let put = |racer: usize| {
            let (store, path) = (store.clone(), path.clone());
            async move {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                store.put_opts(&path, format!("racer {racer}").into(), options).await
            }
        };
        let results = futures::future::join_all((0..RACERS).map(put)).await;
        let won: Vec<usize> = (0..RACERS).filter(|racer| results[*racer].is_ok()).collect();
        let refused = results.iter().filter(|result| matches!(result, Err(Error::AlreadyExists { .. }))).count();
        assert_eq!((won.len(), refused), (1, RACERS - 1), "round {round}: {results:?}");
        let there = store.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(there, format!("racer {}", won[0]));
    }

    let kafka = Kafka::shared().await;
    let topic = kafka.topic("elsewhere", 2).await;
    let project = Project::new(kafka.brokers(), Lake::on(&server, "lake"))
        .commit_interval("50ms")
        .events("cars", &topic, "key = [\"car\"]")
        .schema("zones", "kind = \"reference\"\n");
    let (mut ledger, mut sent) = (Ledger::default(), 0);
    let mut send = |records: i64| {
        let record = |n: i64| {
            let payload = json!({"car": format!("car-{}", n % 7), "hash": format!("h{n}")}).to_string();
            (Some(format!("car-{n}").into_bytes()), Some(payload.into_bytes()))
        };
        ledger.add(kafka.send(&topic, (sent..sent + records).map(record)));
        sent += records;
        (ledger.clone(), sent)
    };
    send(100);
    for (point, nth) in [("before_commit", 3), ("after_commit", 4)] {
        Millpond::until_killed(&project, (point, nth), Duration::from_millis(50), || _ = send(5)).await;
    }
    let (ledger, sent) = send(50);
    let millpond = Millpond::serve(&project).await;
    let committed = "SELECT sum(committed_position) FROM system.ingest WHERE table_name = 'cars'";
    wait_until("all is committed", SOON, async || (millpond.number(committed).await == Some(sent)).then_some(())).await;
    let merged = project.run(&["table", "optimize", "cars"]).await;
    assert!(merged.code == Some(0) && merged.stdout.contains(" merged into 1 of "), "{merged:?}");
    std::fs::write(project.dir().join("zones.csv"), "id,name\n1,north\n2,south\n").unwrap();
    for said in ["zones: 1 file imported, 2 rows\n", "zones: nothing to import; 1 file had been imported before\n"] {
        assert_eq!(project.run(&["import", "zones", "zones.csv"]).await.stdout, said);
    }
    assert_eq!(millpond.number("SELECT count(*) FROM cars").await, Some(sent));
    assert_eq!(millpond.stop().await, Some(0));
    ledger.assert_exact(&project.table_url("cars"), Some(&server)).await;
}
