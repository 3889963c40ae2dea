//! What decoding needs to know about a contract and a schema version, worked out once per version.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::SchemaRef;

use super::{
    fit::Form,
    select::Selection,
    time::Clock,
    trie::{KEY, Leaf, PAYLOAD, Pivot, Rule, Trie},
};
use crate::schema::{ArrayShape, ColumnType, Contract, Format, OnTypeConflict, Path, SchemaVersion};

/// A place that values come from, with everything fed by it.
#[derive(Debug)]
pub(super) struct Source {
    pub path: Path,
    /// The path as written: the key in `_rescued`.
    pub text: String,
    /// Columns (index in the version) that hold its value.
    pub columns: Vec<(u32, Form)>,
    /// True if `event_time` is read from it.
    pub event_time: bool,
    /// True if it is read for `match` alone: then its value is one that no column knows.
    pub unknown: bool,
}

/// A contract and a schema version, prepared.
#[derive(Debug)]
pub(super) struct Plan {
    pub format: Format,
    pub version: Arc<SchemaVersion>,
    /// The version's Arrow form.
    pub schema: SchemaRef,
    pub trie: Trie,
    pub sources: Vec<Source>,
    /// Sources outside the payload that are one text: `$key`, `$header.…`, `$topic`, `$timestamp`.
    pub heads: Vec<u32>,
    /// Columns that hold the place of a child's element in an array around it, from 1 outside.
    pub indexes: Vec<(u32, u8)>,
    /// True if some source lies inside a JSON key.
    pub reads_key: bool,
    pub selection: Selection,
    /// Columns with a value for rows that have none, as text.
    pub defaults: Vec<(u32, Form, String)>,
    /// Columns of which each row must have a value that fits.
    pub required: Vec<u32>,
    /// How `event_time` is read.
    pub event: Form,
    /// The project's zone.
    pub zone: chrono_tz::Tz,
    /// True if a misfit makes the record a dead letter.
    pub strict: bool,
    /// True if strings at unknown paths are tried as timestamps.
    pub infer_timestamps: bool,
}

