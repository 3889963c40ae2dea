//! The writer claim: one process writes to a lake at a time, and everybody can see which.
//!
//! `_millpond/writer/<n>` (n with 20 digits) names a writer; the highest n is the one that counts, and a new one is
//! taken with PUT-if-absent of n+1, so of two racing starters exactly one wins. `_millpond/heartbeat/<n>` is
//! overwritten every 2 s. Who finds a claim
//!
//! * released (a clean shutdown says so in the heartbeat): takes over at once;
//! * of a process of this host (same boot, same pid namespace): refuses if it lives, takes over at once if it is gone;
//! * of anybody else: watches the heartbeat for 10 s, refuses if it moves, takes over if it does not.
//!
//! Waiting is measured on our own monotonic clock; clocks of two hosts are never compared.
//!
//! The claim is a courtesy, not the proof: rows stay exactly once even if two writers believe in theirs (a stopped
//! process wakes up, a host sleeps, the store is cut off), because every commit is a compare-and-swap on the
//! positions. What the claim adds: the second writer is named to a person, and the loser learns of it
//! ([`Claim::lost`]) and exits. While the store does not answer, the holder keeps trying and is merely not
//! [certain](Claim::is_certain).

mod heartbeat;
mod holder;
mod register;

use std::time::Duration;

use tokio::time::Instant;

pub use heartbeat::Claim;
pub use holder::{Holder, Liveness};

use super::Stores;
use crate::error::{Error, Kind, Result};
use crate::task::Shutdown;
use register::{Register, Written};

/// The times of the protocol.
const TEMPO: Tempo = Tempo {
    beat_every: Duration::from_secs(2),
    beat_timeout: Duration::from_secs(4),
    certain_for: Duration::from_secs(8),
    silence: Duration::from_secs(10),
    look_every: Duration::from_secs(1),
    watch_at_most: Duration::from_secs(60),
};
/// Lost races before a starter gives up; each is lost to somebody who won.
const ATTEMPTS: u32 = 20;

/// How fast the protocol runs (tests run it faster).
#[derive(Debug, Clone, Copy)]
struct Tempo {
    /// How often a holder writes its heartbeat.
    beat_every: Duration,
    /// One look for newer claims and one heartbeat together; also the time a clean release may take.
    beat_timeout: Duration,
    /// Silent for longer than this, a holder cannot be certain; shorter than `silence`.
    certain_for: Duration,
    /// How long a foreign heartbeat must stand still before its writer counts as gone.
    silence: Duration,
    /// How often a foreign heartbeat is read meanwhile.
    look_every: Duration,
    /// How long a foreign heartbeat may be unreadable before the watch is given up.
    watch_at_most: Duration,
}

/// Looks whether a holder's process lives.
type Look<'a> = &'a (dyn Fn(&Holder) -> Liveness + Sync);

impl Claim {
    /// Makes `me` the lake's writer, or says who is. Takes up to 10 s if a writer on another host vanished.
    ///
    /// The heartbeat runs until `shutdown`, which must come after the last commit, or until [`Claim::release`].
    pub async fn take(stores: &Stores, me: Holder, shutdown: &Shutdown) -> Result<Self> {
        take(stores, me, shutdown, &holder::liveness, TEMPO).await
    }
}

async fn take(stores: &Stores, me: Holder, shutdown: &Shutdown, look: Look<'_>, tempo: Tempo) -> Result<Claim> {
    let register = Register::new(stores);
    for _ in 0..ATTEMPTS {
        let newest = register.newest_after(0).await?;
        if let Some(n) = newest
            && !is_free(&register, n, look, shutdown, tempo).await?
        {
            continue;
        }
        let started = Instant::now();
        let n = newest.unwrap_or(0) + 1;
        // A starter that slept since its listing may have found its number free because it was pruned.
        if register.put_writer(n, &me).await? && register.newest_after(n).await?.is_none() {
            tracing::info!(claim = n, location = %stores.location(), "writer claim taken");
            return Ok(Claim::start(register, n, started, shutdown, tempo));
        }
        let pause_ms = rand::random_range(20..200);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
    Err(Error::new(Kind::Unavailable, format!("the writer claim of {} changes hands all the time", stores.location()))
        .hint("start one Millpond at a time on a lake"))
}

/// Whether claim `n` may be overtaken; false if it vanished meanwhile (list again). A live holder is an error.
async fn is_free(register: &Register, n: u64, look: Look<'_>, shutdown: &Shutdown, tempo: Tempo) -> Result<bool> {
    let holder = match register.writer(n).await? {
        Written::Missing => return Ok(false),
        Written::By(holder) => Some(holder),
        Written::Unreadable => None,
    };
    let first = register.heartbeat(n).await?;
    if first.released() {
        return Ok(true);
    }
    let shown = holder.as_ref().map_or_else(|| format!("unknown (claim {n} cannot be read)"), Holder::to_string);
    match holder.as_ref().map_or(Liveness::Elsewhere, look) {
        Liveness::Alive => return Err(held(register, &shown)),
        Liveness::Dead => {
            tracing::warn!(claim = n, writer = shown, "the last writer is dead; taking over");
            return Ok(true);
        }
        Liveness::Elsewhere => {}
    }
    tracing::info!(
        claim = n,
        writer = shown,
        wait_s = tempo.silence.as_secs(),
        "watching the heartbeat of another writer"
    );
    let since = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped while waiting for the lake")),
            () = tokio::time::sleep(tempo.look_every) => {}
        }
        let asked_after = since.elapsed();
        match register.heartbeat(n).await {
            // A store that does not answer is no proof of silence.
            Err(error) if asked_after >= tempo.watch_at_most => return Err(error),
            Err(error) => tracing::warn!(claim = n, %error, "cannot read the heartbeat of another writer"),
            Ok(now) if now.released() => return Ok(true),
            Ok(now) if now != first => return Err(held(register, &shown)),
            Ok(_) if asked_after >= tempo.silence => {
                tracing::warn!(claim = n, writer = shown, "the last writer is silent; taking over");
                return Ok(true);
            }
            Ok(_) => {}
        }
    }
}

fn held(register: &Register, holder: &str) -> Error {
    let message = format!("another Millpond writes to the lake at {}: {holder}", register.location());
    Error::new(Kind::Refused, message)
        .hint("stop it first, or use another lake; a crashed writer is taken over by itself")
}

#[cfg(test)]
mod tests;
