//! What a table of database changes holds beside the columns of the database's table.

use super::{ColumnContract, ColumnType, Element, Path};

/// The member of a change that holds the row as it is: the paths of a table's columns begin with it.
pub const AFTER: &str = "after";
/// The member that holds the row as it was; its columns are named `before_…`.
pub const BEFORE: &str = "before";

/// What happened: `c`, `u`, `d`, `r`, `t` or `x`. String.
pub const OP: &str = "_op";
/// When it happened in the database: timestamp(µs, UTC).
pub const SOURCE_TIME: &str = "_source_time";
/// Changes of one epoch are ordered by their tokens. String.
pub const EPOCH: &str = "_epoch";
/// Where the change stands in its epoch; of two texts the greater one is newer. String.
pub const TOKEN: &str = "_token";
/// What the source says about the snapshot or load that the row is part of. String.
pub const SNAPSHOT: &str = "_snapshot";
/// Which run of the connector sent it. String.
pub const RUN: &str = "_run";
/// Columns of the source that the change does not tell: they are as they were. List of strings.
pub const UNCHANGED: &str = "_unchanged";

/// Path in a change of when it happened.
pub const TIME_PATH: &str = "source_time";

/// The table that holds the changes of the mirror `mirror`.
pub fn table_of(mirror: &str) -> String {
    format!("{mirror}__changes")
}

/// The columns of each change.
pub fn columns() -> Vec<ColumnContract> {
    let strings = ColumnType::List(Element::String);
    let columns = [
        (
            OP,
            "op",
            ColumnType::String,
            "What happened: c insert, u update, d delete, r snapshot, t truncate, x tombstone",
        ),
        (SOURCE_TIME, TIME_PATH, ColumnType::Timestamp, "When it happened in the database"),
        (EPOCH, "epoch", ColumnType::String, "The log that _token is a place in"),
        (TOKEN, "token", ColumnType::String, "Place in the database's log: the greater text is the newer change"),
        (SNAPSHOT, "snapshot", ColumnType::String, "What the source says about the snapshot the row is part of"),
        (RUN, "run", ColumnType::String, "Which run of the connector sent it"),
        (UNCHANGED, "unchanged", strings, "Columns the change does not tell: they are as they were"),
    ];
    let column = |(name, path, kind, description): (&str, &str, ColumnType, &str)| ColumnContract {
        name: name.to_owned(),
        path: Some(Path::Value(vec![path.to_owned()])),
        kind: Some(kind),
        description: Some(description.to_owned()),
        ..ColumnContract::default()
    };
    columns.into_iter().map(column).collect()
}
