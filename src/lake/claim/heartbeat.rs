//! Holding a claim: the heartbeat task, and what the rest of the process may ask it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::Tempo;
use super::register::{Register, Written};
use crate::error::{Error, Kind, Result};
use crate::task::Shutdown;

/// The lake's one writer is this process. Dropping it ends the heartbeat; [`Claim::release`] waits for that.
#[derive(Debug)]
pub struct Claim {
    n: u64,
    tempo: Tempo,
    state: Arc<State>,
    stop: Shutdown,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct State {
    /// When the last heartbeat that reached the store was begun.
    last_beat: Mutex<Instant>,
    /// Who took over.
    lost_to: watch::Sender<Option<String>>,
}

impl Claim {
    /// Starts the heartbeat of claim `n`, whose PUT was begun at `taken`.
    pub(super) fn start(register: Register, n: u64, taken: Instant, shutdown: &Shutdown, tempo: Tempo) -> Self {
        let stop = shutdown.child_token();
        let state = Arc::new(State { last_beat: Mutex::new(taken), lost_to: watch::Sender::new(None) });
        let task = run(register, n, Arc::clone(&state), stop.clone(), tempo);
        let task = crate::task::spawn("writer-heartbeat", task);
        Self { n, tempo, state, stop, task: Mutex::new(Some(task)) }
    }

    /// The claim's number; each writer's is higher than all before.
    pub fn number(&self) -> u64 {
        self.n
    }

    /// Whether no other writer can have taken over yet: the last heartbeat reached the store within 8 s, by our
    /// monotonic clock (which stands still while the host sleeps). Commits are right even when this is false.
    pub fn is_certain(&self) -> bool {
        self.state.lost_to.borrow().is_none() && self.state.last_beat.lock().elapsed() <= self.tempo.certain_for
    }

    /// Resolves with the error to exit with when another process has taken over; never otherwise.
    pub async fn lost(&self) -> Error {
        let mut lost_to = self.state.lost_to.subscribe();
        let lost = lost_to.wait_for(Option::is_some).await.ok().and_then(|by| by.clone());
        match lost {
            Some(by) => Error::new(Kind::Refused, format!("another Millpond took over the lake: {by}"))
                .hint("this process stops writing; rows stay exactly once"),
            None => std::future::pending().await,
        }
    }

    /// Ends the heartbeat and says in the store that the lake is free. After the last commit; at most 8 s.
    pub async fn release(&self) {
        self.stop.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the heartbeat task failed");
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(register: Register, n: u64, state: Arc<State>, stop: Shutdown, tempo: Tempo) {
    let mut ticks = tokio::time::interval(tempo.beat_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beat = 0;
    let mut failing = false;
    let mut pruned = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let begun = Instant::now();
        beat += 1;
        match tokio::time::timeout(tempo.beat_timeout, one_beat(&register, n, beat)).await {
            Ok(Ok(None)) => {
                *state.last_beat.lock() = begun;
                if failing {
                    tracing::info!(claim = n, "heartbeat works again");
                }
                failing = false;
                if !pruned && let Err(error) = register.prune(n).await {
                    tracing::warn!(claim = n, %error, "cannot remove old writer claims");
                }
                pruned = true;
            }
            Ok(Ok(Some(newer))) => {
                let by = describe(&register, newer, tempo).await;
                tracing::error!(claim = n, newer, by, "writer claim lost");
                state.lost_to.send_replace(Some(by));
                return;
            }
            Ok(Err(error)) => report(n, &error, &mut failing),
            Err(_) => report(n, &"no answer in time", &mut failing),
        }
    }
    // A process that stops must not wait for a store that is gone; the next starter then needs 10 s.
    match tokio::time::timeout(tempo.beat_timeout, register.put_heartbeat(n, beat + 1, true)).await {
        Ok(Ok(())) => tracing::info!(claim = n, "writer claim released"),
        Ok(Err(error)) => tracing::warn!(claim = n, %error, "cannot release the writer claim"),
        Err(_) => tracing::warn!(claim = n, "cannot release the writer claim: no answer in time"),
    }
}

/// Looks for a newer claim (and returns its number), then writes the heartbeat.
async fn one_beat(register: &Register, n: u64, beat: u64) -> Result<Option<u64>> {
    let newer = register.newest_after(n).await?;
    if newer.is_none() {
        register.put_heartbeat(n, beat, false).await?;
    }
    Ok(newer)
}

async fn describe(register: &Register, newer: u64, tempo: Tempo) -> String {
    match tokio::time::timeout(tempo.beat_timeout, register.writer(newer)).await {
        Ok(Ok(Written::By(holder))) => holder.to_string(),
        _ => format!("the holder of claim {newer}"),
    }
}

/// Says once that the heartbeat does not reach the store.
fn report(n: u64, error: &dyn std::fmt::Display, failing: &mut bool) {
    if !*failing {
        tracing::warn!(claim = n, %error, "heartbeat does not reach the store; trying again");
    }
    *failing = true;
}
