//! The `--!` lines of `queries/<name>.sql` of `kind = "alert"`.

use std::time::Duration;

use chrono_tz::Tz;

use super::{
    problem::Complaint,
    query::Around,
    section::{Section, meant},
    units::Interval,
};
use crate::deliver::Template;
use crate::stream::{Rule, Severity, StormLimit};
use crate::task::Schedule;

/// Reads a rule's options. `None` only if problems were reported.
pub(super) fn read(name: &str, file: &str, sql: String, text: &str, root: &Section, around: &Around) -> Option<Rule> {
    root.require("key", "the columns that tell its alerts apart, such as [\"car_id\"]");
    let key = key(root);
    let hold = duration(root, "for");
    let cooldown = duration(root, "cooldown");
    let repeat = duration(root, "repeat");
    let absent_for = duration(root, "absent_for");
    let expect = if root.has("expect") {
        root.read("expect", |text| Ok::<_, Complaint>(Some(text.to_owned())))
    } else {
        Some(None)
    };
    if root.has("expect") && !root.has("absent_for") {
        root.complain("expect", Complaint::new("says nothing without `absent_for`"));
        return None;
    }
    let storm_limit =
        if root.has("storm_limit") { root.read("storm_limit", storm_limit).map(Some) } else { Some(None) };
    let once = if root.has("once") { root.boolean("once") } else { Some(false) };
    let resolve_when = if root.has("resolve_when") {
        root.read("resolve_when", |text| Ok::<_, Complaint>(Some(text.to_owned())))
    } else {
        Some(None)
    };
    let severity =
        if root.has("severity") { root.choice("severity", Severity::WORDS, &[]) } else { Some(Severity::default()) };
    let message = if root.has("message") { root.read("message", Template::parse) } else { Template::parse(name).ok() };
    let to = if root.has("to") { names(root, &around.sinks) } else { Some(Vec::new()) };
    let schedule = schedule(root, around.timezone);
    for (one, other, why) in [
        ("once", "for", "an event does not last"),
        ("once", "resolve_when", "an event is never over"),
        ("once", "repeat", "an event does not last"),
        ("once", "absent_for", "silence is no event"),
        ("absent_for", "for", "absent_for is how long it must be silent"),
        ("absent_for", "resolve_when", "the next row ends the silence"),
        ("every", "schedule", "one of them says when"),
        ("every", "absent_for", "what is looked at now and then is not silent"),
        ("schedule", "absent_for", "what is looked at now and then is not silent"),
        ("every", "resolve_when", "what the query does not select any more is over"),
        ("schedule", "resolve_when", "what the query does not select any more is over"),
    ] {
        if root.has(one) && root.has(other) {
            root.complain(other, Complaint::new(format!("does not go with `{one}`: {why}")));
            return None;
        }
    }
    Some(Rule {
        name: name.to_owned(),
        sql,
        file: file.to_owned(),
        hash: Rule::hash(text),
        schedule: schedule?,
        key: key?,
        hold: hold?.unwrap_or_default(),
        resolve_when: resolve_when?,
        cooldown: cooldown?.unwrap_or_default(),
        repeat: repeat?,
        absent_for: absent_for?,
        expect: expect?,
        once: once?,
        storm_limit: storm_limit?,
        severity: severity?,
        message: message?,
        to: to?,
    })
}

/// `every` or `schedule`; `None` only if it is wrong and was reported.
pub(super) fn schedule(root: &Section, zone: Tz) -> Option<Option<Schedule>> {
    if root.has("schedule") {
        let cron = |text: &str| {
            let hint = "minute, hour, day of the month, month and day of the week, as in \"0 8 * * MON-FRI\"";
            Schedule::cron(text, zone).map_err(|error| Complaint::new(error).hint(hint))
        };
        return root.read("schedule", cron).map(Some);
    }
    Some(duration(root, "every")?.map(Schedule::Every))
}

/// The columns of `key`.
pub(super) fn key(root: &Section) -> Option<Vec<String>> {
    let items = root.list_or_one("key")?;
    if items.is_empty() {
        root.complain("key", Complaint::new("is empty").hint("name one column at least"));
        return None;
    }
    Some(items.iter().map(|item| item.text.to_owned()).collect())
}

/// A duration that may be absent; `None` only if it is wrong and was reported.
pub(super) fn duration(root: &Section, key: &str) -> Option<Option<Duration>> {
    if !root.has(key) {
        return Some(None);
    }
    let parse = |text: &str| -> Result<Duration, Complaint> {
        let duration = text.parse::<Interval>()?.duration();
        if duration.is_zero() { Err(Complaint::new("is no time at all")) } else { Ok(duration) }
    };
    root.read(key, parse).map(Some)
}

fn storm_limit(text: &str) -> Result<StormLimit, Complaint> {
    let wrong = || Complaint::new(format!("`{text}` is not a limit")).hint("alerts and a time, such as \"100/1m\"");
    let (alerts, within) = text.split_once('/').ok_or_else(wrong)?;
    let alerts = alerts.trim().parse::<u64>().ok().filter(|alerts| *alerts > 0).ok_or_else(wrong)?;
    let within = within.trim().parse::<Interval>()?.duration();
    if within.is_zero() { Err(wrong()) } else { Ok(StormLimit { alerts, within }) }
}

/// The sinks of `to`, which must be some of `sinks`.
pub(super) fn names(root: &Section, sinks: &[&str]) -> Option<Vec<String>> {
    let mut all = Some(Vec::new());
    for item in root.list_or_one("to")? {
        if sinks.contains(&item.text) {
            all.iter_mut().for_each(|all| all.push(item.text.to_owned()));
        } else {
            let hint = match sinks.is_empty() {
                true => format!("say where it is: [sinks.{}] in millpond.toml", item.text),
                false => meant(item.text, sinks),
            };
            let complaint = Complaint::new(format!("there is no sink `{}`", item.text)).hint(hint);
            root.report(item.place, "to", complaint);
            all = None;
        }
    }
    all
}
