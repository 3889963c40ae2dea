//! Commits that take files away, and may put others in their place: compaction, retention, restore.
//!
//! What they were made from may be gone by the time they are made. delta-rs does not look at removes that change no rows,
//! so it lets two compactions of the same files land, and rows are there twice; or a compaction under a delete, and rows
//! come back (`the_library_still_lets_rewrites_of_the_same_files_land`). Therefore each of them raises the number of
//! `millpond/rewrite`: of two that were made from one snapshot the second is refused. Whether one landed is seen by the
//! number that it alone writes under `millpond/rewritten`: its files may have been taken away by another since.

use std::collections::BTreeSet;

use arrow::datatypes::SchemaRef;
use deltalake_core::kernel::{Action, Add, MetadataExt, Remove, Transaction};
use deltalake_core::protocol::DeltaOperation;

use super::{CommitError, commit};
use crate::lake::flush::pause;
use crate::lake::table::{Table, TableError};
use crate::task::Shutdown;

/// Whoever removes files raises this number by one: of two that race, one fails.
pub(in crate::lake) const APP_ID: &str = "millpond/rewrite";
/// The number of the newest rewrite that may be looked for: drawn by lot.
const WHOSE: &str = "millpond/rewritten";

/// The transaction of a commit to `table` that removes files.
pub(super) fn transaction(table: &Table) -> Transaction {
    Transaction::new(APP_ID, table.number(APP_ID).unwrap_or(0) + 1)
}

/// Where a rewrite stands.
enum Stands {
    /// Not in the table, which still has all that it takes away.
    Open(Vec<Remove>),
    Landed,
    /// Somebody else took away a file of it.
    Overtaken,
}

/// Takes the files `gone` away, by their paths, and puts `adds` in their place, which were staged before; `operation`
/// says why, and whether other rows are in the table then; `txns` are written with it. Returns once the outcome is known,
/// however long the store is away: false if another was first, of the same files or numbers, and nothing was done.
pub async fn commit_rewrite(
    table: &mut Table,
    gone: &BTreeSet<String>,
    adds: &[Add],
    operation: &DeltaOperation,
    txns: Vec<Transaction>,
    stop: &Shutdown,
) -> Result<bool, CommitError> {
    commit_restore(table, gone, adds, operation, txns, None, stop).await
}

/// The same, with which the table gets the columns of `schema`, and no others.
pub async fn commit_restore(
    table: &mut Table,
    gone: &BTreeSet<String>,
    adds: &[Add],
    operation: &DeltaOperation,
    txns: Vec<Transaction>,
    schema: Option<&SchemaRef>,
    stop: &Shutdown,
) -> Result<bool, CommitError> {
    let changes_rows = operation.changes_data();
    let whose = rand::random_range(1..i64::MAX);
    let numbers = |table: &Table| txns.iter().map(|txn| table.number(&txn.app_id)).collect::<Vec<_>>();
    let before = numbers(table);
    loop {
        match stands(table, gone, whose, changes_rows)? {
            Stands::Landed => return Ok(true),
            Stands::Overtaken => return Ok(false),
            Stands::Open(_) if numbers(table) != before => return Ok(false),
            Stands::Open(removes) => {
                let adds = adds.iter().map(|add| Action::Add(Add { data_change: changes_rows, ..add.clone() }));
                let columns = schema.map(|schema| {
                    let metadata = table.delta.snapshot()?.metadata().clone();
                    Ok::<_, TableError>(Action::Metadata(metadata.with_schema(&table.delta_schema(schema)?)?))
                });
                let removes = removes.into_iter().map(Action::Remove);
                let actions = columns.transpose()?.into_iter().chain(removes).chain(adds).collect();
                let mut txns = txns.clone();
                txns.extend([transaction(table), Transaction::new(WHOSE, whose)]);
                match commit(table, actions, txns, operation.clone()).await {
                    Ok(()) => return Ok(true),
                    Err(error) => table.warn("rewrite not confirmed, looking whether it landed", &error),
                }
            }
        }
        loop {
            pause(stop).await?;
            match table.refresh().await {
                Ok(()) => break,
                Err(error) => table.warn("table cannot be read, asking again", &error),
            }
        }
    }
}

fn stands(table: &Table, gone: &BTreeSet<String>, whose: i64, changes_rows: bool) -> Result<Stands, TableError> {
    if table.number(WHOSE) == Some(whose) {
        return Ok(Stands::Landed);
    }
    let snapshot = table.snapshot()?;
    let files = snapshot.log_data();
    let removes = files.iter().filter(|file| gone.contains(&*file.path()));
    let removes: Vec<Remove> = removes.map(|file| file.remove_action(changes_rows)).collect();
    Ok(if removes.len() == gone.len() { Stands::Open(removes) } else { Stands::Overtaken })
}

#[cfg(test)]
mod tests;
