//! What people ask of rules: why one fires for a key, or why it does not; and quiet for a while.

use std::sync::Arc;

use arrow::array::RecordBatch;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Streams;
use super::status::SCHEDULED;
use super::warm::FAR;
use super::work::Work;
use crate::engine::catalog::EngineCatalog;
use crate::engine::dead_letters::literal;
use crate::engine::rows::{broken, time_of};
use crate::error::{Error, Kind, Result};
pub use crate::query::Explained;
use crate::query::{Kept, Service};
use crate::schema::{fixed, quoted_name};
use crate::stream::{Batch, Counters, KeyPart, Micros, Phase, Plan, Rule, Silence, close, recall, rows_as_json};

/// A rule that keeps rows is explained by so many rows of a key.
const MOST: usize = 10_000;

/// Something that is asked of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The rule.
    pub rule: String,
    /// The key, as far as it is given: `COLUMN=VALUE`, or the value of the only column.
    pub key: Vec<String>,
    /// What is to be done.
    pub act: Act,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Tell what the rule says of the key.
    Explain,
    /// Tell nobody for so many seconds; 0 ends a silence.
    Silence {
        /// For how long.
        seconds: u64,
    },
}

impl Request {
    /// Name of the admin action.
    pub const ACTION: &str = "millpond.alert";
}

/// Why a rule fires for a key, or why it does not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The table that the rule reads.
    pub stream: String,
    /// How it is run.
    pub class: String,
    /// Why it does not run.
    pub error: Option<String>,
    /// How far the time of its stream has come.
    pub clock: Option<String>,
    /// The newest row of the stream that speaks of the key, as JSON.
    pub row: Option<String>,
    /// What becomes of it, step by step.
    pub explained: Vec<Explained>,
    /// What is known of the keys that are meant.
    pub keys: Vec<KeyState>,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// The key, as JSON.
    pub key: String,
    /// `quiet`, `pending` or `firing`.
    pub state: String,
    /// Since when its condition holds.
    pub since: Option<String>,
    /// When it fires, if its condition goes on to hold.
    pub due: Option<String>,
    /// When it fired.
    pub fired_at: Option<String>,
    /// No alert before then.
    pub quiet_until: Option<String>,
    /// The alert.
    pub alert_id: Option<String>,
}

/// What a key must say, of what a request gives.
fn parts(rule: &Rule, given: &[String]) -> Result<Vec<KeyPart>> {
    let part = |text: &String| match (text.split_once('='), &rule.key[..]) {
        (Some((column, value)), _) if rule.key.iter().any(|name| name == column) => {
            Ok(KeyPart { column: column.to_owned(), value: value.to_owned() })
        }
        (_, [column]) => Ok(KeyPart { column: column.clone(), value: text.clone() }),
        _ => {
            let message = format!("`{text}` is not a part of the key of {}", rule.name);
            let columns: Vec<String> = rule.key.iter().map(|column| format!("{column}=…")).collect();
            Err(Error::new(Kind::Usage, message).hint(columns.join(" ")))
        }
    };
    given.iter().map(part).collect()
}

fn rule_of(streams: &Streams, name: &str) -> Result<Arc<Rule>> {
    let work = streams.work.lock();
    work.get(name).map(|work| Arc::clone(work.evaluation.rule())).ok_or_else(|| {
        let error = Error::new(Kind::NotFound, format!("there is no rule `{name}`"));
        let nearest =
            crate::config::nearest(name, work.keys().map(String::as_str)).map(|name| format!("did you mean `{name}`?"));
        match nearest {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })
}

/// Tells nobody of a rule, or of one of its keys, for so many seconds; 0 ends that.
pub fn silence(streams: &Streams, request: &Request, seconds: u64) -> Result<()> {
    let rule = rule_of(streams, &request.rule)?;
    let key = parts(&rule, &request.key)?;
    let until = Utc::now() + TimeDelta::seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1_000_000));
    let mut silences = streams.silences.lock();
    silences.retain(|silence| !(silence.rule == rule.name && silence.key == key) && silence.until > Utc::now());
    if seconds > 0 {
        silences.push(Silence { rule: rule.name.clone(), key, until });
    }
    Ok(())
}

/// Why a rule fires for a key, or why it does not.
pub async fn explain(catalog: &EngineCatalog, service: &Service, request: &Request) -> Result<Explanation> {
    let streams = &catalog.streams;
    let rule = rule_of(streams, &request.rule)?;
    let parts = parts(&rule, &request.key)?;
    let (mut explanation, plan) = {
        let work = streams.work.lock();
        let Some(work) = work.get(&rule.name) else { return Ok(Explanation::default()) };
        let explanation = of_work(work, &parts);
        let stream = catalog.table_of(&explanation.stream);
        (Explanation { stream, ..explanation }, work.feed().zip(work.evaluation.plan().ok().cloned()))
    };
    let Some((feed, plan)) = plan else { return Ok(explanation) };
    let clock = streams.progress.lock().get(&feed).map(|progress| progress.clock);
    explanation.clock = clock.filter(|clock| *clock > Micros::MIN).and_then(time);
    let Some(of_key) = of_key(&plan, &parts) else { return Ok(explanation) };
    if let Some(row) = newest(service, &plan, &of_key).await? {
        explanation.row = rows_as_json(&row).first().cloned();
        explanation.explained = plan.query().explain(&row)?;
        if let Some(said) = said(service, &plan, &of_key, &row, clock).await? {
            explanation.explained.extend(plan.query().explain_said(&said)?);
        }
        for explained in &mut explanation.explained {
            if let Explained::LookUp { table, .. } = explained {
                *table = catalog.table_of(table);
            }
        }
    }
    Ok(explanation)
}

