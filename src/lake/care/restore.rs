//! A table becomes what it was: the files of a past version are its files again, in one commit.

use std::collections::BTreeSet;

use arrow::datatypes::FieldRef;
use deltalake_core::kernel::{Add, LogicalFileView, Transaction};
use deltalake_core::protocol::DeltaOperation;

use super::{DataFile, data_file};
use crate::lake::commit::{self, CommitError};
use crate::lake::made::{Numbers, RUN};
use crate::lake::table::{REMADE, Table};
use crate::task::{Shutdown, failpoint};

/// The application id whose number is a table version that no restore is newer than by much: since then files may be part of
/// the table again that an older commit took away.
pub(super) const RESTORED: &str = "millpond/restored";

/// What a restore changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files that are no part of the table any more …
    pub files_gone: u64,
    /// … and their rows.
    pub rows_gone: u64,
    /// Files that are part of it again …
    pub files_back: u64,
    /// … and their rows.
    pub rows_back: u64,
}

/// Makes the rows of `table` those that `past` has, an older version of it whose files are there. `numbers`, those of
/// positions and of pieces, are what these say afterwards, so that what came since can come again; all others stay. A dry run
/// only says what would change. `None` if another rewrite was first, and nothing was done.
pub async fn restore(
    table: &mut Table,
    past: &Table,
    numbers: &Numbers,
    dry_run: bool,
    stop: &Shutdown,
) -> Result<Option<Restored>, CommitError> {
    let (now, then) = (table.snapshot()?, past.snapshot()?);
    let paths = |files: &[LogicalFileView]| files.iter().map(|file| file.path().into_owned()).collect::<BTreeSet<_>>();
    let (now, then): (Vec<_>, Vec<_>) = (now.log_data().iter().collect(), then.log_data().iter().collect());
    let (here, there) = (paths(&now), paths(&then));
    let back: Vec<&LogicalFileView> = then.iter().filter(|file| !here.contains(&*file.path())).collect();
    let gone: Vec<DataFile> = now.iter().filter(|file| !there.contains(&*file.path())).map(data_file).collect();
    let restored = Restored {
        files_gone: gone.len() as u64,
        rows_gone: gone.iter().map(|file| file.rows).sum(),
        files_back: back.len() as u64,
        rows_back: back.iter().map(|file| file.num_records().unwrap_or(0) as u64).sum(),
    };
    if dry_run || (restored == Restored::default() && numbers.is_empty()) {
        return Ok(Some(restored));
    }
    let adds: Vec<Add> = back.into_iter().map(add).collect();
    let gone: BTreeSet<String> = gone.into_iter().map(|file| file.path).collect();
    let mut txns = vec![Transaction::new(RESTORED, (table.version() + 1).cast_signed())];
    txns.push(Transaction::new(REMADE, table.remade() + 1));
    txns.extend(numbers.iter().map(|(id, number)| Transaction::new(id, *number)));
    // A run that is under way knows the sources as they were, but not that rows go back.
    txns.extend(table.number(RUN).map(|run| Transaction::new(RUN, run + 1)));
    let operation = DeltaOperation::Restore { version: Some(past.version()), datetime: None };
    // All rows were replaced since, by such with other columns: those of the files come back with them.
    let columns = past.arrow_schema()?;
    let now = table.arrow_schema()?;
    let has =
        |field: &FieldRef| now.field_with_name(field.name()).is_ok_and(|now| now.data_type() == field.data_type());
    let columns = (!columns.fields().iter().all(has)).then_some(&columns);
    let landed = commit::commit_restore(table, &gone, &adds, &operation, txns, columns, stop).await?;
    failpoint::hit("restore_after_commit");
    Ok(landed.then_some(restored))
}

fn add(file: &LogicalFileView) -> Add {
    Add {
        path: file.path().into_owned(),
        partition_values: file.partition_values_map(),
        size: file.size(),
        modification_time: file.modification_time(),
        data_change: true,
        stats: file.stats(),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }
}
