//! DataFusion's errors as the public error: a kind, a short text that points at the place, a way out.

use std::error::Error as StdError;

use arrow::error::ArrowError;
use datafusion::common::utils::datafusion_strsim::levenshtein;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::parquet::errors::ParquetError;
use datafusion::sql::sqlparser::parser::ParserError;

use super::spill;
use crate::error::{Error, Kind};
use crate::lake;

/// Follows a function's name.
const NO_SIGNATURE: &str = " failed to match any signature";
/// Names listed in a hint.
const NAMES_LISTED: usize = 12;

/// `error` of planning or running `sql` (empty if the text is not at hand).
pub(super) fn from_datafusion(error: DataFusionError, sql: &str) -> Error {
    let place = error.diagnostic().and_then(|d| d.span).map(|span| (span.start.line, span.start.column));
    translate(error, place, sql)
}

fn translate(error: DataFusionError, place: Option<(u64, u64)>, sql: &str) -> Error {
    let query = |message: &str| pointed(Kind::Query, first_line(message), place, sql);
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => translate(*inner, place, sql),
        DataFusionError::Collection(errors) => match errors.into_iter().next() {
            Some(first) => translate(first, place, sql),
            None => internal("a query failed without saying why"),
        },
        DataFusionError::Shared(shared) => match std::sync::Arc::try_unwrap(shared) {
            Ok(inner) => translate(inner, place, sql),
            Err(shared) => from_shared(&shared),
        },
        DataFusionError::External(cause) => from_cause(cause, place, sql),
        DataFusionError::ArrowError(error, _) => from_arrow(*error, place, sql),
        DataFusionError::SQL(error, _) => from_parser(*error, sql),
        DataFusionError::SchemaError(error, _) => from_schema(*error, place, sql),
        DataFusionError::Plan(message)
        | DataFusionError::NotImplemented(message)
        | DataFusionError::Configuration(message)
        | DataFusionError::Execution(message) => query(&message),
        DataFusionError::ResourcesExhausted(message) => exhausted(&message),
        DataFusionError::ObjectStore(error) => from_store(&error),
        DataFusionError::IoError(error) => unreadable(&error),
        DataFusionError::ParquetError(error) => from_parquet(*error),
        DataFusionError::Internal(message) if message.contains(NO_SIGNATURE) => query(&no_signature(&message)),
        DataFusionError::ExecutionJoin(error) if error.is_cancelled() => {
            Error::new(Kind::Cancelled, "the query was cancelled")
        }
        other => internal(first_line(&other.strip_backtrace())),
    }
}

/// DataFusion calls a wrong argument's type an internal error, and lists all types it would have taken.
fn no_signature(message: &str) -> String {
    let function = message.split(NO_SIGNATURE).next().unwrap_or_default().trim_start_matches("Function ");
    let given =
        message.split_once("but received ").map(|(_, given)| given.split([' ', ',']).next().unwrap_or_default());
    format!("function {function} does not take an argument of type {}", given.unwrap_or("this one has"))
}

fn from_arrow(error: ArrowError, place: Option<(u64, u64)>, sql: &str) -> Error {
    match error {
        ArrowError::ExternalError(cause) => from_cause(cause, place, sql),
        ArrowError::DivideByZero => Error::new(Kind::Query, "division by zero"),
        ArrowError::CastError(message)
        | ArrowError::ParseError(message)
        | ArrowError::ComputeError(message)
        | ArrowError::ArithmeticOverflow(message)
        | ArrowError::InvalidArgumentError(message)
        | ArrowError::NotYetImplemented(message) => pointed(Kind::Query, first_line(&message), place, sql),
        ArrowError::OffsetOverflowError(_) => Error::new(Kind::Exhausted, "a column of one batch is larger than 2 GiB")
            .hint("select fewer columns or shorter values"),
        ArrowError::MemoryError(message) => exhausted(&message),
        // DataFusion tells a full spill folder only in words.
        ArrowError::IoError(message, _) if message.contains("disk space") => exhausted(&message),
        ArrowError::IoError(_, error) => unreadable(&error),
        other => internal(first_line(&other.to_string())),
    }
}

