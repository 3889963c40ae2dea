//! Invariant 1 at full size: two million records, sixty kills at random moments and one at every fail point, while files are
//! merged, the table is put together anew and goes back in time.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::traffic::Traffic;
use super::{COLUMNS, TABLE, assert_exact, care, kills, random, versions};
use crate::rig::{Kafka, Lake, Millpond, Minio, Project};
use crate::{care as of_care, replay};

const NAME: &str = "full-size";
const RECORDS: u64 = 2_000_000;
const KILLS: usize = 60;
const LIFE: Duration = Duration::from_secs(6);
const DEATH: Duration = Duration::from_secs(300);

/// What is asked of the server again and again while a life lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Merge,
    Replay,
    Rewind,
}

/// How a life ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Kill,
    Point(&'static str, u32),
}

impl Beside {
    async fn ask(self, project: &Project) {
        let server = project.flight_sql();
        let said = match self {
            Self::Nothing => std::future::pending().await,
            Self::Merge => project.run(&["table", "optimize", TABLE, "--url", &server]).await,
            Self::Replay => project.run(&["ingest", "replay", TABLE, "--from", "raw", "--url", &server]).await,
            Self::Rewind => {
                let newest =
                    format!("SELECT max(table_version) - 3 AS v FROM system.history WHERE table_name = '{TABLE}'");
                let found = project.run(&["sql", "--url", &server, "--format", "csv", "-c", &newest]).await;
                let version = found.stdout.lines().nth(1).unwrap_or_default().to_owned();
                project.run(&["table", "restore", TABLE, "--version", &version, "--rewind", "--url", &server]).await
            }
        };
        drop(said);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half an hour: make bench runs it"]
async fn bench_exactly_once_at_full_size() {
    let mut random = random(NAME);
    let (kafka, minio) = tokio::join!(Kafka::shared(), Minio::shared());
    let topic = kafka.topic(NAME, 4).await;
    let columns = format!("raw = true\n{COLUMNS}");
    let project =
        Project::new(kafka.brokers(), Lake::on(minio, NAME)).events(TABLE, &topic, &columns).commit_interval("300ms");
    let ways = [Beside::Nothing, Beside::Merge, Beside::Replay, Beside::Rewind];
    let mut lives: Vec<(End, Beside)> = (0..KILLS).map(|_| (End::Kill, *ways.choose(&mut random).unwrap())).collect();
    let at = |points: &'static [(&'static str, u32)], beside| {
        points.iter().map(move |(point, nth)| (End::Point(point, *nth), beside))
    };
    lives.extend(at(&kills::POINTS, Beside::Nothing));
    lives.extend(at(&care::POINTS, Beside::Merge));
    lives.extend(replay::POINTS.map(|point| (End::Point(point, 1), Beside::Replay)));
    lives.extend(
        of_care::POINTS
            .iter()
            .filter(|point| point.starts_with("restore"))
            .map(|point| (End::Point(point, 1), Beside::Rewind)),
    );
    lives.shuffle(&mut random);
    let traffic = Traffic::to(kafka, &topic);
    let share = RECORDS / (lives.len() as u64 + 1);
    let (began, mut before, mut with_commits) = (Instant::now(), 0, 0);
    for (life, (end, beside)) in lives.iter().enumerate() {
        traffic.share(share);
        let asking = async {
            loop {
                beside.ask(&project).await;
            }
        };
        match end {
            End::Kill => {
                let millpond = Millpond::start(&project);
                let moment = LIFE.mul_f64(random.random());
                tokio::select! {
                    early = tokio::time::timeout(moment, millpond.process().exited(DEATH)) => {
                        assert!(early.is_err(), "life {life} ended by itself: {early:?}");
                    }
                    () = asking => unreachable!("it goes on"),
                }
                millpond.kill();
            }
            End::Point(point, nth) => {
                let millpond = Millpond::start(&project.clone().failpoint(point, *nth));
                let code = tokio::select! {
                    (code, _) = millpond.ended(DEATH) => code,
                    () = asking => unreachable!("it goes on"),
                };
                assert_eq!(code, None, "life {life} is ended by a signal at {point}:{nth}");
            }
        }
        let after = versions(minio, NAME, TABLE).await;
        println!("{NAME}: life {life} beside {beside:?} ended by {end:?} after {} commits", after - before);
        with_commits += usize::from(after > before);
        before = after;
    }
    traffic.share(RECORDS - share * lives.len() as u64);
    let millpond = Millpond::serve(&project).await;
    let books = traffic.finish().await;
    assert_exact(millpond, kafka, minio, &topic, &books).await;
    println!(
        "| {} | {KILLS} | {} | {with_commits} of {} | {} | {} | 0 | 0 | {:.0} s |",
        RECORDS,
        lives.len() - KILLS,
        lives.len(),
        books.rows.len(),
        books.dead.len(),
        began.elapsed().as_secs_f64()
    );
}
