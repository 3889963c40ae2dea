//! What a back-test has found, and where two of them differ.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::stream::{Micros, Proof, Row, Rule, Transition, message};

/// What rules would have told.
#[derive(Debug, Clone, Serialize)]
pub struct BackTest {
    /// From here …
    pub since: DateTime<Utc>,
    /// … and before here.
    pub until: DateTime<Utc>,
    /// Rows that were read, with those of tables that are looked up.
    pub rows: u64,
    /// How long that took.
    pub seconds: f64,
    /// The rule, and the one it is held against.
    pub rules: Vec<OfRule>,
    /// Where the two differ.
    pub against: Option<Differences>,
    /// Where the rule differs from what was told live; nothing if none of it was.
    pub live: Option<Live>,
}

/// What one rule would have told.
#[derive(Debug, Clone, Serialize)]
pub struct OfRule {
    /// Its name.
    pub rule: String,
    /// Its file.
    pub file: String,
    /// Tells its text apart.
    pub hash: String,
    /// The table whose rows it follows.
    pub stream: String,
    /// How it is run.
    pub class: String,
    /// The tables that it looks up.
    pub look_ups: Vec<String>,
    /// Rows of its stream.
    pub rows: u64,
    /// Rows of which the condition is true.
    pub held: u64,
    /// Rows of which it is NULL: they change nothing.
    pub unknown: u64,
    /// Rows that could not be judged.
    pub failed: u64,
    /// Why the last of them could not.
    pub last_error: Option<String>,
    /// Rows that came later than the table allows: they are left out, as they were live.
    pub late: u64,
    /// Rows that were older than what was known of the same already: they are left out, as they were live.
    pub stale: u64,
    /// Alerts that fired when the time began.
    pub firing_at_begin: u64,
    /// The alerts, in their order.
    pub alerts: Vec<Raised>,
    /// What parts of the condition say of some of the rows.
    pub conditions: Vec<OfCondition>,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Raised {
    /// The same whenever it is computed.
    pub alert_id: String,
    /// Whose.
    pub key: Value,
    /// Since when the condition held.
    pub starts_at: DateTime<Utc>,
    /// When it had held for long enough.
    pub fired_at: DateTime<Utc>,
    /// When it was over.
    pub ends_at: Option<DateTime<Utc>>,
    /// What is said.
    pub message: String,
    /// The row.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub values: Map<String, Value>,
}

/// What a part of a condition says of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfCondition {
    /// As it is written.
    pub sql: String,
    /// Of so many it is true …
    pub is_true: u64,
    /// … false …
    pub is_false: u64,
    /// … or neither.
    pub is_null: u64,
}

/// Where what two told differs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Differences {
    /// Alerts that both have.
    pub same: u64,
    /// Those that only the first has.
    pub only_first: Vec<Different>,
    /// Those that only the second has.
    pub only_second: Vec<Different>,
}

/// An alert that only one has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Different {
    /// The alert.
    pub alert: Raised,
    /// Why, as far as that can be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// What was told while the rule ran.
#[derive(Debug, Clone, Serialize)]
pub struct Live {
    /// Alerts in this time.
    pub alerts: u64,
    /// Where the back-test (first) differs from it (second).
    #[serde(flatten)]
    pub differences: Differences,
}

/// An alert that was told live.
#[derive(Debug, Clone)]
pub(super) struct ToldLive {
    pub alert: Raised,
    pub hash: String,
}

/// What is known of the time that was tested, to say why something was otherwise then.
pub(super) struct Then {
    /// Nothing before this was looked at.
    pub begin: DateTime<Utc>,
    /// Close to the end of what is committed.
    pub edge: DateTime<Utc>,
    /// When the rule told something for the first time.
    pub first_live: Option<DateTime<Utc>>,
}

pub(super) fn moment(at: Micros) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(at)
}