fn from_cause(cause: Box<dyn StdError + Send + Sync>, place: Option<(u64, u64)>, sql: &str) -> Error {
    let cause = match cause.downcast::<Error>() {
        Ok(error) => return *error,
        Err(cause) => cause,
    };
    let cause = match cause.downcast::<DataFusionError>() {
        Ok(error) => return translate(*error, place, sql),
        Err(cause) => cause,
    };
    let cause = match cause.downcast::<ArrowError>() {
        Ok(error) => return from_arrow(*error, place, sql),
        Err(cause) => cause,
    };
    match lake::store_error(cause.as_ref()) {
        Some(error) => from_store(error),
        None => internal(first_line(&cause.to_string())).because(cause),
    }
}

/// An error that several tasks of one plan hold: only a reference, so the public error is made anew.
fn from_shared(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(message) => exhausted(message),
        DataFusionError::ObjectStore(error) => from_store(error),
        DataFusionError::External(cause) => match cause.downcast_ref::<Error>() {
            Some(known) => {
                let copy = Error::new(known.kind(), known.message());
                if let Some(hint) = known.hint_text() { copy.hint(hint) } else { copy }
            }
            None => internal(first_line(&cause.to_string())),
        },
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::IoError(_, error) => unreadable(error),
            ArrowError::ExternalError(_) => internal(first_line(&error.to_string())),
            ArrowError::DivideByZero => Error::new(Kind::Query, "division by zero"),
            other => Error::new(Kind::Query, first_line(&other.to_string())),
        },
        other @ (DataFusionError::Internal(_) | DataFusionError::ParquetError(_) | DataFusionError::IoError(_)) => {
            internal(first_line(&other.strip_backtrace()))
        }
        other => Error::new(Kind::Query, first_line(&other.message())),
    }
}

fn from_parser(error: ParserError, sql: &str) -> Error {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            return Error::new(Kind::Query, "the statement is nested too deeply");
        }
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
    };
    // sqlparser ends its texts with the place; it has no other way to tell it.
    let Some((text, place)) = message.rsplit_once(" at Line: ") else {
        let place = message.ends_with("found: EOF").then(|| end(sql));
        return syntax(&message.replace("found: EOF", "found: the end"), place, sql);
    };
    let place = place.split_once(", Column: ").and_then(|(l, c)| Some((l.parse().ok()?, c.trim().parse().ok()?)));
    syntax(text, place, sql)
}

/// Line and column behind the last character of `sql`, both from 1.
fn end(sql: &str) -> (u64, u64) {
    let lines: Vec<&str> = sql.trim_end().lines().collect();
    let last = lines.last().map_or(0, |line| line.chars().count());
    (lines.len().max(1) as u64, last as u64 + 1)
}

/// A syntax error at a line and column, both from 1.
pub(super) fn syntax(message: &str, place: Option<(u64, u64)>, sql: &str) -> Error {
    let message = message.replacen("Expected: ", "expected ", 1).replacen(", found: ", ", found ", 1);
    pointed(Kind::Query, &format!("syntax error: {message}"), place, sql)
}

fn from_schema(error: SchemaError, place: Option<(u64, u64)>, sql: &str) -> Error {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return pointed(Kind::Query, first_line(&error.to_string()), place, sql);
    };
    let error = pointed(Kind::Query, &format!("column `{}` does not exist", field.flat_name()), place, sql);
    let names: Vec<String> = valid_fields.iter().map(|column| column.name.clone()).collect();
    match hint(&field.name, &names) {
        Some(text) => error.hint(text),
        None => error,
    }
}

/// A table that is not there; `names` are those that are.
pub(super) fn unknown_table(name: &str, names: &[String], sql: &str) -> Error {
    let start = sql.to_lowercase().find(&name.to_lowercase()).filter(|at| sql.is_char_boundary(*at));
    let place = start.map(|at| {
        let before = &sql[..at];
        let line = before.matches('\n').count() + 1;
        (line as u64, before.rsplit('\n').next().unwrap_or("").chars().count() as u64 + 1)
    });
    let error = pointed(Kind::NotFound, &format!("table `{name}` does not exist"), place, sql);
    match hint(name, names) {
        Some(text) => error.hint(text),
        None => error,
    }
}

