//! Who is told what: `[[notify]]`.

use std::collections::BTreeSet;

use super::event::{Event, EventKind};

/// One `[[notify]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Kinds of events; nothing = all.
    pub on: Option<Vec<EventKind>>,
    /// Names of tables, with `*` and `?`; nothing = all events, those that concern no table, too.
    pub tables: Option<Vec<String>>,
    /// Names of sinks.
    pub to: Vec<String>,
}

impl Rule {
    fn wants(&self, event: &Event) -> bool {
        let concerns = |tables: &Vec<String>| {
            tables.iter().any(|pattern| event.tables().iter().any(|table| matches(pattern, table)))
        };
        self.on.as_ref().is_none_or(|on| on.contains(&event.kind())) && self.tables.as_ref().is_none_or(concerns)
    }
}

/// Sinks that are told of `event`, each once. A sink is not told of its own failure.
pub(super) fn sinks<'a>(rules: &'a [Rule], event: &Event) -> BTreeSet<&'a str> {
    let wanting = rules.iter().filter(|rule| rule.wants(event));
    let mut sinks: BTreeSet<&str> = wanting.flat_map(|rule| rule.to.iter().map(String::as_str)).collect();
    if event.kind() == EventKind::SinkFailing {
        sinks.remove(event.subject());
    }
    sinks
}

/// Whether `name` is of the form `pattern`: `*` is any text, `?` any character.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut pattern = pattern.chars();
    match pattern.next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = pattern.as_str();
            name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| matches(rest, &name[at..]))
        }
        Some(wanted) => {
            let mut name = name.chars();
            name.next().is_some_and(|c| wanted == '?' || wanted == c) && matches(pattern.as_str(), name.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::super::event::{Trouble, TroubleWith};
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("telemetry", "telemetry", true),
            ("telemetry*", "telemetry", true),
            ("telemetry*", "telemetry_b", true),
            ("*", "", true),
            ("*_b", "telemetry_b", true),
            ("t*y*b", "telemetry_b", true),
            ("차?", "차1", true),
            ("telemetry", "telemetry_b", false),
            ("t?", "t", false),
            ("*x*", "telemetry", false),
            ("", "t", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    fn rule(on: Option<&[EventKind]>, tables: Option<&[&str]>, to: &[&str]) -> Rule {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Rule { on: on.map(<[_]>::to_vec), tables: tables.map(texts), to: texts(to) }
    }

    fn trouble(with: TroubleWith, tables: &[&str]) -> Event {
        let tables = tables.iter().map(|table| (*table).to_owned()).collect();
        Event::Trouble(Trouble { with, tables, reason: "why".into(), since: Utc::now(), over: false })
    }

    #[test]
    fn every_rule_that_matches_adds_its_sinks_and_a_failing_sink_is_left_out() {
        let rules = [
            rule(None, None, &["all"]),
            rule(Some(&[EventKind::SourceStalled]), Some(&["tele*"]), &["ops", "all"]),
            rule(Some(&[EventKind::SinkFailing, EventKind::LakeStalled]), None, &["ops", "mail"]),
            rule(None, Some(&["*"]), &["tables"]),
        ];
        let told = |event| sinks(&rules, &event).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(told(trouble(TroubleWith::Topic("t".into()), &["trips", "telemetry"])), "all ops tables");
        assert_eq!(told(trouble(TroubleWith::Topic("t".into()), &["trips"])), "all tables");
        assert_eq!(told(trouble(TroubleWith::Lake, &[])), "all mail ops");
        assert_eq!(told(trouble(TroubleWith::Sink("ops".into()), &[])), "all mail");
        assert_eq!(told(trouble(TroubleWith::Sink("other".into()), &[])), "all mail ops");
    }
}
