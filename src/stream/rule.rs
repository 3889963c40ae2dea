//! What an alert's file says.

use std::time::Duration;

use arrow::datatypes::Schema;
use sha2::{Digest, Sha256};

use super::life::{Micros, Terms};
use super::storm::StormLimit;
use crate::deliver::Template;
use crate::error::{Error, Kind};
use crate::task::Schedule;

/// A query of `kind = "alert"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name = the file's stem.
    pub name: String,
    /// The SELECT. The head's lines are left empty, so that a line number in an error is one of the file.
    pub sql: String,
    /// The file as problems name it.
    pub file: String,
    /// [`Rule::hash`] of its text.
    pub hash: String,
    /// When it is looked at all rows of its query, if it follows no stream.
    pub schedule: Option<Schedule>,
    /// The columns that tell its alerts apart.
    pub key: Vec<String>,
    /// `for`: how long the condition must hold.
    pub hold: Duration,
    /// SQL that says when an alert is over, if it is not over with its condition.
    pub resolve_when: Option<String>,
    /// After an alert, for how long its key raises no other.
    pub cooldown: Duration,
    /// A firing alert is told again so often.
    pub repeat: Option<Duration>,
    /// The condition is that no row has come for so long.
    pub absent_for: Option<Duration>,
    /// SQL that gives the keys whose silence counts even if they never spoke; no others are watched then.
    pub expect: Option<String>,
    /// A row that fulfils the condition is an event: nothing resolves it.
    pub once: bool,
    /// Beyond it alerts are told together.
    pub storm_limit: Option<StormLimit>,
    /// How bad it is.
    pub severity: Severity,
    /// What is said.
    pub message: Template,
    /// The sinks it is told to.
    pub to: Vec<String>,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    #[default]
    Warning,
    /// Somebody must look now.
    Critical,
}

impl Severity {
    /// All of them, with their words.
    pub const WORDS: &[(&str, Self)] =
        &[("info", Self::Info), ("warning", Self::Warning), ("critical", Self::Critical)];

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, severity)| *severity == self).map_or("", |(word, _)| word)
    }
}

impl Rule {
    /// How its alerts begin and end.
    pub fn terms(&self) -> Terms {
        Terms {
            hold: micros(self.hold),
            resolve_when: self.resolve_when.is_some(),
            cooldown: micros(self.cooldown),
            repeat: self.repeat.map(micros),
            once: self.once,
            absent_for: self.absent_for.map(micros),
        }
    }

    /// A rule of which nothing is known any more but its name: it has no file.
    pub fn gone(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            sql: String::new(),
            file: String::new(),
            hash: String::new(),
            schedule: None,
            key: Vec::new(),
            hold: Duration::ZERO,
            resolve_when: None,
            cooldown: Duration::ZERO,
            repeat: None,
            absent_for: None,
            expect: None,
            once: false,
            storm_limit: None,
            severity: Severity::default(),
            message: Template::default(),
            to: Vec::new(),
        }
    }

    /// Refuses columns among which one of its key is missing.
    pub fn has_key(&self, columns: &Schema) -> Result<(), Error> {
        let Some(missing) = self.key.iter().find(|name| columns.field_with_name(name).is_err()) else { return Ok(()) };
        let names: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
        let message = format!("key: the query selects no column `{missing}`");
        Err(Error::new(Kind::Query, message).hint(format!("it selects {}", names.join(", "))))
    }

    /// Tells a file's text apart from others.
    pub fn hash(text: &str) -> String {
        Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether an alert begins only after a while, so that rows must be looked at in the order of their times.
    pub fn waits(&self) -> bool {
        !self.hold.is_zero() || self.absent_for.is_some()
    }
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}
