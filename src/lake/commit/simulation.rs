//! Seeded simulation of writers, lost answers, late PUTs, crashes and rivals against a model of a Delta
//! table. A failing seed is printed; `MILLPOND_SIM_SEED=<seed>` replays it alone, `MILLPOND_SIM_SEEDS=<n>`
//! sets how many are tried.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::machine::{Do, MainCommit, Outcome, Saw, SideCommit};
use crate::lake::positions::{Move, Moves, Positions, TopicPartition};

pub(super) type Identity = (TopicPartition, i64);

#[derive(Clone, Default)]
pub(super) struct Commit {
    pub(super) txns: Positions,
    pub(super) rows: Vec<Identity>,
}

/// A Delta table as delta-rs lets us see it: commits conflict when application ids overlap.
#[derive(Default)]
pub(super) struct Table {
    pub(super) commits: Vec<Commit>,
    late_puts: Vec<(usize, Commit)>,
}

impl Table {
    pub(super) fn positions(&self) -> Positions {
        let mut all = Positions::new();
        for commit in &self.commits {
            all.extend(commit.txns.clone());
        }
        all
    }

    fn holds(&self, row: &Identity) -> bool {
        self.commits.iter().any(|commit| commit.rows.contains(row))
    }

    /// PUT-if-absent of version `read + 1…`, after the conflict check. The version, if the caller hears of success.
    pub(super) fn commit(&mut self, read: usize, commit: Commit, rng: &mut StdRng) -> Option<usize> {
        let overlaps = |other: &Commit| other.txns.keys().any(|lane| commit.txns.contains_key(lane));
        if self.commits[read..].iter().any(overlaps) {
            return None;
        }
        match rng.random_range(0..10) {
            0 => None,
            1 => {
                self.commits.push(commit);
                None
            }
            2 => {
                self.late_puts.push((self.commits.len(), commit));
                None
            }
            _ => {
                self.commits.push(commit);
                Some(self.commits.len())
            }
        }
    }

    /// PUTs still under way arrive, or not: each only if its version is still free.
    pub(super) fn time_passes(&mut self, rng: &mut StdRng) {
        let mut waiting = std::mem::take(&mut self.late_puts);
        waiting.retain(|(version, commit)| {
            if rng.random_bool(0.7) {
                return true;
            }
            if *version == self.commits.len() {
                self.commits.push(commit.clone());
            }
            false
        });
        self.late_puts = waiting;
    }
}

struct World {
    main: Table,
    side: Table,
    lanes: Vec<TopicPartition>,
    records_per_lane: i64,
}

/// Every fifth record is a dead letter, every seventh a skip: a function of the record alone.
fn is_dead(offset: i64) -> bool {
    offset % 5 == 0
}
fn is_skip(offset: i64) -> bool {
    offset % 7 == 3
}

enum Phase {
    Idle,
    Side(SideCommit, Do, Moves, Vec<Identity>),
    Main(MainCommit, Do, Moves),
    Stopped,
}

struct Writer {
    main_read: usize,
    side_read: usize,
    main_positions: Positions,
    side_positions: Positions,
    phase: Phase,
}

impl Writer {
    fn start(world: &World) -> Self {
        Self {
            main_read: world.main.commits.len(),
            side_read: world.side.commits.len(),
            main_positions: world.main.positions(),
            side_positions: world.side.positions(),
            phase: Phase::Idle,
        }
    }

    fn window(&self, world: &World, rng: &mut StdRng) -> Moves {
        let mut moves = Moves::new();
        for lane in &world.lanes {
            let known = self.main_positions.get(lane).copied();
            let start = known.unwrap_or(0);
            let end = (start + rng.random_range(0..6)).min(world.records_per_lane);
            if end > start {
                moves.insert(lane.clone(), Move { start, end, young: known.is_none() });
            }
        }
        moves
    }

