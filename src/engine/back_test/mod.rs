//! What a rule would have told: history goes through the same evaluation as what comes.
//!
//! ```text
//! tables of the lake ─ history (slices of time) ─▶ timeline ─┬─▶ rows by key, as they were then ─┐
//!                                                            ├─▶ gate: in order, none late ──────┼─▶ player ─▶ report
//!                                                            └───────────────────────────────────┘
//! ```
//! Rows come in the order in which their records did; those of a rule that waits, or looks back, go through the clock and
//! the order that they go through live. Tables with one row per key are put together anew, record by record. So a rule sees
//! what it saw live, as far as history knows it.

mod gate;
mod history;
mod player;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use chrono::{DateTime, Utc};

use self::gate::Gate;
use self::history::{History, Slice};
use self::player::{Follows, Player};
pub use self::report::{BackTest, Differences, Different, Live, OfCondition, OfRule, Raised};
use self::report::{Then, ToldLive, moment};
use super::catalog::EngineCatalog;
use super::dead_letters::literal;
use super::latest::{ByHand, Keeper};
use super::rows::{broken, query};
use super::streams::{FAR, Named, plan};
use super::{Variables, committed, existing, s3_options, service};
use crate::config::Project;
use crate::error::{Error, Kind, Result};
use crate::query::Service;
use crate::stream::{Batch, Micros, Plan, Rule};

/// Records that came within so long of each other may have been looked at in any order.
const TICK: Micros = 20_000;
/// Rows that go through rules together.
const TOGETHER: usize = 4_096;
/// Rows that a slice of time should have, so that few are in memory and few queries are needed.
const SLICE_ROWS: usize = 200_000;
/// How long the first slice is, and the longest.
const FIRST_SLICE: Micros = 60_000_000;
const LONGEST_SLICE: Micros = 30 * 86_400_000_000;
/// How long it takes until it is known how far partitions are.
const RUN_IN: Micros = 10_000_000;
/// What happened so shortly before the end of what is committed may have gone on differently.
const EDGE: Micros = 15_000_000;

/// What is to be tested.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The rule, and the one that it is held against.
    pub rules: Vec<Rule>,
    /// From here …
    pub since: DateTime<Utc>,
    /// … and before here; to the end of what is committed, if nothing is said.
    pub until: Option<DateTime<Utc>>,
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// What stood in a table before is put together.
    Before(String),
    /// There are so many rows.
    Rows(u64),
    /// So many more of them are done.
    Done(u64),
}

/// Runs rules over what the lake of a project holds.
pub async fn back_test(
    project: &Project,
    variables: &Variables,
    wanted: &Wanted,
    progress: &dyn Fn(Progress),
) -> Result<BackTest> {
    let began = Instant::now();
    let lake = existing(project, variables).await?;
    let catalog = committed(project, Some(&lake)).await?;
    let service = service(Some(&lake), &catalog, &project.config)?;
    let keeper = Keeper {
        catalog: catalog.clone(),
        service: service.clone(),
        s3: s3_options(&project.config, variables),
        writing: None,
    };
    keeper.shape().await?;
    catalog.stream_queries.know(&project.streams, &service, &catalog).await;
    let mut plans = Vec::new();
    for rule in &wanted.rules {
        if rule.schedule.is_some() {
            let message = format!("{}: a rule on a schedule looks at tables as they are when it runs", rule.file);
            let hint = "try its query over what was: at_time('table', '2026-11-28T08:00:00Z') in millpond sql";
            return Err(Error::new(Kind::Usage, message).hint(hint));
        }
        let planned = plan(rule, &service, &catalog).await;
        plans.push(planned.map_err(|error| in_file(&rule.file, &error))?);
    }
    let told = match catalog.streams.alerts() {
        Some(_) => told_live(&service, &wanted.rules[0].name).await?,
        None => Vec::new(),
    };
    let stage = Stage::set(&keeper, &wanted.rules, plans, told).await?;
    stage.play(wanted, project, progress, began).await
}

