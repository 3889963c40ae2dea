//! Between a table's readers and its ingest, for formats whose payloads name schemas: each batch gets the schemas it
//! needs before it goes on. While they cannot be had the table waits where it stands and says so; what was decoded
//! before is committed meanwhile, and what waits here stays charged to the ingest budget.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::status::TableStatus;
use crate::schema::Format;
use crate::source::{Delivery, Registry};
use crate::task::Shutdown;

/// Pauses between attempts: the first …
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// … and the longest; each is twice the one before.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Hands on batches in their order. Ends with the readers or the ingest; or when told to, if it would have to wait
/// for the registry then: what it holds back is read again at the next start.
pub async fn resolve(
    (registry, format): (Registry, Format),
    table: String,
    mut from: mpsc::Receiver<Delivery>,
    to: mpsc::Sender<Delivery>,
    status: Arc<TableStatus>,
    stop: Shutdown,
) {
    while let Some(Delivery { mut records, charge, received_at }) = from.recv().await {
        let mut pause = FIRST_PAUSE;
        let mut said = false;
        let records = loop {
            let answer = tokio::select! {
                // What is known needs no waiting: it goes on even while the process stops.
                biased;
                answer = registry.with_schemas(records, format) => answer,
                () = stop.cancelled() => return,
            };
            match answer {
                Ok(records) => break records,
                Err((given_back, trouble)) => {
                    records = given_back;
                    let reason = trouble.to_string();
                    if !std::mem::replace(&mut said, true) {
                        warn!(table, reason, "waiting for a schema, trying again until it comes");
                    }
                    status.waiting(Some(reason));
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            pause = LONGEST_PAUSE.min(pause * 2);
        };
        if said {
            status.waiting(None);
            info!(table, "schemas are here, going on");
        }
        if to.send(Delivery { records, charge, received_at }).await.is_err() {
            return;
        }
    }
}
