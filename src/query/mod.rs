//! SQL over the lake: **the only place that builds a DataFusion session**.
//!
//! ```text
//! text ─ parse (one statement, `?` → `$n`) ─ pin ─ plan ─ verify read-only ─ execute ─ wire types ─ stream
//! ```
//!
//! A [`Service`] is one per process: memory pool, spill folder and the object stores that may be read. A
//! [`Session`] belongs to a connection and holds what `SET` changed. Each statement calls [`Catalog::pin`] once,
//! so it sees one state of every table, hot and committed rows alike, from planning to its last row.
//!
//! Queries have threads of their own (`threads`), so a heavy one holds up nothing but other queries.
//!
//! SQL cannot write, three times over: the kind of statement and every node of its plan come from an allow-list
//! (`allow`), catalogs refuse registration (`catalog`), and the stores are wrapped read-only, inside their
//! configured folder, with `file://` and `http://` unknown (`stores`).
//!
//! Never here: wire protocols, commits, Kafka.

mod activity;
mod admission;
mod allow;
mod bins;
mod catalog;
mod compute;
mod continuous;
mod direct;
mod error;
mod fetched_table;
mod geo;
mod latest;
mod logical;
mod memory;
mod origin;
mod parse;
mod past;
mod planner;
pub mod postgres;
mod result_cache;
mod role;
mod rows;
mod service;
mod session;
mod settings;
mod spill;
mod statement;
mod stores;
mod system_table;
mod table;
mod threads;
mod windows;
pub mod wire;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

pub use continuous::{By, Continuous, Explained, Found, Kept, Memory, Said, Shared};
pub use datafusion::common::ScalarValue;
pub use fetched_table::FetchedTable;
pub use latest::KeyedTable;
pub use parse::{Script, is_subscription, split, statement_text};
pub use role::{Role, RoleOptions};
pub use rows::Rows;
pub use service::{Service, ServiceOptions, Stats};
pub use session::{Session, TableInfo};
pub use statement::{Query, Statement};
pub use system_table::SystemTable;
pub use table::ViewTable;

use crate::error::Result;
use crate::lake::Past;

/// The catalog every table lives in.
pub const CATALOG: &str = "millpond";
/// The schema of the user's tables and views; the default one.
pub const PUBLIC: &str = "public";
/// The schema of what the platform says about itself.
pub const SYSTEM: &str = "system";

/// Where tables come from. Asked once per statement, at the start of its planning.
pub trait Catalog: Send + Sync + 'static {
    /// The tables and views as they are now. What is returned does not change any more.
    fn pin(&self) -> Pinned;

    /// Whether a record can be seen in all tables that its topic feeds; `None` if it feeds none.
    fn is_seen(&self, _topic: &str, _partition: i32, _offset: i64) -> Option<bool> {
        None
    }

    /// The rows of a table of schema `public` that has one row per key.
    fn keyed(&self, _table: &str) -> Option<Arc<dyn crate::latest::Rows>> {
        None
    }

    /// The rows that come to a table of schema `public` from now on, without end; `None` if it is no stream. `service`
    /// reads what was committed before it could be looked at.
    fn follow(&self, _table: &str, _service: &Service) -> BoxFuture<'static, Result<Option<NewRows>>> {
        Box::pin(async { Ok(None) })
    }

    /// A table of schema `public` as it was; `None` if there is no such table.
    fn past(&self, _table: &str, _at: Past) -> BoxFuture<'static, Result<Option<Arc<dyn TableProvider>>>> {
        Box::pin(async { Ok(None) })
    }
}

/// Batches of rows as they come.
pub type NewRows = BoxStream<'static, Result<RecordBatch>>;

/// One state of all tables.
#[derive(Clone, Default)]
pub struct Pinned {
    /// Schema to table to what scans it.
    pub schemas: BTreeMap<String, BTreeMap<String, Arc<dyn TableProvider>>>,
    /// Name to SQL text of the views in schema `public`. A table of the same name wins.
    pub views: BTreeMap<String, String>,
    /// Key columns of those tables of schema `public` that have one row per key.
    pub keys: BTreeMap<String, Vec<String>>,
    /// What people should know of the columns of schema `public`, if somebody wrote that down.
    pub comments: Option<Arc<Comments>>,
}

/// From a table to what people should know of those of its columns of which something was written down.
pub type Comments = dyn Fn(&str) -> HashMap<String, String> + Send + Sync;
