//! The new rows of one table, for whoever subscribes to them.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream;

use super::source::Source;
use crate::engine::catalog::EngineCatalog;
use crate::error::{Error, Kind, Result};
use crate::query::{NewRows, Service};

/// The rows that come to `table` from now on; `None` if it is no stream.
pub async fn follow(catalog: Arc<EngineCatalog>, service: Service, table: String) -> Result<Option<NewRows>> {
    let (kept, fed) = (catalog.kept.load_full(), catalog.fed());
    if fed.statuses.is_empty() {
        let error = Error::new(Kind::Unavailable, "no rows come: nothing feeds the tables here");
        return Err(error.hint("ask a running server: millpond sql --url grpc://127.0.0.1:32010"));
    }
    let source = match kept.values().find(|kept| kept.rows.name() == table) {
        Some(kept) if kept.is_reference() => return Err(super::no_stream(kept)),
        Some(kept) => Source::of_keys(kept, &catalog),
        None => fed.tables.get(&table).map(|live| Source::of_records(&table, live, None, None)),
    };
    let Some(mut source) = source else { return Ok(None) };
    // What there is already; of a table with one row per key it is all rows.
    let mut is_known = source.take(&service, 0).await?.is_whole || source.seen().is_some();
    let ready = VecDeque::new();
    let rows = stream::try_unfold((source, service, ready), move |(mut source, service, mut ready)| async move {
        while ready.is_empty() {
            source.changed().await;
            let taken = source.take(&service, 0).await?;
            if is_known {
                ready.extend(taken.batches.into_iter().map(|batch| batch.rows));
            }
            is_known |= taken.is_whole;
        }
        let next = ready.pop_front();
        Ok(next.map(|rows| (rows, (source, service, ready))))
    });
    Ok(Some(Box::pin(rows)))
}
