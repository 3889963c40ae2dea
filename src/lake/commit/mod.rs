//! The only place that commits to Delta.
//!
//! [`machine`] decides (no I/O, no clock; `simulation` tries it over seeds), this file carries out what it
//! says with delta-rs: files staged before, `CommitBuilder` with the newest known snapshot as read snapshot,
//! no checkpoint and no log clean-up in the hook. Any error means the outcome is unknown.

pub mod machine;
#[cfg(test)]
mod numbering;
#[cfg(test)]
mod retries;
mod rewrite;
#[cfg(test)]
mod simulation;

use futures::future::BoxFuture;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use deltalake_core::DeltaTableError;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake_core::kernel::{Action, Add, LogicalFileView, MetadataExt, StructField, StructType, Transaction};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use tracing::info;

use self::machine::{Do, MainCommit, Outcome, Saw, SideCommit};
pub(super) use self::rewrite::APP_ID as REWRITE;
pub use self::rewrite::{commit_restore, commit_rewrite};
use super::Lake;
use super::positions::{Move, Moves, Positions, TopicPartition};
use super::table::{SCHEMA_VERSION_PROPERTY, Table, TableError};
use super::txns::{self, Txns};
use crate::error::{Error, Kind};
use crate::task::{Shutdown, failpoint};

/// How often delta-rs itself may rebase over commits that do not concern us.
const REBASES: usize = 5;

/// Why a window is not in the table.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another writer moved our positions: stop writing, exit.
    #[error("another writer is at work on table {table}: {at} stands at {found:?}, expected {expected}")]
    Rival {
        /// Table name.
        table: String,
        /// Which partition.
        at: String,
        /// Where we left it.
        expected: i64,
        /// Where it stands.
        found: Option<i64>,
    },
    /// Another writer gave a schema version's number to other columns: stop writing, exit.
    #[error("another writer is at work: it recorded a schema version {number} of table {table} that is not ours")]
    Version {
        /// Name of the table whose version it is.
        table: String,
        /// The version's number.
        number: u32,
    },
    /// Shutdown came before the outcome was known; the next start finds out.
    #[error("stopped before the commit's outcome was known")]
    Stopped,
    /// The rows cannot be written at all (a fault, not an outage).
    #[error(transparent)]
    Table(#[from] TableError),
    /// Rows could not be brought into Arrow form.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Rival { .. } | CommitError::Version { .. } => Error::new(Kind::Refused, error.to_string())
                .hint("one process writes to a lake; `_millpond/writer/` names the one that holds it"),
            CommitError::Stopped => Error::new(Kind::Unavailable, error.to_string()),
            CommitError::Table(_) | CommitError::Arrow(_) => {
                Error::new(Kind::Internal, "rows cannot be written").because(error)
            }
        }
    }
}

fn properties() -> CommitProperties {
    CommitProperties::default()
        .with_create_checkpoint(false)
        .with_cleanup_expired_logs(Some(false))
        .with_max_retries(REBASES)
}

fn transactions(fed: &str, positions: &Positions) -> Vec<Transaction> {
    positions.iter().map(|(lane, position)| Transaction::new(lane.app_id(fed), *position)).collect()
}

