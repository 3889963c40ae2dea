//! The contract of a reference table, as written in `schemas/<table>.toml` with `kind = "reference"` (parsed by
//! `config`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The rows of files, all of them anew whenever one of the files is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Table name = the file's stem.
    pub table: String,
    /// Where the files are: an absolute path or `s3://bucket/key`, each of which may hold `*`, `?`, `[…]` and `**`.
    pub url: String,
    /// What is in the files; their names say it if nothing is written here.
    pub format: Option<FileFormat>,
    /// Key columns, if a row is told from another by them.
    pub key: Vec<String>,
    /// How often the files are looked at.
    pub poll: Duration,
}

/// A table that files are taken into, each of them once: those that are imported, or come to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Table name = the file's stem.
    pub table: String,
    /// Where files come to, as of a [`Reference`]; none if they are only imported by hand.
    pub url: Option<String>,
    /// What is in the files; their names say it if nothing is written here.
    pub format: Option<FileFormat>,
    /// Key columns, if a row is told from another by them.
    pub key: Vec<String>,
    /// What a file does to the rows that are there, unless whoever imports it says otherwise.
    pub mode: ImportMode,
    /// How often it is looked for files.
    pub poll: Duration,
}

/// What the rows of files do to those that a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportMode {
    /// They come beside them.
    Append,
    /// They take their place, all at once.
    Replace,
    /// A row takes the place of the one that has its key.
    Upsert,
}

/// What is in a file of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// Comma-separated values, the names of the columns first.
    Csv,
    /// JSON objects, one after the other or in an array; or a GeoJSON FeatureCollection.
    Json,
    /// Parquet.
    Parquet,
}

impl FileFormat {
    /// What a file of this name holds.
    pub fn of_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" | "geojson" => Some(Self::Json),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}
