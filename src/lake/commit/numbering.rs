//! Seeded simulation of writers who give numbers to schema versions ([`super::commit_number`]) against the model of a
//! Delta table in [`super::simulation`]: lost answers, late PUTs, crashes, and rivals who want the same number.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::machine::{Do, MainCommit, Outcome, Saw};
use super::simulation::{Commit, Table};
use crate::lake::positions::{Move, Moves, Positions, TopicPartition};

/// What a version is: who wanted it, and for the how manieth time.
type Content = i64;

struct Writer {
    name: i64,
    wishes: i64,
    read: usize,
    known: Option<i64>,
    /// What it takes for the versions 1, 2, 3 …
    believed: Vec<Content>,
    at_work: Option<(MainCommit, Do, i64, Content)>,
}

fn lane() -> TopicPartition {
    TopicPartition { topic: "schema/t".into(), incarnation: 0, partition: 0 }
}

fn number(table: &Table) -> Option<i64> {
    table.positions().get(&lane()).copied()
}

/// The rows of the table, by number.
fn contents(table: &Table) -> Vec<(i64, Content)> {
    table.commits.iter().flat_map(|commit| &commit.rows).map(|(at, content)| (at.partition.into(), *content)).collect()
}

impl Writer {
    /// As at the start of a process: what is recorded is loaded.
    fn start(name: i64, table: &Table) -> Self {
        let believed = contents(table).into_iter().map(|(_, content)| content).collect();
        Self { name, wishes: 0, read: table.commits.len(), known: number(table), believed, at_work: None }
    }

    fn refresh(&mut self, table: &Table) {
        (self.read, self.known) = (table.commits.len(), number(table));
    }

    fn positions(&self) -> Positions {
        self.known.map(|number| (lane(), number)).into_iter().collect()
    }

    /// One step; false if another was first and this one must begin anew, as a process that exits and is started again.
    fn step(&mut self, table: &mut Table, rng: &mut StdRng) -> bool {
        let Some((mut machine, todo, wanted, content)) = self.at_work.take() else {
            self.wishes += 1;
            let start = self.believed.len() as i64;
            let step = Move { start, end: start + 1, young: start == 0 };
            let mut machine = MainCommit::new(Moves::from([(lane(), step)]), rng.random());
            let first = machine.start(&self.positions());
            self.at_work = Some((machine, first, start + 1, self.name * 1_000 + self.wishes));
            return true;
        };
        let next = match todo {
            Do::Commit => {
                let row = (TopicPartition { partition: wanted as i32, ..lane() }, content);
                let commit = Commit { txns: [(lane(), wanted)].into(), rows: vec![row] };
                match table.commit(self.read, commit, rng) {
                    Some(version) => {
                        (self.read, self.known) = (version, Some(wanted));
                        machine.step(Saw::Committed)
                    }
                    None => machine.step(Saw::Failed),
                }
            }
            Do::Refresh if rng.random_bool(0.3) => machine.step(Saw::Unreachable),
            Do::Refresh => {
                self.refresh(table);
                machine.step(Saw::Table(&self.positions()))
            }
            Do::Sleep(_) => machine.step(Saw::Woke),
            Do::LeaveOut => unreachable!("a number is not left out"),
            Do::Done(Outcome::Landed) => {
                self.believed.push(content);
                return true;
            }
            // Somebody gave the number: to whom, the row says.
            Do::Done(_) => {
                let ours = contents(table).contains(&(wanted, content));
                if ours {
                    self.believed.push(content);
                }
                return ours;
            }
        };
        self.at_work = Some((machine, next, wanted, content));
        true
    }
}

fn simulate(seed: u64) -> Result<bool, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut table = Table::default();
    let racers: i64 = rng.random_range(1..4);
    let mut writers: Vec<Writer> = (0..racers).map(|name| Writer::start(name, &table)).collect();
    let (mut names, mut lost) = (racers, false);
    for _ in 0..400 {
        table.time_passes(&mut rng);
        let turn = rng.random_range(0..writers.len());
        let crashed = rng.random_bool(0.03);
        if crashed || !writers[turn].step(&mut table, &mut rng) {
            lost |= !crashed;
            writers[turn] = Writer::start(names, &table);
            names += 1;
        }
        let recorded = contents(&table);
        if !recorded.iter().enumerate().all(|(at, (number, _))| *number == at as i64 + 1) {
            return Err(format!("numbers are given once and in order: {recorded:?}"));
        }
        for writer in &writers {
            let known = recorded.iter().map(|(_, content)| content);
            if writer.believed.len() > recorded.len() || !writer.believed.iter().zip(known).all(|(a, b)| a == b) {
                return Err(format!("{} believes {:?} of {recorded:?}", writer.name, writer.believed));
            }
        }
    }
    Ok(lost)
}

#[test]
fn a_number_is_given_once_and_all_agree_on_what_it_is() {
    let mut lost = 0;
    for seed in 0..5_000 {
        match simulate(seed) {
            Ok(somebody) => lost += u32::from(somebody),
            Err(fault) => panic!("seed {seed}: {fault}"),
        }
    }
    assert!(lost > 100, "hardly anybody raced: {lost}");
}
