//! What a bid costs: Nexmark's queries over bids that wait in Kafka, in Millpond and in Flink.

use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};

use crate::alerts_bench::cpu_seconds;
use crate::nexmark::{PAUSE, bid, project, read};
use crate::rig::python::Output;
use crate::rig::{Kafka, Millpond, component, wait_until};

const PATIENCE: Duration = Duration::from_secs(300);
/// What starting costs is the same for both: the difference is what bids cost.
const BIDS: [i64; 2] = [200_000, 1_200_000];

/// What one run took.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of ten minutes; needs Flink; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_nexmark_beside_flink() {
    let queries = std::env::var("QUERIES").unwrap_or_else(|_| "q0,q2,q22,q5,q7,q11".to_owned());
    let kafka = Kafka::start().await;
    let mut topics = Vec::new();
    for count in BIDS {
        let topic = kafka.topic("bids", 2).await;
        let begin = Utc::now() - PAUSE * count as i32 - TimeDelta::minutes(1);
        let record = |number: i64| {
            let at = begin + PAUSE * number as i32;
            let (key, payload) = (number.to_string().into_bytes(), bid(number, begin).to_string().into_bytes());
            (Some(at.timestamp_millis()), (Some(key), Some(payload)))
        };
        let sender = kafka.sender();
        for first in (0..count).step_by(50_000) {
            sender.send_at(&topic, (first..first + 50_000).map(record));
        }
        topics.push(topic);
    }
    let bytes = bid(1, Utc::now()).to_string().len();
    println!("{} bids of {bytes} bytes, after {}", BIDS[1] - BIDS[0], BIDS[0]);
    for query in queries.split(',') {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (topic, count) in topics.iter().zip(BIDS) {
            ours.push(run(&kafka, topic, query, count).await);
            theirs.push(run_flink(&kafka, topic, query).await);
        }
        println!("  {query:<4} Millpond: {}; Flink: {}", costs(&ours), costs(&theirs));
    }
}

fn costs(took: &[Took]) -> String {
    let (bids, few, all) = ((BIDS[1] - BIDS[0]) as f64, took[0], took[1]);
    let (wall, cpu) = (all.wall - few.wall, all.cpu - few.cpu);
    format!("{:.0} bids/s, {:.0} a second of processor time", bids / wall, bids / cpu)
}

async fn run(kafka: &Kafka, topic: &str, query: &str, count: i64) -> Took {
    let project = project(kafka, topic, &[query]).commit_interval("5s");
    let began = Instant::now();
    let millpond = Millpond::serve(&project).await;
    let rows = format!("SELECT \"rows\" FROM system.queries WHERE query_name = '{query}'");
    wait_until("all bids are looked at", PATIENCE, async || {
        (millpond.number(&rows).await == Some(count)).then_some(())
    })
    .await;
    let took = Took { wall: began.elapsed().as_secs_f64(), cpu: cpu_seconds(millpond.process().id()) };
    assert_eq!(millpond.stop().await, Some(0));
    took
}

async fn run_flink(kafka: &Kafka, topic: &str, query: &str) -> Took {
    let bids = format!(
        "CREATE TABLE bid (
            auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, extra STRING,
            date_time TIMESTAMP_LTZ(3), WATERMARK FOR date_time AS date_time - INTERVAL '2' SECOND) WITH (
            'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{}',
            'properties.group.id' = 'flink', 'scan.startup.mode' = 'earliest-offset',
            'scan.bounded.mode' = 'latest-offset', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');\n",
        kafka.brokers()
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("query.sql");
    std::fs::write(&file, bids + &read(&format!("flink/{query}.sql"))).unwrap();
    let flink = component(&["flink", file.to_str().unwrap(), "pipeline.object-reuse=true"]);
    let mut command = Command::new("bash");
    command.args(["-c", "TIMEFORMAT='%R %U %S'; time \"$@\"", "bash"]).arg(flink.get_program()).args(flink.get_args());
    let output = Output::of(command).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let times: Vec<f64> =
        output.stderr.lines().last().unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
    Took { wall: times[0], cpu: times[1] + times[2] }
}
