//! What a table's rows look like: the contract a person wrote (`schemas/<table>.toml`), the numbered
//! schema versions, and what is compatible. It decides; `lake` applies.

mod contract;
mod version;

pub use contract::{ColumnContract, ColumnType, Contract, EventTime, OnNewField, OnTypeConflict, Path, Start, TimeFormat};
pub use version::{Column, SchemaVersion, fixed};
