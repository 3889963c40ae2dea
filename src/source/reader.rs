//! All that reads one topic: a shared reader of two threads, and one more for each consumer that is far behind,
//! or whose positions are lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::Kafka;
use super::control::Control;
use super::fanout::{Consumer, Fanout};
use super::join::{self, Groups, Junction};
use super::kafka::Watermarks;
use super::pump::Role;
use super::status::{Board, ReaderState, ReaderStatus, TopicStatus};
use crate::error::{Error, Kind, Result};
use crate::task::{Budget, Shutdown};

/// Reads one topic for many consumers until it is told to stop. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Reader {
    shared: watch::Receiver<ReaderStatus>,
    consumers: Vec<String>,
    /// Those who have a reader of their own.
    alone: Vec<(String, watch::Receiver<ReaderStatus>)>,
    shutdown: Shutdown,
    threads: Vec<JoinHandle<()>>,
}

impl Reader {
    /// Starts to read `topic` for `consumers` from their positions. Broker and topic need not be there yet.
    ///
    /// A consumer far behind the others holds none of them up: it catches up by itself first. One whose positions are
    /// outside of what the topic's partitions hold (`held`; empty if that is not known) stops, and nobody with it.
    /// `incarnation` is handed on with every batch. Each delivery is charged to `budget`, which may be shared
    /// with other readers; while it is full nothing is read, and catching up takes half of it at most. Reading stops
    /// with `shutdown`.
    pub fn start(
        kafka: &Kafka,
        topic: &str,
        incarnation: u32,
        consumers: Vec<Consumer>,
        held: &BTreeMap<i32, Watermarks>,
        budget: Budget,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let topic: Arc<str> = topic.into();
        let names = consumers.iter().map(|consumer| consumer.name.clone()).collect();
        let Groups { near, behind, lost } = join::group(consumers, held);
        let alone = behind.len() + lost.len();
        let board = Arc::new(Board::new(topic.clone(), None));
        let mut reader = Self {
            shared: board.subscribe(),
            consumers: names,
            alone: Vec::with_capacity(alone),
            shutdown: shutdown.child_token(),
            threads: Vec::with_capacity(1 + alone),
        };
        let half = budget.at_most(budget.limit_bytes() / 2);
        let shared = Control {
            kafka: kafka.clone(),
            readers: 1 + alone,
            role: Role::Shared,
            junction: Arc::new(Junction::new(board.clone())),
            topic,
            incarnation,
            fanout: Fanout::new(near),
            budget,
            board,
            shutdown: reader.shutdown.child_token(),
        };
        let behind = behind.into_iter().map(|consumer| (Role::CatchUp, consumer));
        let lost = lost.into_iter().map(|consumer| (Role::Lost, consumer));
        for (role, consumer) in behind.chain(lost) {
            let board = Board::new(shared.topic.clone(), Some(consumer.name.clone()));
            reader.alone.push((consumer.name.clone(), board.subscribe()));
            reader.run(Control {
                kafka: kafka.clone(),
                role,
                junction: shared.junction.clone(),
                topic: shared.topic.clone(),
                fanout: Fanout::new(vec![consumer]),
                budget: half.clone(),
                board: Arc::new(board),
                shutdown: reader.shutdown.child_token(),
                ..shared
            })?;
        }
        reader.run(shared)?;
        Ok(reader)
    }

    fn run(&mut self, control: Control) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name(format!("kafka {}", control.topic))
            .spawn(move || control.run())
            .map_err(|e| Error::new(Kind::Exhausted, "cannot start a thread for a topic").because(e))?;
        self.threads.push(thread);
        Ok(())
    }

    /// What is being done now.
    pub fn status(&self) -> TopicStatus {
        // A reader of its own that closed has handed its consumer over, or everything ends.
        let alone = |name: &String| {
            let (_, status) = self.alone.iter().find(|(alone, _)| alone == name)?;
            Some(status.borrow().clone()).filter(|status| status.state != ReaderState::Closed)
        };
        let consumers = self.consumers.iter().map(|name| (name.clone(), alone(name))).collect();
        TopicStatus { shared: self.shared.borrow().clone(), consumers }
    }

    /// Tells the reader to stop; its consumers' channels close within a second.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits until the reader's threads have ended. Blocks: call it off the async runtime.
    pub fn join(mut self) {
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported by itself and is in the status.
            drop(thread.join());
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
