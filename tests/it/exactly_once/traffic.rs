//! Records on their way to a topic, sent by a thread of its own, and the books of them.
//!
//! A test gives out shares; the thread sends them in small batches, so that records arrive all the time. Some records
//! are no JSON objects and must become dead letters; some are null and must become nothing; some bring a field that
//! no record had before, so that the table's schema changes on the way.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::rig::{Kafka, Ledger, Sent};

const PACE: Duration = Duration::from_millis(30);
/// One record in so many cannot be decoded.
const DEAD_EVERY: u64 = 40;
/// One record in so many is null.
const NULL_EVERY: u64 = 390;
/// A new field comes every so many records, `FIELDS` times.
const FIELD_EVERY: u64 = 1_700;
const FIELDS: u64 = 6;

/// The sending thread.
pub struct Traffic {
    orders: mpsc::SyncSender<Order>,
    thread: JoinHandle<Books>,
}

#[derive(Debug, PartialEq)]
enum Order {
    Share(u64),
    Finish,
}

/// What was sent.
#[derive(Default)]
pub struct Books {
    /// Records that are rows.
    pub rows: Vec<Sent>,
    /// Records that are dead letters.
    pub dead: Vec<Sent>,
    /// Records that are nothing.
    pub nulls: u64,
}

impl Books {
    fn add(&mut self, sent: Vec<Sent>) {
        for record in sent {
            match record.payload.as_deref() {
                None => self.nulls += 1,
                Some(payload) if payload.starts_with(b"{") && payload.ends_with(b"}") => self.rows.push(record),
                Some(_) => self.dead.push(record),
            }
        }
    }
}

impl Traffic {
    /// A thread that sends to `topic`, and has nothing to send yet.
    pub fn to(kafka: &Kafka, topic: &str) -> Self {
        let topic = topic.to_owned();
        let sender = kafka.sender();
        let (orders, todo) = mpsc::sync_channel(16);
        let thread = std::thread::spawn(move || {
            let mut books = Books::default();
            let (mut next, mut allowed, mut batch, mut finishing) = (0, 0, 1, false);
            while !(finishing && next == allowed) {
                let first = todo.recv_timeout(if finishing { Duration::ZERO } else { PACE });
                finishing |= first == Err(RecvTimeoutError::Disconnected);
                for order in first.into_iter().chain(todo.try_iter()) {
                    match order {
                        // A share takes about three seconds.
                        Order::Share(share) => (allowed, batch) = (allowed + share, (share / 100).max(10)),
                        Order::Finish => (finishing, batch) = (true, 5_000),
                    }
                }
                let end = allowed.min(next + batch);
                if next < end {
                    books.add(sender.send(&topic, (next..end).map(record)));
                    next = end;
                }
            }
            books
        });
        Self { orders, thread }
    }

    /// Gives the thread so many more records to send.
    pub fn share(&self, records: u64) {
        self.orders.send(Order::Share(records)).unwrap();
    }

    /// Has it send the rest at once.
    pub async fn finish(self) -> Books {
        self.orders.send(Order::Finish).unwrap();
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap()
    }
}

/// What the readers compare a table of the traffic's rows with.
pub fn rows_ledger(rows: impl IntoIterator<Item = Sent>) -> Ledger {
    let mut ledger = Ledger::default().key_column("car").hash_column("hash");
    ledger.add(rows);
    ledger
}

/// What the readers compare the dead letters of one table with.
pub fn dead_ledger(dead: impl IntoIterator<Item = Sent>) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.add(dead);
    ledger
}

fn record(n: u64) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let hash = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let whole = format!(
        r#"{{"n":{n},"hash":"{hash:016x}","speed":{}.5,"position":{{"lat":37.{},"lon":127.{}}},"note":"{}"}}"#,
        n % 130,
        n % 7919,
        n % 6997,
        "x".repeat(n as usize % 60),
    );
    let payload = match n {
        _ if n % NULL_EVERY == NULL_EVERY - 1 => None,
        _ if n % DEAD_EVERY == DEAD_EVERY - 1 => Some(match n / DEAD_EVERY % 4 {
            0 => whole.as_bytes()[..whole.len() / 2].to_vec(),
            1 => b"\xff\xfe no text".to_vec(),
            2 => n.to_string().into_bytes(),
            _ => b"[1, 2, 3]".to_vec(),
        }),
        _ if n % FIELD_EVERY == FIELD_EVERY - 1 => {
            let field = n / FIELD_EVERY % FIELDS;
            Some(whole.replacen('{', &format!("{{\"new_{field}\":{n},"), 1).into_bytes())
        }
        _ => Some(whole.into_bytes()),
    };
    (Some(format!("car-{}", n % 997).into_bytes()), payload)
}
