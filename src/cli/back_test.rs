//! `millpond alert test`: when a rule would have fired, and how another one, or the past itself, differs from that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::ProjectArgs;
use crate::config::{Interval, Project, nearest};
use crate::engine::{self, BackTest, Differences, Different, OfRule, Progress, Raised, Wanted};
use crate::error::{Error, Kind, Result};
use crate::stream::Rule;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond alert test battery_low --since 7d\n  \
    millpond alert test battery_low --since 2026-11-20 --until 2026-11-21T12:00:00Z\n  \
    millpond alert test battery_low --since 7d --against drafts/battery_low.sql\n  \
    millpond alert test drafts/new_rule.sql --since 1d --format json")]
pub(super) struct TestArgs {
    /// The rule: its name, or a file, which need not be one of the project
    rule: String,
    /// From here: so long ago, a day, or a time
    #[arg(long, value_name = "TIME", default_value = "1d")]
    since: When,
    /// Before here [default: to the end of what is committed]
    #[arg(long, value_name = "TIME")]
    until: Option<When>,
    /// Hold it against another version of the rule
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Show so many alerts at most, and so many differences
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// How the result is written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    project: ProjectArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// A time, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Ago(Interval),
    At(DateTime<Utc>),
    /// In the zone of the project.
    Local(NaiveDateTime),
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if let Ok(ago) = text.parse() {
            return Ok(Self::Ago(ago));
        }
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(at.to_utc()));
        }
        if let Ok(day) = text.parse::<NaiveDate>() {
            return Ok(Self::Local(day.into()));
        }
        let local = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
        let local = local.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
        local.map(Self::Local).ok_or_else(|| {
            "give how long ago, such as 7d or 12h, a day, such as 2026-11-20, or a time, such as 2026-11-20T08:00:00Z"
                .to_owned()
        })
    }
}

impl When {
    fn in_zone(self, zone: Tz, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        let unknown = || Error::new(Kind::Usage, "there is no such time");
        match self {
            Self::Ago(ago) => now.checked_sub_signed(chrono::TimeDelta::from_std(ago.duration()).unwrap_or_default()),
            Self::At(at) => Some(at),
            Self::Local(at) => zone.from_local_datetime(&at).earliest().map(|at| at.to_utc()),
        }
        .ok_or_else(unknown)
    }
}

