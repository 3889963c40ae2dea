//! When work is due that is done again and again.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};

/// Times at which something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// Every so often, since 1970: the same times whenever it is asked.
    Every(Duration),
    /// When a clock in this zone shows it.
    Cron(Box<Cron>, Tz),
}

impl Schedule {
    /// Reads what `cron` understands: minute, hour, day of the month, month, day of the week.
    pub fn cron(text: &str, zone: Tz) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| error.to_string())?;
        Ok(Self::Cron(Box::new(cron), zone))
    }

    /// The first time after this one; nothing if it never comes.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every(every) => {
                let every = i64::try_from(every.as_micros()).ok().filter(|every| *every > 0)?;
                let passed = after.timestamp_micros().div_euclid(every);
                DateTime::from_timestamp_micros(passed.checked_add(1)?.checked_mul(every)?)
            }
            Self::Cron(cron, zone) => {
                let next = cron.find_next_occurrence(&after.with_timezone(zone), false).ok()?;
                Some(next.to_utc())
            }
        }
    }

    /// The last time that is not later than `now`, if one came after `before`.
    pub fn due(&self, before: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let first = self.next(before).filter(|first| *first <= now)?;
        Some(match self {
            Self::Every(every) => {
                let every = TimeDelta::from_std(*every).ok()?;
                let missed = (now - first).num_microseconds()? / every.num_microseconds()?;
                first + every * i32::try_from(missed).ok()?
            }
            Self::Cron(cron, zone) => match cron.find_previous_occurrence(&now.with_timezone(zone), true) {
                Ok(last) => last.to_utc().max(first),
                Err(_) => first,
            },
        })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(every) => write!(f, "every {} s", every.as_secs_f64()),
            Self::Cron(cron, zone) => write!(f, "at {} in {zone}", cron.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn what_is_due_every_so_often_is_due_at_the_same_times_after_a_restart() {
        let every = Schedule::Every(Duration::from_secs(300));
        assert_eq!(every.next(at("2026-11-28T10:02:03Z")), Some(at("2026-11-28T10:05:00Z")));
        assert_eq!(every.next(at("2026-11-28T10:05:00Z")), Some(at("2026-11-28T10:10:00Z")));
        assert_eq!(every.due(at("2026-11-28T10:02:03Z"), at("2026-11-28T10:04:59Z")), None);
        assert_eq!(every.due(at("2026-11-28T10:02:03Z"), at("2026-11-28T10:23:00Z")), Some(at("2026-11-28T10:20:00Z")));
    }

    #[test]
    fn a_clock_that_is_put_forward_or_back_skips_nothing_and_repeats_nothing() {
        let nightly = Schedule::cron("30 2 * * *", Tz::Europe__Berlin).unwrap();
        let mut times = vec![at("2026-03-27T12:00:00Z")];
        for _ in 0..3 {
            times.push(nightly.next(times[times.len() - 1]).unwrap());
        }
        // On the 29th no clock shows 2:30.
        let days: Vec<String> =
            times[1..].iter().map(|at| at.with_timezone(&Tz::Europe__Berlin).date_naive().to_string()).collect();
        assert_eq!(days, ["2026-03-28", "2026-03-29", "2026-03-30"]);
        let (first, day) = (nightly.next(at("2026-10-24T12:00:00Z")).unwrap(), TimeDelta::hours(20));
        assert!(nightly.next(first).unwrap() - first > day, "2:30 comes twice on the 25th of October, and counts once");
        assert_eq!(
            nightly.due(at("2026-11-20T12:00:00Z"), at("2026-11-28T12:00:00Z")),
            Some(at("2026-11-28T01:30:00Z"))
        );
        assert!(Schedule::cron("every day", Tz::UTC).is_err());
        assert!(Schedule::cron("* * * * * *", Tz::UTC).is_err(), "seconds");
    }
}
