//! A query whose rows are a table, made anew now and then.

use std::time::Duration;

use crate::task::Schedule;

/// A query of `kind = "table"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableQuery {
    /// Its name = the file's stem = the table's.
    pub name: String,
    /// The SELECT. The head's lines are left empty, so that a line number in an error is one of the file.
    pub sql: String,
    /// The file as problems name it.
    pub file: String,
    /// [`crate::stream::Rule::hash`] of its text.
    pub hash: String,
    /// When it runs; never by itself if there is none.
    pub schedule: Option<Schedule>,
    /// The column whose values part the table: only parts whose sources changed are made anew.
    pub partition_by: Option<String>,
    /// How far from a part that changed others are made anew, too.
    pub lookback: Duration,
}
