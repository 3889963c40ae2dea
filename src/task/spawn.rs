//! The one way to start background work: it has a name in the logs.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

/// Runs `work` in the background under `name`.
#[allow(clippy::disallowed_methods)] // the one place that may
pub fn spawn<F>(name: &'static str, work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(work.instrument(tracing::debug_span!("task", name)))
}