/// All that takes part.
struct Stage {
    service: Service,
    histories: Vec<History>,
    /// The tables with one row per key that are put together, each with the places of the histories that it is made of.
    kept: Vec<(ByHand, Vec<usize>)>,
    /// What puts rows in order.
    gates: Vec<Gate>,
    players: Vec<Player>,
    /// What the rule told while it ran.
    told: Vec<ToldLive>,
}

/// Rows of one history that are looked at together.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    history: usize,
    rows: Range<usize>,
}

impl Stage {
    async fn set(keeper: &Keeper, rules: &[Rule], plans: Vec<Plan>, told: Vec<ToldLive>) -> Result<Self> {
        let catalog = &keeper.catalog;
        let mut named: BTreeSet<String> = BTreeSet::new();
        for plan in &plans {
            named.insert(plan.query().stream().to_owned());
            named.extend(plan.query().look_ups().into_iter().map(|(table, _)| table));
        }
        // Which tables SQL may ask for is not known.
        let asks = rules.iter().any(|rule| rule.expect.is_some());
        let kept = keeper.by_hand(|name| asks || named.contains(name)).await?;
        let mut histories: Vec<History> = Vec::new();
        let mut sources = Vec::new();
        for by_hand in &kept {
            let mut of = Vec::new();
            for (followed, needed) in by_hand.sources() {
                let at = place(&mut histories, catalog, &followed.source)?;
                histories[at].want(needed);
                histories[at].want(followed.key.iter().map(String::as_str));
                of.push(at);
            }
            sources.push(of);
        }
        let kept: Vec<(ByHand, Vec<usize>)> = kept.into_iter().zip(sources).collect();
        let (mut players, mut gates) = (Vec::new(), Vec::<Gate>::new());
        for (rule, plan) in rules.iter().zip(plans) {
            let stream = plan.query().stream().to_owned();
            let follows = match kept.iter().position(|(by_hand, _)| by_hand.kept.rows.name() == stream) {
                Some(at) => Follows::Keys(at),
                None => {
                    let at = place(&mut histories, catalog, &stream)?;
                    histories[at].want(plan.query().reads().iter().map(String::as_str));
                    histories[at].want(plan.entity().iter().map(String::as_str));
                    match plan.ordered() {
                        false => Follows::Rows(at),
                        true => {
                            let gate = gates.iter().position(|gate| gate.history == at).unwrap_or(gates.len());
                            gates.extend((gate == gates.len()).then(|| Gate::new(at, histories[at].lateness)));
                            Follows::Ordered(gate)
                        }
                    }
                }
            };
            players.push(Player::new(rule.clone(), plan, follows));
        }
        Ok(Self { service: keeper.service.clone(), histories, kept, gates, players, told })
    }

    async fn play(
        mut self,
        wanted: &Wanted,
        project: &Project,
        progress: &dyn Fn(Progress),
        began: Instant,
    ) -> Result<BackTest> {
        let since = wanted.since.timestamp_micros();
        let until = wanted.until.map_or(Micros::MAX / 2, |until| until.timestamp_micros());
        let from = since.saturating_sub(self.run_in()?);
        let (mut rows, mut first, mut last) = (0, until, from);
        for history in &self.histories {
            if let Some(extent) = history.extent(&self.service, from, until).await? {
                rows += extent.rows;
                (first, last) = (first.min(extent.first), last.max(extent.last));
            }
        }
        // Time goes on where nothing comes, but not beyond now.
        let end = match wanted.until {
            Some(_) => until.min(Utc::now().timestamp_micros()),
            None => last.saturating_add(1),
        };
        let until = end.max(since);
        let begin = from.max(first.min(since));
        self.put_together(begin, progress).await?;
        progress(Progress::Rows(rows));
        if begin >= since {
            self.count();
        }
        self.look_at_all(begin).await?;
        let (mut at, mut length) = (begin, FIRST_SLICE);
        while at < until {
            let mut end = at.saturating_add(length).min(until);
            if at < since {
                end = end.min(since);
            }
            let done = self.slice(at, end).await?;
            progress(Progress::Done(done as u64));
            at = end;
            if at == since && begin < since {
                self.count();
            }
            length = match done {
                0 => length.saturating_mul(8),
                _ if done < SLICE_ROWS / 2 => length.saturating_mul(2),
                _ if done > SLICE_ROWS * 2 => length / 2,
                _ => length,
            };
            length = length.clamp(1_000_000, LONGEST_SLICE);
        }
        self.report(wanted, project, (begin, last.min(until), until), rows, began)
    }

