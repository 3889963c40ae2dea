//! The public error: few kinds, each telling the caller what to do. Rooms keep richer private enums.

use std::fmt;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wrong usage or configuration: correct what the message names. Exit code 2.
    Usage,
    /// The query is wrong (syntax, unknown column, type). Exit code 1.
    Query,
    /// The thing asked for does not exist.
    NotFound,
    /// Not allowed here (a write on the read-only surface, a foreign ticket).
    Denied,
    /// Refused on purpose: another writer, another Kafka cluster, a newer lake. A person decides.
    Refused,
    /// A component cannot be reached now; trying again may work.
    Unavailable,
    /// A configured limit is reached; the message names the setting.
    Exhausted,
    /// A deadline passed.
    Deadline,
    /// The caller cancelled.
    Cancelled,
    /// A fault of Millpond or of the data it stored.
    Internal,
}

/// An error for people: what happened, and what to do about it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    place: Option<(u64, u64)>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result with Millpond's public error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` saying `message` (lower case start, no trailing full stop).
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, place: None, source: None }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds where in the text that was given: line and column, from 1.
    #[must_use]
    pub fn at(mut self, place: Option<(u64, u64)>) -> Self {
        self.place = place;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message without cause and hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What happened, in one line: without the statement that a message may show.
    pub fn headline(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }

    /// The way out, if one is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Line and column, from 1, in the text that was given, if the error is of one place.
    pub fn place(&self) -> Option<(u64, u64)> {
        self.place
    }

    /// Process exit code: 2 for wrong usage or configuration, else 1.
    pub fn exit_code(&self) -> u8 {
        if self.kind == Kind::Usage { 2 } else { 1 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}
