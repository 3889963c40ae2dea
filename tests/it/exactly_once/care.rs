//! Files are merged while records come, and merges are killed.

use std::time::{Duration, Instant};

use rand::Rng;

use super::traffic::Traffic;
use super::{TABLE, assert_exact, project, random};
use crate::rig::{Kafka, Lake, Millpond, Minio};

const NAME: &str = "care";
const DEATH: Duration = Duration::from_secs(90);
/// Fail points of a merge, and which hit of it.
pub const POINTS: [(&str, u32); 3] =
    [("compact_after_stage", 1), ("compact_after_commit", 1), ("compact_after_stage", 2)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_rows_are_in_delta_exactly_once_when_merges_are_killed() {
    let mut random = random(NAME);
    let (kafka, minio) = tokio::join!(Kafka::shared(), Minio::shared());
    let topic = kafka.topic(NAME, 3).await;
    let project = project(kafka, Lake::on(minio, NAME), &topic);
    let server = project.flight_sql();
    let optimize = ["table", "optimize", TABLE, "--url", &server];
    let asked = project.clone();
    // Merges again and again, whoever answers.
    let merging = async || {
        loop {
            asked.run(&optimize).await;
        }
    };
    let traffic = Traffic::to(kafka, &topic);
    for (point, nth) in POINTS {
        traffic.share(2_500);
        let millpond = Millpond::start(&project.clone().failpoint(point, nth));
        let code = tokio::select! {
            (code, _) = millpond.ended(DEATH) => code,
            () = merging() => unreachable!("it goes on"),
        };
        assert_eq!(code, None, "ended by a signal at {point}:{nth}");
    }
    for life in 0..3 {
        traffic.share(2_500);
        let millpond = Millpond::serve(&project).await;
        let moment = Duration::from_millis(random.random_range(500..4_000));
        let early = async { tokio::time::timeout(moment, millpond.process().exited(DEATH)).await };
        tokio::select! {
            early = early => assert!(early.is_err(), "life {life} ended by itself: {early:?}"),
            () = merging() => unreachable!("it goes on"),
        }
        millpond.kill();
    }

    // Merges beside commits to the end, and then all that is left.
    traffic.share(6_000);
    let millpond = Millpond::serve(&project).await;
    let books = tokio::select! {
        books = traffic.finish() => books,
        () = merging() => unreachable!("it goes on"),
    };
    super::caught_up(&millpond, TABLE, kafka, &[&topic]).await;
    let began = Instant::now();
    let said = asked.run(&optimize).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    println!("{NAME}: {} in {:.1} s", said.stdout.trim(), began.elapsed().as_secs_f64());
    let files = format!("SELECT count(*) FROM system.files WHERE table_name = '{TABLE}'");
    assert_eq!(millpond.number(&files).await, Some(1), "all rows are of one day");
    let merges = format!("SELECT count(*) FROM system.history WHERE table_name = '{TABLE}' AND operation = 'OPTIMIZE'");
    assert!(millpond.number(&merges).await.unwrap() > 3, "merges landed beside commits");
    assert_exact(millpond, kafka, minio, &topic, &books).await;
}