/// Creates the table, with its first positions in the same commit. If it exists already (a lost answer, an
/// earlier start) it is opened as it is.
pub fn create<'a>(
    lake: &'a Lake,
    folder: &'a str,
    name: &'a str,
    schema: &'a SchemaRef,
    partition_by: &'a [&'a str],
    schema_version: u32,
    positions: &'a Positions,
) -> BoxFuture<'a, Result<Table, TableError>> {
    Box::pin(async move {
        if let Some(table) = lake.open(folder, name).await? {
            return Ok(table);
        }
        let (log_store, _) = lake.table_stores(folder, name)?;
        let fields: StructType = schema.as_ref().try_into_kernel().map_err(|error: arrow::error::ArrowError| {
            TableError::Schema { table: name.to_owned(), reason: error.to_string() }
        })?;
        let actions = transactions(name, positions).into_iter().map(Action::Txn);
        let created = CreateBuilder::new()
            .with_log_store(log_store)
            .with_table_name(name)
            .with_columns(fields.fields().cloned())
            .with_partition_columns(partition_by.iter().copied())
            .with_configuration([
                ("delta.isolationLevel".to_owned(), Some("writeSerializable".to_owned())),
                ("delta.checkpointInterval".to_owned(), Some("1000000".to_owned())),
                ("delta.logRetentionDuration".to_owned(), Some("interval 30 days".to_owned())),
                // Checkpoints name a file so long that was taken away. Care reads the commits and needs none of them.
                (
                    "delta.deletedFileRetentionDuration".to_owned(),
                    Some(format!("interval {} seconds", lake.history.as_secs())),
                ),
                (SCHEMA_VERSION_PROPERTY.to_owned(), Some(schema_version.to_string())),
            ])
            .with_raise_if_key_not_exists(false)
            .with_save_mode(SaveMode::ErrorIfExists)
            .with_commit_properties(properties().with_max_retries(0))
            .with_actions(actions)
            .await;
        match (created, lake.open(folder, name).await?) {
            (_, Some(table)) => {
                info!(table = name, version = table.version(), "table created");
                Ok(table)
            }
            (Err(error), None) => Err(error.into()),
            (Ok(_), None) => Err(DeltaTableError::NotATable(name.to_owned()).into()),
        }
    })
}

/// Adds the columns that `schema` has and the table lacks, brings the metadata of the others up to date, and sets the
/// table's schema version. Does nothing if the table is there already, so it can be repeated after a lost answer.
pub fn evolve<'a>(
    table: &'a mut Table,
    schema: &'a SchemaRef,
    schema_version: u32,
) -> BoxFuture<'a, Result<(), TableError>> {
    Box::pin(async move {
        if table.schema_version() >= schema_version {
            return Ok(());
        }
        let state = table.delta.snapshot()?;
        let old = state.schema();
        let (mut kept, mut added): (Vec<StructField>, Vec<StructField>) = (old.fields().cloned().collect(), Vec::new());
        for field in schema.fields() {
            let new: StructField = field
                .as_ref()
                .try_into_kernel()
                .map_err(|error: arrow::error::ArrowError| table.schema_error(&error))?;
            match kept.iter_mut().find(|known| known.name == new.name) {
                Some(known) => known.metadata = new.metadata,
                None => added.push(new),
            }
        }
        let new = StructType::try_new(kept.into_iter().chain(added.iter().cloned()))
            .map_err(|error| table.schema_error(&error))?;
        let metadata = state
            .metadata()
            .clone()
            .with_schema(&new)?
            .add_config_key(SCHEMA_VERSION_PROPERTY.to_owned(), schema_version.to_string())?;
        let operation = DeltaOperation::AddColumn { fields: added };
        commit(table, vec![Action::Metadata(metadata)], Vec::new(), operation).await?;
        info!(table = %table.name(), schema_version, "schema version applied");
        Ok(())
    })
}

/// Commits a window to the table that owns the positions: `adds` (staged before, maybe none) and `moves`.
/// Returns once the outcome is known.
pub async fn commit_main(
    table: &mut Table,
    adds: &[Add],
    moves: Moves,
    stop: &Shutdown,
) -> Result<Outcome, CommitError> {
    let name = Arc::clone(table.name());
    let ends: Positions = moves.iter().map(|(lane, step)| (lane.clone(), step.end)).collect();
    let write = Write::Append { adds, txns: transactions(&name, &ends) };
    swap(table, &write, moves, |table| table.positions_of(&name), stop).await
}

