//! Work that goes behind all other: long and in no hurry. It has threads of its own, of a lower priority, so that a
//! record which has just come waits neither for a thread that encodes a file nor for its processor.

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tracing::{Instrument, warn};

/// As many as can be of use on the machines that a lake fits on: tables rarely commit at the same moment.
const THREADS: usize = 2;

/// Runs `work` under `name` behind all other work. The tasks that it starts go behind, too, and so do the connections
/// that it opens.
pub fn spawn_behind<F>(name: &'static str, work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    match RUNTIME.get_or_init(runtime) {
        Some(runtime) => runtime.spawn(work.instrument(tracing::debug_span!("task", name))),
        None => super::spawn(name, work),
    }
}

fn runtime() -> Option<Runtime> {
    let built = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("behind")
        .thread_keep_alive(super::IDLE_THREAD)
        .on_thread_start(give_way)
        .enable_all()
        .build();
    built.inspect_err(|error| warn!(%error, "no threads for work in the background: it shares those of all other")).ok()
}

/// This thread goes behind the others from now on. Elsewhere than on Linux a priority is the whole process's.
#[cfg(target_os = "linux")]
fn give_way() {
    /// A tenth of the processor time of a thread of normal priority, where both want it.
    const NICE: i32 = 10;
    // Without it the work is done all the same.
    let _ = rustix::process::nice(NICE);
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_work_and_what_it_starts_have_a_lower_priority_than_the_rest() {
        let nice = || rustix::process::nice(0).unwrap();
        let own = nice();
        let (task, blocking) = spawn_behind("test", async move {
            let (task, blocking) =
                (tokio::task::JoinSet::from_iter([async move { nice() }]), tokio::task::spawn_blocking(nice));
            (task.join_all().await[0], blocking.await.unwrap())
        })
        .await
        .unwrap();
        assert!(task > own && blocking > own, "{task} {blocking} {own}");
        assert_eq!(nice(), own);
    }
}
