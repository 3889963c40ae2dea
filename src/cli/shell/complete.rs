//! What the prompt knows while a line is typed: whether it is whole, and how its last word could go on.

use arrow::array::{AsArray, RecordBatch};
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper, Result};

use super::prompt;
use crate::query;

/// Words of SQL that are completed.
const KEYWORDS: &[&str] = &[
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COUNT",
    "CROSS",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXISTS",
    "EXPLAIN",
    "ANALYZE",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INTERVAL",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "RESET",
    "RIGHT",
    "SELECT",
    "SET",
    "SHOW",
    "SUBSCRIBE",
    "THEN",
    "TIMESTAMP",
    "UNION",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
];

/// Names and keywords.
pub(super) struct Words {
    names: Vec<String>,
}

impl Words {
    pub(super) fn new(mut names: Vec<String>) -> Self {
        names.sort();
        names.dedup();
        Self { names }
    }

    /// Words that begin with `prefix`, whatever the case: names first.
    fn beginning_with(&self, prefix: &str) -> Vec<String> {
        let begins = |word: &str| {
            word.len() >= prefix.len()
                && word.is_char_boundary(prefix.len())
                && word[..prefix.len()].eq_ignore_ascii_case(prefix)
        };
        let names = self.names.iter().filter(|name| begins(name)).map(|name| quoted(name));
        let lower = prefix.chars().all(|char| !char.is_uppercase());
        let keyword = |word: &&str| if lower { word.to_lowercase() } else { (*word).to_owned() };
        names.chain(KEYWORDS.iter().filter(|word| begins(word)).map(keyword)).collect()
    }
}

/// A name as it must be written.
fn quoted(name: &str) -> String {
    let plain = name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_');
    if plain { name.to_owned() } else { format!("\"{name}\"") }
}

/// The texts of a batch's first column.
pub(super) fn texts(batch: &RecordBatch) -> Vec<String> {
    let column = batch.columns().first().and_then(|column| column.as_string_opt::<i32>());
    column.into_iter().flatten().flatten().map(str::to_owned).collect()
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> Result<(usize, Vec<String>)> {
        let before = &line[..at];
        let start = before
            .rfind(|char: char| !(char.is_alphanumeric() || char == '_'))
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let word = &before[start..];
        // After a point there can be a column of anything.
        if word.is_empty() && !before.ends_with('.') {
            return Ok((at, Vec::new()));
        }
        Ok((start, self.beginning_with(word)))
    }
}

impl Validator for Words {
    /// A statement goes on until its `;`, over as many lines as it takes.
    fn validate(&self, context: &mut ValidationContext<'_>) -> Result<ValidationResult> {
        Ok(if is_whole(context.input()) { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

fn is_whole(text: &str) -> bool {
    text.trim().is_empty() || prompt::is_command(text) || query::split(text).is_ok_and(|script| script.rest.is_empty())
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}

impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_wait_for_their_semicolon() {
        for whole in ["SELECT 1;", "SELECT 'a;\nb';", "\\d", "exit", "", " -- nothing\n;", "SELECT 1; SELECT 2;"] {
            assert!(is_whole(whole), "{whole}");
        }
        for open in ["SELECT 1", "SELECT 'a;", "SELECT 1; SELECT", "SELECT 1 -- ;"] {
            assert!(!is_whole(open), "{open}");
        }
    }

    #[test]
    fn words_go_on() {
        let names = ["telemetry", "telemetry", "Weird Name", "event_time"].map(str::to_owned);
        let words = Words::new(names.to_vec());
        assert_eq!(words.beginning_with("tele"), ["telemetry"]);
        assert_eq!(words.beginning_with("we"), ["\"Weird Name\""]);
        assert_eq!(words.beginning_with("SEL"), ["SELECT"]);
        assert_eq!(words.beginning_with("whe"), ["when", "where"]);
        let history = rustyline::history::DefaultHistory::new();
        let complete = |line: &str| words.complete(line, line.len(), &Context::new(&history)).unwrap();
        assert_eq!(complete("SELECT t.ev"), (9, vec!["event_time".to_owned()]));
        assert_eq!(complete("SELECT "), (7, vec![]));
    }
}
