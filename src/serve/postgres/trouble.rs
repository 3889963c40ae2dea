//! Errors in PostgreSQL's words: a SQLSTATE, one line, and where in the statement.

use super::answers::Trouble;
use crate::error::{Error, Kind};

/// `error` of the statement `sql`, which begins `before` characters into what the client sent.
pub(super) fn of(error: &Error, sql: &str, before: usize) -> Trouble {
    let mut message = error.headline().to_owned();
    if error.place().is_none() && !error.message().is_empty() {
        error.message().clone_into(&mut message);
    }
    let position = error.place().and_then(|(line, column)| position(sql, line, column)).map(|at| at + before);
    Trouble { code: code(error), message, hint: error.hint_text().map(str::to_owned), position }
}

/// SQLSTATE of an error (PostgreSQL's manual, appendix A).
fn code(error: &Error) -> &'static str {
    let message = error.message();
    match error.kind() {
        Kind::Query if message.starts_with("syntax error") || message.contains("there is no statement") => "42601",
        Kind::Query if message.starts_with("column `") => "42703",
        Kind::Query if message.contains("nvalid function") || message.starts_with("function ") => "42883",
        Kind::Query if message.starts_with("division by zero") => "22012",
        Kind::Query if message.contains("parameters, ") || message.contains("is not a parameter") => "42P02",
        Kind::Query if message.contains("annot cast") || message.contains("arsing error") => "22P02",
        Kind::Query if message.contains("verflow") => "22003",
        Kind::Query if message.contains("mbiguous") => "42702",
        Kind::Query => "42000",
        Kind::NotFound => "42P01",
        Kind::Denied => "42501",
        Kind::Refused => "55000",
        Kind::Unavailable => "58030",
        Kind::Exhausted => "53200",
        Kind::Deadline | Kind::Cancelled => "57014",
        Kind::Usage => "22023",
        Kind::Internal => "XX000",
    }
}

/// Characters from 1 of a line and column from 1.
fn position(sql: &str, line: u64, column: u64) -> Option<usize> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let before: usize = sql.split_inclusive('\n').take(line).map(|line| line.chars().count()).sum();
    Some(before + usize::try_from(column).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_characters_of_all_that_was_sent() {
        let error = Error::new(Kind::Query, "syntax error: no\n  é x\n    ^").at(Some((2, 3)));
        let told = of(&error, "SELECT 1\né x", 10);
        assert_eq!((told.code, told.message.as_str(), told.position), ("42601", "syntax error: no", Some(22)));
    }
}
