//! The contract of a latest table, as written in `schemas/<table>.toml` with `kind = "latest"` (parsed by `config`).

use super::names::quoted;

/// One row per key, merged from tables of the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// Table name = the file's stem.
    pub table: String,
    /// Key columns.
    pub key: Vec<String>,
    /// The tables that rows are merged from, in file order.
    pub sources: Vec<LatestSource>,
    /// Columns made of the others, in file order: name and SQL expression.
    pub derived: Vec<(String, String)>,
}

/// `[sources.<table>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestSource {
    /// A mirror or events table of the project.
    pub table: String,
    /// Its columns that hold the key, in the key's order.
    pub key: Vec<String>,
    /// What stands before the names of its columns.
    pub prefix: String,
    /// Its columns that are taken; all if empty.
    pub columns: Vec<String>,
    /// Which value of a column counts.
    pub merge: Merge,
    /// What a deleted row does.
    pub on_delete: OnDelete,
    /// How many of its rows a key has.
    pub cardinality: Cardinality,
}

/// `cardinality`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cardinality {
    /// One; of several the newest counts.
    One,
    /// Any number, as a list in one column.
    List,
}

impl LatestSource {
    /// The column that holds all rows of a key, if it may have several.
    pub fn list_column(&self) -> Option<String> {
        (self.cardinality == Cardinality::List).then(|| self.table.clone())
    }
}

/// `merge`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// The newest row's, null or not.
    Row,
    /// The newest that is not null, column by column.
    LastNonNull,
}

/// `on_delete`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDelete {
    /// The key has no row until the source has one again.
    DropRow,
    /// The source's columns are null.
    NullColumns,
    /// Nothing: the source's columns stay as they were last.
    Ignore,
}

impl Latest {
    /// Where the rows are before columns are derived; the table itself if none are.
    pub fn merged_name(&self) -> String {
        if self.derived.is_empty() { self.table.clone() } else { format!("{}__merged", self.table) }
    }

    /// The SQL of the table, if columns are derived.
    pub fn derived_sql(&self) -> Option<String> {
        let columns: Vec<String> =
            self.derived.iter().map(|(name, sql)| format!("({sql}) AS {}", quoted(name))).collect();
        let merged = quoted(&self.merged_name());
        (!columns.is_empty()).then(|| format!("SELECT *, {} FROM public.{merged}", columns.join(", ")))
    }
}
