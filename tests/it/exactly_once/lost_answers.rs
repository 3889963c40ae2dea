//! A commit that landed and whose answer was lost, and its sisters.

use std::time::{Duration, Instant};

use super::traffic::Traffic;
use super::{TABLE, assert_exact, project, versions};
use crate::rig::{Fault, Kafka, Lake, Millpond, Minio, Proxy, Rule};

/// Records given out at each look: some hundred a second.
const SHARE: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_landed_but_whose_answer_was_lost_doubles_nothing() {
    drill("lost-dose", 10, Duration::from_secs(120)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "some minutes: 200 lost answers; make test-all runs it"]
async fn two_hundred_lost_answers_double_nothing() {
    drill("lost-full", 200, Duration::from_secs(1_800)).await;
}

/// Loses `lost` answers of commits that landed, in both ways, and half as many commits on their way there.
async fn drill(name: &str, lost: u64, within: Duration) {
    let (kafka, minio) = tokio::join!(Kafka::shared(), Minio::shared());
    let topic = kafka.topic(name, 3).await;
    let proxy = Proxy::before(minio);
    let project = project(kafka, Lake::through(&proxy, minio, name), &topic).commit_interval("100ms");
    // The creation of the tables and changes of their schema are commits, too: the rules are there before them.
    let rules = [
        (Fault::LoseAnswer, lost / 2),
        (Fault::Error503After, lost - lost / 2),
        (Fault::LoseRequest, lost / 4),
        (Fault::Error503Before, lost / 4),
    ]
    .map(|(fault, times)| (fault, times, proxy.add(Rule::on_commit(fault).chance(0.3).times(times))));
    let began = Instant::now();
    let millpond = Millpond::serve(&project).await;
    let traffic = Traffic::to(kafka, &topic);
    traffic.share(1_200);
    crate::rig::wait_until("all faults were done", within, async || {
        traffic.share(SHARE);
        rules.iter().all(|(_, times, rule)| proxy.hits(*rule) == *times).then_some(())
    })
    .await;
    let forced = began.elapsed();
    let books = traffic.finish().await;
    // With nothing in the way the rest must go in, and the same process must still be alive.
    proxy.clear();
    assert_exact(millpond, kafka, minio, &topic, &books).await;
    for (fault, times, rule) in &rules {
        assert_eq!(proxy.hits(*rule), *times, "{fault:?}");
    }
    println!(
        "{name}: {lost} commits landed without an answer and {} never arrived (forced in {:.0} s), {} table versions, \
         {} rows, {} dead letters: 0 lost, 0 doubled",
        lost / 4 * 2,
        forced.as_secs_f64(),
        versions(minio, name, TABLE).await,
        books.rows.len(),
        books.dead.len()
    );
}
