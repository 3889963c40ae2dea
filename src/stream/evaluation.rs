//! One rule at work: what each batch says of its keys, and what becomes of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::error::ArrowError;
use serde_json::{Map, Value};

use super::batch::{Batch, keys, object};
use super::judge::{Counters, Recalled, close, judge, recall};
use super::life::{Became, Cause, Instance, Key, Life, Micros, Said, Transition};
use super::record::{KeptState, Rows};
use super::rule::Rule;
use crate::error::{Error, Kind};
use crate::query::{Continuous, Found, Kept, Memory, Shared};

/// What stands for the topic of what a schedule has found; its offset is the time.
pub const SCHEDULE: &str = "schedule";

/// What an alert tells of its row.
pub type Row = Map<String, Value>;

/// How a rule is run.
#[derive(Debug, Clone)]
pub struct Plan {
    query: Arc<Continuous>,
    /// The columns of the stream that say whose a row is: what a row does not say of its keys does not hold any more.
    entity: Vec<String>,
    /// Each row of the stream is what its key is now.
    of_keys: bool,
    /// Rows are looked at in the order of their times.
    ordered: bool,
}

impl Plan {
    /// That of `rule`, whose SELECT is `query`. `key` are the columns of the stream that say whose a row is, if each has
    /// one row; otherwise those of the rule's key do, or `known`, if none of them is a column of the stream.
    pub fn of(rule: &Rule, query: Continuous, key: Option<&[String]>, known: &[String]) -> Result<Self, Error> {
        rule.has_key(&query.schema())?;
        let own = rule.key.iter().filter_map(|name| query.stream_column(name)).map(str::to_owned);
        let entity = match key {
            Some(key) => key.to_vec(),
            None => own.collect(),
        };
        let entity = match query.memory().filter(|memory| !memory.gives_rows()) {
            Some(memory) => of_windows(&rule.key, entity, memory)?,
            None if entity.is_empty() => known.to_vec(),
            None => entity,
        };
        if entity.is_empty() {
            let message = format!("key: none of it is a column of {}", query.stream());
            return Err(Error::new(Kind::Query, message).hint("select a column that says whose each row is"));
        }
        if key.is_some() && query.memory().is_some() {
            let stream = query.stream();
            let message = format!("{stream} has one row per key, and nothing of what was before to look back at");
            return Err(Error::new(Kind::Query, message).hint("look back at the events table, or at __changes"));
        }
        // A row with one per key is what its key is now, whenever its record came.
        let (of_keys, ordered) = (key.is_some(), key.is_none() && (rule.waits() || query.memory().is_some()));
        Ok(Self { query: Arc::new(query), entity, of_keys, ordered })
    }

    /// The SELECT.
    pub fn query(&self) -> &Continuous {
        &self.query
    }

    /// The same, for who goes on with it elsewhere.
    pub fn shared(&self) -> Arc<Continuous> {
        Arc::clone(&self.query)
    }

    /// The columns of the stream that say whose a row is.
    pub fn entity(&self) -> &[String] {
        &self.entity
    }

    /// True if each row of the stream is what its key is now; false if each is what a record says.
    pub fn of_keys(&self) -> bool {
        self.of_keys
    }

    /// True if rows are to be looked at in the order of their times.
    pub fn ordered(&self) -> bool {
        self.ordered
    }

    /// True if the same rows of the stream always say the same.
    pub fn is_repeatable(&self) -> bool {
        !self.of_keys && self.query.look_ups().is_empty()
    }

    /// What runs it, in a word.
    pub fn class(&self, rule: &Rule) -> &'static str {
        if rule.absent_for.is_some() { "absence" } else { self.query.class() }
    }
}

/// The columns of windows that say whose they are: those of the key. All that tells windows of the same time apart must
/// be among them, so that a window says one thing of a key.
fn of_windows(key: &[String], own: Vec<String>, memory: &Memory) -> Result<Vec<String>, Error> {
    let missing = memory.groups().into_iter().flatten().find(|group| !own.contains(group));
    match missing {
        None => Ok(own),
        Some(group) => {
            let message = format!("key: the windows are grouped by {group}, which is not among {}", key.join(", "));
            Err(Error::new(Kind::Query, message)
                .hint("put all that the query groups by beside the window into the key"))
        }
    }
}

