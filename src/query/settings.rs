//! What `SET` may change: a closed list, per session. DataFusion's own options are not on it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

const TIMEZONE: &str = "timezone";
const STATEMENT_TIMEOUT: &str = "statement_timeout";
const WAIT_FOR: &str = "wait_for";
const RESULT_CACHE: &str = "result_cache";
/// No time-out.
const OFF: &str = "0";
/// The longest time-out that can be asked for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Options of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// IANA name or offset; `now()`, `current_date` and zone-less conversions use it.
    pub(super) timezone: String,
    /// Limit for a whole statement, from start to its last row; none if off.
    pub(super) statement_timeout: Option<Duration>,
    /// Statements wait until this record can be seen.
    pub(super) wait_for: Option<WaitFor>,
    /// Results that are known are not computed again.
    pub(super) result_cache: bool,
}

/// A record of a topic: whoever sent it wants to read what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WaitFor {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl WaitFor {
    /// `topic:partition:offset`; nothing if empty.
    fn parse(value: &str) -> Result<Option<Self>> {
        if value.trim().is_empty() {
            return Ok(None);
        }
        let mut parts = value.trim().rsplitn(3, ':');
        let offset = parts.next().and_then(|offset| offset.parse().ok()).filter(|offset| *offset >= 0);
        let partition = parts.next().and_then(|partition| partition.parse().ok()).filter(|partition| *partition >= 0);
        match (parts.next(), partition, offset) {
            (Some(topic), Some(partition), Some(offset)) if !topic.is_empty() => {
                Ok(Some(Self { topic: topic.to_owned(), partition, offset }))
            }
            _ => Err(Error::new(Kind::Query, format!("`{value}` is no record"))
                .hint("give topic, partition and offset, such as 'fleet.telemetry:0:42'; '' waits for nothing")),
        }
    }
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.topic, self.partition, self.offset)
    }
}

impl Settings {
    /// Changes an option from its text.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match canonical(name)? {
            TIMEZONE => self.timezone = timezone(value)?,
            WAIT_FOR => self.wait_for = WaitFor::parse(value)?,
            RESULT_CACHE => self.result_cache = switch(value)?,
            _ => self.statement_timeout = duration(value)?,
        }
        Ok(())
    }

    /// Takes an option back to what `defaults` has.
    pub(super) fn reset(&mut self, name: &str, defaults: &Self) -> Result<()> {
        match canonical(name)? {
            TIMEZONE => self.timezone.clone_from(&defaults.timezone),
            WAIT_FOR => self.wait_for.clone_from(&defaults.wait_for),
            RESULT_CACHE => self.result_cache = defaults.result_cache,
            _ => self.statement_timeout = defaults.statement_timeout,
        }
        Ok(())
    }

    /// Name and text of one option, or of all.
    pub(super) fn show(&self, name: Option<&str>) -> Result<Vec<(&'static str, String)>> {
        let timeout = self.statement_timeout.map_or_else(|| OFF.to_owned(), |t| format!("{}ms", t.as_millis()));
        let wait_for = self.wait_for.as_ref().map(WaitFor::to_string).unwrap_or_default();
        let all = vec![
            (RESULT_CACHE, if self.result_cache { "on" } else { "off" }.to_owned()),
            (STATEMENT_TIMEOUT, timeout),
            (TIMEZONE, self.timezone.clone()),
            (WAIT_FOR, wait_for),
        ];
        let Some(name) = name else { return Ok(all) };
        let name = canonical(name)?;
        Ok(all.into_iter().filter(|(known, _)| *known == name).collect())
    }
}

fn canonical(name: &str) -> Result<&'static str> {
    match name.to_ascii_lowercase().as_str() {
        "timezone" | "time_zone" | "time.zone" | "time zone" => Ok(TIMEZONE),
        "statement_timeout" => Ok(STATEMENT_TIMEOUT),
        "wait_for" => Ok(WAIT_FOR),
        "result_cache" => Ok(RESULT_CACHE),
        _ => Err(Error::new(Kind::Denied, format!("`{name}` is not an option of a session"))
            .hint(format!("there are: {RESULT_CACHE}, {STATEMENT_TIMEOUT}, {TIMEZONE}, {WAIT_FOR}"))),
    }
}

