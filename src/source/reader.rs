//! A reader: one topic, two threads, many consumers.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::Kafka;
use super::control::Control;
use super::fanout::{Consumer, Fanout};
use super::status::{Board, ReaderStatus};
use crate::error::{Error, Kind, Result};
use crate::task::{Budget, Shutdown};

/// Reads one topic for many consumers until it is told to stop. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Reader {
    status: watch::Receiver<ReaderStatus>,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts to read `topic` at the lowest position of its consumers. Broker and topic need not be there yet.
    ///
    /// `incarnation` is handed on with every batch. Each delivery is charged to `budget`, which may be shared
    /// with other readers; while it is full nothing is read. The reader stops with `shutdown`.
    pub fn start(
        kafka: &Kafka,
        topic: &str,
        incarnation: u32,
        consumers: Vec<Consumer>,
        budget: Budget,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let topic: Arc<str> = topic.into();
        let board = Arc::new(Board::new(topic.clone()));
        let status = board.subscribe();
        let shutdown = shutdown.child_token();
        let control = Control {
            kafka: kafka.clone(),
            topic: topic.clone(),
            incarnation,
            fanout: Fanout::new(consumers),
            budget,
            board,
            shutdown: shutdown.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("kafka {topic}"))
            .spawn(move || control.run())
            .map_err(|e| Error::new(Kind::Exhausted, "cannot start a thread for a topic").because(e))?;
        Ok(Self { status, shutdown, thread: Some(thread) })
    }

    /// What the reader is doing now.
    pub fn status(&self) -> ReaderStatus {
        self.status.borrow().clone()
    }

    /// A handle to wait for changes of the status.
    pub fn watch(&self) -> watch::Receiver<ReaderStatus> {
        self.status.clone()
    }

    /// Tells the reader to stop; its consumers' channels close within a second.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits until the reader's threads have ended. Blocks: call it off the async runtime.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
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