impl Raised {
    pub(super) fn of(rule: &Rule, told: &Transition<Row>) -> Self {
        let proof = Proof { schema_version: 0, now: DateTime::UNIX_EPOCH, reason: None };
        let said = message(rule, told, &proof).payload;
        Self {
            alert_id: told.alert.id.clone(),
            key: serde_json::from_str(&told.key).unwrap_or_default(),
            starts_at: moment(told.alert.starts_at).unwrap_or_default(),
            fired_at: moment(told.alert.fired_at).unwrap_or_default(),
            ends_at: None,
            message: said.get("message").and_then(Value::as_str).unwrap_or_default().to_owned(),
            values: told.alert.row.clone(),
        }
    }

    /// Whether both are of one key and one time.
    fn overlaps(&self, other: &Self) -> bool {
        let before = |one: &Self, other: &Self| one.ends_at.is_some_and(|end| end < other.starts_at);
        self.key == other.key && !before(self, other) && !before(other, self)
    }
}

/// Where they differ: alerts with one id are the same, and so are those of one key at one time.
pub(super) fn differences(first: &[Raised], second: &[Raised]) -> Differences {
    let mut left: Vec<&Raised> = second.iter().collect();
    let mut found = Differences::default();
    let mut rest = Vec::new();
    for alert in first {
        match left.iter().position(|other| other.alert_id == alert.alert_id) {
            Some(at) => {
                left.swap_remove(at);
                found.same += 1;
            }
            None => rest.push(alert),
        }
    }
    for alert in rest {
        match left.iter().position(|other| other.overlaps(alert)) {
            Some(at) => {
                left.swap_remove(at);
                found.same += 1;
            }
            None => found.only_first.push(Different { alert: alert.clone(), cause: None }),
        }
    }
    left.sort_by_key(|alert| alert.fired_at);
    found.only_second = left.into_iter().map(|alert| Different { alert: alert.clone(), cause: None }).collect();
    found
}

/// Holds what a rule would have told against what it told, and says why they differ.
pub(super) fn live(rule: &OfRule, is_absence: bool, told: &[ToldLive], then: &Then) -> Live {
    let alerts: Vec<Raised> = told.iter().map(|told| told.alert.clone()).collect();
    let mut differences = differences(&rule.alerts, &alerts);
    for different in &mut differences.only_first {
        let before = then.first_live.is_none_or(|first| different.alert.fired_at < first);
        different.cause = Some(match before {
            true => "the rule had told nothing yet: it may not have run then".to_owned(),
            false => cause(rule, is_absence, &different.alert, then),
        });
    }
    for different in &mut differences.only_second {
        let of = |told: &&ToldLive| told.alert.alert_id == different.alert.alert_id;
        let hash = told.iter().find(of).map(|told| told.hash.as_str());
        different.cause = Some(match hash.filter(|hash| *hash != rule.hash) {
            Some(_) => "the rule's file was another then".to_owned(),
            None if different.alert.starts_at < then.begin => "it began before the time that was looked at".to_owned(),
            None => cause(rule, is_absence, &different.alert, then),
        });
    }
    Live { alerts: alerts.len() as u64, differences }
}

/// Why an alert may be there only live, or only in the test.
fn cause(rule: &OfRule, is_absence: bool, alert: &Raised, then: &Then) -> String {
    let ends = [Some(alert.fired_at), alert.ends_at];
    if ends.into_iter().flatten().any(|end| end >= then.edge) {
        return "it is at the end of what is committed".to_owned();
    }
    if is_absence {
        return "while Millpond or the brokers are away nobody counts as silent, and what is sent late ends a silence \
                late"
            .to_owned();
    }
    if !rule.look_ups.is_empty() {
        let tables = rule.look_ups.join(", ");
        return format!(
            "what stood in {tables} when a record of {} came: which of two records came first is known by their \
             brokers' times only",
            rule.stream
        );
    }
    format!("which records of {} were looked at together is not kept", rule.stream)
}
