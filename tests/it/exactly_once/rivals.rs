//! Two writers on one lake: the claim names them to each other, and the positions keep them apart.

use std::time::Duration;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use super::traffic::Traffic;
use super::{TABLE, assert_exact, caught_up, project, versions};
use crate::rig::{Fault, Kafka, Lake, Millpond, Minio, Proxy, Rule, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Makes the newest claim one of another host, whose processes cannot be looked at from here.
async fn move_claim_elsewhere(minio: &Minio, bucket: &str) {
    let store = minio.store(bucket);
    let claims: Vec<_> = store.list(Some(&Path::from("lake/_millpond/writer"))).try_collect().await.unwrap();
    let newest = claims.into_iter().map(|claim| claim.location).max().unwrap();
    let claim = store.get(&newest).await.unwrap().bytes().await.unwrap();
    let mut claim: Value = serde_json::from_slice(&claim).unwrap();
    claim["host"] = "elsewhere".into();
    store.put(&newest, serde_json::to_vec(&claim).unwrap().into()).await.unwrap();
}

/// A writer stops in the middle of a commit (its host sleeps), is taken for dead and replaced, and wakes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rival_writer_is_noticed() {
    const NAME: &str = "rival";
    let (kafka, minio) = tokio::join!(Kafka::shared(), Minio::shared());
    let topic = kafka.topic(NAME, 2).await;
    let proxy = Proxy::before(minio);
    let project = project(kafka, Lake::through(&proxy, minio, NAME), &topic);
    let traffic = Traffic::to(kafka, &topic);
    traffic.share(2_000);
    let first = Millpond::serve(&project).await;
    wait_until("the first writer commits", SOON, async || (versions(minio, NAME, TABLE).await > 2).then_some(())).await;

    let commit = Rule::on_commit(Fault::Hang).path(format!("/public/{TABLE}/_delta_log/"));
    let hang = proxy.add(commit.times(1));
    traffic.share(1_000);
    wait_until("a commit is under way", SOON, async || (proxy.hits(hang) == 1).then_some(())).await;
    first.process().signal("STOP");
    proxy.remove(hang);

    // On its own host it is seen to be there, asleep or not.
    let (code, log) = Millpond::start(&project.rival()).ended(SOON).await;
    assert_eq!(code, Some(1));
    let name = format!("another Millpond writes to the lake at s3://{NAME}/lake: pid {} on host", first.process().id());
    assert!(log.contains(&name), "`{name}` is not in\n{log}");

    move_claim_elsewhere(minio, NAME).await;
    let second = Millpond::serve(&project.rival()).await;
    traffic.share(1_000);
    caught_up(&second, TABLE, kafka, &[&topic]).await;

    first.process().signal("CONT");
    let (code, log) = first.ended(SOON).await;
    assert_eq!(code, Some(1));
    // Its heartbeat and its commit find out at the same time; the commit knows the table, not the name.
    let name = format!("another Millpond took over the lake: pid {} on host", second.process().id());
    let moved = format!("another writer is at work on table {TABLE}");
    assert!(log.contains(&name) || log.contains(&moved), "neither `{name}` nor `{moved}` is in\n{log}");

    traffic.share(500);
    let books = traffic.finish().await;
    assert_exact(second, kafka, minio, &topic, &books).await;
}

/// A writer is cut off from its claim, but not from its tables: two write at the same time, and nothing but the
/// positions in the commits keeps them apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_at_work_double_nothing() {
    const NAME: &str = "two-writers";
    let (kafka, minio) = tokio::join!(Kafka::shared(), Minio::shared());
    let topic = kafka.topic(NAME, 2).await;
    let proxy = Proxy::before(minio);
    let lake = Lake::through(&proxy, minio, NAME);
    let traffic = Traffic::to(kafka, &topic);
    traffic.share(2_000);
    let first = Millpond::serve(&project(kafka, lake, &topic).commit_interval("100ms")).await;
    wait_until("the first writer commits", SOON, async || (versions(minio, NAME, TABLE).await > 2).then_some(())).await;
    let cut = proxy.add(Rule::new(Fault::Hang).path("_millpond"));
    move_claim_elsewhere(minio, NAME).await;

    let straight = Lake::S3 { endpoint: minio.endpoint(), bucket: NAME.to_owned() };
    // Windows that end at the same offsets would be each writer's own, whoever wrote them: no reason to give up.
    let second = Millpond::start(&project(kafka, straight, &topic).commit_interval("730ms"));
    let ended = wait_until("one of the two gives up", SOON, async || {
        traffic.share(10);
        [&first, &second].into_iter().find(|one| one.process().status().is_some())
    })
    .await;
    assert!(proxy.hits(cut) > 0, "the first writer was not cut off from its claim");
    assert_eq!(ended.process().status().and_then(|status| status.code()), Some(1));
    let log = ended.process().log();
    assert!(log.contains(&format!("another writer is at work on table {TABLE}")), "{log}");
    first.kill();
    second.kill();

    proxy.clear();
    let books = traffic.finish().await;
    let lake = Lake::S3 { endpoint: minio.endpoint(), bucket: NAME.to_owned() };
    let third = Millpond::serve(&project(kafka, lake, &topic)).await;
    assert_exact(third, kafka, minio, &topic, &books).await;
}