/// A time zone's name as Arrow reads it.
pub(super) fn timezone(value: &str) -> Result<String> {
    let value = value.trim();
    if value.eq_ignore_ascii_case("utc") || value.eq_ignore_ascii_case("z") {
        return Ok("UTC".to_owned());
    }
    if let Ok(zone) = chrono_tz::Tz::from_str(value) {
        return Ok(zone.name().to_owned());
    }
    if chrono::FixedOffset::from_str(value).is_ok() && value.len() == "+00:00".len() {
        return Ok(value.to_owned());
    }
    Err(Error::new(Kind::Query, format!("`{value}` is not a time zone"))
        .hint("give an IANA name such as 'Asia/Seoul', or an offset such as '+09:00'"))
}

/// On or off, in the words that PostgreSQL takes.
fn switch(value: &str) -> Result<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(Error::new(Kind::Query, format!("`{value}` is neither on nor off"))),
    }
}

/// `500` (milliseconds), `500ms`, `30s`, `5min`, `1h`; `0` is none.
fn duration(value: &str) -> Result<Option<Duration>> {
    let text = value.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit_millis = match text[digits..].trim() {
        "" | "ms" => Some(1),
        "s" => Some(1_000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let millis = text[..digits].parse::<u64>().ok().zip(unit_millis).and_then(|(n, unit)| n.checked_mul(unit));
    match millis.map(Duration::from_millis) {
        Some(Duration::ZERO) => Ok(None),
        Some(duration) if duration <= LONGEST => Ok(Some(duration)),
        _ => Err(Error::new(Kind::Query, format!("`{value}` is not a time-out"))
            .hint("give milliseconds, or a number with ms, s, min or h, up to 24h; 0 is off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_checked_and_shown() {
        let mut settings =
            Settings { timezone: "UTC".into(), statement_timeout: None, wait_for: None, result_cache: true };
        for (name, value, shown) in [
            ("timezone", "Asia/Seoul", "Asia/Seoul"),
            ("TimeZone", "utc", "UTC"),
            ("time_zone", "+09:00", "+09:00"),
            ("statement_timeout", "250", "250ms"),
            ("statement_timeout", "1 h", "3600000ms"),
            ("statement_timeout", "5min", "300000ms"),
            ("STATEMENT_TIMEOUT", "0", "0"),
            ("wait_for", " fleet.telemetry:3:42 ", "fleet.telemetry:3:42"),
            ("wait_for", "", ""),
            ("result_cache", "OFF", "off"),
            ("result_cache", "true", "on"),
        ] {
            settings.set(name, value).unwrap();
            assert_eq!(settings.show(Some(name)).unwrap()[0].1, shown, "{name} {value}");
        }
        for (name, value, kind) in [
            ("timezone", "Mars/Olympus", Kind::Query),
            ("timezone", "", Kind::Query),
            ("statement_timeout", "-1", Kind::Query),
            ("statement_timeout", "soon", Kind::Query),
            ("statement_timeout", "99999999999999999999", Kind::Query),
            ("statement_timeout", "25h", Kind::Query),
            ("datafusion.execution.time_zone", "UTC", Kind::Denied),
            ("datafusion.execution.batch_size", "1", Kind::Denied),
            ("search_path", "x", Kind::Denied),
            ("wait_for", "fleet.telemetry", Kind::Query),
            ("wait_for", "fleet.telemetry:0", Kind::Query),
            ("wait_for", ":0:1", Kind::Query),
            ("wait_for", "t:-1:1", Kind::Query),
            ("wait_for", "t:0:x", Kind::Query),
            ("result_cache", "maybe", Kind::Query),
        ] {
            assert_eq!(settings.clone().set(name, value).unwrap_err().kind(), kind, "{name} {value}");
        }
        assert_eq!(settings.show(None).unwrap().len(), 4);
    }
}
