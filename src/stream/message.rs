//! What a sink is told of an alert.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::evaluation::Row;
use super::life::{Became, Micros, Transition};
use super::rule::Rule;
use crate::deliver::{Message, MessageKind};

/// The fields of an alert's message beside the columns of its row.
pub const FIELDS: [&str; 14] = [
    "alert_id",
    "rule",
    "rule_hash",
    "key",
    "state",
    "severity",
    "starts_at",
    "fired_at",
    "ends_at",
    "values",
    "cause",
    "schema_version",
    "reason",
    "emitted_at",
];

/// What a message says beside the transition that it tells.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// Of the table that the alert's first record is of.
    pub schema_version: u32,
    /// When it is told.
    pub now: DateTime<Utc>,
    /// Why an alert is over, if it is not because of a row.
    pub reason: Option<&'a str>,
}

/// The message that tells `told`. Told again it has the same id.
pub fn message(rule: &Rule, told: &Transition<Row>, proof: &Proof<'_>) -> Message {
    let Proof { schema_version, now, reason } = *proof;
    let Transition { key, became, at, alert, .. } = told;
    let state = match became {
        Became::Firing | Became::Repeated => "firing",
        Became::Resolved => "resolved",
    };
    let ends_at = (*became == Became::Resolved).then(|| time(*at));
    let mut payload = Map::new();
    payload.insert("alert_id".into(), json!(alert.id));
    payload.insert("rule".into(), json!(rule.name));
    payload.insert("rule_hash".into(), json!(rule.hash));
    payload.insert("key".into(), serde_json::from_str(key).unwrap_or(Value::Null));
    payload.insert("state".into(), json!(state));
    payload.insert("severity".into(), json!(rule.severity.word()));
    payload.insert("starts_at".into(), json!(time(alert.starts_at)));
    payload.insert("fired_at".into(), json!(time(alert.fired_at)));
    payload.insert("ends_at".into(), json!(ends_at));
    payload.insert("values".into(), Value::Object(alert.row.clone()));
    let text = rule.message.render(&payload, crate::deliver::Escape::Text);
    payload.insert("message".into(), json!(text));
    payload.insert("cause".into(), json!(alert.cause));
    if let Some(reason) = reason {
        payload.insert("reason".into(), json!(reason));
    }
    payload.insert("schema_version".into(), json!(schema_version));
    payload.insert("emitted_at".into(), json!(now.to_rfc3339_opts(SecondsFormat::Micros, true)));
    // Of one alert there is one message that it fires, one that it is over, and one for each time it is told again.
    let id = match became {
        Became::Repeated => format!("{}/repeated/{at}", alert.id),
        _ => format!("{}/{state}", alert.id),
    };
    Message { id, kind: MessageKind::Alert, key: format!("{}:{key}", rule.name), at: now, payload }
}

fn time(micros: Micros) -> Option<String> {
    Some(DateTime::from_timestamp_micros(micros)?.to_rfc3339_opts(SecondsFormat::Micros, true))
}
