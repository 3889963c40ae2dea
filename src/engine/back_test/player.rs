//! One rule that looks at the past.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use super::report::{OfCondition, OfRule, Raised};
use crate::config::Project;
use crate::engine::rows::{broken, query};
use crate::engine::streams::Newest;
use crate::error::{Error, Kind, Result};
use crate::query::{Explained, Service};
use crate::stream::{Batch, Became, Counters, Evaluation, Micros, Plan, Row, Rule, Transition};

/// So many rows are asked at most what each part of a condition says of them …
const MOST_ASKED: usize = 50_000;
/// … and so many of those that come together.
const ASKED: usize = 64;
/// How often the keys are asked for that a rule expects, in the time of the rows.
const EXPECT_EVERY: Micros = 60_000_000;

/// What rows it follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// Those of a history, by its place, as they came.
    Rows(usize),
    /// Those that a gate lets pass, by its place.
    Ordered(usize),
    /// Those of a table with one row per key, by its place, that records name.
    Keys(usize),
}

pub(super) struct Player {
    pub follows: Follows,
    pub evaluation: Evaluation,
    told: Vec<Transition<Row>>,
    newest: Newest,
    /// What became of rows before the time that is asked for.
    before: Option<Counters>,
    /// Rows that were left out because something newer was known.
    stale: u64,
    conditions: Vec<OfCondition>,
    asked: usize,
    expected_at: Option<Micros>,
}

impl Player {
    pub fn new(rule: Rule, plan: Plan, follows: Follows) -> Self {
        let mut evaluation = Evaluation::new(Arc::new(rule), Ok(plan));
        // What it needs of the time before comes first.
        evaluation.warm(crate::query::Kept::default());
        Self {
            follows,
            evaluation,
            told: Vec::new(),
            newest: Newest::default(),
            before: None,
            stale: 0,
            conditions: Vec::new(),
            asked: 0,
            expected_at: None,
        }
    }

    pub fn plan(&self) -> Result<&Plan> {
        self.evaluation.plan().map_err(|error| Error::new(error.kind(), error.message()))
    }

    /// From here on it counts.
    pub fn count(&mut self) {
        self.before = Some(self.evaluation.counters().clone());
        self.stale = 0;
    }

    /// Rows come, in the order in which they are looked at.
    pub fn take(&mut self, batch: &Batch) -> Result<()> {
        let plan = self.plan()?;
        let (entity, is_all) = (plan.entity().to_vec(), plan.of_keys() || plan.ordered());
        self.ask(&batch.rows)?;
        let taken = match is_all || self.evaluation.rule().once {
            true => self.evaluation.take(batch, &mut self.told),
            false => {
                let fresh = self.newest.fresh(batch, &entity);
                self.stale += (batch.len() - fresh.len()) as u64;
                batch.only(&fresh).and_then(|fresh| self.evaluation.take(&fresh, &mut self.told))
            }
        };
        taken.map_err(broken)
    }

    /// Asks what the parts of the condition say of some of the rows.
    fn ask(&mut self, rows: &RecordBatch) -> Result<()> {
        let count = rows.num_rows().min(ASKED);
        if self.before.is_none() || self.asked >= MOST_ASKED || count == 0 {
            return Ok(());
        }
        self.asked += count;
        // A part that fails for a row is the business of who judges it.
        let Ok(explained) = self.plan()?.query().explain(&rows.slice(0, count)) else { return Ok(()) };
        for explained in explained {
            let Explained::Condition { sql, holds } = explained else { continue };
            let known = match self.conditions.iter_mut().find(|known| known.sql == sql) {
                Some(known) => known,
                None => {
                    self.conditions.push(OfCondition { sql, is_true: 0, is_false: 0, is_null: 0 });
                    let last = self.conditions.len() - 1;
                    &mut self.conditions[last]
                }
            };
            for holds in holds {
                match holds {
                    Some(true) => known.is_true += 1,
                    Some(false) => known.is_false += 1,
                    None => known.is_null += 1,
                }
            }
        }
        Ok(())
    }

    /// Time has passed until `at`.
    pub fn advance(&mut self, at: Micros) {
        self.evaluation.advance(at, &mut self.told);
    }

    /// Asks for the keys that it expects, when that is due.
    pub async fn expect(&mut self, service: &Service, at: Micros) -> Result<()> {
        let Some(sql) = self.evaluation.rule().expect.clone() else { return Ok(()) };
        if self.expected_at.is_some_and(|before| at < before.saturating_add(EXPECT_EVERY)) {
            return Ok(());
        }
        self.expected_at = Some(at);
        let rows = query(service, &sql).await?;
        let Some(first) = rows.first() else { return Ok(()) };
        let rows = concat_batches(&first.schema(), &rows).map_err(broken)?;
        self.evaluation.expect(&rows, at, &mut self.told)
    }

    /// What it has told from `since` on.
    pub fn finish(self, project: &Project, file: &str, since: Micros, late: u64) -> Result<OfRule> {
        let rule = Arc::clone(self.evaluation.rule());
        let plan = self.evaluation.plan().map_err(|error| Error::new(Kind::Internal, error.message()))?;
        let mut raised: BTreeMap<String, Raised> = BTreeMap::new();
        for told in &self.told {
            match told.became {
                Became::Firing => {
                    raised.insert(told.alert.id.clone(), Raised::of(&rule, told));
                }
                Became::Repeated => {}
                Became::Resolved => {
                    if let Some(raised) = raised.get_mut(&told.alert.id) {
                        raised.ends_at = super::report::moment(told.at);
                    }
                }
            }
        }
        let begin = super::report::moment(since);
        let is_over = |raised: &Raised| raised.ends_at.is_some_and(|end| Some(end) <= begin) || rule.once;
        let (before, mut alerts): (Vec<Raised>, Vec<Raised>) =
            raised.into_values().partition(|raised| Some(raised.fired_at) < begin);
        alerts.sort_by(|one, other| (one.fired_at, &one.alert_id).cmp(&(other.fired_at, &other.alert_id)));
        let (now, then) = (self.evaluation.counters(), self.before.unwrap_or_default());
        Ok(OfRule {
            rule: rule.name.clone(),
            file: file.to_owned(),
            hash: rule.hash.clone(),
            stream: project.table_of(plan.query().stream()).to_owned(),
            class: plan.class(&rule).to_owned(),
            look_ups: plan.query().look_ups().iter().map(|(table, _)| project.table_of(table).to_owned()).collect(),
            rows: now.rows - then.rows,
            held: now.held - then.held,
            unknown: now.unknown - then.unknown,
            failed: now.failed - then.failed,
            last_error: now.last_error.clone(),
            late,
            stale: self.stale,
            firing_at_begin: before.iter().filter(|raised| !is_over(raised)).count() as u64,
            alerts,
            conditions: self.conditions,
        })
    }
}