    /// From here on it counts.
    fn count(&mut self) {
        self.gates.iter_mut().for_each(Gate::count);
        self.players.iter_mut().for_each(Player::count);
    }

    /// How late rows may be of which it is looked at each.
    fn lateness(&self) -> Micros {
        self.histories.iter().map(|history| history.lateness).max().unwrap_or(0)
    }

    /// How long before the time that is asked for it has to begin.
    fn run_in(&self) -> Result<Micros> {
        let mut longest = 0;
        for player in &self.players {
            let rule = player.evaluation.rule();
            let terms = rule.terms();
            let span = player.plan()?.query().memory().map(|memory| memory.span().unwrap_or(FAR));
            longest = longest.max(terms.hold.max(terms.absent_for.unwrap_or(0)).max(span.unwrap_or(0)));
        }
        Ok(longest.saturating_add(self.lateness()).saturating_add(RUN_IN))
    }

    /// Tables with one row per key are what they were at `begin`.
    async fn put_together(&self, begin: Micros, progress: &dyn Fn(Progress)) -> Result<()> {
        for (at, history) in self.histories.iter().enumerate() {
            let made: Vec<&ByHand> = self.made_of(at).map(|(_, by_hand)| by_hand).collect();
            if made.is_empty() {
                continue;
            }
            progress(Progress::Before(history.table.clone()));
            let each = |rows: &RecordBatch| made.iter().try_for_each(|kept| kept.take_in(&history.table, rows));
            history.before(&self.service, begin, each).await?;
        }
        Ok(())
    }

    /// Rules of tables with one row per key begin with all rows.
    async fn look_at_all(&mut self, begin: Micros) -> Result<()> {
        for player in &mut self.players {
            if let Follows::Keys(at) = player.follows {
                let rows = &*self.kept[at].0.kept.rows;
                let all = rows.scan().map_err(Error::from)?;
                let batch = Named::default().batch(rows, &all, begin)?;
                player.take(&batch)?;
            }
            player.expect(&self.service, begin).await?;
        }
        Ok(())
    }

    /// The tables that are made of a history, with their places.
    fn made_of(&self, history: usize) -> impl Iterator<Item = (usize, &ByHand)> {
        let kept = self.kept.iter().enumerate();
        kept.filter(move |(_, (_, of))| of.contains(&history)).map(|(at, (by_hand, _))| (at, by_hand))
    }

    async fn slice(&mut self, from: Micros, until: Micros) -> Result<usize> {
        let mut slices = Vec::new();
        for history in &self.histories {
            slices.push(history.read(&self.service, from, until).await?);
        }
        let asks = self.players.iter().any(|player| player.evaluation.rule().expect.is_some());
        for run in timeline(&slices) {
            let Some(slice) = &slices[run.history] else { continue };
            for rows in self.parts(&run, &slice.batch) {
                self.take(run.history, &slice.batch.slice(rows.start, rows.len()))?;
                self.pass(slice.at[rows.end - 1])?;
            }
            let players = self.players.iter_mut().filter(|_| asks);
            for player in players {
                player.expect(&self.service, slice.at[run.rows.end - 1]).await?;
            }
        }
        self.pass(until)?;
        Ok(slices.iter().flatten().map(|slice| slice.at.len()).sum())
    }

    /// Time has passed until `wall`.
    fn pass(&mut self, wall: Micros) -> Result<()> {
        let latest = wall.saturating_sub(self.lateness());
        for (at, gate) in self.gates.iter_mut().enumerate() {
            let (batch, now) = gate.pass(wall).map_err(broken)?;
            for player in self.players.iter_mut().filter(|player| player.follows == Follows::Ordered(at)) {
                batch.iter().try_for_each(|batch| player.take(batch))?;
                player.advance(now);
            }
        }
        let others = self.players.iter_mut().filter(|player| !matches!(player.follows, Follows::Ordered(_)));
        others.for_each(|player| player.advance(latest));
        Ok(())
    }

