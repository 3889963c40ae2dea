//! Look-ups by key, for who has the key as text.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::util::display::array_value_to_string;

use super::broken;
use crate::engine::catalog::EngineCatalog;
use crate::engine::dead_letters::literal;
use crate::error::{Error, Kind, Result};
use crate::query::Service;
use crate::schema::quoted_name;
use crate::serve::Lookup;

/// Rows by key, keys written as text.
pub fn lookup(catalog: Arc<EngineCatalog>, service: Service) -> Lookup {
    Arc::new(move |table, keys| {
        let (kept, service) = (catalog.kept.load().get(&table).cloned(), service.clone());
        Box::pin(async move {
            let Some(kept) = kept else { return Ok(None) };
            let names = kept.rows.key();
            if let Some(key) = keys.iter().find(|key| key.len() != names.len()) {
                let message = format!("the key of {table} is {}: {} parts are given", names.join(", "), key.len());
                return Err(Error::new(Kind::Usage, message));
            }
            let column =
                |at: usize| Arc::new(StringArray::from_iter_values(keys.iter().map(|key| &key[at]))) as ArrayRef;
            let columns: Vec<ArrayRef> = (0..names.len()).map(column).collect();
            let found = kept.rows.get(&columns)?.unwrap_or_else(|| RecordBatch::new_empty(kept.rows.schema()));
            if kept.derived.is_none() || found.num_rows() == 0 {
                return Ok(Some(found));
            }
            derived(&service, &table, names, &found).await.map(Some)
        })
    })
}

/// The rows of a table with derived columns that have the keys of `found`.
async fn derived(service: &Service, table: &str, key: &[String], found: &RecordBatch) -> Result<RecordBatch> {
    let broken = |error: arrow::error::ArrowError| broken(error.into());
    let mut keys = Vec::new();
    for row in 0..found.num_rows() {
        let equal = |(at, name): (usize, &String)| {
            let column = found.column(at);
            let value = array_value_to_string(column, row)?;
            Ok(format!("{} = arrow_cast({}, '{}')", quoted_name(name), literal(&value), column.data_type()))
        };
        let equal = key.iter().enumerate().map(equal).collect::<std::result::Result<Vec<_>, _>>().map_err(broken)?;
        keys.push(format!("({})", equal.join(" AND ")));
    }
    let sql = format!("SELECT * FROM public.{} WHERE {}", quoted_name(table), keys.join(" OR "));
    let rows = service.session().query(&sql).await?.run().await?;
    let schema = rows.schema();
    concat_batches(&schema, &rows.collect().await?).map_err(broken)
}
