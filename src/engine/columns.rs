//! `system.columns`: what the columns of tables and views are, and what people should know of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::catalog::{EngineCatalog, texts};
use crate::error::{Error, Kind, Result};
use crate::query::PUBLIC;
use crate::schema::{DESCRIPTION_KEY, LogicalColumn, PATH_KEY, change, type_name};

/// A row.
struct Column {
    table: String,
    name: String,
    kind: String,
    path: Option<String>,
    description: Option<String>,
}

impl Column {
    fn of(table: &str, name: &str, field: &Field) -> Self {
        let said = |key: &str| field.metadata().get(key).cloned();
        Self {
            table: table.to_owned(),
            name: name.to_owned(),
            kind: type_name(field.data_type()),
            path: said(PATH_KEY),
            description: said(DESCRIPTION_KEY),
        }
    }
}

/// Its own columns.
pub fn schema() -> SchemaRef {
    super::catalog::schema(&[
        ("table_name", DataType::Utf8),
        ("column_name", DataType::Utf8),
        ("type", DataType::Utf8),
        ("path", DataType::Utf8),
        ("description", DataType::Utf8),
    ])
}

/// The columns of all tables of schema public, in their order.
pub async fn columns(catalog: Arc<EngineCatalog>) -> Result<RecordBatch> {
    let mut rows = of_tables(&catalog);
    rows.extend(of_views(&catalog, &rows).await?);
    rows.sort_by(|a, b| a.table.cmp(&b.table));
    let word = |pick: fn(&Column) -> Option<&str>| texts(rows.iter().map(pick));
    RecordBatch::try_new(
        schema(),
        vec![
            word(|column| Some(&column.table)),
            word(|column| Some(&column.name)),
            word(|column| Some(&column.kind)),
            word(|column| column.path.as_deref()),
            word(|column| column.description.as_deref()),
        ],
    )
    .map_err(|error| Error::new(Kind::Internal, "system.columns cannot be made").because(error))
}

fn of_tables(catalog: &EngineCatalog) -> Vec<Column> {
    let mut rows: Vec<(String, LogicalColumn)> = Vec::new();
    let fed = catalog.fed();
    for (name, live) in &fed.tables {
        rows.extend(LogicalColumn::all(&live.pin().schema).into_iter().map(|column| (name.clone(), column)));
    }
    for (name, kept) in catalog.kept.load().iter() {
        let of_changes = rows.iter().filter(|(table, _)| *table == change::table_of(name));
        let known: BTreeMap<String, LogicalColumn> =
            of_changes.map(|(_, column)| (column.name.clone(), column.clone())).collect();
        let shown = kept.rows.schema();
        if kept.is_reference() {
            rows.extend(LogicalColumn::all(&shown).into_iter().map(|column| (name.clone(), column)));
            continue;
        }
        rows.extend(shown.fields().iter().filter_map(|field| Some((name.clone(), known.get(field.name())?.clone()))));
    }
    rows.iter().map(|(table, column)| Column::of(table, &column.name, column.newest())).collect()
}

/// The columns of views, and those that are derived in latest tables; what is known of the columns they pass on is known of
/// theirs.
async fn of_views(catalog: &EngineCatalog, known: &[Column]) -> Result<Vec<Column>> {
    let Some((service, _)) = catalog.queries.get() else { return Ok(Vec::new()) };
    let known: BTreeSet<(&str, &str)> =
        known.iter().map(|column| (column.table.as_str(), column.name.as_str())).collect();
    let is_meant = |name: &str| {
        let is_view = catalog.views.read().contains_key(name);
        is_view || catalog.kept.load().get(name).is_some_and(|kept| kept.derived.is_some())
    };
    let mut rows = Vec::new();
    for table in service.session().tables().await? {
        if table.schema != PUBLIC || !is_meant(&table.name) {
            continue;
        }
        let fields = table.columns.fields().iter();
        let others = fields.filter(|field| !known.contains(&(table.name.as_str(), field.name().as_str())));
        rows.extend(others.map(|field| Column::of(&table.name, field.name(), field)));
    }
    Ok(rows)
}
