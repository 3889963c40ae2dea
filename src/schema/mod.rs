//! What a table's rows look like: the contract a person wrote (`schemas/<table>.toml`), the numbered
//! schema versions, and what is compatible. It decides; `lake` applies.
//!
//! ```text
//! Contract ─┐
//!           ├─ infer_first ── SchemaVersion 1 ── evolve ── SchemaVersion 2 …
//! Records ──┘                      │    ▲           ▲
//!                     arrow_schema ▼    │ from_arrow └─ Found (from decode)
//!                              Delta table's schema
//! ```
//! A version only grows: columns are appended, names and types of earlier ones never change. The Arrow form
//! carries each column's path in its field metadata, so a version reads back from the Delta table alone.

mod arrow;
mod contract;
mod found;
mod infer;
mod names;
mod path;
mod version;

pub(crate) use arrow::element_field;
pub use arrow::{DESCRIPTION_KEY, PATH_KEY, SchemaError, TYPE_KEY, type_name};
pub use contract::{
    ArrayContract, ArrayShape, ColumnContract, ColumnType, Contract, Element, EventTime, Format, Match, OnNewField,
    OnTypeConflict, Path, Start, TimeFormat,
};
pub use found::{Found, Observed};
pub use infer::infer_first;
pub use names::derive as derive_name;
pub use path::PathError;
pub(crate) use path::{push_json_string, push_part};
pub use version::{Column, MAX_COLUMNS, SchemaVersion, fixed};

#[cfg(test)]
pub(crate) use {infer::tests, path::tests::any_path};
