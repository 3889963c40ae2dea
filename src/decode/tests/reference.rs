//! Decoding as one would explain it: parse everything into values, walk them, look every path up in a list.

use serde_json::Value;

use super::*;

#[derive(Debug, Default)]
pub(super) struct Expected {
    pub rows: Vec<(i64, i32, Cells)>,
    pub dead: Vec<(i64, Reason)>,
    pub skipped: u64,
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
            if !walk.is_wanted() {
                continue;
            }
            let mut cells = Cells::new();
            let mut rescued = serde_json::Map::new();
            let mut event_us = None;
            let strict = contract.on_type_conflict == OnTypeConflict::DeadLetter;
            let mut refuse = |reason| refusal = refusal.or(Some(reason));
            for Met { parts, value, inside, .. } in walk.met.iter().filter(|met| !met.unfit && !met.value.is_null()) {
                let path = Path::Value(parts.clone());
                let mut fits = true;
                let mut known = false;
                if contract.time.as_ref().is_some_and(|time| time.path == path) {
                    known = true;
                    event_us = value.as_str().and_then(timestamp);
                    if event_us.is_none() {
                        fits = false;
                        if strict {
                            refuse(Reason::Misfit);
                        }
                    }
                }
                for (at, column) in version.columns.iter().enumerate().filter(|(_, column)| column.path == path) {
                    known = true;
                    match held(column.kind, value) {
                        Some(text) => drop(cells.insert(column.name.clone(), text)),
                        None => {
                            fits = false;
                            if at < version.keys {
                                refuse(Reason::KeyMisfit);
                            } else if strict || contract.column(&column.name).is_some_and(|column| column.not_null) {
                                refuse(Reason::Misfit);
                            }
                        }
                    }
                }
                if !known && *inside {
                    continue;
                }
                if !known {
                    fits = false;
                    kinds.entry(path.clone()).or_default().push(value);
                    let seen = expected.found.entry(path.clone()).or_insert((ColumnType::String, 0, offset as i64));
                    seen.1 += 1;
                }
                if !fits {
                    rescued.insert(path.to_string(), (*value).clone());
                }
            }
            for Met { parts, value, .. } in walk.met.iter().filter(|met| met.unfit) {
                if strict {
                    refuse(Reason::Misfit);
                }
                rescued.insert(Path::Value(parts.clone()).to_string(), (*value).clone());
            }
            for (at, column) in version.columns.iter().enumerate() {
                let declared = contract.column(&column.name);
                let met = walk
                    .met
                    .iter()
                    .any(|met| Path::Value(met.parts.clone()) == column.path && !met.value.is_null() && !met.unfit);
                if let Some(text) = declared.and_then(|column| column.default.clone()).filter(|_| !met) {
                    let value = match column.kind {
                        ColumnType::String | ColumnType::Timestamp | ColumnType::Date => Value::from(text),
                        _ => serde_json::from_str(&text).unwrap(),
                    };
                    cells.insert(column.name.clone(), held(column.kind, &value).unwrap());
                }
                if at < version.keys && !cells.contains_key(&column.name) {
                    refuse(Reason::KeyMissing);
                } else if declared.is_some_and(|column| column.not_null) && !cells.contains_key(&column.name) {
                    refuse(Reason::ValueMissing);
                }
            }
            if !rescued.is_empty() {
                cells.insert(fixed::RESCUED.into(), Value::Object(rescued).to_string());
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
            sort_rescued(&mut cells);
            rows.push((offset as i64, row as i32, cells));
        }
        match refusal {
            Some(reason) => expected.dead.push((offset as i64, reason)),
            None if rows.is_empty() => expected.skipped += 1,
            None => expected.rows.extend(rows),
        }
    }
    for (path, values) in kinds {
        if let Some(seen) = expected.found.get_mut(&path) {
            seen.0 = type_of(&values, contract.infer_timestamps);
        }
    }
    expected
}

/// Orders the members of `_rescued` by path, so that only what it holds is compared.
pub(super) fn sort_rescued(cells: &mut Cells) {
    if let Some(text) = cells.get_mut(fixed::RESCUED) {
        let object: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
        let sorted: BTreeMap<String, Value> = object.into_iter().collect();
        *text = serde_json::to_string(&sorted).unwrap();
    }
}

/// A value at a payload path.
struct Met<'a> {
    parts: Vec<String>,
    value: &'a Value,
    /// It lies inside a value that is taken whole.
    inside: bool,
    /// An array that cannot be pivoted.
    unfit: bool,
}

