//! Decoding as one would explain it: parse everything into values, walk them, look every path up in a list.

use serde_json::Value;

use super::*;

#[derive(Debug, Default)]
pub(super) struct Expected {
    pub rows: Vec<(i64, i32, Cells)>,
    pub dead: Vec<(i64, Reason)>,
    /// Type, rows, first offset.
    pub found: BTreeMap<Path, (ColumnType, u64, i64)>,
}

/// The outcome for records that hold the given documents, at offsets from 0.
pub(super) fn decode(contract: &Contract, version: &SchemaVersion, records: &[Vec<Value>]) -> Expected {
    let mut expected = Expected::default();
    let mut kinds: BTreeMap<Path, Vec<&Value>> = BTreeMap::new();
    for (offset, documents) in records.iter().enumerate() {
        let mut rows = Vec::new();
        let mut refusal = None;
        for (row, document) in documents.iter().enumerate() {
            let mut walk = Walk { contract, version, met: Vec::new() };
            walk.value(document, &mut Vec::new(), false);
            let mut cells = Cells::new();
            let mut rescued = Vec::new();
            let mut event_us = None;
            for (parts, value) in walk.met {
                let path = Path::Value(parts);
                let mut fits = true;
                let columns = version.columns.iter().enumerate().filter(|(_, column)| column.path == path);
                let mut known = false;
                if contract.time.as_ref().is_some_and(|time| time.path == path) {
                    known = true;
                    event_us = value.as_str().and_then(timestamp);
                    if event_us.is_none() && !value.is_null() {
                        fits = false;
                        if contract.on_type_conflict == OnTypeConflict::DeadLetter {
                            refusal = refusal.or(Some(Reason::Misfit));
                        }
                    }
                }
                for (at, column) in columns {
                    known = true;
                    if value.is_null() {
                        continue;
                    }
                    match held(column.kind, value) {
                        Some(text) => drop(cells.insert(column.name.clone(), text)),
                        None => {
                            fits = false;
                            if at < version.keys {
                                refusal = refusal.or(Some(Reason::KeyMisfit));
                            } else if contract.on_type_conflict == OnTypeConflict::DeadLetter {
                                refusal = refusal.or(Some(Reason::Misfit));
                            }
                        }
                    }
                }
                if !known && !value.is_null() {
                    fits = false;
                    kinds.entry(path.clone()).or_default().push(value);
                    let seen = expected.found.entry(path.clone()).or_insert((ColumnType::String, 0, offset as i64));
                    seen.1 += 1;
                }
                if !fits {
                    rescued.push(format!("{}:{value}", Value::from(path.to_string())));
                }
            }
            let keys = &version.columns[..version.keys];
            if keys.iter().any(|column| !cells.contains_key(&column.name)) {
                refusal = refusal.or(Some(Reason::KeyMissing));
            }
            if !rescued.is_empty() {
                cells.insert(fixed::RESCUED.into(), format!("{{{}}}", rescued.join(",")));
            }
            let event_us = event_us.unwrap_or(BROKER_US);
            let days =
                if (event_us - BROKER_US).abs() <= 86_400_000_000 { event_us } else { BROKER_US } / 86_400_000_000;
            for (name, value) in [
                (fixed::EVENT_TIME, event_us.to_string()),
                (fixed::TOPIC, "fleet".to_owned()),
                (fixed::INCARNATION, "1".to_owned()),
                (fixed::PARTITION, "0".to_owned()),
                (fixed::OFFSET, offset.to_string()),
                (fixed::ROW, row.to_string()),
                (fixed::TIMESTAMP, BROKER_US.to_string()),
                (fixed::SCHEMA_VERSION, version.number.to_string()),
                (fixed::DAY, days.to_string()),
            ] {
                cells.insert(name.into(), value);
            }
            rows.push((offset as i64, row as i32, cells));
        }
        match refusal {
            Some(reason) => expected.dead.push((offset as i64, reason)),
            None => expected.rows.extend(rows),
        }
    }
    for (path, values) in kinds {
        if let Some(seen) = expected.found.get_mut(&path) {
            seen.0 = type_of(&values);
        }
    }
    expected
}

struct Walk<'a> {
    contract: &'a Contract,
    version: &'a SchemaVersion,
    /// Values that a column, `event_time` or `_rescued` gets, in the order of the message.
    met: Vec<(Vec<String>, &'a Value)>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, value: &'a Value, parts: &mut Vec<String>, inside: bool) {
        let path = Path::Value(parts.clone());
        let columns: Vec<&Column> = self.version.columns.iter().filter(|column| column.path == path).collect();
        let time = self.contract.time.as_ref().map(|time| &time.path);
        let paths = self.version.columns.iter().map(|column| &column.path).chain(time);
        let below = paths.clone().any(|other| match other {
            Path::Value(other) => other.len() > parts.len() && other.starts_with(parts),
            _ => false,
        });
        let known = !columns.is_empty() || time == Some(&path);
        if let Value::Object(members) = value {
            let declared = |column: &&Column| self.contract.columns.iter().any(|other| other.name == column.name);
            let json: Vec<&&Column> = columns.iter().filter(|column| column.kind == ColumnType::Json).collect();
            let whole = !json.is_empty() && (!below || json.iter().any(|column| declared(column)));
            let descend = !whole && (parts.len() < 8 || below);
            if whole || !descend {
                if known || !inside {
                    self.met.push((parts.clone(), value));
                }
            }
            if descend || whole {
                for (key, member) in members {
                    parts.push(key.clone());
                    self.value(member, parts, inside || whole);
                    parts.pop();
                }
            }
        } else if known || !inside {
            self.met.push((parts.clone(), value));
        }
    }
}

fn held(kind: ColumnType, value: &Value) -> Option<String> {
    match (kind, value) {
        (ColumnType::Json, value) => Some(value.to_string()),
        (ColumnType::Boolean, Value::Bool(value)) => Some(value.to_string()),
        (ColumnType::Int64, Value::Number(number)) => number.as_i64().map(|value| value.to_string()),
        (ColumnType::Double, Value::Number(number)) if number.is_f64() => {
            number.as_f64().map(|value| format!("{value:?}"))
        }
        (ColumnType::Double, Value::Number(number)) => {
            let value = number.as_i64().filter(|value| value.unsigned_abs() <= 1 << 53)?;
            Some(format!("{:?}", value as f64))
        }
        (ColumnType::String, Value::String(text)) => Some(text.clone()),
        (ColumnType::String, Value::Bool(_) | Value::Number(_)) => Some(value.to_string()),
        (ColumnType::Timestamp, Value::String(text)) => {
            let midnight = || day(text).map(|day| day * 86_400_000_000);
            timestamp(text).or_else(midnight).map(|us| us.to_string())
        }
        (ColumnType::Date, Value::String(text)) => day(text).map(|day| day.to_string()),
        _ => None,
    }
}

fn day(text: &str) -> Option<i64> {
    let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| text.len() == 10)?;
    Some(date.signed_duration_since(chrono::NaiveDate::default()).num_days())
}

fn timestamp(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
}

fn type_of(values: &[&Value]) -> ColumnType {
    let all = |test: fn(&Value) -> bool| values.iter().all(|value| test(value));
    if !all(|value| !value.is_array() && !value.is_object()) {
        ColumnType::Json
    } else if all(Value::is_boolean) {
        ColumnType::Boolean
    } else if all(Value::is_i64) {
        ColumnType::Int64
    } else if all(Value::is_number) && !all(|value| !value.is_f64()) {
        ColumnType::Double
    } else {
        ColumnType::String
    }
}
