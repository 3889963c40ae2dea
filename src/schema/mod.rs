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
//! A version only grows: columns are appended, names and types of earlier ones never change. A column whose values
//! no longer fit gets a successor (`widen`), and people see both as one. The Arrow form carries each column's path in
//! its field metadata, so a version reads back from the Delta table alone; `record` is what is kept of its history.

mod arrow;
pub mod change;
mod contract;
mod edit;
mod found;
mod infer;
mod latest;
mod names;
mod path;
mod record;
mod reference;
mod selected;
mod version;
mod widen;

pub(crate) use arrow::element_field;
pub use arrow::{DESCRIPTION_KEY, EXACT_KEY, PATH_KEY, SchemaError, TYPE_KEY, WIDENS_KEY, plain_type, type_name};
pub use contract::{
    ALLOWED_LATENESS, ArrayContract, ArrayShape, ColumnContract, ColumnType, Contract, Element, EventTime, Format,
    FullLoad, Match, OnNewField, OnTypeConflict, Path, Start, TimeFormat,
};
pub use edit::{Edit, Refusal};
pub use found::{Found, Observed};
pub use infer::{family_finds, infer_first};
pub use latest::{Cardinality, Latest, LatestSource, Merge, OnDelete};
pub use names::{derive as derive_name, quoted as quoted_name};
pub use path::PathError;
pub(crate) use path::{push_json_string, push_part};
pub use record::{Cause, Change, ChangeKind, Place, VersionRecord};
pub use reference::{FileFormat, ImportMode, Imported, Reference};
pub use version::{Column, MAX_COLUMNS, SchemaVersion, fixed};
pub use widen::{LogicalColumn, conform};

#[cfg(test)]
pub(crate) use {infer::tests, path::tests::any_path};