fn hint(wanted: &str, names: &[String]) -> Option<String> {
    let wanted = wanted.to_lowercase();
    let near = names
        .iter()
        .map(|name| (levenshtein(&wanted, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance * 2 < wanted.chars().count().max(name.chars().count()))
        .min();
    if let Some((_, name)) = near {
        let quoted = name.chars().any(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.'));
        return Some(if quoted { format!("did you mean \"{name}\"?") } else { format!("did you mean {name}?") });
    }
    let listed = names.iter().take(NAMES_LISTED).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > NAMES_LISTED { ", …" } else { "" };
    (!names.is_empty()).then(|| format!("there are: {listed}{more}"))
}

fn exhausted(message: &str) -> Error {
    if message.contains("disk space") {
        let whose = if message.contains(spill::OF_ONE) { "of one query" } else { "for spilling queries" };
        return Error::new(Kind::Exhausted, format!("the disk space {whose} is used up"))
            .hint("sort, join or group fewer rows or columns");
    }
    Error::new(Kind::Exhausted, format!("the memory for queries is used up: {}", first_line(message)))
        .hint("read fewer rows or columns, or raise `[limits] memory`")
}

fn unreadable(error: &std::io::Error) -> Error {
    let text = error.to_string();
    if text.contains("disk space") {
        return exhausted(&text);
    }
    Error::new(Kind::Unavailable, format!("reading or spilling failed: {text}"))
}

fn from_store(error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { path, .. } => gone(path),
        object_store::Error::PermissionDenied { path, .. } | object_store::Error::Unauthenticated { path, .. } => {
            Error::new(Kind::Unavailable, format!("the object store does not let this process read {path}"))
        }
        other => Error::new(Kind::Unavailable, format!("the lake cannot be read now: {}", lake::reason(other))),
    }
}

fn from_parquet(error: ParquetError) -> Error {
    match error {
        ParquetError::External(cause) => from_cause(cause, None, ""),
        other => {
            let text = other.to_string();
            // The reader of footers says in words what the store said.
            match text.split_once("Object at location ").and_then(|(_, rest)| rest.split_once(" not found")) {
                Some((path, _)) => gone(path),
                None => internal(&format!("a file of the lake cannot be read: {text}")),
            }
        }
    }
}

fn gone(path: &str) -> Error {
    Error::new(Kind::Unavailable, format!("a file that the query reads is gone: {path}"))
        .hint("run it again; files of older table versions are kept for as long as lake.history says")
}

fn internal(message: &str) -> Error {
    Error::new(Kind::Internal, message)
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default().trim_end_matches('.')
}

/// An error at a place of `sql`.
fn pointed(kind: Kind, message: &str, place: Option<(u64, u64)>, sql: &str) -> Error {
    Error::new(kind, point(message, place, sql)).at(place)
}

/// Adds the line of `sql` and a caret under the place.
fn point(message: &str, place: Option<(u64, u64)>, sql: &str) -> String {
    const BEFORE: usize = 60;
    const SHOWN: usize = 100;
    let Some((line, column)) = place else { return message.to_owned() };
    let line = usize::try_from(line).unwrap_or(0).checked_sub(1).and_then(|line| sql.lines().nth(line));
    let Some(line) = line else { return message.to_owned() };
    let column = usize::try_from(column).unwrap_or(1).saturating_sub(1).min(line.chars().count());
    let from = column.saturating_sub(BEFORE);
    let shown: String = line.chars().skip(from).take(SHOWN).map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    format!("{message}\n  {}\n  {}^", shown.trim_end(), " ".repeat(column - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_place() {
        assert_eq!(point("m", Some((2, 3)), "SELECT\n\tx y\n"), "m\n   x y\n    ^");
        assert_eq!(point("m", Some((9, 1)), "SELECT"), "m");
        let long = format!("{}!", "x".repeat(500));
        let shown = point("m", Some((1, 501)), &long);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1].find('!'), lines[2].find('^'), "{shown}");
    }

    #[test]
    fn near_names_are_offered() {
        let names: Vec<String> = ["telemetry", "carinfo", "Weird"].map(String::from).to_vec();
        assert_eq!(hint("telemtry", &names).unwrap(), "did you mean telemetry?");
        assert_eq!(hint("weird", &names).unwrap(), "did you mean \"Weird\"?");
        assert_eq!(hint("zzzzzz", &names).unwrap(), "there are: telemetry, carinfo, Weird");
        assert_eq!(hint("x", &[]), None);
    }
}
