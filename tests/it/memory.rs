//! A store that is away: the consumer pauses, memory stays bounded, everything goes on by itself.

use std::time::{Duration, Instant};

use crate::rig::{Kafka, Lake, Ledger, Millpond, Minio, Project, wait_until};
use crate::sql::Client;

const LIMIT_MIB: u64 = 256;
/// What the executable's own pages may take of that. The dev executable has more of them than a release, which the kernel can
/// drop whenever it wants to: those are not counted.
const CODE_KIB: u64 = 90 * 1024;
const BACK: Duration = Duration::from_secs(120);

/// About a kilobyte: a car's full report.
fn report(i: usize) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let values: Vec<String> =
        (0..40).map(|sensor| format!(r#""sensor_{sensor}":{}.25"#, (i * 31 + sensor) % 9973)).collect();
    let payload = format!(
        r#"{{"car":"car-{}","n":{i},"note":"{:0>200}","vehicle":{{{}}}}}"#,
        i % 500,
        i * 7_919,
        values.join(",")
    );
    (Some(format!("car-{}", i % 500).into_bytes()), Some(payload.into_bytes()))
}

/// What the kernel says of a process's memory, in KiB.
#[derive(Debug, Clone, Copy, Default)]
struct Resident {
    now: u64,
    peak: u64,
    anonymous: u64,
    file: u64,
}

impl Resident {
    fn of(millpond: &Millpond) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{}/status", millpond.process().id())).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
        };
        Self { now: value("VmRSS"), peak: value("VmHWM"), anonymous: value("RssAnon"), file: value("RssFile") }
    }
}

/// How the store goes away.
#[derive(Debug, Clone, Copy)]
enum Away {
    /// Connections stay open and nothing answers.
    Frozen,
    /// Connections are refused.
    Dead,
}

/// Seen while the store was away.
#[derive(Debug, Default)]
struct Seen {
    before: Resident,
    largest: u64,
    answers: usize,
    ingest_used: i64,
    /// Everything is committed again.
    caught_up: Resident,
    /// A statement has read all of it.
    after: Resident,
}

