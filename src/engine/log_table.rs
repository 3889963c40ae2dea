//! A table of schema `system` that rows are only added to: what the platform did, a row each.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use tracing::warn;

use super::make::{Wanted, make};
use crate::lake::{Lake, Positions, SYSTEM, Snapshot, Table, TableError, append_rows};
use crate::task::Shutdown;

/// The table. It is made with its first row.
pub struct LogTable {
    name: &'static str,
    schema: SchemaRef,
    shown: Mutex<Option<Arc<Snapshot>>>,
    /// And the version of its last checkpoint.
    table: tokio::sync::Mutex<Option<(Table, u64)>>,
}

impl LogTable {
    /// The table `name` with these columns.
    pub fn new(name: &'static str, schema: SchemaRef) -> Self {
        Self { name, schema, shown: Mutex::new(None), table: tokio::sync::Mutex::new(None) }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What it has; `None` before the first row.
    pub fn shown(&self) -> Option<Arc<Snapshot>> {
        self.shown.lock().clone()
    }

    /// Shows what `lake` has of it by now.
    pub async fn open(&self, lake: &Lake) {
        match lake.open(SYSTEM, self.name).await {
            Ok(Some(table)) => {
                self.show(&table);
                let version = table.version();
                *self.table.lock().await = Some((table, version));
            }
            Ok(None) => {}
            Err(error) => warn!(table = self.name, error = %error, "log cannot be read"),
        }
    }

    /// Shows what somebody else has added to it since.
    pub async fn follow(&self, lake: &Lake) {
        let mut table = self.table.lock().await;
        let Some((table, _)) = &mut *table else {
            drop(table);
            return self.open(lake).await;
        };
        match table.refresh().await {
            Ok(()) => self.show(table),
            Err(error) => warn!(table = self.name, error = %error, "log cannot be read"),
        }
    }

    fn show(&self, table: &Table) {
        if let Ok(snapshot) = table.snapshot() {
            *self.shown.lock() = Some(snapshot);
        }
    }

    /// Adds rows, however long the store is away.
    pub async fn add(&self, lake: &Lake, rows: &RecordBatch, abort: &Shutdown) {
        let mut table = self.table.lock().await;
        if table.is_none() {
            let positions = Positions::new();
            let wanted = Wanted { schema: &self.schema, schema_version: 1, partition_by: &[], positions: &positions };
            let told = |error: &TableError| warn!(table = self.name, error = %error, "log not made, trying again");
            match make(lake, SYSTEM, self.name, wanted, told).await {
                Ok(made) => *table = Some((made, 0)),
                Err(error) => warn!(table = self.name, error = %error, "not written down"),
            }
        }
        let Some((table, checkpoint)) = &mut *table else { return };
        let before = table.number(self.name).unwrap_or(0);
        match append_rows(table, self.name, rows, (before, before + 1), abort).await {
            Ok(_) => {
                table.checkpoint_when_due(checkpoint).await;
                self.show(table);
            }
            Err(error) => warn!(table = self.name, error = %error, "not written down"),
        }
    }
}
