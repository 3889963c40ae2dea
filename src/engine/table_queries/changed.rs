//! Which parts of a table are to be made anew, by what changed in the tables that it is made of.

use std::collections::BTreeSet;

use chrono::{NaiveDate, TimeDelta};

use crate::engine::catalog::EngineCatalog;
use crate::engine::unreadable;
use crate::error::{Error, Kind, Result};
use crate::lake::{Lake, MadeTable, Numbers, PUBLIC, SOURCE, care};
use crate::query::Query;
use crate::schema::fixed;
use crate::stream::TableQuery;

/// The value of a partition column, as Delta writes it.
pub type Part = Option<String>;

/// The tables with files among `tables`, and the table versions that can be read now.
pub fn versions(catalog: &EngineCatalog, tables: &BTreeSet<String>) -> Numbers {
    let fed = catalog.fed();
    let kept = catalog.kept.load();
    let version = |name: &String| {
        let committed = fed.tables.get(name)?.pin().committed.clone()?;
        Some((name.clone(), i64::try_from(committed.version()).ok()?))
    };
    tables.iter().filter(|name| !kept.contains_key(*name)).filter_map(version).collect()
}

/// The column that parts `table`, if it is in parts.
fn part_column(catalog: &EngineCatalog, table: &str) -> Option<String> {
    let fed = catalog.fed();
    if let Some(committed) = fed.tables.get(table).and_then(|live| live.pin().committed.clone()) {
        let [column] = committed.metadata().partition_columns() else { return None };
        return Some(column.clone());
    }
    match catalog.table_queries.of(table) {
        Some(query) => query.partition_by,
        None => fed.contracts.iter().any(|contract| contract.table == table).then(|| fixed::DAY.to_owned()),
    }
}

/// Whether the parts of its sources say which parts of a table are to be made anew: its part column has the values of theirs.
pub fn is_by_parts(catalog: &EngineCatalog, query: &TableQuery, planned: &Query) -> bool {
    let origins = query.partition_by.as_ref().and_then(|column| planned.origins(column));
    let is_part = |(table, column): &(String, String)| part_column(catalog, table).as_ref() == Some(column);
    origins.is_some_and(|origins| origins.iter().all(is_part))
}

/// The parts that changed since the table was made; `None` if that is not known, and all is to be made anew. Tables without
/// parts of their own change none.
pub async fn changed(
    lake: &Lake,
    catalog: &EngineCatalog,
    table: &MadeTable,
    query: &TableQuery,
    now: &Numbers,
) -> Result<Option<BTreeSet<Part>>> {
    let mut parts = BTreeSet::new();
    for (name, version) in now {
        let then = table.number(&format!("{SOURCE}{name}"));
        let committed = catalog.fed().tables.get(name).and_then(|live| live.pin().committed.clone());
        let Some(committed) = committed else { continue };
        let [column] = committed.metadata().partition_columns() else { continue };
        // A number is one more than the version, so that there is one for the first.
        let Some(then) = then.checked_sub(1).and_then(|then| u64::try_from(then).ok()) else { return Ok(None) };
        let upto = version.unsigned_abs();
        match care::changed_partitions(lake, (PUBLIC, name), column, then, upto).await.map_err(unreadable)? {
            Some(changed) => parts.extend(changed),
            None => return Ok(None),
        }
    }
    around(parts, query).map(Some)
}

/// Those, and the days that are near them.
fn around(parts: BTreeSet<Part>, query: &TableQuery) -> Result<BTreeSet<Part>> {
    let days = i64::try_from(query.lookback.as_secs() / 86_400).unwrap_or(i64::MAX);
    if days == 0 {
        return Ok(parts);
    }
    let mut wider = BTreeSet::new();
    for part in parts {
        let Some(text) = &part else {
            wider.insert(part);
            continue;
        };
        let day = text.parse::<NaiveDate>().map_err(|error| {
            let message = format!("lookback: `{text}` is no day: the sources of {} are not parted by days", query.name);
            Error::new(Kind::Usage, message).because(error)
        })?;
        let near = (-days..=days).filter_map(|by| day.checked_add_signed(TimeDelta::try_days(by)?));
        wider.extend(near.map(|day| Some(day.to_string())));
    }
    Ok(wider)
}
