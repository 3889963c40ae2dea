//! The whole way, in one process: records die, the contract is corrected, two retries race.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::*;
use crate::config::LoadOptions;
use crate::demo::Broker;
use crate::engine::{Embedded, Engine, EngineOptions};

const DEADLINE: Duration = Duration::from_secs(60);
/// Records; every third does not fit its column, and one is no JSON.
const RECORDS: i64 = 1_200;

fn project(dir: &std::path::Path, policy: &str) -> Project {
    std::fs::create_dir_all(dir.join("schemas")).unwrap();
    let toml = "[lake]\nurl = \"./lake\"\ncommit_interval = \"100ms\"\n[kafka]\nbrokers = \"embedded\"\n\
         [serve]\nflight_sql = \"127.0.0.1:0\"\npostgres = \"off\"\nhttp = \"127.0.0.1:0\"\n";
    std::fs::write(dir.join("millpond.toml"), toml).unwrap();
    let contract = format!(
        "kind = \"events\"\ntopic = \"fleet\"\nformat = \"json\"\non_type_conflict = \"{policy}\"\n\
         [columns.n]\npath = \"n\"\ntype = \"bigint\"\n"
    );
    std::fs::write(dir.join("schemas/cars.toml"), contract).unwrap();
    Project::load(dir, &LoadOptions::default()).unwrap()
}

async fn numbers(service: &Service, sql: &str) -> Vec<i64> {
    let mut rows = service.session().query(sql).await.unwrap().run().await.unwrap();
    let mut numbers = Vec::new();
    while let Some(batch) = rows.next().await {
        let batch = batch.unwrap();
        numbers.extend(batch.columns().iter().map(|column| column.as_primitive::<Int64Type>().value(0)));
    }
    numbers
}

async fn until(service: &Service, sql: &str, wanted: &[i64]) {
    let begun = Instant::now();
    while numbers(service, sql).await != wanted {
        assert!(begun.elapsed() < DEADLINE, "{sql}: {:?}, not {wanted:?}", numbers(service, sql).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn start(project: &Project, broker: &Broker) -> Engine {
    let inside = Embedded { brokers: broker.brokers(), make_topic: Arc::new(broker.topic_maker(1)) };
    let options = EngineOptions {
        embedded: Some(inside),
        variables: Variables::new(),
        reload: None,
        muted: false,
        claimed: None,
    };
    Engine::start(project, options).await.unwrap()
}

fn request(what: What, limit: Option<u64>) -> Request {
    Request { what, table: "cars".to_owned(), reason: None, limit }
}

fn retried(retried: u64, dead: u64) -> Done {
    Done { retried: Retried { retried, dead, later: 0 }, discarded: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_heal_once_with_a_server_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&[("fleet", 2)]).unwrap();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", broker.brokers()).create().unwrap();
    for n in 0..RECORDS {
        let payload = match n {
            7 => "{cut".to_owned(),
            _ if n % 3 == 0 => format!("{{\"n\":\"number {n}\"}}"),
            _ => format!("{{\"n\":{n}}}"),
        };
        producer.send(BaseRecord::<(), str>::to("fleet").partition((n % 2) as i32).payload(&payload)).unwrap();
    }
    producer.flush(DEADLINE).unwrap();
    let (misfits, wrong) = (RECORDS / 3, RECORDS / 3 + 1);

    let engine = start(&project(dir.path(), "dead_letter"), &broker).await;
    let committed = "SELECT coalesce(sum(committed_position), 0) FROM system.ingest";
    until(engine.service(), committed, &[RECORDS]).await;
    let desk = Desk::new(engine.service.clone(), Arc::clone(&engine.catalog), engine.abort.clone());
    let done = desk.run(&request(What::Retry, None)).await.unwrap();
    assert_eq!(done, retried(0, wrong as u64), "nothing heals by trying the same again");
    assert_eq!(
        desk.run(&Request { table: "x".into(), ..request(What::Retry, None) }).await.unwrap_err().kind(),
        Kind::NotFound
    );
    drop(desk);
    engine.run(std::future::ready(())).await.unwrap();

    let corrected = project(dir.path(), "rescue");
    let engine = start(&corrected, &broker).await;
    // The embedded broker begins a new life of the topic with each start, so its records come again.
    until(engine.service(), committed, &[2 * RECORDS]).await;
    let desk = Desk::new(engine.service.clone(), Arc::clone(&engine.catalog), engine.abort.clone());
    let first = desk.run(&request(What::Retry, Some(10))).await.unwrap();
    assert_eq!(first.retried.retried + first.retried.dead, 10);
    let all = request(What::Retry, Some(100));
    let (one, other) = tokio::join!(desk.run(&all), desk.run(&all));
    let (one, other) = (one.unwrap().retried, other.unwrap().retried);
    assert_eq!((one.retried + one.dead, other.retried + other.dead), (100, 100));
    let rows = "SELECT count(*), count(DISTINCT concat_ws('/', _partition, _offset)) FROM cars WHERE _incarnation = 0";
    let seen = numbers(engine.service(), rows).await;
    assert_eq!(seen[0], seen[1], "no row is there twice");
    assert!(seen[0] >= RECORDS - wrong + 100, "who has the answer sees the rows: {seen:?}");
    let state = "SELECT count(*), count(DISTINCT concat_ws('/', _partition, _offset)) FROM system.dead_letters \
        WHERE event = 'retried'";
    let logged = numbers(engine.service(), state).await;
    assert_eq!((logged[0], logged[1]), (seen[0] - (RECORDS - wrong), seen[0] - (RECORDS - wrong)));

    let refused = without_server(&corrected, &Variables::new(), &request(What::Retry, None)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Refused, "two writers: {refused}");
    drop(desk);
    engine.run(std::future::ready(())).await.unwrap();

    let rest = (misfits - logged[0]) as u64;
    let done = without_server(&corrected, &Variables::new(), &request(What::Retry, None)).await.unwrap();
    assert_eq!(done, retried(rest, 2), "in each life of the topic one is no JSON");
    let again = without_server(&corrected, &Variables::new(), &request(What::Retry, None)).await.unwrap();
    assert_eq!(again, retried(0, 2), "retried twice, no doubles");
    let given_up = without_server(&corrected, &Variables::new(), &request(What::Discard, None)).await.unwrap();
    assert_eq!(given_up, Done { discarded: 2, ..Done::default() });
    let service = crate::engine::read_only(&corrected, &Variables::new()).await.unwrap();
    assert_eq!(numbers(&service, rows).await, [RECORDS - 1, RECORDS - 1]);
    let open = format!("SELECT count(*) FROM ({}) WHERE state = 'dead'", letters_sql());
    assert_eq!(numbers(&service, &open).await, [0]);
}