/// A topic that is fuller than what may be held, and a store that goes `away` for `time` as reading begins.
async fn stopped_store(away: Away, records: usize, time: Duration) -> Seen {
    let (kafka, minio) = (Kafka::shared().await, Minio::start().await);
    let (topic, quiet) = (kafka.topic("flood", 4).await, kafka.topic("quiet", 1).await);
    let project = Project::new(kafka.brokers(), Lake::on(&minio, "flood"))
        .commit_interval("1s")
        .toml(&format!("[limits]\nmemory = \"{LIMIT_MIB}MiB\""))
        .events("flood", &topic, "key = [\"car\"]")
        .events("quiet", &quiet, "key = [\"car\"]\ncommit_interval = \"1h\"");
    let millpond = Millpond::serve(&project).await;
    let client = Client::connect(&project.flight_sql()).await;
    // Rows that stay hot: a table that can be asked though the store is away.
    kafka.send(&quiet, (0..1_000).map(report));
    // Asked over HTTP while waiting: a statement's ticket pins what it planned for a minute, which is not measured here.
    let metric = async |name: &str, table: &str| millpond.metric(name, &[table]).await.unwrap_or(0.0) as usize;
    let hot = "SELECT count(*), count(DISTINCT n) FROM quiet";
    wait_until("the quiet table has rows", BACK, async || {
        (metric("millpond_ingest_rows_total", "\"quiet\"").await == 1_000).then_some(())
    })
    .await;
    let mut seen = Seen { before: Resident::of(&millpond), ..Seen::default() };

    match away {
        Away::Frozen => minio.pause(),
        Away::Dead => minio.stop(),
    }
    let mut ledger = Ledger::default().key_column("car");
    let mut left = records;
    while left > 0 {
        let part = left.min(50_000);
        let name = topic.clone();
        let sent = tokio::task::spawn_blocking(move || {
            let kafka = futures::executor::block_on(Kafka::shared());
            // Payloads are not compared: the ledger must not hold them.
            let sent = kafka.send(&name, (left - part..left).map(report));
            sent.into_iter().map(|sent| crate::rig::Sent { payload: None, ..sent }).collect::<Vec<_>>()
        });
        ledger.add(sent.await.unwrap());
        left -= part;
        seen.largest = seen.largest.max(Resident::of(&millpond).now);
    }
    let full = async || {
        metric("millpond_memory_ingest_used_bytes", "").await >= metric("millpond_memory_ingest_limit_bytes", "").await
    };
    wait_until("the consumer pauses", BACK, async || full().await.then_some(())).await;
    let until = Instant::now() + time;
    while Instant::now() < until {
        let round = Instant::now() + Duration::from_secs(1);
        // All of these must answer now, not when the store is back.
        let answers = async {
            assert_eq!(millpond.get("/healthz").await.map(|(status, _)| status), Some(200));
            assert_eq!(client.numbers(hot).await.unwrap(), [[1_000, 1_000]]);
            let memory = "SELECT used_bytes FROM system.memory WHERE part = 'ingest'";
            seen.ingest_used = seen.ingest_used.max(client.numbers(memory).await.unwrap()[0][0]);
            assert!(full().await, "reading goes on though the store is away");
        };
        tokio::time::timeout(Duration::from_secs(10), answers).await.expect("no answer while the store is away");
        seen.answers += 1;
        seen.largest = seen.largest.max(Resident::of(&millpond).now);
        wait_until("a second has passed", BACK, async || (Instant::now() >= round).then_some(())).await;
    }

    match away {
        Away::Frozen => minio.resume(),
        Away::Dead => minio.restart().await,
    }
    wait_until("everything is read and committed", BACK, async || {
        let read = metric("millpond_ingest_rows_total", "\"flood\"").await == records;
        (read && metric("millpond_lake_hot_rows", "\"flood\"").await == 0).then_some(())
    })
    .await;
    seen.caught_up = Resident::of(&millpond);
    assert_eq!(client.numbers("SELECT count(*), count(DISTINCT n) FROM flood").await.unwrap(), [[records as i64; 2]]);
    seen.after = Resident::of(&millpond);
    println!("store {away:?} for {time:?}, {records} records: {seen:#?}");
    assert_eq!(millpond.stop().await, Some(0));
    ledger.assert_exact(&project.table_url("flood"), Some(&minio)).await;
    // The whole process, the 90 MiB of the dev executable's own pages included.
    let limit = LIMIT_MIB * 1024;
    assert!(seen.largest < limit, "{} KiB while the store was away; {LIMIT_MIB} MiB are allowed", seen.largest);
    // While the backlog is written the allocator keeps more of what was freed than at other times: on a machine that
    // does ten other things, 3 % above the limit were seen.
    let code = seen.after.file.saturating_sub(CODE_KIB);
    let peak = seen.after.peak - code;
    assert!(peak < limit * 9 / 8, "{peak} KiB at most, and {code} of code; {LIMIT_MIB} MiB are allowed");
    let share = (LIMIT_MIB << 20) as i64 / 4;
    assert!(seen.ingest_used < share, "ingest says it held {} bytes", seen.ingest_used);
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn invariant_8_a_stopped_store_pauses_the_consumer_and_memory_stays_bounded() {
    stopped_store(Away::Frozen, 200_000, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn invariant_8_a_dead_store_pauses_the_consumer_and_memory_stays_bounded() {
    stopped_store(Away::Dead, 200_000, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "a minute each of a frozen and of a dead store; make test-all and make bench run it"]
async fn bench_memory_while_the_store_is_away_for_a_minute() {
    for away in [Away::Frozen, Away::Dead] {
        let seen = stopped_store(away, 300_000, Duration::from_secs(60)).await;
        let mib = |kib: u64| kib / 1024;
        println!(
            "store {away:?} for 60 s, limit {LIMIT_MIB} MiB: RSS before {} MiB, most while away {} MiB, after {} MiB \
             (anonymous {}, file {}), peak of the process {} MiB (before the last statement {}); ingest held {} MiB; {} rounds of questions answered",
            mib(seen.before.now),
            mib(seen.largest),
            mib(seen.after.now),
            mib(seen.after.anonymous),
            mib(seen.after.file),
            mib(seen.after.peak),
            mib(seen.caught_up.peak),
            seen.ingest_used >> 20,
            seen.answers,
        );
    }
}
