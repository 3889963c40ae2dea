//! The rig is judged first: a broken harness would let every other test pass.

use std::time::{Duration, Instant};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::rig::{Fault, Kafka, Minio, Proxy, Rule, python, store, wait_until};

fn if_absent() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

#[tokio::test]
async fn kafka_keeps_what_was_sent_over_a_kill() {
    let kafka = Kafka::start().await;
    let topic = kafka.topic("rig", 3).await;
    let sent = kafka.send(&topic, (0..1000).map(|i| (Some(format!("car-{i}").into()), Some(vec![b'x'; 200]))));
    assert_eq!(sent.len(), 1000);
    let ends = kafka.ends(&topic);
    assert_eq!(ends.iter().sum::<i64>(), 1000);
    kafka.stop();
    kafka.restart().await;
    wait_until("the records are back", Duration::from_secs(20), async || (kafka.ends(&topic) == ends).then_some(()))
        .await;
    kafka.grow(&topic, 4).await;
    kafka.delete(&topic).await;
}

#[tokio::test]
async fn minio_refuses_a_second_creation_and_survives_a_kill() {
    let minio = Minio::start().await;
    minio.bucket("rig-minio");
    let store = minio.store("rig-minio");
    let path = Path::from("a/b c");
    store.put_opts(&path, "one".into(), if_absent()).await.unwrap();
    let second = store.put_opts(&path, "two".into(), if_absent()).await;
    assert!(matches!(second, Err(object_store::Error::AlreadyExists { .. })), "{second:?}");
    minio.stop();
    minio.restart().await;
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
}

#[tokio::test]
async fn the_proxy_forwards_signed_requests_unchanged() {
    let minio = Minio::shared().await;
    minio.bucket("rig-forward");
    let proxy = Proxy::before(minio);
    let client = store(&proxy.endpoint(), "rig-forward");
    let large = vec![7u8; 3 << 20];
    let path = Path::from("part=a b/ü%.bin");
    client.put(&path, large.clone().into()).await.unwrap();
    assert_eq!(client.get(&path).await.unwrap().bytes().await.unwrap(), large);
    assert_eq!(client.head(&path).await.unwrap().size, large.len() as u64);
    assert_eq!(client.list_with_delimiter(None).await.unwrap().common_prefixes, [Path::from("part=a b")]);
    client.delete(&path).await.unwrap();
    assert!(matches!(client.get(&path).await, Err(object_store::Error::NotFound { .. })));
    assert!(proxy.requests() >= 6);
}

#[tokio::test]
async fn a_lost_answer_makes_the_client_take_its_own_commit_for_a_rivals() {
    let minio = Minio::shared().await;
    minio.bucket("rig-lose");
    let proxy = Proxy::before(minio);
    let lost = proxy.add(Rule::on_commit(Fault::LoseAnswer).times(1));
    let client = store(&proxy.endpoint(), "rig-lose");
    let path = Path::from("t/_delta_log/00000000000000000000.json");
    let put = client.put_opts(&path, "mine".into(), if_absent()).await;
    assert!(matches!(put, Err(object_store::Error::AlreadyExists { .. })), "{put:?}");
    assert_eq!(proxy.hits(lost), 1);
    assert_eq!(minio.store("rig-lose").get(&path).await.unwrap().bytes().await.unwrap(), "mine");
    // A rival that is refused is told so, and that is no hit.
    let refused = proxy.add(Rule::on_commit(Fault::LoseAnswer));
    let rival = client.put_opts(&path, "rival".into(), if_absent()).await;
    assert!(matches!(rival, Err(object_store::Error::AlreadyExists { .. })), "{rival:?}");
    assert_eq!(proxy.hits(refused), 0);
    proxy.remove(refused);
    // Other requests, and later ones, are not hit.
    client.put(&Path::from("t/part-0.parquet"), "rows".into()).await.unwrap();
    let next = Path::from("t/_delta_log/00000000000000000001.json");
    client.put_opts(&next, "next".into(), if_absent()).await.unwrap();
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let minio = Minio::shared().await;
    minio.bucket("rig-faults");
    let proxy = Proxy::before(minio);
    let direct = minio.store("rig-faults");
    let client = store(&proxy.endpoint(), "rig-faults");

    let before = proxy.add(Rule::new(Fault::Error503Before).method("PUT").path("/before").times(2));
    client.put(&Path::from("before"), "x".into()).await.unwrap();
    assert_eq!(proxy.hits(before), 2);

    // Had the server seen the first, the client's second try would find the object there.
    let lost = proxy.add(Rule::new(Fault::LoseRequest).path("/lost").times(1));
    client.put_opts(&Path::from("lost"), "x".into(), if_absent()).await.unwrap();
    assert_eq!(proxy.hits(lost), 1);

    proxy.add(Rule::new(Fault::Error503After).header("if-none-match").path("/after").times(1));
    let after = client.put_opts(&Path::from("after"), "x".into(), if_absent()).await;
    assert!(matches!(after, Err(object_store::Error::AlreadyExists { .. })), "{after:?}");
    direct.head(&Path::from("after")).await.unwrap();

    proxy.add(Rule::new(Fault::IgnoreCondition).header("if-none-match").path("/ignored"));
    let ignored = Path::from("deep/ignored object");
    for content in ["one", "two"] {
        client.put_opts(&ignored, content.into(), if_absent()).await.unwrap();
    }
    assert_eq!(direct.get(&ignored).await.unwrap().bytes().await.unwrap(), "two");

    proxy.add(Rule::new(Fault::Delay(Duration::from_millis(300))).path("/slow").skip(1));
    client.put(&Path::from("slow"), "x".into()).await.unwrap();
    let began = Instant::now();
    client.head(&Path::from("slow")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));

    let hang = proxy.add(Rule::new(Fault::Hang).path("/hang"));
    let path = Path::from("hang");
    let hanging = tokio::time::timeout(Duration::from_millis(500), client.put(&path, "x".into())).await;
    assert!(hanging.is_err(), "{hanging:?}");
    proxy.remove(hang);
    client.put(&path, "x".into()).await.unwrap();
}

#[tokio::test]
async fn the_ledger_finds_lost_doubled_foreign_and_changed_rows() {
    let minio = Minio::shared().await;
    minio.bucket("rig-ledger");
    let mut env = crate::rig::credentials().to_vec();
    env.push(("AWS_ENDPOINT_URL", minio.endpoint()));
    let local = crate::rig::folder("rig-ledger");
    for place in ["s3://rig-ledger/t", local.join("t").to_str().unwrap()] {
        let output = python::run("ledger_test.py", &[place], &env).await;
        assert_eq!(output.code, Some(0), "{place}\n{}{}", output.stdout, output.stderr);
    }
    let rows = python::duckdb("s3://rig-ledger/t/exact", "SELECT count(*) AS n FROM t", &env).await.unwrap();
    assert_eq!(rows[0]["n"], 5);
}

#[tokio::test]
async fn adbc_says_why_it_cannot_connect() {
    let uri = format!("grpc://127.0.0.1:{}", crate::rig::free_port());
    let error = python::adbc(&uri, "SELECT 1").await.unwrap_err();
    assert!(error.contains("connection refused") || error.contains("Unavailable"), "{error}");
}
