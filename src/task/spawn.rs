//! The one way to start background work: it has a name in the logs.

use std::future::Future;

use tokio::sync::oneshot;
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

/// Runs `work` on a thread of its own under `name`, so that it waits for no other work and holds up none; what it waits
/// for (I/O, timers, tasks) is the runtime's. Ends when the work does.
pub fn spawn_thread<F>(name: &'static str, work: F) -> std::io::Result<oneshot::Receiver<()>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (done, ended) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let work = work.instrument(tracing::debug_span!("task", name));
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        runtime.block_on(work);
        // Nobody may be waiting any more.
        let _ = done.send(());
    })?;
    Ok(ended)
}
