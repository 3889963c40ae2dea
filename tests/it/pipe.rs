//! The whole pipe, measured: records that Kafka holds become committed rows in MinIO, beside a client that only reads
//! them. Brokers, store and both readers share the machine.

use std::time::{Duration, Instant};

use millpond::demo::fleet::{Fleet, FleetOptions, TELEMETRY};
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::rig::{Kafka, Lake, Millpond, Minio, Project, wait_until};

const RECORDS: usize = 1_000_000;
const PARTITIONS: i32 = 6;
const ROUNDS: usize = 5;
const SOON: Duration = Duration::from_secs(300);

/// What a process has taken of the processors by now.
fn cpu(process: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    // User and system time, in hundredths of a second.
    let hundredths: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(hundredths * 10)
}

/// Reads all of `topic`, and does nothing with it: wall and processor time.
fn consume(kafka: &Kafka, topic: &str) -> (Duration, Duration) {
    let (began, before) = (Instant::now(), cpu("self"));
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("group.id", "roof")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "32768")
        .create()
        .unwrap();
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&partitions).unwrap();
    let (mut records, mut bytes) = (0, 0);
    while records < RECORDS {
        if let Some(message) = consumer.poll(Duration::from_secs(10)) {
            bytes += message.unwrap().payload().map_or(0, <[u8]>::len);
            records += 1;
        }
    }
    assert!(bytes > records);
    (began.elapsed(), cpu("self") - before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_whole_pipe() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let topic = kafka.topic("pipe", PARTITIONS).await;
    let mut fleet = Fleet::new(FleetOptions { new_firmware_after: u64::MAX, ..FleetOptions::default() });
    let mut now_us = 1_790_000_000_000_000;
    let (mut left, mut bytes) = (RECORDS, 0);
    while left > 0 {
        let part = left.min(50_000);
        let messages = std::iter::repeat_with(|| {
            now_us += 1_000;
            fleet.next_message(now_us)
        });
        let telemetry = messages.filter(|message| message.topic == TELEMETRY).take(part);
        let records: Vec<_> =
            telemetry.map(|message| (Some(message.key.as_bytes().to_vec()), Some(message.payload))).collect();
        bytes += records.iter().map(|(_, payload)| payload.as_ref().map_or(0, Vec::len)).sum::<usize>();
        kafka.send(&topic, records);
        left -= part;
    }
    println!("{RECORDS} records of {} bytes, {PARTITIONS} partitions, {ROUNDS} rounds in turn", bytes / RECORDS);
    let telemetry = include_str!("../../schemas/telemetry.toml").replace(TELEMETRY, &topic);
    let million = |cpu: Duration| cpu.as_secs_f64() * 1e6 / RECORDS as f64;
    let rate = |wall: Duration| RECORDS as f64 / wall.as_secs_f64();
    for round in 0..ROUNDS {
        let (wall, busy) = tokio::task::block_in_place(|| consume(kafka, &topic));
        println!(
            "round {round}: consume only {:.0} records/s, {:.1} CPU seconds per million",
            rate(wall),
            million(busy)
        );
        let bucket = Kafka::name("pipe");
        let project = Project::new(kafka.brokers(), Lake::on(minio, &bucket)).commit_interval("500ms");
        let project = project.toml("[project]\ntimezone = \"Asia/Seoul\"").schema("telemetry", &telemetry);
        let began = Instant::now();
        let millpond = Millpond::serve(&project).await;
        let metric = async |name: &str| millpond.metric(name, &[]).await.unwrap_or(0.0) as usize;
        wait_until("all is committed", SOON, async || {
            let records = metric("millpond_ingest_records_total").await == RECORDS;
            (records && metric("millpond_lake_hot_rows").await == 0).then_some(())
        })
        .await;
        let (wall, busy) = (began.elapsed(), cpu(&millpond.process().id().to_string()));
        let decode = Duration::from_micros(metric("millpond_decode_busy_us_total").await as u64);
        println!(
            "round {round}: Kafka to MinIO {:.0} records/s, {:.1} CPU seconds per million, of which decoding {:.1} \
             ({:.0} %)",
            rate(wall),
            million(busy),
            million(decode),
            100.0 * decode.as_secs_f64() / busy.as_secs_f64()
        );
        assert_eq!(millpond.stop().await, Some(0));
    }
}