/// One rule at work.
pub struct Evaluation {
    rule: Arc<Rule>,
    plan: Result<Plan, Error>,
    life: Life<Row>,
    counters: Counters,
    kept: Kept,
    has_kept: HasKept,
}

/// How it stands with what a rule keeps of the rows that it has seen.
#[derive(Debug, PartialEq)]
enum HasKept {
    /// It keeps nothing, or all that it needs.
    All,
    /// It begins with nothing, and history may say what it needs.
    Nothing,
    /// What it kept before a restart or an edit, until it is planned.
    Before(KeptState),
    /// That is kept again, if it is certain that no row came between: those until this time were looked at then.
    Until(Option<Micros>),
}

impl Evaluation {
    /// A rule of which nothing is known yet, as it is planned; one that cannot be planned waits until it can.
    pub fn new(rule: Arc<Rule>, plan: Result<Plan, Error>) -> Self {
        let life = Life::new(&rule.name, rule.terms());
        let (counters, kept, has_kept) = (Counters::default(), Kept::default(), HasKept::Nothing);
        Self { rule, plan, life, counters, kept, has_kept }
    }

    /// The rule.
    pub fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    /// How it is run, or why it cannot be.
    pub fn plan(&self) -> Result<&Plan, &Error> {
        self.plan.as_ref()
    }

    /// Goes on with another plan: columns have come, or other tables are looked up. What it keeps stays if it is the
    /// same that the new plan needs.
    pub fn replan(&mut self, plan: Result<Plan, Error>) {
        let memory = |plan: &Result<Plan, Error>| -> Option<String> {
            Some(plan.as_ref().ok()?.query.memory()?.fingerprint().to_owned())
        };
        let is_same = memory(&self.plan).is_some_and(|before| memory(&plan) == Some(before));
        self.plan = plan;
        let Ok(plan) = &self.plan else {
            // Rows go by while it cannot look at them.
            if !matches!(self.has_kept, HasKept::Before(_)) {
                (self.kept, self.has_kept) = (Kept::default(), HasKept::Nothing);
            }
            return;
        };
        if is_same {
            return;
        }
        let before = std::mem::replace(&mut self.has_kept, HasKept::Nothing);
        self.kept = Kept::default();
        match (plan.query.memory(), before) {
            (None, _) => self.has_kept = HasKept::All,
            (Some(memory), HasKept::Before(before)) if before.fingerprint == memory.fingerprint() => {
                let of_stage = |rows: Vec<Rows>| rows.into_iter().map(|rows| rows.0).collect();
                let rows: Vec<Vec<RecordBatch>> = before.rows.into_iter().map(of_stage).collect();
                if let Ok(kept) = memory.read(&rows, before.passed) {
                    (self.kept, self.has_kept) = (kept, HasKept::Until(before.passed));
                }
            }
            (Some(_), _) => {}
        }
    }

    /// Goes on with what was kept before a restart, or by the same rule before it was edited, if that is of use.
    pub fn restore_kept(&mut self, kept: Option<KeptState>) {
        self.has_kept = kept.map_or(HasKept::Nothing, HasKept::Before);
    }

    /// What it keeps of rows, which were looked at until `passed`; nothing if that is nothing, or not all yet.
    pub fn kept_state(&self, passed: Option<Micros>) -> Option<KeptState> {
        let passed = match &self.has_kept {
            HasKept::All => passed,
            HasKept::Until(until) => *until,
            HasKept::Before(kept) => return Some(kept.clone()),
            HasKept::Nothing => return None,
        };
        let memory = self.plan.as_ref().ok()?.query.memory()?;
        let of_stage = |rows: Vec<RecordBatch>| rows.into_iter().map(Rows).collect();
        let rows = memory.write(&self.kept).ok()?.into_iter().map(of_stage).collect();
        Some(KeptState { fingerprint: memory.fingerprint().to_owned(), passed, rows })
    }

    /// What it keeps of rows.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether it must learn from history what happened until `passed`, up to where the stream has been looked at.
    pub fn is_cold(&mut self, passed: Option<Micros>) -> bool {
        match self.has_kept {
            HasKept::Until(until) if until == passed => self.has_kept = HasKept::All,
            HasKept::Until(_) => (self.kept, self.has_kept) = (Kept::default(), HasKept::Nothing),
            _ => {}
        }
        self.has_kept == HasKept::Nothing && self.plan.as_ref().is_ok_and(|plan| plan.query.memory().is_some())
    }

