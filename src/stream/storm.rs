//! Holds back the alerts of a rule that raises too many: beyond its limit they are told together, with examples.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::evaluation::Row;
use super::life::{Became, Key, Micros, Transition};
use super::rule::Rule;
use crate::deliver::{Message, MessageKind};

/// Alerts that are shown of those that are told together.
const EXAMPLES: usize = 3;

/// `storm_limit`: so many alerts within so long are told one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StormLimit {
    /// How many.
    pub alerts: u64,
    /// Within how long.
    pub within: Duration,
}

/// What a rule has raised lately.
#[derive(Debug, Default)]
pub struct Storm {
    /// When the window began that is counted now, and how many alerts began in it.
    since: Option<Micros>,
    begun: u64,
    held: u64,
    examples: Vec<(Key, Row)>,
    /// Alerts that were not told: nor is what becomes of them.
    hidden: BTreeSet<String>,
}

impl Storm {
    /// Whether a transition is told by itself.
    pub fn admits(&mut self, limit: StormLimit, told: &Transition<Row>, now: Micros) -> bool {
        let id = &told.alert.id;
        match told.became {
            Became::Repeated => return !self.hidden.contains(id),
            Became::Resolved => return !self.hidden.remove(id),
            Became::Firing => {}
        }
        self.since.get_or_insert(now);
        self.begun += 1;
        if self.begun <= limit.alerts {
            return true;
        }
        self.held += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push((told.key.clone(), told.alert.row.clone()));
        }
        self.hidden.insert(id.clone());
        false
    }

    /// What is to be told of those that were held back, once the window is over.
    pub fn over(&mut self, limit: StormLimit, rule: &Rule, now: Micros) -> Option<Message> {
        let within = Micros::try_from(limit.within.as_micros()).unwrap_or(Micros::MAX);
        let since = self.since.filter(|since| now >= since.saturating_add(within))?;
        let (held, examples) = (self.held, std::mem::take(&mut self.examples));
        (self.since, self.begun, self.held) = (None, 0, 0);
        if held == 0 {
            return None;
        }
        let at = chrono::DateTime::from_timestamp_micros(now)?;
        let example = |(key, row): &(Key, Row)| json!({"key": serde_json::from_str::<Value>(key).unwrap_or_default(), "values": row});
        let mut payload = Map::new();
        let text = format!("{}: {held} more alerts within {} s", rule.name, limit.within.as_secs());
        for (field, value) in [
            ("rule", json!(rule.name)),
            ("rule_hash", json!(rule.hash)),
            ("state", json!("storm")),
            ("severity", json!(rule.severity.word())),
            ("count", json!(held)),
            ("examples", json!(examples.iter().map(example).collect::<Vec<_>>())),
            ("message", json!(text)),
            ("emitted_at", json!(at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))),
        ] {
            payload.insert(field.to_owned(), value);
        }
        let id = format!("storm/{}/{since}", rule.name);
        Some(Message { id, kind: MessageKind::Alert, key: rule.name.clone(), at, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Alert, Cause};

    fn transition(id: &str, became: Became) -> Transition<Row> {
        let cause = Cause { topic: "t".into(), partition: 0, offset: 1 };
        let row = json!({"car": id}).as_object().unwrap().clone();
        let alert = Alert { id: id.into(), starts_at: 1, fired_at: 1, cause, row };
        Transition { key: format!("{{\"car\":\"{id}\"}}").into(), entity: "e".into(), became, at: 1, alert }
    }

    #[test]
    fn what_is_beyond_the_limit_is_told_together_and_so_is_its_end() {
        let limit = StormLimit { alerts: 2, within: Duration::from_secs(60) };
        let (mut storm, rule) = (Storm::default(), Rule { hash: "h".into(), ..Rule::gone("low") });
        let second = |second: i64| 1_795_348_800_000_000 + second * 1_000_000;
        let told: Vec<bool> = ["a", "b", "c", "d", "e", "f"]
            .iter()
            .map(|id| storm.admits(limit, &transition(id, Became::Firing), second(1)))
            .collect();
        assert_eq!(told, [true, true, false, false, false, false]);
        assert!(storm.admits(limit, &transition("a", Became::Resolved), second(2)));
        assert!(!storm.admits(limit, &transition("c", Became::Repeated), second(2)));
        assert!(!storm.admits(limit, &transition("c", Became::Resolved), second(2)));
        assert_eq!(storm.over(limit, &rule, second(60)), None, "the window is not over");
        let message = storm.over(limit, &rule, second(61)).unwrap();
        assert_eq!(message.payload["count"], json!(4));
        assert_eq!(message.payload["message"], json!("low: 4 more alerts within 60 s"));
        assert_eq!(message.payload["examples"][0], json!({"key": {"car": "c"}, "values": {"car": "c"}}));
        assert_eq!(message.payload["examples"].as_array().unwrap().len(), 3);
        // The next window begins with the next alert; what was hidden stays so.
        assert!(storm.admits(limit, &transition("g", Became::Firing), second(70)));
        assert!(!storm.admits(limit, &transition("d", Became::Resolved), second(70)));
        assert_eq!(storm.over(limit, &rule, second(130)), None);
    }
}
