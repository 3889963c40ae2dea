//! What records would become: the tables of a contract as new ones, decoded without a lake.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};

use crate::decode::{DeadLetter, Decoded, Decoder, Records};
use crate::schema::{Column, Contract, Found, SchemaVersion, family_finds, fixed};

/// Decoding is repeated for so many newer schema versions at most.
const MOST_VERSIONS: usize = 3;

/// What became of records.
pub struct Outlook {
    /// How many there were.
    pub records: usize,
    /// The contract's own table, then those of its `child` arrays.
    pub tables: Vec<TableOutlook>,
    /// Records that could not become rows.
    pub dead: Vec<DeadLetter>,
    /// Records that were left out for a good reason.
    pub skipped: u64,
}

/// One table.
pub struct TableOutlook {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub version: Arc<SchemaVersion>,
    /// Its rows.
    pub rows: RecordBatch,
}

impl Outlook {
    /// Decodes as new tables would: types from all records, then what these types left out of account.
    pub fn of(contract: &Arc<Contract>, batches: &[Records]) -> Result<Self, ArrowError> {
        let family = contract.family();
        let finds = family_finds(contract, &batches.iter().collect::<Vec<_>>());
        let first = |(contract, found): (&Contract, &Vec<Found>)| Arc::new(SchemaVersion::first(contract, found));
        let mut versions: Vec<_> = family.iter().zip(&finds).map(first).collect();
        let mut decoded = decode(contract, &versions, batches)?;
        for _ in 0..MOST_VERSIONS {
            let mut grown = false;
            for (at, version) in versions.iter_mut().enumerate() {
                let seen: Vec<Found> = decoded.iter().flat_map(|batch| found(batch, at)).cloned().collect();
                if let Some(next) = version.evolve(&family[at], &seen) {
                    (*version, grown) = (Arc::new(next), true);
                }
            }
            if !grown {
                break;
            }
            decoded = decode(contract, &versions, batches)?;
        }
        let table = |(at, version): (usize, Arc<SchemaVersion>)| {
            let rows =
                decoded.iter().map(|batch| if at == 0 { &batch.rows } else { &batch.descendants()[at - 1].rows });
            let rows = concat_batches(&version.arrow_schema(), rows)?;
            Ok(TableOutlook { name: family[at].table.clone(), version, rows })
        };
        Ok(Self {
            records: batches.iter().map(Records::len).sum(),
            tables: versions.into_iter().enumerate().map(table).collect::<Result<_, ArrowError>>()?,
            skipped: decoded.iter().flat_map(|batch| batch.skipped.values()).sum(),
            dead: decoded.into_iter().flat_map(|batch| batch.dead).collect(),
        })
    }

    /// How many dead letters of each reason, with the first of them.
    pub fn dead_by_reason(&self) -> BTreeMap<&'static str, (usize, &DeadLetter)> {
        let mut reasons = BTreeMap::new();
        for letter in &self.dead {
            reasons.entry(letter.reason.code()).or_insert((0, letter)).0 += 1;
        }
        reasons
    }
}

fn decode(
    contract: &Arc<Contract>,
    versions: &[Arc<SchemaVersion>],
    batches: &[Records],
) -> Result<Vec<Decoded>, ArrowError> {
    let Some(mut decoder) = Decoder::of_family(Arc::clone(contract), &mut versions.iter().cloned()) else {
        return Ok(Vec::new());
    };
    batches.iter().map(|records| decoder.decode(records)).collect()
}

/// What the member `at` of the family could not place.
fn found(decoded: &Decoded, at: usize) -> impl Iterator<Item = &Found> {
    let descendants = decoded.descendants();
    let (found, misfits) = match at.checked_sub(1).and_then(|child| descendants.get(child).copied()) {
        Some(child) => (&child.found, &child.misfits),
        None => (&decoded.found, &decoded.misfits),
    };
    found.iter().chain(misfits)
}

impl TableOutlook {
    /// The columns as people see them: the newest of those that succeed each other.
    pub fn columns(&self) -> impl Iterator<Item = &Column> {
        let columns = self.version.columns.iter().enumerate();
        columns.filter(|(at, _)| !self.version.is_superseded(*at)).map(|(_, column)| column)
    }

    /// Rows in which a column has a value, and the first of these values.
    pub fn filled(&self, column: &Column) -> (usize, String) {
        let Some(values) = self.rows.column_by_name(&column.name) else { return (0, String::new()) };
        let first = (0..values.len()).find(|row| values.is_valid(*row));
        let sample = first.and_then(|row| {
            let formatter = ArrayFormatter::try_new(values, &FormatOptions::default()).ok()?;
            Some(formatter.value(row).to_string())
        });
        (values.len() - values.null_count(), sample.unwrap_or_default())
    }

    /// How many values of each path did not fit, with the first of them.
    pub fn rescued(&self) -> BTreeMap<String, (usize, String)> {
        let mut paths: BTreeMap<String, (usize, String)> = BTreeMap::new();
        let rescued = self.rows.column_by_name(fixed::RESCUED).and_then(|values| values.as_string_opt::<i32>());
        for text in rescued.into_iter().flatten().flatten() {
            for (path, value) in serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default() {
                paths.entry(path).or_insert_with(|| (0, value.to_string())).0 += 1;
            }
        }
        paths
    }

    /// The share of rows, in percent, that `count` is.
    pub fn percent(&self, count: usize) -> usize {
        (100 * count).checked_div(self.rows.num_rows()).unwrap_or(0)
    }
}