/// What a rule that keeps rows says of the newest of a key, or of its newest window that is over, from what the lake has.
async fn said(
    service: &Service,
    plan: &Plan,
    of_key: &str,
    newest: &RecordBatch,
    clock: Option<Micros>,
) -> Result<Option<RecordBatch>> {
    let (query, time) = (plan.query(), time_of(&newest.schema()));
    // What is made of several keys cannot be said of one.
    let Some(memory) = query.memory().filter(|memory| memory.gives_rows() || memory.groups().is_some()) else {
        return Ok(None);
    };
    let newest = Batch::of_records(newest.clone(), time).map_err(broken)?.times[0];
    // A window may have been over before the one in which the newest row is.
    let from = newest.saturating_sub(memory.span().unwrap_or(FAR).saturating_mul(2));
    let order = [time, fixed::TOPIC, fixed::PARTITION, fixed::OFFSET, fixed::ROW].join(", ");
    let sql = format!(
        "SELECT * FROM (SELECT * FROM public.{} WHERE {of_key} AND {time} >= to_timestamp_micros({from}) \
         ORDER BY {time} DESC LIMIT {MOST}) ORDER BY {order}",
        quoted_name(query.stream())
    );
    let rows = service.session().query(&sql).await?.run().await?.collect().await?;
    let (mut kept, mut counters, mut said) = (Kept::default(), Counters::default(), None);
    for rows in rows.into_iter().filter(|rows| rows.num_rows() > 0) {
        let batch = Batch::of_records(rows, time).map_err(broken)?;
        let recalled = recall(query, &batch, &mut kept, &mut counters).map_err(broken)?;
        said = recalled.into_iter().next_back().map(|recalled| recalled.rows).or(said);
    }
    let closed = close(query, clock.unwrap_or(newest), &mut kept, &mut counters);
    let said = closed.into_iter().next_back().map(|recalled| recalled.rows).or(said);
    Ok(said.filter(|said| said.num_rows() > 0).map(|said| said.slice(said.num_rows() - 1, 1)))
}

fn of_work(work: &Work, parts: &[KeyPart]) -> Explanation {
    let evaluation = &work.evaluation;
    let rule = evaluation.rule();
    let mut keys = Vec::new();
    for (key, instance) in evaluation.life().instances().filter(|(key, _)| parts.iter().all(|part| part.is_of(key))) {
        let quiet = KeyState {
            key: key.to_string(),
            state: "quiet".to_owned(),
            since: None,
            due: None,
            fired_at: None,
            quiet_until: Some(instance.quiet_until).filter(|until| *until > Micros::MIN).and_then(time),
            alert_id: None,
        };
        keys.push(match &instance.phase {
            Phase::Quiet => quiet,
            Phase::Pending { since, .. } => {
                let (state, due) = ("pending".to_owned(), evaluation.life().timer(key).and_then(time));
                KeyState { state, since: time(*since), due, ..quiet }
            }
            Phase::Firing(alert) => KeyState {
                state: "firing".to_owned(),
                since: time(alert.starts_at),
                fired_at: time(alert.fired_at),
                alert_id: Some(alert.id.clone()),
                ..quiet
            },
        });
    }
    keys.sort_by(|one, other| one.key.cmp(&other.key));
    let (stream, class, error) = match evaluation.plan() {
        Err(_) if let Some(scheduled) = &work.scheduled => {
            let ran_at = scheduled.ran_at().timestamp_micros();
            let (class, error) = (SCHEDULED.to_owned(), scheduled.error.clone());
            return Explanation { class, error, clock: time(ran_at), keys, ..Explanation::default() };
        }
        Ok(plan) => (plan.query().stream().to_owned(), plan.class(rule).to_owned(), None),
        Err(error) => (work.stream.clone().unwrap_or_default(), String::new(), Some(error.message().to_owned())),
    };
    Explanation { stream, class, error, keys, ..Explanation::default() }
}

/// SQL that is true of rows of the stream that speak of a key; nothing if none of its columns is one of the stream.
fn of_key(plan: &Plan, parts: &[KeyPart]) -> Option<String> {
    let query = plan.query();
    let equal = |part: &KeyPart| {
        let column = query.stream_column(&part.column)?;
        Some(format!("CAST({} AS VARCHAR) = {}", quoted_name(column), literal(&part.value)))
    };
    let conditions: Vec<String> = parts.iter().filter_map(equal).collect();
    (!conditions.is_empty()).then(|| conditions.join(" AND "))
}

/// The newest row of the stream that speaks of a key.
async fn newest(service: &Service, plan: &Plan, of_key: &str) -> Result<Option<RecordBatch>> {
    let order = match plan.of_keys() {
        true => String::new(),
        false => format!(" ORDER BY {} DESC, {} DESC", fixed::TIMESTAMP, fixed::OFFSET),
    };
    let table = quoted_name(plan.query().stream());
    let sql = format!("SELECT * FROM public.{table} WHERE {of_key}{order} LIMIT 1");
    let rows = service.session().query(&sql).await?.run().await?.collect().await?;
    Ok(rows.into_iter().find(|rows| rows.num_rows() > 0))
}

fn time(micros: Micros) -> Option<String> {
    Some(DateTime::from_timestamp_micros(micros)?.to_rfc3339_opts(SecondsFormat::Micros, true))
}
