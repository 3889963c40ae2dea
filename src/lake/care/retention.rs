//! Rows that are older than their table keeps them go, by whole partitions.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use deltalake_core::protocol::DeltaOperation;

use super::data_files;
use crate::lake::commit::{self, CommitError};
use crate::lake::table::Table;
use crate::task::{Shutdown, failpoint};

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Rows …
    pub rows: u64,
    /// … in so many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Takes the rows of the days before `first` away, `column` being the partition column of days; nothing if there are none,
/// or if another rewrite was first. Their files are deleted with the table versions that have them. A dry run only says what
/// would go.
pub async fn retain(
    table: &mut Table,
    column: &str,
    first: NaiveDate,
    dry_run: bool,
    stop: &Shutdown,
) -> Result<Retained, CommitError> {
    let value = format!("{column}=");
    let is_old = |partition: &str| {
        let day = partition.split('/').find_map(|part| part.strip_prefix(value.as_str()));
        day.and_then(|day| day.parse::<NaiveDate>().ok()).is_some_and(|day| day < first)
    };
    let mut files = data_files(&*table.snapshot()?);
    files.retain(|file| is_old(&file.partition));
    if files.is_empty() {
        return Ok(Retained::default());
    }
    let sum = |of: fn(&super::DataFile) -> u64| files.iter().map(of).sum();
    let retained = Retained { rows: sum(|file| file.rows), files: files.len() as u64, bytes: sum(|file| file.bytes) };
    if dry_run {
        return Ok(retained);
    }
    let gone: BTreeSet<String> = files.iter().map(|file| file.path.clone()).collect();
    let operation = DeltaOperation::Delete { predicate: Some(format!("{column} < DATE '{first}'")) };
    let landed = commit::commit_rewrite(table, &gone, &[], &operation, Vec::new(), stop).await?;
    failpoint::hit("retention_after_commit");
    Ok(if landed { retained } else { Retained::default() })
}