impl Plan {
    pub fn new(contract: &Contract, version: Arc<SchemaVersion>) -> Self {
        let mut sources = Sources::default();
        let mut indexes = Vec::new();
        let mut defaults = Vec::new();
        let mut required = Vec::new();
        let mut json = HashMap::new();
        for (at, column) in version.columns.iter().enumerate() {
            if version.is_superseded(at) {
                continue;
            }
            let declared = contract.column(column.logical());
            let form = || Form {
                kind: column.kind,
                clock: declared.and_then(|column| column.format.as_ref()).map_or(Clock::Rfc3339, Clock::new),
                zone: declared.and_then(|column| column.zone).unwrap_or(contract.timezone),
                dates: true,
            };
            if at < version.keys || declared.is_some_and(|column| column.not_null) {
                required.push(at as u32);
            }
            if let Some(text) = declared.and_then(|column| column.default.clone()) {
                defaults.push((at as u32, form(), text));
            }
            match &column.path {
                Path::Index(level) => indexes.push((at as u32, *level)),
                path if path.is_unresolved() => {}
                path => {
                    let source = sources.of(path);
                    sources.list[source].columns.push((at as u32, form()));
                    if column.kind == ColumnType::Json {
                        let declared = declared.is_some_and(|column| column.kind == Some(ColumnType::Json));
                        *json.entry(source).or_default() |= declared;
                    }
                }
            }
        }
        if let Some(time) = &contract.time {
            let source = sources.of(&time.path);
            sources.list[source].event_time = true;
        }
        let selection = Selection::new(contract, |path| sources.of(path));
        let mut sources = sources.list;

        // An object goes whole into a declared json column, and into a found one unless its members have columns, or
        // get them from arrays that are read as objects.
        let flattened = |path: &Path| {
            let reshaped =
                matches!(path, Path::Value(parts) if contract.array(parts).is_some_and(ArrayShape::is_object));
            reshaped || sources.iter().any(|other| other.path.is_below(path))
        };
        let whole: Vec<bool> = sources
            .iter()
            .enumerate()
            .map(|(at, source)| json.get(&at).is_some_and(|declared| *declared || !flattened(&source.path)))
            .collect();
        let wholes: Vec<Path> =
            sources.iter().zip(&whole).filter(|(_, whole)| **whole).map(|(source, _)| source.path.clone()).collect();
        let inside_json = |path: &Path| wholes.iter().any(|whole| path.is_below(whole));
        for source in &mut sources {
            source.unknown = source.columns.is_empty() && !source.event_time && !inside_json(&source.path);
        }
        let mut trie = Trie::new();
        let mut heads = Vec::new();
        let mut reads_key = false;
        for (at, source) in sources.iter().enumerate() {
            match &source.path {
                Path::Value(parts) => trie.insert(PAYLOAD, parts, at as u32, whole[at]),
                Path::Key(parts) if !parts.is_empty() => {
                    reads_key = true;
                    trie.insert(KEY, parts, at as u32, whole[at]);
                }
                _ => heads.push(at as u32),
            }
        }
        for array in &contract.arrays {
            match &array.shape {
                ArrayShape::First => trie.set_rule(&array.path, Rule::First),
                ArrayShape::Pivot { by, value } => {
                    trie.set_pivot(&array.path, Pivot { by: by.clone(), value: value.clone() });
                }
                // A child's number is known to `Plan::split_off`; without it the array is a json column.
                ArrayShape::Json | ArrayShape::List | ArrayShape::Child => {}
            }
        }
        contract.dropped.iter().for_each(|path| trie.set_rule(path, Rule::Drop));
        let watched = |column: u32| required.contains(&column) || defaults.iter().any(|(other, ..)| *other == column);
        for (at, source) in sources.iter().enumerate().filter(|(at, _)| !selection.reads(*at as u32)) {
            let (Path::Value(parts), [(column, form)]) = (&source.path, &source.columns[..]) else { continue };
            let leaf = match form.kind {
                _ if source.event_time || whole[at] || watched(*column) => Leaf::None,
                ColumnType::Boolean => Leaf::Boolean(*column),
                ColumnType::Int64 => Leaf::Integer(*column),
                ColumnType::Double => Leaf::Double(*column),
                ColumnType::String => Leaf::Text(*column),
                ColumnType::Json | ColumnType::Timestamp | ColumnType::Date | ColumnType::List(_) => Leaf::None,
            };
            trie.set_leaf(parts, leaf);
        }
        let clock = contract.time.as_ref().map_or(Clock::Broken, |time| Clock::new(&time.format));
        Self {
            format: contract.format,
            schema: version.arrow_schema(),
            version,
            trie,
            sources,
            heads,
            indexes,
            reads_key,
            selection,
            defaults,
            required,
            event: Form { kind: ColumnType::Timestamp, clock, zone: contract.timezone, dates: false },
            zone: contract.timezone,
            strict: contract.on_type_conflict == OnTypeConflict::DeadLetter,
            infer_timestamps: contract.infer_timestamps,
        }
    }

    /// True if it is settled what becomes of a value at a payload path, so that it needs no new column.
    pub fn covers(&self, path: &[String]) -> bool {
        self.trie.covers(path, |source| !self.sources[source as usize].unknown)
    }

    /// Gives the elements of the contract's `child` arrays to children, numbered in the order of the contract.
    pub fn split_off(&mut self, contract: &Contract) {
        for (number, child) in contract.child_arrays().enumerate() {
            self.trie.set_rule(&child.path, Rule::Child(number as u32));
        }
    }
}

#[derive(Default)]
struct Sources {
    list: Vec<Source>,
    by_path: HashMap<Path, usize>,
}

impl Sources {
    /// The number of the source at `path`, which is made if there is none.
    fn of(&mut self, path: &Path) -> usize {
        let at = *self.by_path.entry(path.clone()).or_insert(self.list.len());
        if at == self.list.len() {
            let (path, text) = (path.clone(), path.to_string());
            self.list.push(Source { path, text, columns: Vec::new(), event_time: false, unknown: false });
        }
        at
    }
}
