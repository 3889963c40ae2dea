//! One rule at work: what each batch says of its keys, and what becomes of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::error::ArrowError;
use serde_json::{Map, Value};

use super::batch::{Batch, keys, object};
use super::life::{Became, Cause, Instance, Key, Life, Micros, Said, Transition};
use super::rule::Rule;
use crate::error::{Error, Kind};
use crate::query::{Continuous, Found, Shared};

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
        let schema = query.schema();
        if let Some(missing) = rule.key.iter().find(|name| schema.field_with_name(name).is_err()) {
            let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let message = format!("key: the query selects no column `{missing}`");
            return Err(Error::new(Kind::Query, message).hint(format!("it selects {}", columns.join(", "))));
        }
        let own = rule.key.iter().filter_map(|name| query.stream_column(name)).map(str::to_owned);
        let entity = match key {
            Some(key) => key.to_vec(),
            None => own.collect(),
        };
        let entity = if entity.is_empty() { known.to_vec() } else { entity };
        if entity.is_empty() {
            let message = format!("key: none of it is a column of {}", query.stream());
            return Err(Error::new(Kind::Query, message).hint("select a column that says whose each row is"));
        }
        // A row with one per key is what its key is now, whenever its record came.
        let (of_keys, ordered) = (key.is_some(), key.is_none() && rule.waits());
        Ok(Self { query: Arc::new(query), entity, of_keys, ordered })
    }

    /// The SELECT.
    pub fn query(&self) -> &Continuous {
        &self.query
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
        match (rule.absent_for, self.query.look_ups().is_empty()) {
            (Some(_), _) => "absence",
            (None, true) => "stateless",
            (None, false) => "look-up join",
        }
    }
}

/// One rule at work.
pub struct Evaluation {
    rule: Arc<Rule>,
    plan: Result<Plan, Error>,
    life: Life<Row>,
    counters: Counters,
}

/// What became of a rule's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rows of its stream.
    pub rows: u64,
    /// Rows of which the condition is true.
    pub held: u64,
    /// Rows of which it is unknown.
    pub unknown: u64,
    /// Rows that could not be judged.
    pub failed: u64,
    /// Alerts that began to fire.
    pub fired: u64,
    /// Why the last of the rows could not be judged.
    pub last_error: Option<String>,
}

impl Evaluation {
    /// A rule of which nothing is known yet, as it is planned; one that cannot be planned waits until it can.
    pub fn new(rule: Arc<Rule>, plan: Result<Plan, Error>) -> Self {
        let life = Life::new(&rule.name, rule.terms());
        Self { rule, plan, life, counters: Counters::default() }
    }

    /// The rule.
    pub fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    /// How it is run, or why it cannot be.
    pub fn plan(&self) -> Result<&Plan, &Error> {
        self.plan.as_ref()
    }

    /// Goes on with another plan: columns have come, or other tables are looked up.
    pub fn replan(&mut self, plan: Result<Plan, Error>) {
        self.plan = plan;
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
        let mut failed = None;
        let judged = judge(&plan.query, &batch.rows, batch.shared(), &mut failed)?;
        if let Some(reason) = failed {
            self.counters.last_error = Some(reason);
        }
        let heard: usize = judged.iter().map(|(rows, _)| rows.len()).sum();
        self.counters.failed += (batch.len() - heard) as u64;
        let (entity, before) = (plan.entity.clone(), told.len());
        for (rows, found) in judged {
            let heard = match rows.len() == batch.len() {
                true => Cow::Borrowed(batch),
                false => Cow::Owned(batch.slice(rows.start, rows.len())),
            };
            self.hear(&heard, &entity, &found, told);
        }
        for (entity, at, cause) in &batch.gone {
            self.life.take(entity, *at, cause, &[], |_| Row::new(), told);
        }
        self.count(&told[before..]);
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

/// Runs over rows; where that fails, over their halves, so that only those rows are left out at which it does. Gives what
/// was found in each range of rows that could be judged.
pub(super) fn judge(
    plan: &Continuous,
    rows: &RecordBatch,
    shared: &Shared,
    failed: &mut Option<String>,
) -> Result<Vec<(Range<usize>, Found)>, ArrowError> {
    judge_from(plan, 0, rows, shared, failed)
}

fn judge_from(
    plan: &Continuous,
    first: usize,
    rows: &RecordBatch,
    shared: &Shared,
    failed: &mut Option<String>,
) -> Result<Vec<(Range<usize>, Found)>, ArrowError> {
    let count = rows.num_rows();
    let error = match plan.run(rows, shared) {
        Ok(found) => return Ok(vec![(first..first + count, found)]),
        Err(error) => error,
    };
    if count <= 1 {
        *failed = Some(error.message().to_owned());
        return Ok(Vec::new());
    }
    let half = count / 2;
    let mut judged = judge_from(plan, first, &rows.slice(0, half), &Shared::default(), failed)?;
    let rest = rows.slice(half, count - half);
    judged.extend(judge_from(plan, first + half, &rest, &Shared::default(), failed)?);
    Ok(judged)
}