    /// This is what history has said.
    pub fn warm(&mut self, kept: Kept) {
        (self.kept, self.has_kept) = (kept, HasKept::All);
    }

    /// Goes on with what was known of its keys.
    pub fn restore(&mut self, known: impl IntoIterator<Item = (Key, Instance<Row>)>) {
        self.life.restore(known);
    }

    /// What is known of its keys.
    pub fn life(&self) -> &Life<Row> {
        &self.life
    }

    /// What became of its rows.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes over what was told before a restart, once the rule is planned.
    pub fn adopt(&mut self, told: &Transition<Row>) {
        match &self.plan {
            // The rows come again, and what they say is the same, with the same ids.
            Ok(plan) if plan.is_repeatable() => {}
            Ok(plan) => self.life.adopt(told, !plan.of_keys()),
            Err(_) => self.life.adopt(told, false),
        }
    }

    /// These keys are expected from `at` on, and no others: rows with the columns of the rule's key.
    pub fn expect(&mut self, rows: &RecordBatch, at: Micros, told: &mut Vec<Transition<Row>>) -> Result<(), Error> {
        let Ok(plan) = &self.plan else { return Ok(()) };
        let (schema, key) = (plan.query.schema(), &self.rule.key);
        let column = |name: &String| {
            let kind = schema.field_with_name(name).ok()?.data_type();
            Some((name.clone(), cast(rows.column_by_name(name)?, kind).ok()?, true))
        };
        let columns = key.iter().map(column).collect::<Option<Vec<_>>>();
        let columns = columns.and_then(|columns| RecordBatch::try_from_iter_with_nullable(columns).ok());
        let Some(columns) = columns else {
            let message = format!("expect: the query selects no column for each of {}", key.join(", "));
            return Err(Error::new(Kind::Query, message));
        };
        let before = told.len();
        let names = keys(&columns, key);
        let cause = Cause { topic: plan.query.stream().into(), partition: -1, offset: -1 };
        for (row, name) in names.iter().enumerate() {
            self.life.expect(name, at, cause.clone(), object(rows, row));
        }
        let names: BTreeSet<Key> = names.into_iter().collect();
        self.life.forget(at, |key| names.contains(key), told);
        self.count(&told[before..]);
        Ok(())
    }

    /// The rows of a query that was run at `at`: its condition is true of them, and of nothing else.
    pub fn take_all(&mut self, rows: &RecordBatch, at: Micros, told: &mut Vec<Transition<Row>>) -> Result<(), Error> {
        self.rule.has_key(rows.schema_ref())?;
        let (before, names) = (told.len(), keys(rows, &self.rule.key));
        self.counters.rows += rows.num_rows() as u64;
        self.counters.held += rows.num_rows() as u64;
        let is_true: BTreeSet<&Key> = names.iter().collect();
        self.life.only(at, |key| is_true.contains(key), told);
        let cause = Cause { topic: SCHEDULE.into(), partition: -1, offset: at };
        let mut heard = BTreeSet::new();
        for (row, name) in names.iter().enumerate().filter(|(_, name)| heard.insert(Arc::clone(name))) {
            let said = [Said { key: Arc::clone(name), holds: Some(true), is_over: None }];
            self.life.take(name, at, &cause, &said, |_| object(rows, row), told);
        }
        self.life.advance(at, told);
        self.count(&told[before..]);
        Ok(())
    }

    /// All its alerts are over: the rule is gone, or is another.
    pub fn end(&mut self, at: Micros, told: &mut Vec<Transition<Row>>) {
        self.life.forget(at, |_| false, told);
    }

    /// Nobody could speak before `at`.
    pub fn silence_from(&mut self, at: Micros) {
        self.life.silence_from(at);
    }

    /// Time passes.
    pub fn advance(&mut self, clock: Micros, told: &mut Vec<Transition<Row>>) {
        let before = told.len();
        if let Err(error) = self.close_windows(clock, told) {
            self.counters.last_error = Some(error.to_string());
        }
        self.life.advance(clock, told);
        self.count(&told[before..]);
    }