    /// One step of work; true if it moved anything.
    fn step(&mut self, world: &mut World, rng: &mut StdRng) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Stopped => Phase::Stopped,
            Phase::Idle => {
                let moves = self.window(world, rng);
                if moves.is_empty() {
                    Phase::Idle
                } else {
                    let dead = rows(&moves, is_dead);
                    let ends = moves.iter().map(|(lane, step)| (lane.clone(), step.end)).collect();
                    let mut side = SideCommit::new(ends, rng.random());
                    let first =
                        if dead.is_empty() { Do::Done(Outcome::Skipped) } else { side.start(&self.side_positions) };
                    Phase::Side(side, first, moves, dead)
                }
            }
            Phase::Side(mut side, todo, moves, mut dead) => {
                let next = match todo {
                    Do::LeaveOut => {
                        let own = side.own().clone();
                        dead.retain(|row| own.get(&row.0).is_none_or(|own| row.1 >= *own) || !world.side.holds(row));
                        side.step(Saw::Remaining(dead.len()))
                    }
                    Do::Commit => {
                        let commit = Commit { txns: side.txns(), rows: dead.clone() };
                        let ok = world.side.commit(self.side_read, commit, rng);
                        side.step(if ok.is_some() { Saw::Committed } else { Saw::Failed })
                    }
                    Do::Refresh if rng.random_bool(0.3) => side.step(Saw::Unreachable),
                    Do::Refresh => {
                        self.side_read = world.side.commits.len();
                        self.side_positions = world.side.positions();
                        side.step(Saw::Table(&self.side_positions))
                    }
                    Do::Sleep(_) => side.step(Saw::Woke),
                    Do::Done(_) => {
                        self.side_read = world.side.commits.len();
                        self.side_positions = world.side.positions();
                        let mut main = MainCommit::new(moves.clone(), rng.random());
                        let first = main.start(&self.main_positions);
                        self.phase = Phase::Main(main, first, moves);
                        return;
                    }
                };
                Phase::Side(side, next, moves, dead)
            }
            Phase::Main(mut main, todo, moves) => {
                let next = match todo {
                    Do::Commit => {
                        let txns = moves.iter().map(|(lane, step)| (lane.clone(), step.end)).collect();
                        let kept = rows(&moves, |offset| !is_dead(offset) && !is_skip(offset));
                        let ok = world.main.commit(self.main_read, Commit { txns, rows: kept }, rng);
                        if let Some(version) = ok {
                            // Rebased over a rival's commit: its moves of other partitions must be seen, too.
                            if version == self.main_read + 1 {
                                self.main_positions.extend(moves.iter().map(|(lane, step)| (lane.clone(), step.end)));
                            } else {
                                self.main_positions = world.main.positions();
                            }
                            self.main_read = version;
                        }
                        main.step(if ok.is_some() { Saw::Committed } else { Saw::Failed })
                    }
                    Do::Refresh if rng.random_bool(0.3) => main.step(Saw::Unreachable),
                    Do::Refresh => {
                        self.main_read = world.main.commits.len();
                        self.main_positions = world.main.positions();
                        main.step(Saw::Table(&self.main_positions))
                    }
                    Do::Sleep(_) => main.step(Saw::Woke),
                    Do::Done(Outcome::Rival { .. }) => return,
                    Do::Done(_) => {
                        self.phase = Phase::Idle;
                        return;
                    }
                    Do::LeaveOut => unreachable!("a main commit leaves nothing out"),
                };
                Phase::Main(main, next, moves)
            }
        };
    }
}

fn rows(moves: &Moves, wanted: impl Fn(i64) -> bool) -> Vec<Identity> {
    let offsets = |(lane, step): (&TopicPartition, &Move)| {
        let lane = lane.clone();
        (step.start..step.end)
            .filter(|offset| wanted(*offset))
            .map(move |offset| (lane.clone(), offset))
            .collect::<Vec<_>>()
    };
    moves.iter().flat_map(offsets).collect()
}

fn simulate(seed: u64) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let lanes = (0..rng.random_range(1..4))
        .map(|partition| TopicPartition { topic: "t".into(), incarnation: 0, partition })
        .collect();
    let mut world =
        World { main: Table::default(), side: Table::default(), lanes, records_per_lane: rng.random_range(1..40) };
    let mut writers = vec![Writer::start(&world)];
    let rivals = rng.random_bool(0.4);
    for _ in 0..5_000 {
        world.main.time_passes(&mut rng);
        world.side.time_passes(&mut rng);
        if rivals && writers.len() < 2 && rng.random_bool(0.02) {
            writers.push(Writer::start(&world));
        }
        let turn = rng.random_range(0..writers.len());
        if rng.random_bool(0.02) {
            writers[turn] = Writer::start(&world);
        } else {
            writers[turn].step(&mut world, &mut rng);
        }
        writers.retain(|writer| !matches!(writer.phase, Phase::Stopped));
        if writers.is_empty() {
            writers.push(Writer::start(&world));
        }
        let at_end = |lane: &TopicPartition| world.main.positions().get(lane) == Some(&world.records_per_lane);
        if world.lanes.iter().all(at_end) && writers.iter().all(|writer| matches!(writer.phase, Phase::Idle)) {
            return judge(&world);
        }
    }
    Err("did not finish".into())
}

fn judge(world: &World) -> Result<(), String> {
    let mut count: BTreeMap<Identity, (u32, u32)> = BTreeMap::new();
    for row in world.main.commits.iter().flat_map(|commit| &commit.rows) {
        count.entry(row.clone()).or_default().0 += 1;
    }
    for row in world.side.commits.iter().flat_map(|commit| &commit.rows) {
        count.entry(row.clone()).or_default().1 += 1;
    }
    for lane in &world.lanes {
        for offset in 0..world.records_per_lane {
            let found = count.get(&(lane.clone(), offset)).copied().unwrap_or_default();
            let wanted = if is_dead(offset) { (0, 1) } else { (u32::from(!is_skip(offset)), 0) };
            if found != wanted {
                return Err(format!("{lane} offset {offset}: (rows, dead letters) = {found:?}, should be {wanted:?}"));
            }
        }
    }
    Ok(())
}

/// Invariant 1: a row is in Delta exactly once, whatever crashes, retries or rival writers happen.
#[test]
fn invariant_1_every_row_is_committed_exactly_once_under_seeded_faults() {
    over_seeds(simulate);
}

/// Runs `simulate` with the seeds that the environment asks for, or all.
pub(super) fn over_seeds(simulate: fn(u64) -> Result<(), String>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("MILLPOND_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLPOND_SIM_SEEDS").unwrap_or(20_000),
    };
    for seed in seeds {
        if let Err(fault) = simulate(seed) {
            panic!("seed {seed}: {fault} (replay with MILLPOND_SIM_SEED={seed})");
        }
    }
}
