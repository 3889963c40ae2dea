//! A Kafka broker inside the process: librdkafka's mock cluster on random loopback ports.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rdkafka::mocking::MockCluster;

use crate::error::{Error, Kind, Result};

/// An embedded broker; it stops, and forgets everything, on drop. It speaks the real protocol, without
/// authentication and without the admin API, and keeps the newest 5 MiB of each partition only.
#[derive(Debug)]
pub struct Broker {
    brokers: String,
    stop: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts a broker that holds `topics`, given as name and partition count.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self> {
        let topics: Vec<_> = topics.iter().map(|&(name, partitions)| (name.to_owned(), partitions)).collect();
        let (started, start) = mpsc::sync_channel(1);
        let (stop, stopped) = mpsc::sync_channel::<()>(1);
        // The cluster's handle cannot move between threads, so one thread owns it from birth to death.
        let thread = thread::Builder::new()
            .name("demo-broker".to_owned())
            .spawn(move || match cluster(&topics) {
                Ok(cluster) => {
                    let _ = started.send(Ok(cluster.bootstrap_servers()));
                    // Returns when the broker's other half is dropped.
                    let _ = stopped.recv();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })
            .map_err(|error| failed().because(error))?;
        match start.recv() {
            Ok(Ok(brokers)) => Ok(Self { brokers, stop: Some(stop), thread: Some(thread) }),
            Ok(Err(error)) => Err(failed().because(error)),
            Err(error) => Err(failed().because(error)),
        }
    }

    /// Addresses for `bootstrap.servers`.
    pub fn brokers(&self) -> String {
        self.brokers.clone()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.stop.take());
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

fn failed() -> Error {
    Error::new(Kind::Internal, "the embedded broker did not start")
}
