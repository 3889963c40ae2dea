//! A Kafka broker inside the process: librdkafka's mock cluster on random loopback ports.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::mocking::MockCluster;

use crate::error::{Error, Kind, Result};

/// An embedded broker; it stops, and forgets everything, on drop. It speaks the real protocol, without
/// authentication and without the admin API, and keeps the newest 5 MiB of each partition only.
#[derive(Debug)]
pub struct Broker {
    brokers: String,
    asks: mpsc::SyncSender<Ask>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread that owns the cluster is asked for.
enum Ask {
    /// A topic of so many partitions, unless it is there.
    Topic(String, i32, mpsc::SyncSender<Result<()>>),
    /// The end.
    Stop,
}

impl Broker {
    /// Starts a broker that holds `topics`, given as name and partition count.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self> {
        let topics: Vec<_> = topics.iter().map(|&(name, partitions)| (name.to_owned(), partitions)).collect();
        let (started, start) = mpsc::sync_channel(1);
        let (asks, asked) = mpsc::sync_channel(1);
        // The cluster's handle cannot move between threads, so one thread owns it from birth to death.
        let thread = thread::Builder::new()
            .name("demo-broker".to_owned())
            .spawn(move || match cluster(&topics) {
                Ok(cluster) => {
                    let _ = started.send(Ok(cluster.bootstrap_servers()));
                    while let Ok(Ask::Topic(name, partitions, answer)) = asked.recv() {
                        let made = match cluster.create_topic(&name, partitions, 1) {
                            Err(error) if error.rdkafka_error_code() != Some(RDKafkaErrorCode::TopicAlreadyExists) => {
                                Err(no_topic(&name).because(error))
                            }
                            _ => Ok(()),
                        };
                        let _ = answer.send(made);
                    }
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })
            .map_err(|error| failed().because(error))?;
        match start.recv() {
            Ok(Ok(brokers)) => Ok(Self { brokers, asks, thread: Some(thread) }),
            Ok(Err(error)) => Err(failed().because(error)),
            Err(error) => Err(failed().because(error)),
        }
    }

    /// Addresses for `bootstrap.servers`.
    pub fn brokers(&self) -> String {
        self.brokers.clone()
    }

    /// Makes topics of so many partitions, unless they are there, for as long as the broker lives.
    pub fn topic_maker(&self, partitions: i32) -> impl Fn(&str) -> Result<()> + Send + Sync + 'static {
        let asks = self.asks.clone();
        move |name| {
            let (answer, answered) = mpsc::sync_channel(1);
            let asked = asks.send(Ask::Topic(name.to_owned(), partitions, answer));
            asked.map_err(|_| no_topic(name))?;
            answered.recv().unwrap_or_else(|_| Err(no_topic(name)))
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Somebody may still hold a topic maker: the channel does not close by itself.
        let _ = self.asks.send(Ask::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the embedded broker's thread panicked");
        }
    }
}

fn cluster(
    topics: &[(String, i32)],
) -> rdkafka::error::KafkaResult<MockCluster<'static, rdkafka::producer::DefaultProducerContext>> {
    let cluster = MockCluster::new(1)?;
    for (name, partitions) in topics {
        cluster.create_topic(name, *partitions, 1)?;
    }
    Ok(cluster)
}

fn no_topic(name: &str) -> Error {
    Error::new(Kind::Unavailable, format!("the embedded broker cannot make the topic \"{name}\""))
}

fn failed() -> Error {
    Error::new(Kind::Internal, "the embedded broker did not start")
}
