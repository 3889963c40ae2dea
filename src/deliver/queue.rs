//! The messages that wait for one sink: in order, and bounded. Pure: it knows neither sink nor store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::message::{Message, MessageKind};

/// What a message takes besides its text.
const ENTRY_BYTES: usize = 256;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub messages: usize,
    pub bytes: usize,
}

/// Messages by number, oldest first. Numbers are microseconds since 1970, raised where two would be alike: they sort
/// over restarts.
#[derive(Debug)]
pub(super) struct Queue {
    bound: Bound,
    entries: BTreeMap<u64, Entry>,
    /// Numbers of the entries that are news.
    news: BTreeSet<u64>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    message: Arc<Message>,
    since: Instant,
    bytes: usize,
}

/// Messages that were given up because the queue was full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub news: u64,
    pub alerts: u64,
}

impl Queue {
    pub fn new(bound: Bound) -> Self {
        Self { bound, entries: BTreeMap::new(), news: BTreeSet::new(), bytes: 0, next: 0 }
    }

    /// Adds `message` at the end, `since` now; the wall clock is for its number.
    pub fn push(&mut self, message: Message, now_us: u64, since: Instant) -> Dropped {
        let number = self.next.max(now_us);
        self.insert(number, message, since)
    }

    /// Adds a message of an earlier process at its place.
    pub fn insert(&mut self, number: u64, message: Message, since: Instant) -> Dropped {
        let text = serde_json::to_string(&message.payload).map_or(0, |text| text.len());
        let bytes = text + message.id.len() + message.key.len() + ENTRY_BYTES;
        if message.kind == MessageKind::News {
            self.news.insert(number);
        }
        self.next = self.next.max(number + 1);
        self.bytes += bytes;
        if let Some(replaced) = self.entries.insert(number, Entry { message: Arc::new(message), since, bytes }) {
            self.bytes -= replaced.bytes;
        }
        self.shrink()
    }

    /// Gives up the oldest news, then the oldest alerts, until the rest fits.
    fn shrink(&mut self) -> Dropped {
        let mut dropped = Dropped::default();
        while self.entries.len() > self.bound.messages || self.bytes > self.bound.bytes {
            let news = self.news.first().copied();
            let Some(number) = news.or_else(|| self.entries.keys().next().copied()) else { break };
            self.remove(number);
            if news.is_some() {
                dropped.news += 1;
            } else {
                dropped.alerts += 1;
            }
        }
        dropped
    }

    /// Takes a message out, delivered or given up.
    pub fn remove(&mut self, number: u64) {
        if let Some(entry) = self.entries.remove(&number) {
            self.bytes -= entry.bytes;
            self.news.remove(&number);
        }
    }

    /// The oldest messages, at most `most`.
    pub fn first(&self, most: usize) -> Vec<(u64, Arc<Message>)> {
        self.entries.iter().take(most).map(|(number, entry)| (*number, Arc::clone(&entry.message))).collect()
    }

    /// Messages that have waited since `before` or longer.
    pub fn waiting_since(&self, before: Instant) -> impl Iterator<Item = (u64, &Arc<Message>)> {
        let old = self.entries.iter().filter(move |(_, entry)| entry.since <= before);
        old.map(|(number, entry)| (*number, &entry.message))
    }

    pub fn contains(&self, number: u64) -> bool {
        self.entries.contains_key(&number)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message::tests::message;
    use super::*;

    const ROOMY: Bound = Bound { messages: 100, bytes: 1 << 20 };

    fn ids(queue: &Queue) -> Vec<String> {
        queue.first(usize::MAX).into_iter().map(|(_, message)| message.id.clone()).collect()
    }

    #[test]
    fn messages_stay_in_order_though_the_clock_stands_or_goes_back() {
        let mut queue = Queue::new(ROOMY);
        let now = Instant::now();
        for (id, clock) in [("a", 50), ("b", 50), ("c", 10), ("d", 60)] {
            assert_eq!(queue.push(message(id, MessageKind::News), clock, now), Dropped::default());
        }
        queue.insert(7, message("earlier", MessageKind::Alert), now);
        assert_eq!(ids(&queue), ["earlier", "a", "b", "c", "d"]);
        assert_eq!(queue.first(2).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [7, 50]);
        queue.remove(50);
        queue.remove(50);
        assert_eq!((ids(&queue).join(" "), queue.contains(50)), ("earlier b c d".into(), false));
    }

    #[test]
    fn a_full_queue_gives_up_the_oldest_news_and_alerts_only_when_there_is_none() {
        let mut queue = Queue::new(Bound { messages: 3, ..ROOMY });
        let now = Instant::now();
        let mut push = |id: &str, kind| queue.push(message(id, kind), 0, now);
        let (news, alerts) = (Dropped { news: 1, alerts: 0 }, Dropped { news: 0, alerts: 1 });
        push("alert 1", MessageKind::Alert);
        push("news 1", MessageKind::News);
        push("news 2", MessageKind::News);
        assert_eq!(push("alert 2", MessageKind::Alert), news);
        assert_eq!(push("alert 3", MessageKind::Alert), news);
        assert_eq!(push("news 3", MessageKind::News), news, "no alert goes for it");
        assert_eq!(push("alert 4", MessageKind::Alert), alerts);
        assert_eq!(ids(&queue), ["alert 2", "alert 3", "alert 4"]);
    }

    proptest! {
        /// Whatever happens: the bound holds, nothing is unaccounted for, and the bytes are those of what is there.
        #[test]
        fn the_bound_holds_and_every_message_is_accounted_for(
            steps in prop::collection::vec((any::<bool>(), 0usize..400, any::<bool>()), 0..60),
            messages in 1usize..8,
            bytes in 1_000usize..4_000,
        ) {
            let mut queue = Queue::new(Bound { messages, bytes });
            let (mut pushed, mut gone) = (0, 0);
            for (alert, length, take) in steps {
                let kind = if alert { MessageKind::Alert } else { MessageKind::News };
                let mut message = message("m", kind);
                message.payload.insert("text".into(), "x".repeat(length).into());
                let dropped = queue.push(message, 0, Instant::now());
                pushed += 1;
                gone += dropped.news + dropped.alerts;
                if let Some((number, _)) = queue.first(1).pop().filter(|_| take) {
                    queue.remove(number);
                    gone += 1;
                }
                prop_assert!(queue.len() <= messages && queue.bytes() <= bytes);
                prop_assert_eq!(queue.len() as u64 + gone, pushed);
                prop_assert_eq!(queue.len() == 0, queue.bytes() == 0);
                prop_assert_eq!(queue.waiting_since(Instant::now()).count(), queue.len());
            }
        }
    }
}