    /// What of a run is looked at together: no key twice, where rules follow the rows of keys.
    fn parts(&self, run: &Run, batch: &Batch) -> Vec<Range<usize>> {
        let history = &self.histories[run.history];
        let followed = |(at, by_hand): (usize, &ByHand)| {
            let follows = self.players.iter().any(|player| player.follows == Follows::Keys(at));
            let sources = by_hand.sources().filter(|(followed, _)| followed.source == history.table);
            sources.filter(|_| follows).map(|(followed, _)| followed.key.clone()).collect::<Vec<_>>()
        };
        let keys: BTreeSet<Vec<String>> = self.made_of(run.history).flat_map(followed).collect();
        let entities: Vec<_> = keys.iter().map(|key| batch.entities(key)).collect();
        let mut seen: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); entities.len()];
        let (mut parts, mut begin) = (Vec::new(), run.rows.start);
        for row in run.rows.clone() {
            let is_there = entities.iter().zip(&seen).any(|(of, seen)| seen.contains(&*of[row]));
            if is_there || row - begin >= TOGETHER {
                parts.push(begin..row);
                begin = row;
                seen.iter_mut().for_each(BTreeSet::clear);
            }
            for (of, seen) in entities.iter().zip(&mut seen) {
                seen.insert(&*of[row]);
            }
        }
        parts.push(begin..run.rows.end);
        parts
    }

    /// Rows of a history have come.
    fn take(&mut self, at: usize, batch: &Batch) -> Result<()> {
        let history = &self.histories[at];
        for gate in self.gates.iter_mut().filter(|gate| gate.history == at) {
            gate.add(batch.clone()).map_err(broken)?;
        }
        let mut named: BTreeMap<usize, (Named, Vec<RecordBatch>)> = BTreeMap::new();
        for (place, by_hand) in self.made_of(at) {
            by_hand.take_in(&history.table, &batch.rows)?;
            if !self.players.iter().any(|player| player.follows == Follows::Keys(place)) {
                continue;
            }
            let (names, sought) = named.entry(place).or_default();
            for (followed, _) in by_hand.sources().filter(|(followed, _)| followed.source == history.table) {
                sought.extend(names.note(batch, &followed.key, &*by_hand.kept.rows));
            }
        }
        for player in &mut self.players {
            match player.follows {
                Follows::Rows(follows) if follows == at => player.take(batch)?,
                Follows::Rows(_) | Follows::Ordered(_) => {}
                Follows::Keys(place) => {
                    let Some((names, sought)) = named.get(&place) else { continue };
                    let Some(first) = sought.first() else { continue };
                    let rows = &*self.kept[place].0.kept.rows;
                    let sought = concat_batches(&first.schema(), sought).map_err(broken)?;
                    let found: Vec<_> = rows.get(sought.columns()).map_err(Error::from)?.into_iter().collect();
                    player.take(&names.batch(rows, &found, batch.times.last().copied().unwrap_or(0))?)?;
                }
            }
        }
        Ok(())
    }

    fn report(
        self,
        wanted: &Wanted,
        project: &Project,
        (begin, last, until): (Micros, Micros, Micros),
        rows: u64,
        began: Instant,
    ) -> Result<BackTest> {
        let since = wanted.since.timestamp_micros();
        let mut rules = Vec::new();
        for (player, rule) in self.players.into_iter().zip(&wanted.rules) {
            let late = match player.follows {
                Follows::Ordered(gate) => self.gates[gate].late(),
                _ => 0,
            };
            rules.push(player.finish(project, &rule.file, since, late)?);
        }
        let first_live = self.told.iter().map(|told| told.alert.fired_at).min();
        let is_in = |told: &ToldLive| told.alert.fired_at >= wanted.since && Some(told.alert.fired_at) < moment(until);
        let told_then: Vec<ToldLive> = self.told.into_iter().filter(is_in).collect();
        let then = Then {
            begin: moment(begin).unwrap_or_default(),
            edge: moment(last.saturating_sub(EDGE)).unwrap_or_default(),
            first_live,
        };
        let is_absence = wanted.rules[0].absent_for.is_some();
        // A rule that is not one of the project was never told.
        let is_own = project.alerts.iter().any(|rule| rule.file == wanted.rules[0].file);
        let live = (is_own && first_live.is_some()).then(|| report::live(&rules[0], is_absence, &told_then, &then));
        let against = match &rules[..] {
            [one, other] => Some(report::differences(&one.alerts, &other.alerts)),
            _ => None,
        };
        Ok(BackTest {
            since: wanted.since,
            until: moment(until).unwrap_or_default(),
            rows,
            seconds: began.elapsed().as_secs_f64(),
            rules,
            against,
            live,
        })
    }
}

