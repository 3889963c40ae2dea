//! What is wrong with a project: a list, never the first mistake alone.

use std::fmt;

use serde_json::json;

use crate::error::{Error, Kind};

/// One mistake, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file as the person would name it, or `--set …`, or `environment variable …`.
    pub file: String,
    /// Line, from 1; 0 if the problem is of the whole file.
    pub line: usize,
    /// Column in characters, from 1; 0 if the problem is of the whole file.
    pub column: usize,
    /// The full key, such as `lake.s3.region`; empty if no key is to blame.
    pub key: String,
    /// What is wrong (lower case start, no trailing full stop).
    pub message: String,
    /// The way out, if one is known.
    pub hint: Option<String>,
}

/// All the mistakes that were found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problem {
    /// A problem of a whole file.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: file.into(), line: 0, column: 0, key: String::new(), message: message.into(), hint: None }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the way out that an error names, if it names one.
    #[must_use]
    pub fn hint_of(self, error: &Error) -> Self {
        Self { hint: error.hint_text().map(str::to_owned).or(self.hint), ..self }
    }
}

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// True if nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// For `check --format json`: a list of `{file, line, column, key, message, hint}`, absent values as null.
    pub fn to_json(&self) -> serde_json::Value {
        let known = |number: usize| (number > 0).then_some(number);
        self.0
            .iter()
            .map(|p| {
                json!({
                    "file": p.file, "line": known(p.line), "column": known(p.column),
                    "key": (!p.key.is_empty()).then_some(&p.key), "message": p.message, "hint": p.hint,
                })
            })
            .collect()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        let count = match problems.len() {
            1 => "a problem".to_owned(),
            n => format!("{n} problems"),
        };
        Error::new(Kind::Usage, format!("the project has {count}\n{problems}"))
    }
}

/// What a value's parser says about it; [`super::section::Section`] adds where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub message: String,
    pub hint: Option<String>,
}

impl Complaint {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A word of the design that this version does not have: refused, so that nothing is accepted and ignored.
    pub fn later(word: &str) -> Self {
        Self::new(format!("`{word}` is not in this version of Millpond"))
    }
}

impl From<String> for Complaint {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}
