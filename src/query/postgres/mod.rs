//! PostgreSQL as its clients know it: types, statements about a connection, catalogs and functions.
//!
//! What a client says about its connection is a [`Command`]; what it asks of the catalogs is SQL, which is put into words
//! that can be planned here (`rewrite`) and read from tables made of the statement's pinned state (`catalog`, `tables`),
//! with functions about them (`functions`). Other doors do not see any of it.

mod catalog;
mod command;
mod dialect;
mod functions;
mod pg_type;
mod rewrite;
mod rows;
mod tables;

use std::sync::Arc;

use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::ScalarUDF;
use parking_lot::Mutex;

pub(super) use catalog::{PgCatalog, Told, own_schemas, search_path};
pub use command::{Command, CopyForm, CopyFormat, command, is_utf8};
pub use pg_type::{ALL as ALL_TYPES, ColumnType, JSON, OID, PgType};
pub use rewrite::SAME_NAME;
pub(super) use rewrite::{asks, casts, parameter_type, rewrite};

/// The schema of PostgreSQL's catalogs.
pub(super) const SCHEMA: &str = "pg_catalog";
/// The version of PostgreSQL whose catalogs and protocol are spoken.
pub const SERVER_VERSION: &str = concat!("16.4 (Millpond ", env!("CARGO_PKG_VERSION"), ")");

/// What is PostgreSQL's about a session.
#[derive(Debug)]
pub(super) struct Connection {
    process: u32,
    settings: Mutex<Vec<(String, String)>>,
}

impl Connection {
    pub(super) fn new(process: u32) -> Self {
        Self { process, settings: Mutex::default() }
    }

    /// Options in force, as `current_setting` and `pg_settings` give them.
    pub(super) fn tell(&self, settings: Vec<(String, String)>) {
        *self.settings.lock() = settings;
    }

    /// The value of one of them; empty if it is not told.
    pub(super) fn setting(&self, name: &str) -> String {
        let settings = self.settings.lock();
        let known = settings.iter().find(|(known, _)| known == name);
        known.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    pub(super) fn settings(&self) -> Vec<(String, String)> {
        self.settings.lock().clone()
    }

    pub(super) fn functions(&self, catalog: &Arc<PgCatalog>, user: &str) -> Vec<Arc<ScalarUDF>> {
        functions::functions(catalog, user, self.process)
    }
}

/// A catalog as a table.
pub(super) fn table(catalog: &PgCatalog, name: &str) -> Option<Result<Arc<dyn TableProvider>, DataFusionError>> {
    let rows = catalog.table(name)?;
    Some(rows.map_err(DataFusionError::from).and_then(|rows| {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
        Ok(Arc::new(table) as Arc<dyn TableProvider>)
    }))
}
