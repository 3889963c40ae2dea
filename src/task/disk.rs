//! Work that waits for a local disk. It has threads of its own, and few: whoever opens a table reads a hundred log entries
//! at once, tokio's threads for blocking work would become as many, and each of them keeps the memory that it has worked in.

use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// More at once make no disk faster that a lake is kept on.
const THREADS: usize = 8;
/// Work that waits for a thread; who has more waits with it.
const WAITING: usize = 64;

type Work = Box<dyn FnOnce() + Send>;

/// Runs `work` there. What it starts runs in its thread, too: it is outside of any runtime.
pub async fn on_disk<T, F>(work: F) -> io::Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    static QUEUE: OnceLock<mpsc::Sender<Work>> = OnceLock::new();
    let (done, wait) = oneshot::channel();
    let work = move || {
        // Nobody may wait any more.
        let _ = done.send(work());
    };
    let gone = || io::Error::other("the threads that wait for the disk are gone");
    QUEUE.get_or_init(start).send(Box::new(work)).await.map_err(|_| gone())?;
    wait.await.map_err(|_| gone())
}

fn start() -> mpsc::Sender<Work> {
    let (send, receive) = mpsc::channel::<Work>(WAITING);
    let receive = Arc::new(Mutex::new(receive));
    for _ in 0..THREADS {
        let receive = Arc::clone(&receive);
        let next = move || receive.lock().blocking_recv();
        let run = move || {
            while let Some(work) = next() {
                // The thread outlives work that panics; who waits for it hears that there is no answer.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("disk".to_owned()).spawn(run) {
            tracing::warn!(%error, "one thread less for the disk");
        }
    }
    send
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_for_the_disk_runs_on_few_threads_and_outlives_a_panic() {
        let name = || std::thread::current().id();
        let ids = futures::future::join_all((0..1_000).map(|_| on_disk(name))).await;
        let ids: std::collections::HashSet<_> = ids.into_iter().map(Result::unwrap).collect();
        assert!(ids.len() <= THREADS, "{}", ids.len());
        for _ in 0..2 * THREADS {
            on_disk(|| panic!("of this test")).await.unwrap_err();
        }
        assert_eq!(on_disk(|| 7).await.unwrap(), 7);
        assert!(on_disk(|| tokio::runtime::Handle::try_current().is_err()).await.unwrap());
    }
}