    fn count(&mut self, told: &[Transition<Row>]) {
        self.counters.fired += told.iter().filter(|told| told.became == Became::Firing).count() as u64;
    }

    /// Rows of its stream come, in the order in which they count.
    pub fn take(&mut self, batch: &Batch, told: &mut Vec<Transition<Row>>) -> Result<(), ArrowError> {
        let Ok(plan) = &self.plan else { return Ok(()) };
        self.counters.rows += batch.len() as u64;
        let (entity, before) = (plan.entity.clone(), told.len());
        let query = Arc::clone(&plan.query);
        match query.memory() {
            None => self.judge(&query, &batch.rows, batch, batch.shared(), &entity, told)?,
            Some(_) => {
                for Recalled { of, rows } in recall(&query, batch, &mut self.kept, &mut self.counters)? {
                    self.judge(&query, &rows, &of, &Shared::default(), &entity, told)?;
                }
            }
        }
        for (entity, at, cause) in &batch.gone {
            self.life.take(entity, *at, cause, &[], |_| Row::new(), told);
        }
        self.count(&told[before..]);
        Ok(())
    }

    /// Rows go through the query, and what it says of them is heard of those of `batch`.
    fn judge(
        &mut self,
        query: &Continuous,
        rows: &RecordBatch,
        batch: &Batch,
        shared: &Shared,
        entity: &[String],
        told: &mut Vec<Transition<Row>>,
    ) -> Result<(), ArrowError> {
        for (rows, found) in judge(|rows, shared| query.run(rows, shared), rows, shared, &mut self.counters)? {
            let heard = match rows.len() == batch.len() {
                true => Cow::Borrowed(batch),
                false => Cow::Owned(batch.slice(rows.start, rows.len())),
            };
            self.hear(&heard, entity, &found, told);
        }
        Ok(())
    }

    /// What windows say that are over is heard.
    fn close_windows(&mut self, clock: Micros, told: &mut Vec<Transition<Row>>) -> Result<(), ArrowError> {
        let Ok(plan) = &self.plan else { return Ok(()) };
        let (query, entity) = (Arc::clone(&plan.query), plan.entity.clone());
        for Recalled { of, rows } in close(&query, clock, &mut self.kept, &mut self.counters) {
            self.judge(&query, &rows, &of, &Shared::default(), &entity, told)?;
        }
        Ok(())
    }

    fn hear(&mut self, batch: &Batch, entity: &[String], found: &Found, told: &mut Vec<Transition<Row>>) {
        // Those that are not found say that nothing holds, which matters if something did.
        if found.origins.is_empty() && self.life.is_empty() {
            return;
        }
        let names = keys(&found.rows, &self.rule.key);
        let over = found.more.as_ref();
        let known = |column: &BooleanArray, at: usize| column.is_valid(at).then(|| column.value(at));
        let mut of_row: BTreeMap<u32, Vec<(usize, Said)>> = BTreeMap::new();
        for (at, row) in found.origins.iter().enumerate() {
            let (holds, is_over) = (known(&found.holds, at), over.and_then(|over| known(over, at)));
            match holds {
                Some(true) => self.counters.held += 1,
                Some(false) => {}
                None => self.counters.unknown += 1,
            }
            let said = of_row.entry(*row).or_default();
            match said.iter_mut().find(|(_, said)| said.key == names[at]) {
                // Several rows of one key: it is true if it is true of one of them.
                Some((_, said)) if said.holds == Some(true) => {}
                Some(before) if holds == Some(true) || before.1.holds == Some(false) => {
                    *before = (at, Said { holds, is_over, ..before.1.clone() });
                }
                Some(_) => {}
                None => said.push((at, Said { key: Arc::clone(&names[at]), holds, is_over })),
            }
        }
        let entities = batch.entities(entity);
        for (row, entity) in entities.iter().enumerate() {
            let said = of_row.remove(&(row as u32)).unwrap_or_default();
            if said.is_empty() && !self.life.knows(entity) {
                continue;
            }
            let (at, said): (Vec<usize>, Vec<Said>) = said.into_iter().unzip();
            let value = |number: usize| object(&found.rows, at[number]);
            self.life.take(entity, batch.times[row], &batch.causes[row], &said, value, told);
        }
    }
}
