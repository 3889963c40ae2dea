//! Which columns of a table make the rows of a state.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::schema::{LogicalColumn, PATH_KEY, Path, change, fixed};

/// The columns of a row, and what they are called where they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Key columns first, then `event_time`, then the others in the order they came.
    pub columns: SchemaRef,
    /// Names of the key columns.
    pub key: Vec<String>,
    /// Columns that hold the key of another table, by which rows are looked up, too. Of several rows that name the same
    /// key the newest counts. May be empty.
    pub foreign: Vec<String>,
    /// By column: the database's name for it, if it is one of the database's.
    pub fields: Vec<Option<String>>,
    /// What the rows are kept from.
    pub source: Source,
}

/// What a state is kept from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A table of changes.
    Changes {
        /// Its columns that hold the key as it was before; empty if there is not one for each.
        old_key: Vec<String>,
        /// Rows that are deleted, or would be by a change of their key, stay.
        ignores_deletes: bool,
    },
    /// An events table: the newest event of a key counts.
    Events {
        /// The newest value of each column counts, nulls do not.
        last_non_null: bool,
    },
}

/// What is wanted of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Names of the key columns.
    pub key: Vec<String>,
    /// See [`Shape::foreign`].
    pub foreign: Vec<String>,
    /// The columns beside those; all if empty.
    pub columns: Vec<String>,
    /// The table is one of changes.
    pub of_changes: bool,
    /// See [`Source::Events`].
    pub last_non_null: bool,
    /// See [`Source::Changes`].
    #[serde(default)]
    pub ignores_deletes: bool,
}

impl Wanted {
    /// The current rows of a table of changes.
    pub fn mirror(key: &[String]) -> Self {
        Self {
            key: key.to_vec(),
            foreign: vec![],
            columns: vec![],
            of_changes: true,
            last_non_null: false,
            ignores_deletes: false,
        }
    }
}

impl Shape {
    /// What is wanted, of a table with these columns. `None` if it does not have all of the key yet.
    pub fn of(table: &Schema, wanted: &Wanted) -> Option<Self> {
        let all = LogicalColumn::all(table);
        let path = |column: &LogicalColumn| -> Option<Path> { column.newest().metadata().get(PATH_KEY)?.parse().ok() };
        let part = |path: Option<Path>, of: &str| match path {
            Some(Path::Value(parts)) if parts.len() == 2 && parts[0] == of => Some(parts[1].clone()),
            _ => None,
        };
        let is_before = |column: &LogicalColumn| matches!(path(column), Some(Path::Value(parts)) if parts.first().is_some_and(|part| part == change::BEFORE));
        let find = |name: &String| all.iter().find(|column| column.name == *name);
        let keys: Vec<&LogicalColumn> = wanted.key.iter().map(find).collect::<Option<_>>()?;
        wanted.foreign.iter().map(find).collect::<Option<Vec<_>>>()?;
        let of_row = |column: &&LogicalColumn| {
            let named = wanted.columns.is_empty() || wanted.columns.contains(&column.name);
            let needed = column.name == fixed::EVENT_TIME || wanted.foreign.contains(&column.name);
            let own = column.name.starts_with('_') || (wanted.of_changes && is_before(column));
            (named || needed) && !own && !wanted.key.contains(&column.name)
        };
        let columns: Vec<_> = keys.iter().copied().chain(all.iter().filter(of_row)).collect();
        let plain = |column: &&LogicalColumn| Field::new(&column.name, column.newest().data_type().clone(), true);
        let old = |column: &&LogicalColumn| {
            let field = part(path(column), change::AFTER)?;
            let of_field = |other: &&LogicalColumn| part(path(other), change::BEFORE).as_ref() == Some(&field);
            all.iter().find(of_field).map(|found| found.name.clone())
        };
        let source = if wanted.of_changes {
            let old_key = keys.iter().map(old).collect::<Option<_>>().unwrap_or_default();
            Source::Changes { old_key, ignores_deletes: wanted.ignores_deletes }
        } else {
            Source::Events { last_non_null: wanted.last_non_null }
        };
        Some(Self {
            columns: Arc::new(Schema::new(columns.iter().map(plain).collect::<Vec<_>>())),
            key: wanted.key.clone(),
            foreign: wanted.foreign.clone(),
            fields: columns.iter().map(|column| part(path(column), change::AFTER)).collect(),
            source,
        })
    }

    /// The columns that a state needs of the table.
    pub fn needed(&self) -> Vec<&str> {
        let of_row = self.columns.fields().iter().map(|field| field.name().as_str());
        let places = [fixed::INCARNATION, fixed::PARTITION, fixed::OFFSET, fixed::ROW];
        let mut needed: Vec<&str> = of_row.chain(places).collect();
        match &self.source {
            Source::Changes { old_key, .. } => {
                needed.extend(old_key.iter().map(String::as_str));
                needed.extend([
                    change::OP,
                    change::RUN,
                    change::EPOCH,
                    change::TOKEN,
                    change::UNCHANGED,
                    change::SNAPSHOT,
                ]);
            }
            Source::Events { .. } => needed.push(fixed::TIMESTAMP),
        }
        needed
    }
}
