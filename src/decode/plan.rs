//! What decoding needs to know about a contract and a schema version, worked out once per version.

use std::{collections::HashMap, sync::Arc};

use chrono_tz::Tz;

use super::{
    time::Clock,
    trie::{KEY, PAYLOAD, Trie},
};
use crate::schema::{ColumnType, Contract, OnTypeConflict, Path, SchemaVersion};

/// A place that values come from, with everything fed by it.
#[derive(Debug)]
pub(super) struct Source {
    pub path: Path,
    /// The path as written: the key in `_rescued`.
    pub text: String,
    /// Columns (index in the version) that hold its value.
    pub columns: Vec<(u32, ColumnType)>,
    /// True if `event_time` is read from it.
    pub event_time: bool,
}

/// A contract and a schema version, prepared.
#[derive(Debug)]
pub(super) struct Plan {
    pub version: Arc<SchemaVersion>,
    pub trie: Trie,
    pub sources: Vec<Source>,
    /// Sources outside the payload that are one text: `$key`, `$header.…`, `$topic`, `$timestamp`.
    pub heads: Vec<u32>,
    /// True if some source lies inside a JSON key.
    pub reads_key: bool,
    pub clock: Clock,
    pub zone: Tz,
    /// True if a misfit makes the record a dead letter.
    pub strict: bool,
}

impl Plan {
    pub fn new(contract: &Contract, version: Arc<SchemaVersion>) -> Self {
        let mut sources: Vec<Source> = Vec::new();
        let mut by_path: HashMap<Path, usize> = HashMap::new();
        let mut source_of = |path: &Path| {
            let at = *by_path.entry(path.clone()).or_insert(sources.len());
            if at == sources.len() {
                sources.push(Source {
                    path: path.clone(),
                    text: path.to_string(),
                    columns: Vec::new(),
                    event_time: false,
                });
            }
            at
        };
        let fed: Vec<Option<usize>> = version
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let fed = !column.path.is_unresolved() && !version.is_superseded(at);
                fed.then(|| source_of(&column.path))
            })
            .collect();
        let time = contract.time.as_ref().map(|time| source_of(&time.path));

        let mut trie = Trie::new();
        let declared_json = |name: &str| {
            contract.columns.iter().any(|column| column.name == name && column.kind == Some(ColumnType::Json))
        };
        let mut json = vec![false; sources.len()];
        let mut whole = vec![false; sources.len()];
        for (at, (column, source)) in version.columns.iter().zip(&fed).enumerate() {
            if let Some(source) = *source {
                sources[source].columns.push((at as u32, column.kind));
                json[source] |= column.kind == ColumnType::Json;
                whole[source] |= column.kind == ColumnType::Json && declared_json(&column.name);
            }
        }
        if let Some(time) = time {
            sources[time].event_time = true;
        }
        // An object goes whole into a declared json column, and into a found one unless its members have columns.
        let parent_of_others = |path: &Path| {
            sources.iter().any(|other| match (path, &other.path) {
                (Path::Value(path), Path::Value(other)) | (Path::Key(path), Path::Key(other)) => {
                    other.len() > path.len() && other.starts_with(path)
                }
                _ => false,
            })
        };
        let mut heads = Vec::new();
        let mut reads_key = false;
        for (at, source) in sources.iter().enumerate() {
            let whole = whole[at] || (json[at] && !parent_of_others(&source.path));
            match &source.path {
                Path::Value(parts) => trie.insert(PAYLOAD, parts, at as u32, whole),
                Path::Key(parts) if !parts.is_empty() => {
                    reads_key = true;
                    trie.insert(KEY, parts, at as u32, whole);
                }
                _ => heads.push(at as u32),
            }
        }
        Self {
            version,
            trie,
            sources,
            heads,
            reads_key,
            clock: contract.time.as_ref().map_or(Clock::Broken, |time| Clock::new(&time.format)),
            zone: contract.timezone,
            strict: contract.on_type_conflict == OnTypeConflict::DeadLetter,
        }
    }
}
