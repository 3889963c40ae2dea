//! Work that waits for a local disk. It has threads of its own, and few: whoever opens a table reads a hundred log entries
//! at once, tokio's threads for blocking work would become as many, and each of them keeps the memory that it has worked in.
//! For the same reason the thread that worked last works next.

use std::io;
use std::sync::{LazyLock, mpsc};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

/// More at once make no disk faster that a lake is kept on.
const THREADS: usize = 8;

/// Done, it tells.
type Work = Box<dyn FnOnce() -> Tell + Send>;
type Tell = Box<dyn FnOnce()>;

/// The threads.
struct Threads {
    /// Has a permit for each that has no work.
    free: Semaphore,
    /// How they get work, the one that worked last at the end.
    idle: Mutex<Vec<mpsc::SyncSender<Work>>>,
}

/// Runs `work` there. What it starts runs in its thread, too: it is outside of any runtime.
pub async fn on_disk<T, F>(work: F) -> io::Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    static THREADS: LazyLock<Threads> = LazyLock::new(Threads::new);
    THREADS.run(work).await
}

fn gone() -> io::Error {
    io::Error::other("the threads that wait for the disk are gone")
}

impl Threads {
    fn new() -> Self {
        Self { free: Semaphore::new(THREADS), idle: Mutex::default() }
    }

    /// Runs `work` as soon as a thread is free.
    async fn run<T, F>(&'static self, work: F) -> io::Result<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (done, wait) = oneshot::channel();
        let work = move || {
            let made = work();
            // Nobody may wait any more.
            Box::new(move || drop(done.send(made))) as Tell
        };
        let permit = self.free.acquire().await.map_err(|_| gone())?;
        let last = self.idle.lock().pop();
        let thread = match last {
            Some(thread) => thread,
            None => self.another()?,
        };
        thread.send(Box::new(work)).map_err(|_| gone())?;
        // The thread gives it back.
        permit.forget();
        wait.await.map_err(|_| gone())
    }

    fn another(&'static self) -> io::Result<mpsc::SyncSender<Work>> {
        let (send, receive) = mpsc::sync_channel::<Work>(1);
        let own = send.clone();
        let run = move || {
            for work in receive {
                // The thread outlives work that panics; who waits for it hears that there is no answer.
                let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                // Free before it tells: who asks for more at once gets this thread.
                self.idle.lock().push(own.clone());
                self.free.add_permits(1);
                if let Ok(tell) = made {
                    tell();
                }
            }
        };
        std::thread::Builder::new().name("disk".to_owned()).spawn(run)?;
        Ok(send)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_for_the_disk_runs_on_few_threads_and_outlives_a_panic() {
        let threads: &'static Threads = Box::leak(Box::new(Threads::new()));
        let name = || std::thread::current().id();
        let ids = futures::future::join_all((0..1_000).map(|_| threads.run(name))).await;
        let ids: std::collections::HashSet<_> = ids.into_iter().map(Result::unwrap).collect();
        assert!(ids.len() <= THREADS, "{}", ids.len());
        let last = threads.run(name).await.unwrap();
        for _ in 0..100 {
            assert_eq!(threads.run(name).await.unwrap(), last, "the thread that worked last works next");
        }
        for _ in 0..2 * THREADS {
            threads.run(|| panic!("of this test")).await.unwrap_err();
        }
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
        assert!(on_disk(|| tokio::runtime::Handle::try_current().is_err()).await.unwrap());
    }
}