pub(super) async fn run(args: TestArgs) -> Result<ExitCode> {
    let (project, options) = args.project.load()?;
    let mut rules = vec![rule(&project, &args.rule)?];
    if let Some(against) = &args.against {
        rules.push(project.rule(&rules[0].name, against)?);
    }
    let (zone, now) = (project.config.project.timezone, Utc::now());
    let since = args.since.in_zone(zone, now)?;
    let until = args.until.map(|until| until.in_zone(zone, now)).transpose()?;
    if until.is_some_and(|until| until <= since) {
        return Err(Error::new(Kind::Usage, "--until is not later than --since"));
    }
    let bar = ProgressBar::no_length();
    let progress = |progress: Progress| match progress {
        Progress::Before(table) => bar.set_message(format!("what {table} was before")),
        Progress::Rows(rows) => {
            bar.set_length(rows);
            bar.set_message("");
        }
        Progress::Done(rows) => bar.inc(rows),
    };
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {human_pos} rows  {per_sec}  {eta} left {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    let wanted = Wanted { rules, since, until };
    let tested = engine::back_test(&project, &options.vars, &wanted, &progress).await;
    bar.finish_and_clear();
    let tested = tested?;
    match args.format {
        Format::Text => write(&tested, zone, args.limit),
        Format::Json => {
            let unwritable = |error| Error::new(Kind::Internal, "the result cannot be written").because(error);
            say!("{}", serde_json::to_string_pretty(&tested).map_err(unwritable)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn rule(project: &Project, name: &str) -> Result<Rule> {
    let path = Path::new(name);
    if path.extension().is_some_and(|extension| extension == "sql") {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        return Ok(project.rule(&stem, path)?);
    }
    let known = project.alerts.iter().find(|rule| rule.name == name);
    known.cloned().ok_or_else(|| {
        let error = Error::new(Kind::NotFound, format!("there is no rule `{name}`"));
        match nearest(name, project.alerts.iter().map(|rule| rule.name.as_str())) {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None => error.hint("a rule is a file queries/<name>.sql of kind = \"alert\""),
        }
    })
}

/// Times as people of a zone read them.
struct Clock(Tz);

impl Clock {
    fn time(&self, at: DateTime<Utc>) -> String {
        at.with_timezone(&self.0).format("%Y-%m-%d %H:%M:%S").to_string()
    }
}

fn write(tested: &BackTest, zone: Tz, limit: usize) {
    let BackTest { since, until, rows, seconds, rules, against, live } = tested;
    let clock = Clock(zone);
    let span = (*until - *since).to_std().unwrap_or_default();
    say!("{} to {} ({zone}), {}", clock.time(*since), clock.time(*until), lasted(span));
    let per_second = (*rows as f64 / seconds.max(0.001)) as u64;
    say!("{} rows in {seconds:.1} s, {} rows/s", grouped(*rows), grouped(per_second));
    for rule in rules {
        write_rule(rule, tested, &clock, limit);
    }
    if let ([first, second], Some(against)) = (&rules[..], against) {
        let names = [first.file.as_str(), second.file.as_str()];
        say!();
        say!("{} alerts are the same in both", grouped(against.same));
        write_differences(against, names, &clock, limit);
    }
    if let Some(live) = live {
        say!();
        let told = grouped(live.alerts);
        match (live.differences.same, &live.differences) {
            (same, Differences { only_first, only_second, .. }) if only_first.is_empty() && only_second.is_empty() => {
                say!("live, {told} alerts were raised in this time: the same {}", grouped(same));
            }
            (same, _) => say!("live, {told} alerts were raised in this time: {} of them are here", grouped(same)),
        }
        write_differences(&live.differences, ["here", "live"], &clock, limit);
    }
}

fn write_rule(rule: &OfRule, tested: &BackTest, clock: &Clock, limit: usize) {
    say!();
    say!("{}: {} over {}", rule.file, rule.class, rule.stream);
    let mut of_key: BTreeMap<String, u64> = BTreeMap::new();
    for alert in &rule.alerts {
        *of_key.entry(key(&alert.key)).or_default() += 1;
    }
    let began = match rule.firing_at_begin {
        0 => String::new(),
        count => format!("; {} fired when it began", grouped(count)),
    };
    say!("  fired      {} alerts of {} keys{began}", grouped(rule.alerts.len() as u64), grouped(of_key.len() as u64));
    let mut ended: Vec<Duration> = rule.alerts.iter().filter_map(duration).collect();
    ended.sort_unstable();
    if let (Some(median), Some(longest)) = (ended.get(ended.len() / 2), ended.last()) {
        let open = rule.alerts.len() - ended.len();
        let open = if open == 0 { String::new() } else { format!(", {open} go on") };
        say!("  lasted     {} at the median, {} at most{open}", lasted(*median), lasted(*longest));
    }
    let of = |count: u64| format!("{:.1} %", 100.0 * count as f64 / rule.rows.max(1) as f64);
    match rule.class.as_str() {
        "absence" => say!("  rows       {}", grouped(rule.rows)),
        _ => say!("  condition  TRUE {}, NULL {} of {} rows", of(rule.held), of(rule.unknown), grouped(rule.rows)),
    }
    for (count, what) in [
        (rule.failed, "rows could not be judged"),
        (rule.late, "rows came later than the table allows, and were left out"),
        (rule.stale, "rows were older than what was known already, and left out"),
    ] {
        if count > 0 {
            say!("             {} {what}", grouped(count));
        }
    }
    if let Some(error) = rule.last_error.as_ref().filter(|_| rule.failed > 0) {
        say!("             {error}");
    }
    if rule.held == 0 && rule.rows > 0 && !rule.conditions.is_empty() {
        say!("             it was never TRUE: what its parts were, of some of the rows");
        for part in &rule.conditions {
            say!(
                "             TRUE {}, FALSE {}, NULL {}: {}",
                grouped(part.is_true),
                grouped(part.is_false),
                grouped(part.is_null),
                part.sql
            );
        }
    }
    if !rule.alerts.is_empty() {
        say!();
        chart(rule, tested, clock).iter().for_each(|line| say!("  {line}"));
        say!();
    }
    let mut most: Vec<(&String, &u64)> = of_key.iter().filter(|(_, count)| **count > 1).collect();
    most.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    if !most.is_empty() {
        let most: Vec<String> = most.iter().take(5).map(|(key, count)| format!("{key} {count}x")).collect();
        say!("  most       {}", most.join(", "));
    }
    for alert in rule.alerts.iter().take(limit) {
        let lasted = match duration(alert) {
            Some(duration) => lasted(duration),
            None => String::new(),
        };
        say!("  {}  {lasted:>8}  {}  {}", clock.time(alert.fired_at), key(&alert.key), alert.message);
    }
    if rule.alerts.len() > limit {
        say!("  and {} more: --limit shows them", grouped((rule.alerts.len() - limit) as u64));
    }
}

fn write_differences(found: &Differences, names: [&str; 2], clock: &Clock, limit: usize) {
    for (name, only) in names.into_iter().zip([&found.only_first, &found.only_second]) {
        if only.is_empty() {
            continue;
        }
        say!("  only {name}: {}", grouped(only.len() as u64));
        for Different { alert, cause } in only.iter().take(limit) {
            say!("    {}  {}  {}", clock.time(alert.fired_at), key(&alert.key), alert.message);
            if let Some(cause) = cause {
                say!("      {cause}");
            }
        }
        if only.len() > limit {
            say!("    and {} more", grouped((only.len() - limit) as u64));
        }
    }
}

/// When alerts fired: a bar for each part of the time.
fn chart(rule: &OfRule, tested: &BackTest, clock: &Clock) -> Vec<String> {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0)).clamp(40, 100) - 4;
    let (since, span) = (tested.since, (tested.until - tested.since).num_microseconds().unwrap_or(i64::MAX).max(1));
    let mut counts = vec![0_usize; width];
    for alert in &rule.alerts {
        let at = (alert.fired_at - since).num_microseconds().unwrap_or(0).max(0);
        let place = (at as f64 / span as f64 * width as f64) as usize;
        counts[place.min(width - 1)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    // The least count can be seen.
    let bar = |count: &usize| BARS[(count * 8).div_ceil(most)];
    let bars: String = counts.iter().map(bar).collect();
    let (begin, end) = (clock.time(tested.since), clock.time(tested.until));
    let part = lasted(Duration::from_micros((span as u64).div_ceil(width as u64)));
    let middle = format!("{most} at most in {part}");
    let room = width.saturating_sub(begin.len() + end.len());
    vec![bars.trim_end().to_owned(), format!("{begin}{middle:^room$}{end}")]
}

fn duration(alert: &Raised) -> Option<Duration> {
    (alert.ends_at? - alert.fired_at).to_std().ok()
}

/// A key's values, or its only one.
fn key(key: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match key.as_object() {
        Some(parts) => parts.values().map(text).collect::<Vec<_>>().join(" "),
        None => text(key),
    }
}

/// A duration in its two largest units.
fn lasted(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds) {
        (0, 0, 0, 0) => format!("{}ms", duration.as_millis()),
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

/// A number with its digits in groups.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let tail = tail.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let head = (!head.is_empty()).then(|| head.to_owned());
    head.into_iter().chain(tail).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_as_people_say_them() {
        let now = DateTime::parse_from_rfc3339("2026-11-28T10:00:00Z").unwrap().to_utc();
        let at = |text: &str| text.parse::<When>().unwrap().in_zone(Tz::Asia__Seoul, now).unwrap().to_rfc3339();
        assert_eq!(at("12h"), "2026-11-27T22:00:00+00:00");
        assert_eq!(at("2026-11-20"), "2026-11-19T15:00:00+00:00");
        assert_eq!(at("2026-11-20T08:30"), "2026-11-19T23:30:00+00:00");
        assert_eq!(at("2026-11-20T08:30:00Z"), "2026-11-20T08:30:00+00:00");
        assert!("yesterday".parse::<When>().unwrap_err().contains("7d"));
    }

    #[test]
    fn numbers_and_durations_are_short() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 59, 61, 3_660, 90_000].map(|seconds| lasted(Duration::from_secs(seconds))),
            ["0ms", "59s", "1m 1s", "1h 1m", "1d 1h"]
        );
    }
}