fn in_file(file: &str, error: &Error) -> Error {
    let place = error.place().map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
    let told = Error::new(error.kind(), format!("{file}{place}: {}", error.message()));
    match error.hint_text() {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

/// The place of the history of a table, which is made if it is not there.
fn place(histories: &mut Vec<History>, catalog: &EngineCatalog, table: &str) -> Result<usize> {
    if let Some(at) = histories.iter().position(|known| known.table == table) {
        return Ok(at);
    }
    let live = catalog.fed().tables.get(table).cloned();
    let live = live.ok_or_else(|| Error::new(Kind::NotFound, format!("the lake has no table {table} yet")))?;
    let lateness = catalog.allowed_lateness(table).as_micros().try_into().unwrap_or(0);
    histories.push(History::new(&live.pin(), lateness));
    Ok(histories.len() - 1)
}

/// In which order rows are looked at: by their times, where those are the same for all who look by their history.
fn timeline(slices: &[Option<Slice>]) -> Vec<Run> {
    let mut rows: Vec<(Micros, usize, usize)> = Vec::new();
    let full: Vec<usize> = (0..slices.len()).filter(|at| slices[*at].is_some()).collect();
    if let [history] = full[..] {
        let count = slices[history].as_ref().map_or(0, |slice| slice.at.len());
        return vec![Run { history, rows: 0..count }];
    }
    for (history, slice) in slices.iter().enumerate() {
        let at = slice.iter().flat_map(|slice| slice.at.iter().enumerate());
        rows.extend(at.map(|(row, at)| (at.div_euclid(TICK), history, row)));
    }
    rows.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for (_, history, row) in rows {
        match runs.last_mut() {
            Some(run) if run.history == history && run.rows.end == row => run.rows.end += 1,
            _ => runs.push(Run { history, rows: row..row + 1 }),
        }
    }
    runs
}

/// What a rule told while it ran.
async fn told_live(service: &Service, rule: &str) -> Result<Vec<ToldLive>> {
    let sql = format!(
        "SELECT alert_id, rule_hash, \"key\", transition, message, arrow_cast(at, 'Int64'), \
         arrow_cast(starts_at, 'Int64'), arrow_cast(fired_at, 'Int64') \
         FROM system.alerts WHERE rule = {} ORDER BY number",
        literal(rule)
    );
    let mut told: BTreeMap<String, ToldLive> = BTreeMap::new();
    for rows in query(service, &sql).await? {
        let text = |column: usize, row: usize| rows.column(column).as_string::<i32>().value(row).to_owned();
        let time = |column: usize, row: usize| {
            moment(rows.column(column).as_primitive::<arrow::datatypes::Int64Type>().value(row))
        };
        for row in 0..rows.num_rows() {
            let id = text(0, row);
            match text(3, row).as_str() {
                "resolved" => {
                    if let Some(told) = told.get_mut(&id) {
                        told.alert.ends_at = time(5, row);
                    }
                }
                "firing" => {
                    let alert = Raised {
                        alert_id: id.clone(),
                        key: serde_json::from_str(&text(2, row)).unwrap_or_default(),
                        starts_at: time(6, row).unwrap_or_default(),
                        fired_at: time(7, row).unwrap_or_default(),
                        ends_at: None,
                        message: text(4, row),
                        values: serde_json::Map::new(),
                    };
                    told.insert(id, ToldLive { alert, hash: text(1, row) });
                }
                _ => {}
            }
        }
    }
    Ok(told.into_values().collect())
}
