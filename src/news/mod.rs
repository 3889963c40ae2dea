//! What the platform tells people about itself: a schema change, dead letters, a topic, the lake or a sink that stalls.
//!
//! ```text
//! tell(event) ─▶ desk ─ grouped per kind and table, one message a minute at most ─▶ words ─▶ log line
//!                                                                                      ├──▶ system.news
//!                                                                                      └──▶ route ([[notify]]) ─▶ deliver
//! ```
//!
//! [`News::tell`] never waits: it may be called from the middle of ingest, for every batch. A message goes out well
//! within a second of the first event; what follows is folded into the next one and counted, so that a topic of garbage
//! floods neither an inbox nor the memory.
//!
//! It knows no protocol: that is `deliver`'s business. It notices nothing by itself: whoever sees a fact tells it.

mod desk;
mod event;
mod route;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{error, info};

pub use self::event::{Change, DeadLetters, Event, EventKind, RecordAt, SchemaChange, Trouble, TroubleWith};
pub use self::route::{Rule, matches};

use self::desk::{Desk, Told};
use crate::deliver::{Message, Sinks};
use crate::task::{self, Shutdown};

/// Messages kept for `system.news`.
const KEPT: usize = 1_000;

/// The news of a running project. Cheap to clone; the default tells nobody.
#[derive(Clone, Default)]
pub struct News(Arc<Inner>);

#[derive(Default)]
struct Inner {
    rules: Vec<Rule>,
    sinks: Sinks,
    desk: Mutex<Desk>,
    more: Notify,
    kept: Mutex<VecDeque<Message>>,
    teller: Mutex<Option<JoinHandle<()>>>,
    stop: Shutdown,
}

impl News {
    /// Starts telling `sinks` by `rules`.
    pub fn start(rules: Vec<Rule>, sinks: Sinks) -> Self {
        let news = Self(Arc::new(Inner { rules, sinks, ..Inner::default() }));
        let teller = task::spawn("news", news.clone().run());
        *news.0.teller.lock() = Some(teller);
        news
    }

    /// Takes an event in, to be told soon. Returns at once.
    pub fn tell(&self, event: Event) {
        self.0.desk.lock().tell(event, Instant::now(), Utc::now());
        self.0.more.notify_one();
    }

    /// The newest messages, oldest first.
    pub fn recent(&self) -> Vec<Message> {
        self.0.kept.lock().iter().cloned().collect()
    }

    /// Tells what is still to be told, and ends.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        let teller = self.0.teller.lock().take();
        if let Some(teller) = teller
            && let Err(error) = teller.await
        {
            error!(error = %error, "the news task failed");
        }
    }

    async fn run(self) {
        let Inner { desk, more, stop, .. } = &*self.0;
        loop {
            let due = desk.lock().next_due();
            tokio::select! {
                () = more.notified() => continue,
                () = until(due) => {}
                () = stop.cancelled() => break,
            }
            let told = desk.lock().take_due(Instant::now());
            told.iter().for_each(|told| self.publish(told));
        }
        let rest = desk.lock().take_all(Instant::now());
        rest.iter().for_each(|told| self.publish(told));
    }

    fn publish(&self, told: &Told) {
        let message = words::message(told);
        let event = told.event.kind().word();
        let text = message.payload.get("message").and_then(|text| text.as_str()).unwrap_or_default();
        // A warning is the business of whoever noticed it.
        info!(event, text, "news");
        for sink in route::sinks(&self.0.rules, &told.event) {
            self.0.sinks.send(sink, message.clone());
        }
        let mut kept = self.0.kept.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(message);
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(reason: &str) -> Event {
        let (with, since) = (TroubleWith::Lake, Utc::now());
        Event::Trouble(Trouble { with, tables: Vec::new(), reason: reason.into(), since, over: false })
    }

    #[tokio::test]
    async fn what_is_told_can_be_read_and_a_stop_tells_the_rest() {
        let news = News::start(Vec::new(), Sinks::default());
        news.tell(trouble("first"));
        let read = async {
            while news.recent().is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), read).await.unwrap();
        news.tell(trouble("second, within the quiet minute"));
        news.stop().await;
        let told: Vec<_> = news.recent().iter().map(|message| message.payload["message"].clone()).collect();
        assert_eq!(told, ["the lake takes no rows: first", "the lake takes no rows: second, within the quiet minute"]);
    }
}