/// Appends `adds` to a table that gives numbers, and moves the number of `app_id` on from `start` to `end` in the same
/// commit: by compare-and-swap, so that of two who want a number one gets it. Returns once the outcome is known;
/// [`Outcome::Adopted`] says that the number stands at `end`, whoever moved it there.
pub async fn commit_number(
    table: &mut Table,
    app_id: &str,
    adds: &[Add],
    start: i64,
    end: i64,
    stop: &Shutdown,
) -> Result<Outcome, CommitError> {
    let write = Write::Append { adds, txns: vec![Transaction::new(app_id, end)] };
    swap_number(table, &write, app_id, start, end, stop).await
}

/// Rows that take the place of others.
#[derive(Debug)]
pub struct Replacement {
    /// The files of the new rows, staged before.
    pub adds: Vec<Add>,
    /// The value of the partition column `.0` must be one of `.1` for rows to be replaced; none: all rows are.
    pub only: Option<(String, BTreeSet<Option<String>>)>,
    /// The table's columns from now on, if they are others; only if all rows are replaced.
    pub schema: Option<SchemaRef>,
    /// Numbers that are written with it.
    pub txns: Vec<Transaction>,
}

/// Replaces rows, and moves the number of `app_id` on from `start` to `end` in the same commit, by compare-and-swap
/// like [`commit_number`].
pub async fn commit_replacement(
    table: &mut Table,
    app_id: &str,
    replacement: &Replacement,
    start: i64,
    end: i64,
    stop: &Shutdown,
) -> Result<Outcome, CommitError> {
    let mut txns = replacement.txns.clone();
    txns.push(Transaction::new(app_id, end));
    let write = Write::Replace { replacement, txns };
    swap_number(table, &write, app_id, start, end, stop).await
}

async fn swap_number(
    table: &mut Table,
    write: &Write<'_>,
    app_id: &str,
    start: i64,
    end: i64,
    stop: &Shutdown,
) -> Result<Outcome, CommitError> {
    let only = TopicPartition { topic: app_id.into(), incarnation: 0, partition: 0 };
    let moves = Moves::from([(only.clone(), Move { start, end, young: start == 0 })]);
    let number = |table: &Table| table.number(app_id).map(|number| (only.clone(), number)).into_iter().collect();
    swap(table, write, moves, number, stop).await
}

/// What a compare-and-swap writes.
enum Write<'a> {
    Append { adds: &'a [Add], txns: Vec<Transaction> },
    Replace { replacement: &'a Replacement, txns: Vec<Transaction> },
}

impl Write<'_> {
    fn files(&self) -> usize {
        match self {
            Self::Append { adds, .. } => adds.len(),
            Self::Replace { replacement, .. } => replacement.adds.len(),
        }
    }

    async fn attempt(&self, table: &mut Table) -> Result<(), TableError> {
        match self {
            Self::Append { adds, txns } => append(table, adds, txns.clone()).await,
            Self::Replace { replacement, txns } => replace(table, replacement, txns.clone()).await,
        }
    }
}

/// Carries out a compare-and-swap: `read` tells where what `moves` names stands.
async fn swap(
    table: &mut Table,
    write: &Write<'_>,
    moves: Moves,
    read: impl Fn(&Table) -> Positions,
    stop: &Shutdown,
) -> Result<Outcome, CommitError> {
    let name = Arc::clone(table.name());
    let mut machine = MainCommit::new(moves, rand::random());
    let mut next = machine.start(&read(table));
    loop {
        next = match next {
            Do::Commit => match write.attempt(table).await {
                Ok(()) => machine.step(Saw::Committed),
                Err(error) => {
                    table.warn("commit not confirmed, looking whether it landed", &error);
                    machine.step(Saw::Failed)
                }
            },
            Do::Refresh => match table.refresh().await {
                Ok(()) => machine.step(Saw::Table(&read(table))),
                Err(error) => {
                    table.warn("table cannot be read, asking again", &error);
                    machine.step(Saw::Unreachable)
                }
            },
            Do::Sleep(pause) => {
                sleep(pause, stop).await?;
                machine.step(Saw::Woke)
            }
            Do::LeaveOut => machine.step(Saw::Remaining(write.files())),
            Do::Done(Outcome::Rival { at, expected, found }) => {
                return Err(CommitError::Rival { table: name.to_string(), at: at.to_string(), expected, found });
            }
            Do::Done(outcome) => return Ok(outcome),
        };
    }
}

