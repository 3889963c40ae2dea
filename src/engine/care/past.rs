//! Tables as they were.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::engine::catalog::EngineCatalog;
use crate::error::{Error, Kind, Result};
use crate::lake::care;
use crate::lake::{Lake, PUBLIC, Past, SYSTEM, Snapshot, TableError};

/// The table that statements call `name` (those of schema system `system.<name>`) as it was; `None` if there is none.
pub async fn past(catalog: &EngineCatalog, name: &str, at: Past) -> Result<Option<(Arc<Snapshot>, SchemaRef)>> {
    let Some(lake) = &catalog.lake else { return Ok(None) };
    let (folder, table) = match name.strip_prefix("system.") {
        Some(table) => (SYSTEM, table),
        None => (PUBLIC, name),
    };
    let is_replaced = folder == PUBLIC && catalog.kept.load().contains_key(name);
    let is_known = folder == SYSTEM || is_replaced || catalog.fed().tables.contains_key(name);
    if !is_known {
        return Ok(None);
    }
    let read = async {
        let Some(past) = lake.past(folder, table, at).await? else { return Ok(None) };
        let found = (past.snapshot()?, past.arrow_schema()?);
        Ok(Some(found))
    };
    let found = match read.await {
        Ok(found) => found,
        Err(error) => return Err(gone(lake, (folder, table), at, Some(error)).await),
    };
    // Files that were replaced are not kept as long as the log.
    if let Some((snapshot, _)) = found.as_ref().filter(|_| is_replaced)
        && !care::has_files(lake, folder, table, snapshot).await.map_err(|error| unreadable(name, at).because(error))?
    {
        return Err(gone(lake, (folder, table), at, None).await);
    }
    Ok(found)
}

fn unreadable(name: &str, at: Past) -> Error {
    Error::new(Kind::NotFound, format!("table {name} cannot be read as it was {at}"))
}

/// Says that it cannot be read any more, or never could, and from when on it can.
pub(super) async fn gone(lake: &Lake, (folder, table): (&str, &str), at: Past, cause: Option<TableError>) -> Error {
    let shown = if folder == PUBLIC { table.to_owned() } else { format!("{folder}.{table}") };
    let error = unreadable(&shown, at);
    match care::readable(lake, folder, table).await {
        Ok(Some(readable)) => error.hint(format!(
            "it can be read from table version {} (of {}) to {}; `lake.history` says how long versions are kept",
            readable.oldest,
            readable.oldest_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            readable.newest
        )),
        _ => match cause {
            Some(cause) => error.because(cause),
            None => error,
        },
    }
}
