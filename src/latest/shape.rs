//! Which columns of a table of changes make a row.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::schema::{LogicalColumn, PATH_KEY, Path, change};

/// The columns of a row, and what they are called where they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Key columns first, then `event_time`, then the others in the order they came.
    pub columns: SchemaRef,
    /// Names of the key columns.
    pub key: Vec<String>,
    /// The columns of changes that hold the key as it was before; empty if there is not one for each.
    pub old_key: Vec<String>,
    /// By column: the database's name for it, if it is one of the database's.
    pub fields: Vec<Option<String>>,
}

impl Shape {
    /// The rows of a table of changes with these columns. `None` if there is a key column that it does not have yet.
    pub fn of(changes: &Schema, key: &[String]) -> Option<Self> {
        let all = LogicalColumn::all(changes);
        let path = |column: &LogicalColumn| -> Option<Path> { column.newest().metadata().get(PATH_KEY)?.parse().ok() };
        let part = |path: Option<Path>, of: &str| match path {
            Some(Path::Value(parts)) if parts.len() == 2 && parts[0] == of => Some(parts[1].clone()),
            _ => None,
        };
        let is_before = |column: &LogicalColumn| matches!(path(column), Some(Path::Value(parts)) if parts.first().is_some_and(|part| part == change::BEFORE));
        let keys = key.iter().map(|name| all.iter().find(|column| column.name == *name));
        let keys: Vec<&LogicalColumn> = keys.collect::<Option<_>>()?;
        let of_row = |column: &&LogicalColumn| {
            !column.name.starts_with('_') && !is_before(column) && !key.contains(&column.name)
        };
        let columns: Vec<_> = keys.iter().copied().chain(all.iter().filter(of_row)).collect();
        let plain = |column: &&LogicalColumn| Field::new(&column.name, column.newest().data_type().clone(), true);
        let old = |column: &&LogicalColumn| {
            let field = part(path(column), change::AFTER)?;
            let of_field = |other: &&LogicalColumn| part(path(other), change::BEFORE).as_ref() == Some(&field);
            all.iter().find(of_field).map(|found| found.name.clone())
        };
        Some(Self {
            columns: Arc::new(Schema::new(columns.iter().map(plain).collect::<Vec<_>>())),
            key: key.to_vec(),
            old_key: keys.iter().map(old).collect::<Option<_>>().unwrap_or_default(),
            fields: columns.iter().map(|column| part(path(column), change::AFTER)).collect(),
        })
    }
}
