//! Work that waits for a local disk. It has threads of its own, and few: whoever opens a table reads a hundred log entries
//! at once, tokio's threads for blocking work would become as many, and each of them keeps the memory that it has worked in.
//! For the same reason the thread that worked last works next.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, mpsc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// More at once make no disk faster that a lake is kept on.
const THREADS: usize = 8;

/// What is to be done; it returns how that is told.
type Work = Box<dyn FnOnce() -> Tell + Send>;
type Tell = Box<dyn FnOnce()>;

#[derive(Default)]
struct Threads(Mutex<State>);

#[derive(Default)]
struct State {
    started: usize,
    /// How those get work that have none, the one that worked last at the end.
    idle: Vec<mpsc::SyncSender<Work>>,
    /// What waits for a thread, not for whoever asked: that may be a stream that nobody reads for a while.
    waiting: VecDeque<Work>,
}

/// Runs `work` there. What it starts runs in its thread, too: it is outside of any runtime.
pub async fn on_disk<T, F>(work: F) -> io::Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    static THREADS: LazyLock<Threads> = LazyLock::new(Threads::default);
    THREADS.run(work).await
}

impl Threads {
    async fn run<T, F>(&'static self, work: F) -> io::Result<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (done, wait) = oneshot::channel();
        let work = move || {
            // Nobody may wait any more.
            let made = (!done.is_closed()).then(work);
            Box::new(move || drop(made.map(|made| done.send(made)))) as Tell
        };
        self.hand_out(Box::new(work))?;
        wait.await.map_err(|_| io::Error::other("the work for the disk stopped before its end"))
    }

    /// Gives `work` to a thread that has none, or a new one, or lets it wait for the first that is free.
    fn hand_out(&'static self, work: Work) -> io::Result<()> {
        let mut state = self.0.lock();
        if let Some(thread) = state.idle.pop() {
            return thread.send(work).map_err(|_| io::Error::other("the threads that wait for the disk are gone"));
        }
        state.waiting.push_back(work);
        if state.started < THREADS {
            let (send, receive) = mpsc::sync_channel(1);
            let run = move || self.work(&send, &receive);
            match std::thread::Builder::new().name("disk".to_owned()).spawn(run) {
                Ok(_) => state.started += 1,
                Err(error) if state.started > 0 => tracing::warn!(%error, "one thread less for the disk"),
                Err(error) => {
                    state.waiting.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn work(&self, send: &mpsc::SyncSender<Work>, receive: &mpsc::Receiver<Work>) {
        let mut tell = None;
        loop {
            let mut state = self.0.lock();
            let next = state.waiting.pop_front();
            if next.is_none() {
                state.idle.push(send.clone());
            }
            drop(state);
            // Told once the thread is free: who asks for more at once gets it. It outlives work that panics; who waits for
            // that hears that there is no answer.
            let _ = tell.take().map(|tell: Tell| catch_unwind(AssertUnwindSafe(tell)));
            let Some(work) = next.or_else(|| receive.recv().ok()) else { return };
            tell = catch_unwind(AssertUnwindSafe(work)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn threads() -> &'static Threads {
        Box::leak(Box::default())
    }

    #[tokio::test]
    async fn work_for_the_disk_runs_on_few_threads_and_outlives_a_panic() {
        let threads = threads();
        let name = || std::thread::current().id();
        let ids = futures::future::join_all((0..1_000).map(|_| threads.run(name))).await;
        let ids: std::collections::HashSet<_> = ids.into_iter().map(Result::unwrap).collect();
        assert!(ids.len() <= THREADS, "{}", ids.len());
        for _ in 0..2 * THREADS {
            threads.run(|| panic!("of this test")).await.unwrap_err();
        }
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
        assert!(on_disk(|| tokio::runtime::Handle::try_current().is_err()).await.unwrap());
    }

    #[tokio::test]
    async fn the_thread_that_worked_last_works_next() {
        let threads = threads();
        let name = || std::thread::current().id();
        let first = threads.run(name).await.unwrap();
        for _ in 0..100 {
            assert_eq!(threads.run(name).await.unwrap(), first);
        }
    }

    #[tokio::test]
    async fn who_asks_and_does_not_look_for_the_answer_holds_nobody_up() {
        let threads = threads();
        let mut asked: Vec<_> = (0..4 * THREADS).map(|at| Box::pin(threads.run(move || at))).collect();
        for asked in &mut asked {
            let _ = asked.now_or_never();
        }
        let answer = tokio::time::timeout(Duration::from_secs(20), threads.run(|| 7)).await;
        assert_eq!(answer.unwrap().unwrap(), 7);
    }
}
