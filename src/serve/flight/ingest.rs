//! Rows from clients: `CommandStatementIngest`, which ADBC's `adbc_ingest` sends.

use arrow_flight::FlightData;
use arrow_flight::sql::CommandStatementIngest;
use futures::{StreamExt, TryStreamExt};
use tonic::{Status, Streaming};
use tracing::info;

use super::service::{Seat, decode};
use super::{Ingest, Takes, There, actions, status};
use crate::config::Rights;
use crate::error::{Error, Kind};
use crate::query::{CATALOG, PUBLIC};

/// The option of a request by which it is told from others, so that it can be sent again …
const ID: &str = "millpond.id";
/// … and the header that says the same, for drivers that send no options.
pub(super) const ID_HEADER: &str = "millpond-id";

/// `TableExistsOption`, which is not in the crate.
const FAIL: i32 = 1;
const APPEND: i32 = 2;
const REPLACE: i32 = 3;

/// What is asked for, as far as it can be done.
fn read(command: CommandStatementIngest, id: Option<String>) -> Result<Ingest, Status> {
    if command.transaction_id.is_some() {
        return Err(actions::no_transactions());
    }
    if command.temporary {
        return Err(Status::unimplemented("there are no temporary tables"));
    }
    let elsewhere = |named: &Option<String>, only: &str| named.as_ref().is_some_and(|name| name != only);
    if elsewhere(&command.catalog, CATALOG) || elsewhere(&command.schema, PUBLIC) {
        return Err(Status::invalid_argument(format!("rows are taken into tables of {CATALOG}.{PUBLIC} only")));
    }
    let mut options = command.options;
    let id = options.remove(ID).or(id);
    if let Some(name) = options.keys().next() {
        return Err(Status::invalid_argument(format!("there is no option {name} of an ingest, only {ID}")));
    }
    let there = match command.table_definition_options.map(|options| options.if_exists) {
        Some(FAIL) => There::Fail,
        None | Some(APPEND) => There::Append,
        Some(REPLACE) => There::Replace,
        Some(_) => {
            return Err(Status::invalid_argument("it is not said what becomes of a table that is there already"));
        }
    };
    Ok(Ingest { table: command.table, there, id })
}

/// Hands on what comes behind `first`; how many rows were taken in.
pub(super) async fn take(
    seat: &Seat,
    id: Option<String>,
    takes: Option<&Takes>,
    command: CommandStatementIngest,
    first: FlightData,
    rest: Streaming<FlightData>,
) -> Result<i64, Status> {
    let asked = read(command, id)?;
    let table = asked.table.clone();
    if seat.rights() < Rights::Writer {
        return Err(Status::permission_denied("rows are taken from roles with rights = \"writer\" or \"admin\""));
    }
    // Who replaces rows must be somebody who sees them.
    if seat.role().is_some_and(|role| !role.may_read_all_of(&table)) {
        return Err(Status::permission_denied(format!("permission denied for table {table}")));
    }
    let takes = takes.ok_or_else(|| Status::permission_denied("this server is read-only: it takes no rows"))?;
    let rows =
        decode(first, rest).map_err(|error| Error::new(Kind::Usage, format!("the rows sent cannot be read: {error}")));
    let taken = takes(asked, rows.boxed()).await.map_err(status::status)?;
    info!(target: "millpond::audit", user = seat.session.user(), table, rows = taken, "rows taken in");
    Ok(i64::try_from(taken).unwrap_or(i64::MAX))
}
