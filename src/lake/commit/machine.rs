//! When to commit, when to ask, when to stop: two state machines without I/O or clock.
//!
//! A commit's answer can be lost although the commit landed, so **any** failure means "unknown": the caller
//! refreshes the table and hands in the positions found there.
//!
//! [`MainCommit`] moves positions by compare-and-swap: it commits only from a snapshot in which every
//! partition of the window stands at the window's start. After a failure, all at the end means it landed
//! (whoever wrote it); all at the start means it did not; anything else means another writer is alive.
//!
//! [`SideCommit`] appends to a table that owns no position (dead letters). What lies below the table's own
//! position may be there already and is left out by identity, so it can be repeated freely. Without positions (`ends`
//! is empty: rows of retried dead letters) anything may be there; the caller's commits then conflict by a counter.

use std::time::Duration;

use crate::lake::positions::{Moves, Positions, TopicPartition};

/// Backoff of the first retry; it doubles up to [`BACKOFF_MAX`], with jitter of ±50 %.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What the caller must do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Commit with the newest snapshot as the read snapshot; then report [`Saw::Committed`] or [`Saw::Failed`].
    Commit,
    /// Read the table anew; then report [`Saw::Table`] or [`Saw::Unreachable`].
    Refresh,
    /// Wait, then report [`Saw::Woke`].
    Sleep(Duration),
    /// Side tables only: drop the rows that the table holds already; then report [`Saw::Remaining`].
    LeaveOut,
    /// Finished.
    Done(Outcome),
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Saw<'a> {
    /// The commit was confirmed.
    Committed,
    /// The commit failed or its answer was lost.
    Failed,
    /// The table was read; these are its positions.
    Table(&'a Positions),
    /// The table could not be read.
    Unreachable,
    /// The wait is over.
    Woke,
    /// Rows left to write after leaving out what is held already.
    Remaining(usize),
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Our commit was confirmed.
    Landed,
    /// The window is in the table although no commit of ours was confirmed.
    Adopted,
    /// Nothing was left to write (side tables).
    Skipped,
    /// Another writer moved a position: flush nothing more.
    Rival {
        /// The partition that stands elsewhere.
        at: TopicPartition,
        /// Where we expected it.
        expected: i64,
        /// Where it stands; `None` if the table has no position of it.
        found: Option<i64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Commit,
    Refresh,
}

/// Exponential backoff with jitter from a seed, so that a simulation can replay it.
#[derive(Debug, Clone)]
struct Backoff {
    attempt: u32,
    seed: u64,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let base = BACKOFF_MIN.saturating_mul(1 << self.attempt.min(10)).min(BACKOFF_MAX);
        self.attempt += 1;
        // splitmix64
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        base.mul_f64(0.5 + (z >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// The commit that moves positions.
#[derive(Debug)]
pub struct MainCommit {
    moves: Moves,
    tried: bool,
    next: Next,
    backoff: Backoff,
}

impl MainCommit {
    /// A commit of the window `moves`; `seed` feeds the jitter.
    pub fn new(moves: Moves, seed: u64) -> Self {
        debug_assert!(moves.values().all(|step| step.start < step.end), "a window never moves backwards or nowhere");
        Self { moves, tried: false, next: Next::Commit, backoff: Backoff { attempt: 0, seed } }
    }

    /// Begins with the positions of the newest known snapshot.
    pub fn start(&mut self, positions: &Positions) -> Do {
        self.judge(positions)
    }

    /// What to do after `saw`.
    pub fn step(&mut self, saw: Saw<'_>) -> Do {
        match saw {
            Saw::Committed => Do::Done(Outcome::Landed),
            Saw::Failed => Do::Refresh,
            Saw::Table(positions) => self.judge(positions),
            Saw::Unreachable => {
                self.next = Next::Refresh;
                Do::Sleep(self.backoff.next())
            }
            Saw::Woke | Saw::Remaining(_) => match self.next {
                Next::Commit => Do::Commit,
                Next::Refresh => Do::Refresh,
            },
        }
    }

    fn judge(&mut self, positions: &Positions) -> Do {
        let at_start = |(lane, step): (&TopicPartition, &crate::lake::positions::Move)| match positions.get(lane) {
            Some(found) => *found == step.start,
            None => step.young,
        };
        if self.moves.iter().all(at_start) {
            self.next = Next::Commit;
            if std::mem::replace(&mut self.tried, true) { Do::Sleep(self.backoff.next()) } else { Do::Commit }
        } else if self.moves.iter().all(|(lane, step)| positions.get(lane) == Some(&step.end)) {
            Do::Done(Outcome::Adopted)
        } else {
            let strange = self.moves.iter().find(|entry| !at_start(*entry));
            match strange {
                Some((lane, step)) => Do::Done(Outcome::Rival {
                    at: lane.clone(),
                    expected: step.start,
                    found: positions.get(lane).copied(),
                }),
                None => Do::Done(Outcome::Adopted),
            }
        }
    }
}

/// A commit to a side table, repeated until nothing is left to write.
#[derive(Debug)]
pub struct SideCommit {
    ends: Positions,
    own: Positions,
    next: Next,
    backoff: Backoff,
}

impl SideCommit {
    /// A side commit of a window that ends at `ends`; `seed` feeds the jitter.
    pub fn new(ends: Positions, seed: u64) -> Self {
        Self { ends, own: Positions::new(), next: Next::Commit, backoff: Backoff { attempt: 0, seed } }
    }

    /// Begins with the side table's own positions in the newest known snapshot.
    pub fn start(&mut self, own: &Positions) -> Do {
        self.judge(own)
    }

    /// The side table's own positions as last seen: rows at or above them cannot be there yet.
    pub fn own(&self) -> &Positions {
        &self.own
    }

    /// The positions to write: for each partition the greater of its own and the window's end.
    pub fn txns(&self) -> Positions {
        self.ends
            .iter()
            .map(|(lane, end)| (lane.clone(), (*end).max(self.own.get(lane).copied().unwrap_or(*end))))
            .collect()
    }

    /// What to do after `saw`.
    pub fn step(&mut self, saw: Saw<'_>) -> Do {
        match saw {
            Saw::Committed => Do::Done(Outcome::Landed),
            Saw::Failed => {
                self.next = Next::Refresh;
                Do::Sleep(self.backoff.next())
            }
            Saw::Table(own) => self.judge(own),
            Saw::Unreachable => {
                self.next = Next::Refresh;
                Do::Sleep(self.backoff.next())
            }
            Saw::Woke => match self.next {
                Next::Commit => Do::Commit,
                Next::Refresh => Do::Refresh,
            },
            Saw::Remaining(0) => Do::Done(Outcome::Skipped),
            Saw::Remaining(_) => Do::Commit,
        }
    }

    fn judge(&mut self, own: &Positions) -> Do {
        self.own = own.clone();
        Do::LeaveOut
    }
}
