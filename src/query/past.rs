//! Time travel: the table functions `at_version('t', 12)` and `at_time('t', timestamp)`. A table as it was has the
//! columns it had then, and committed rows only.
//!
//! DataFusion plans without waiting, but the past must be read first. So a function that lacks its table notes what it
//! wants and fails; [`PastTables::load`] reads it, and the statement is planned again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use chrono::DateTime;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DataFusionError, ScalarValue, plan_err};
use datafusion::logical_expr::Expr;
use parking_lot::Mutex;

use super::role::Role;
use super::{Catalog, PUBLIC};
use crate::error::{Error, Kind, Result};
use crate::lake::Past;

/// The functions' names.
pub(super) const AT_VERSION: &str = "at_version";
pub(super) const AT_TIME: &str = "at_time";

/// A table's name and a time of it.
type Wanted = (String, Past);

/// The tables of the past that one statement names.
pub(super) struct PastTables {
    catalog: Arc<dyn Catalog>,
    /// Who reads.
    role: Option<Arc<Role>>,
    /// `None` until it was read.
    tables: Mutex<BTreeMap<Wanted, Option<Arc<dyn TableProvider>>>>,
}

impl PastTables {
    /// None yet; `catalog` knows them.
    pub fn new(catalog: Arc<dyn Catalog>, role: Option<Arc<Role>>) -> Self {
        Self { catalog, role, tables: Mutex::default() }
    }

    /// Reads what is wanted; false if nothing was.
    pub async fn load(&self) -> Result<bool> {
        let wanted: Vec<Wanted> = {
            let tables = self.tables.lock();
            tables.iter().filter(|(_, table)| table.is_none()).map(|(wanted, _)| wanted.clone()).collect()
        };
        for (name, past) in &wanted {
            let (schema, own) = name.split_once('.').unwrap_or((PUBLIC, name));
            if self.role.as_ref().is_some_and(|role| !role.may_read(schema, own)) {
                return Err(Role::denied(name));
            }
            let Some(table) = self.catalog.past(name, *past).await? else {
                return Err(Error::new(Kind::NotFound, format!("table `{name}` does not exist"))
                    .hint("at_version and at_time take the name of a table: 'telemetry', or 'system.alerts'"));
            };
            let table = match &self.role {
                Some(role) if schema == PUBLIC => role.restricted(own, table),
                _ => table,
            };
            self.tables.lock().insert((name.clone(), *past), Some(table));
        }
        Ok(!wanted.is_empty())
    }

    fn get(&self, name: &str, past: Past) -> datafusion::common::Result<Arc<dyn TableProvider>> {
        match self.tables.lock().entry((name.to_owned(), past)).or_default() {
            Some(table) => Ok(Arc::clone(table)),
            None => plan_err!("table {name} is to be read {past}"),
        }
    }
}

impl fmt::Debug for PastTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PastTables").finish_non_exhaustive()
    }
}

/// `at_version`.
#[derive(Debug)]
pub(super) struct AtVersion(pub Arc<PastTables>);

/// `at_time`.
#[derive(Debug)]
pub(super) struct AtTime(pub Arc<PastTables>);

impl TableFunctionImpl for AtVersion {
    fn call_with_args(&self, args: TableFunctionArgs) -> datafusion::common::Result<Arc<dyn TableProvider>> {
        let Some((table, version)) = arguments(args.exprs(), &DataType::UInt64) else {
            return plan_err!("at_version takes a table's name and a table version: at_version('telemetry', 12)");
        };
        match version {
            ScalarValue::UInt64(Some(version)) => self.0.get(&table, Past::Version(version)),
            _ => plan_err!("at_version needs a table version, not NULL"),
        }
    }
}

impl TableFunctionImpl for AtTime {
    fn call_with_args(&self, args: TableFunctionArgs) -> datafusion::common::Result<Arc<dyn TableProvider>> {
        // A time without a zone is the session's.
        let zone = args.session().config().options().execution.time_zone.clone().unwrap_or_else(|| "UTC".to_owned());
        let kind = DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into()));
        let Some((table, time)) = arguments(args.exprs(), &kind) else {
            return plan_err!("at_time takes a table's name and a time: at_time('telemetry', '2026-11-22T09:00:00Z')");
        };
        let ScalarValue::TimestampMicrosecond(Some(time_us), _) = time else {
            return plan_err!("at_time needs a time, not NULL");
        };
        let time = DateTime::from_timestamp_micros(time_us)
            .ok_or_else(|| DataFusionError::Plan("at_time: the time is out of range".to_owned()))?;
        self.0.get(&table, Past::Time(time))
    }
}

/// A table's name and a value brought to `kind`; `None` if that is not what they are.
fn arguments(args: &[Expr], kind: &DataType) -> Option<(String, ScalarValue)> {
    let [Expr::Literal(name, _), Expr::Literal(value, _)] = args else { return None };
    let name = name.try_as_str()??.to_owned();
    Some((name, value.cast_to(kind).ok()?))
}
