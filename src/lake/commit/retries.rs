//! Seeded simulation of retries of dead letters that race, crash and lose answers, while ingest goes on in the same
//! table. Each retry looks which letters are open, appends their rows, then logs them as retried.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::machine::{Do, Outcome, Saw, SideCommit};
use super::simulation::{Commit, Identity, Table, over_seeds};
use crate::lake::positions::{Positions, TopicPartition};

fn lane(name: &str) -> TopicPartition {
    TopicPartition { topic: name.into(), incarnation: 0, partition: 0 }
}

/// An append to one table, as `append_rest` carries it out.
struct Append {
    machine: SideCommit,
    next: Do,
    read: usize,
    rows: Vec<Identity>,
}

impl Append {
    fn new(table: &Table, rows: Vec<Identity>, rng: &mut StdRng) -> Self {
        let mut machine = SideCommit::new(Positions::new(), rng.random());
        let next = machine.start(&Positions::new());
        Self { machine, next, read: table.commits.len(), rows }
    }

    /// One step; true once it is done.
    fn step(&mut self, table: &mut Table, rng: &mut StdRng) -> bool {
        let saw = match &self.next {
            Do::LeaveOut => {
                let seen: BTreeSet<&Identity> =
                    table.commits[..self.read].iter().flat_map(|commit| &commit.rows).collect();
                self.rows.retain(|row| !seen.contains(row));
                Saw::Remaining(self.rows.len())
            }
            Do::Commit => {
                let counter = lane("counter");
                let newest = |commit: &Commit| commit.txns.get(&counter).copied();
                let number = table.commits[..self.read].iter().rev().find_map(newest).unwrap_or(0);
                let txns = Positions::from([(counter, number + 1)]);
                let landed = table.commit(self.read, Commit { txns, rows: self.rows.clone() }, rng);
                landed.map_or(Saw::Failed, |_| Saw::Committed)
            }
            Do::Refresh if rng.random_bool(0.3) => Saw::Unreachable,
            Do::Refresh => {
                self.read = table.commits.len();
                self.next = self.machine.step(Saw::Table(&Positions::new()));
                return false;
            }
            Do::Sleep(_) => Saw::Woke,
            Do::Done(Outcome::Rival { .. }) => unreachable!("an append without positions has no rival"),
            Do::Done(_) => return true,
        };
        self.next = self.machine.step(saw);
        false
    }
}

enum Phase {
    Idle,
    Rows(Append, Vec<Identity>),
    Log(Append),
}

fn simulate(seed: u64) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let letters: Vec<Identity> = (0..rng.random_range(1..20)).map(|offset| (lane("t"), offset)).collect();
    let (mut main, mut log) = (Table::default(), Table::default());
    let mut retries: Vec<Phase> = (0..rng.random_range(1..4)).map(|_| Phase::Idle).collect();
    let mut ingested = 1_000;
    for _ in 0..5_000 {
        main.time_passes(&mut rng);
        log.time_passes(&mut rng);
        if rng.random_bool(0.1) {
            // Ingest commits above all letters, under positions of its own.
            let commit = Commit { txns: [(lane("t"), ingested + 1)].into(), rows: vec![(lane("t"), ingested)] };
            let before = main.commits.len();
            main.commit(before, commit, &mut rng);
            ingested += 1;
        }
        let settled: BTreeSet<Identity> = log.commits.iter().flat_map(|commit| commit.rows.clone()).collect();
        let turn = rng.random_range(0..retries.len());
        if rng.random_bool(0.02) {
            retries[turn] = Phase::Idle;
        }
        retries[turn] = match std::mem::replace(&mut retries[turn], Phase::Idle) {
            Phase::Idle => {
                // Not always all of them, so that two that race overlap in part.
                let open = letters.iter().filter(|letter| !settled.contains(letter));
                let open: Vec<Identity> = open.filter(|_| rng.random_bool(0.8)).cloned().collect();
                if open.is_empty() {
                    Phase::Idle
                } else {
                    Phase::Rows(Append::new(&main, open.clone(), &mut rng), open)
                }
            }
            Phase::Rows(mut append, open) => match append.step(&mut main, &mut rng) {
                true => Phase::Log(Append::new(&log, open, &mut rng)),
                false => Phase::Rows(append, open),
            },
            Phase::Log(mut append) => match append.step(&mut log, &mut rng) {
                true => Phase::Idle,
                false => Phase::Log(append),
            },
        };
        if letters.iter().all(|letter| settled.contains(letter))
            && retries.iter().all(|retry| matches!(retry, Phase::Idle))
        {
            return judge(&main, &log, &letters);
        }
    }
    Err("did not finish".into())
}

fn judge(main: &Table, log: &Table, letters: &[Identity]) -> Result<(), String> {
    for (name, table) in [("rows", main), ("events", log)] {
        for letter in letters {
            let found = table.commits.iter().flat_map(|commit| &commit.rows).filter(|row| *row == letter).count();
            if found != 1 {
                return Err(format!("offset {}: {found} {name}, should be 1", letter.1));
            }
        }
    }
    Ok(())
}

/// Invariant 1 for rows that come back: retried dead letters are rows exactly once, and are logged so once.
#[test]
fn invariant_1_retried_dead_letters_become_rows_exactly_once_under_seeded_faults() {
    over_seeds(simulate);
}