/// Leaves out of some rows what a table has already; the positions say where the table's own rows end, if that matters.
pub type LeaveOut =
    for<'a> fn(&'a Table, &'a Positions, &'a RecordBatch) -> BoxFuture<'a, Result<RecordBatch, TableError>>;

/// Appends `rows` of a window of the table `fed` to a side table. `held` leaves out what the table has already; only
/// rows below the side table's own positions, which it is given, can be there.
pub async fn commit_side(
    table: &mut Table,
    fed: &str,
    rows: RecordBatch,
    ends: Positions,
    stop: &Shutdown,
    held: LeaveOut,
) -> Result<Outcome, CommitError> {
    let machine = SideCommit::new(ends, rand::random());
    let own = |table: &Table| table.positions_of(fed);
    let txns = |_: &Table, machine: &SideCommit| transactions(fed, &machine.txns());
    append_rest(table, machine, rows, stop, own, txns, held).await
}

/// Appends `rows` that no position guards. `held` leaves out what the table has already; the number of `app_id`, one
/// higher with each commit, makes two that race conflict, so what `held` saw is still so when the commit lands.
pub async fn commit_once(
    table: &mut Table,
    app_id: &str,
    rows: RecordBatch,
    stop: &Shutdown,
    held: LeaveOut,
) -> Result<Outcome, CommitError> {
    let machine = SideCommit::new(Positions::new(), rand::random());
    let next = |table: &Table, _: &SideCommit| {
        let number = table.txns.get(app_id).copied().unwrap_or(0);
        vec![Transaction::new(app_id.to_owned(), number + 1)]
    };
    append_rest(table, machine, rows, stop, |_| Positions::new(), next, held).await
}

/// Carries out what `machine` says: leave out, commit the rest, and look again after a failure.
async fn append_rest(
    table: &mut Table,
    mut machine: SideCommit,
    mut rows: RecordBatch,
    stop: &Shutdown,
    own: impl Fn(&Table) -> Positions,
    txns: impl Fn(&Table, &SideCommit) -> Vec<Transaction>,
    held: LeaveOut,
) -> Result<Outcome, CommitError> {
    let mut staged: Option<Vec<Add>> = None;
    let mut next = machine.start(&own(table));
    loop {
        next = match next {
            Do::LeaveOut => match held(table, machine.own(), &rows).await {
                Ok(kept) => {
                    if kept.num_rows() != rows.num_rows() {
                        (rows, staged) = (kept, None);
                    }
                    machine.step(Saw::Remaining(rows.num_rows()))
                }
                Err(error) => {
                    table.warn("table cannot be read, asking again", &error);
                    machine.step(Saw::Unreachable)
                }
            },
            Do::Commit => {
                let outcome = async {
                    if staged.is_none() {
                        staged = Some(table.stage(std::slice::from_ref(&rows), rows.schema_ref()).await?);
                    }
                    let txns = txns(table, &machine);
                    append(table, staged.as_deref().unwrap_or_default(), txns).await
                };
                match outcome.await {
                    Ok(()) => machine.step(Saw::Committed),
                    Err(error) => {
                        table.warn("commit not confirmed, looking whether it landed", &error);
                        machine.step(Saw::Failed)
                    }
                }
            }
            Do::Refresh => match table.refresh().await {
                Ok(()) => machine.step(Saw::Table(&own(table))),
                Err(error) => {
                    table.warn("table cannot be read, asking again", &error);
                    machine.step(Saw::Unreachable)
                }
            },
            Do::Sleep(pause) => {
                sleep(pause, stop).await?;
                machine.step(Saw::Woke)
            }
            Do::Done(outcome) => return Ok(outcome),
        };
    }
}

