//! Opens the tables that the engine writes, or makes them.

use std::time::Duration;

use arrow::datatypes::SchemaRef;

use crate::lake::{self, Lake, Positions, Table, TableError};

/// Pause before the store is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What a table is made with, if it is not there.
pub struct Wanted<'a> {
    /// Its columns.
    pub schema: &'a SchemaRef,
    /// The number of their schema version.
    pub schema_version: u32,
    /// What its files are parted by.
    pub partition_by: &'a [&'a str],
    /// Where it begins.
    pub positions: &'a Positions,
}

/// Opens or creates a table, however long the store is away; `told` hears why it takes long. An error if there is a table
/// that cannot be used.
pub async fn make(
    lake: &Lake,
    folder: &str,
    name: &str,
    wanted: Wanted<'_>,
    told: impl Fn(&TableError),
) -> Result<Table, TableError> {
    let Wanted { schema, schema_version, partition_by, positions } = wanted;
    loop {
        match lake::create(lake, folder, name, schema, partition_by, schema_version, positions).await {
            Ok(table) => return Ok(table),
            Err(error @ TableError::Schema { .. }) => return Err(error),
            Err(error) => told(&error),
        }
        tokio::time::sleep(RETRY).await;
    }
}