struct Walk<'a> {
    contract: &'a Contract,
    version: &'a SchemaVersion,
    /// One value per path, the last.
    met: Vec<Met<'a>>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, value: &'a Value, parts: &mut Vec<String>, inside: bool) {
        if self.contract.dropped.contains(parts) {
            return;
        }
        match (self.contract.array(parts), value) {
            (Some(ArrayShape::First), Value::Array(elements)) => {
                if let Some(first) = elements.first() {
                    self.value(first, parts, inside);
                }
                return;
            }
            (Some(ArrayShape::Pivot { by, value: member }), Value::Array(elements)) => {
                return self.pivot(value, elements, by, member.as_ref(), parts, inside);
            }
            _ => {}
        }
        let path = Path::Value(parts.clone());
        let columns: Vec<&Column> = self.version.columns.iter().filter(|column| column.path == path).collect();
        let paths = self.paths();
        let below = paths.iter().any(|other| other.is_below(&path));
        let rules =
            self.contract.arrays.iter().filter(|array| !matches!(array.shape, ArrayShape::Json | ArrayShape::List));
        let rules = rules.map(|array| &array.path).chain(&self.contract.dropped);
        let rule_below = rules.into_iter().any(|rule| rule.len() > parts.len() && rule.starts_with(parts));
        if let Value::Object(members) = value {
            let declared = |column: &&Column| self.contract.column(&column.name).is_some();
            let json: Vec<&&Column> = columns.iter().filter(|column| column.kind == ColumnType::Json).collect();
            let reshaped = self.contract.array(parts).is_some_and(ArrayShape::is_object);
            let whole = !json.is_empty() && (!(below || reshaped) || json.iter().any(|column| declared(column)));
            let descend = !whole && (parts.len() < 8 || below || rule_below);
            if !descend {
                self.meet(parts, value, inside, false);
            }
            if descend || whole {
                for (key, member) in members {
                    parts.push(key.clone());
                    self.value(member, parts, inside || whole);
                    parts.pop();
                }
            }
        } else {
            self.meet(parts, value, inside, false);
        }
    }

    fn pivot(
        &mut self,
        whole: &'a Value,
        elements: &'a [Value],
        by: &str,
        value: Option<&String>,
        parts: &mut Vec<String>,
        inside: bool,
    ) {
        let name = |element: &Value| match element.get(by)? {
            Value::String(name) => Some(name.clone()),
            name @ (Value::Bool(_) | Value::Number(_)) => Some(name.to_string()),
            _ => None,
        };
        let Some(names) = elements.iter().map(name).collect::<Option<Vec<_>>>() else {
            if !inside {
                self.meet(parts, whole, inside, true);
            }
            return;
        };
        for (element, name) in elements.iter().zip(names) {
            parts.push(name);
            for (key, member) in element.as_object().into_iter().flatten().filter(|(key, _)| *key != by) {
                if Some(key) == value {
                    self.value(member, parts, inside);
                } else {
                    parts.push(key.clone());
                    self.value(member, parts, inside);
                    parts.pop();
                }
            }
            parts.pop();
        }
    }

    fn meet(&mut self, parts: &[String], value: &'a Value, inside: bool, unfit: bool) {
        let met = Met { parts: parts.to_vec(), value, inside, unfit };
        match self.met.iter_mut().find(|other| other.parts == parts && other.unfit == unfit) {
            Some(other) => *other = met,
            None => self.met.push(met),
        }
    }

    /// Every path that a column, `event_time` or a condition reads.
    fn paths(&self) -> Vec<Path> {
        let columns = self.version.columns.iter().map(|column| column.path.clone());
        let time = self.contract.time.as_ref().map(|time| time.path.clone());
        columns.chain(time).chain(self.contract.matches.iter().map(|one| one.path.clone())).collect()
    }

    fn is_wanted(&self) -> bool {
        self.contract.matches.iter().all(|condition| {
            let met = self.met.iter().find(|met| Path::Value(met.parts.clone()) == condition.path && !met.unfit);
            met.is_some_and(|met| match met.value {
                Value::String(text) => condition.values.contains(text),
                Value::Bool(_) | Value::Number(_) => condition.values.contains(&met.value.to_string()),
                _ => false,
            })
        })
    }
}

fn held(kind: ColumnType, value: &Value) -> Option<String> {
    match (kind, value) {
        (ColumnType::List(element), Value::Array(elements)) => {
            let held = |value: &Value| {
                if value.is_null() { Some("null".to_owned()) } else { held(element.column_type(), value) }
            };
            Some(format!("[{}]", elements.iter().map(held).collect::<Option<Vec<_>>>()?.join(";")))
        }
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

fn type_of(values: &[&Value], timestamps: bool) -> ColumnType {
    let arrays: Vec<&Vec<Value>> = values.iter().filter_map(|value| value.as_array()).collect();
    if values.iter().any(|value| value.is_object()) {
        ColumnType::Json
    } else if arrays.is_empty() {
        scalar_type(values, timestamps)
    } else {
        let elements: Vec<&Value> = arrays.into_iter().flatten().filter(|element| !element.is_null()).collect();
        let all = |test: fn(&Value) -> bool| elements.iter().all(|value| test(value));
        let of_one_kind = all(Value::is_boolean) || all(Value::is_string) || all(Value::is_number);
        let kind = scalar_type(&elements, false);
        let element = Element::ALL.into_iter().find(|element| element.column_type() == kind);
        let too_big = all(Value::is_number) && kind == ColumnType::String;
        match element {
            Some(element)
                if of_one_kind && !elements.is_empty() && !too_big && values.iter().all(|value| value.is_array()) =>
            {
                ColumnType::List(element)
            }
            _ => ColumnType::Json,
        }
    }
}

fn scalar_type(values: &[&Value], timestamps: bool) -> ColumnType {
    let all = |test: fn(&Value) -> bool| values.iter().all(|value| test(value));
    if all(Value::is_boolean) {
        ColumnType::Boolean
    } else if all(Value::is_i64) {
        ColumnType::Int64
    } else if all(Value::is_number) && !all(|value| !value.is_f64()) {
        ColumnType::Double
    } else if timestamps && all(|value| value.as_str().is_some_and(|text| timestamp(text).is_some())) {
        ColumnType::Timestamp
    } else {
        ColumnType::String
    }
}