async fn sleep(pause: std::time::Duration, stop: &Shutdown) -> Result<(), CommitError> {
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(()),
        () = stop.cancelled() => Err(CommitError::Stopped),
    }
}

fn append<'a>(table: &'a mut Table, adds: &'a [Add], txns: Vec<Transaction>) -> BoxFuture<'a, Result<(), TableError>> {
    Box::pin(async move {
        let partitions = table.delta.snapshot()?.metadata().partition_columns().to_vec();
        let operation =
            DeltaOperation::Write { mode: SaveMode::Append, partition_by: Some(partitions), predicate: None };
        let actions = adds.iter().cloned().map(Action::Add).collect();
        commit(table, actions, txns, operation).await
    })
}

fn replace<'a>(
    table: &'a mut Table,
    replacement: &'a Replacement,
    mut txns: Vec<Transaction>,
) -> BoxFuture<'a, Result<(), TableError>> {
    Box::pin(async move {
        let Replacement { adds, only, schema, .. } = replacement;
        let state = table.delta.snapshot()?;
        let mut actions: Vec<Action> = Vec::new();
        if let Some(schema) = schema {
            let fields = table.delta_schema(schema)?;
            actions.push(Action::Metadata(state.metadata().clone().with_schema(&fields)?));
        }
        let is_replaced = |file: &LogicalFileView| match only {
            Some((column, values)) => {
                let value = file.partition_values_map().remove(column).flatten();
                values.contains(&value)
            }
            None => true,
        };
        let snapshot = table.snapshot()?;
        let files = snapshot.log_data();
        actions.extend(files.iter().filter(is_replaced).map(|file| Action::Remove(file.remove_action(true))));
        actions.extend(adds.iter().cloned().map(Action::Add));
        txns.push(rewrite::transaction(table));
        let named = only.as_ref().filter(|(_, values)| !values.is_empty());
        let predicate = named.map(|(column, values)| {
            let values: Vec<&str> = values.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
            format!("{column} IN ({})", values.join(", "))
        });
        let partition_by = Some(state.metadata().partition_columns().to_vec());
        let operation = DeltaOperation::Write { mode: SaveMode::Overwrite, partition_by, predicate };
        commit(table, actions, txns, operation).await
    })
}

/// One attempt. On success the table stands at the new version, with all positions up to it: when delta-rs
/// rebased over another commit, that one's positions are read, too.
fn commit<'a>(
    table: &'a mut Table,
    actions: Vec<Action>,
    txns: Vec<Transaction>,
    operation: DeltaOperation,
) -> BoxFuture<'a, Result<(), TableError>> {
    Box::pin(async move {
        let read = table.version();
        let written: Txns = txns.iter().map(|txn| (txn.app_id.clone(), txn.version)).collect();
        let is_append = matches!(operation, DeltaOperation::Write { mode: SaveMode::Append, .. });
        let blind = HashMap::from([("isBlindAppend".to_owned(), is_append.into())]);
        let builder = CommitBuilder::from(properties().with_application_transactions(txns).with_metadata(blind))
            .with_actions(actions);
        failpoint::hit("before_commit");
        let finished = builder.build(Some(table.delta.snapshot()?), table.delta.log_store(), operation).await?;
        failpoint::hit("after_commit");
        let version = finished.version();
        if version > read + 1 {
            let log = table.delta.log_store().object_store(None);
            let mut all = table.txns.clone();
            txns::read_commits(log.as_ref(), read + 1, version, &mut all).await?;
            table.txns = all;
        } else {
            table.txns.extend(written);
        }
        table.delta.state = Some(finished.snapshot());
        Ok(())
    })
}
