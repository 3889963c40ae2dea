//! The rows of one record until all of it is known to be good: a record is all or nothing.

use super::{
    Record, Records,
    dead::{Reason, hex},
    fit::{Value, fit, fit_text, into_arena, rewrite},
    plan::{Plan, Source},
    rows::{Fixed, Rows},
    scan::{Cursor, Fault, Kind, Slot, compact, unescape},
    time,
    trie::KEY,
    walk::{self, Row},
};
use crate::schema::{ColumnType, Path, push_json_string};

/// Values of one record's rows.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Columns and values of all rows, row after row.
    cells: Vec<(u32, Value)>,
    rows: Vec<DraftRow>,
    /// Columns and values that every row of the record has: from key, headers, topic, timestamp.
    head: Vec<(u32, Value)>,
    head_event_us: Option<i64>,
    /// Path and JSON text of what did not fit in the record's head.
    head_rescued: Vec<(String, String)>,
    /// Rewritten texts.
    arena: String,
    /// The first reason to refuse the record although it can be read.
    pub refusal: Option<Fault>,
    /// Values at unknown paths, of all rows.
    pub unknown: Vec<(String, Slot)>,
    /// Sources in the payload and those of their values that did not fit, of all rows.
    pub misfits: Vec<(u32, Slot)>,
    /// Values that went to `_rescued`.
    pub rescued: u64,
}

#[derive(Debug)]
struct DraftRow {
    cells_end: usize,
    event_us: Option<i64>,
    /// In the arena.
    rescued: Option<Value>,
}

impl Draft {
    /// Begins a record: forgets the last one and reads what stands outside the payload.
    pub fn begin(&mut self, plan: &mut Plan, key_row: &mut Row, record: &Record<'_>, records: &Records) {
        self.cells.clear();
        self.rows.clear();
        self.head.clear();
        self.head_event_us = None;
        self.head_rescued.clear();
        self.arena.clear();
        self.refusal = None;
        self.unknown.clear();
        self.misfits.clear();
        self.rescued = 0;
        for at in &plan.heads {
            let source = &plan.sources[*at as usize];
            let bytes = match &source.path {
                Path::Timestamp => {
                    self.put_timestamp(plan, source, record.timestamp_us);
                    continue;
                }
                Path::Topic => Some(records.topic.as_bytes()),
                Path::Header(name) => {
                    let last = record.headers.iter().rev().find(|header| header.name == *name);
                    last.and_then(|header| header.value.as_deref())
                }
                Path::Key(_) | Path::Value(_) => record.key,
            };
            if let Some(bytes) = bytes {
                self.put_text(plan, source, bytes);
            }
        }
        if let Some(key) = record.key.filter(|_| plan.reads_key) {
            self.read_key(plan, key_row, key);
        }
    }

    /// Number of rows so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    fn put_text(&mut self, plan: &Plan, source: &Source, bytes: &[u8]) {
        let (text, json) = (std::str::from_utf8(bytes), bytes_json(bytes));
        let mut fits = true;
        if source.event_time {
            self.head_event_us = text.ok().and_then(|text| plan.clock.read(text, plan.zone));
            fits &= self.head_event_us.is_some() || self.misfit(plan, None, source, &json);
        }
        for (column, kind) in &source.columns {
            match text.ok().and_then(|text| fit_text(*kind, text, &mut self.arena, plan.zone)) {
                Some(value) => self.head.push((*column, value)),
                None => fits = self.misfit(plan, Some(*column), source, &json),
            }
        }
        if !fits {
            self.head_rescued.push((source.text.clone(), json));
        }
    }

    fn put_timestamp(&mut self, plan: &Plan, source: &Source, us: i64) {
        let mut fits = true;
        for (column, kind) in &source.columns {
            let value = match kind {
                ColumnType::Timestamp => Some(Value::Integer(us)),
                ColumnType::Int64 => Some(Value::Integer(us.div_euclid(1_000))),
                ColumnType::Date => Some(Value::Integer(time::day(us, us, plan.zone).into())),
                ColumnType::String => {
                    time::write_timestamp(us).map(|text| rewrite(&mut self.arena, |arena| arena.push_str(&text)))
                }
                ColumnType::Boolean | ColumnType::Double | ColumnType::Json => None,
            };
            match value {
                Some(value) => self.head.push((*column, value)),
                None => fits = self.misfit(plan, Some(*column), source, &us.to_string()),
            }
        }
        if !fits {
            self.head_rescued.push((source.text.clone(), us.to_string()));
        }
    }

    /// Values inside a JSON key. A key that is no JSON object is rescued as text; its columns are null.
    fn read_key(&mut self, plan: &mut Plan, row: &mut Row, key: &[u8]) {
        row.clear();
        let read = std::str::from_utf8(key).ok().and_then(|text| {
            let mut cursor = Cursor::new(text);
            let object = cursor.peek() == b'{' && walk::object(&mut cursor, &mut plan.trie, KEY, row, 0, true).is_ok();
            cursor.skip_space();
            (object && cursor.at_end()).then_some(text)
        });
        let Some(text) = read else {
            if self.head_rescued.iter().all(|(path, _)| path != "$key") {
                self.head_rescued.push(("$key".to_owned(), bytes_json(key)));
            }
            return;
        };
        for at in &row.touched {
            let (source, slot) = (&plan.sources[*at as usize], row.slots[*at as usize]);
            if slot.kind == Kind::Null {
                continue;
            }
            let mut fits = true;
            if source.event_time {
                self.head_event_us = read_event(plan, slot, text);
                fits &= self.head_event_us.is_some() || self.misfit(plan, None, source, slot.raw(text));
            }
            for (column, kind) in &source.columns {
                match fit(*kind, slot, text, &mut self.arena, plan.zone) {
                    Some(value) => self.head.push((*column, into_arena(value, text, &mut self.arena))),
                    None => fits = self.misfit(plan, Some(*column), source, slot.raw(text)),
                }
            }
            if !fits {
                let mut json = String::new();
                compact(slot.raw(text), &mut json);
                self.head_rescued.push((source.text.clone(), json));
            }
        }
    }

    /// Adds the row that `row` found in the payload `text`.
    pub fn add(&mut self, plan: &Plan, row: &mut Row, text: &str) {
        let begin = self.cells.len();
        let mut event_us = self.head_event_us;
        let mut rescued: Vec<(&str, Slot)> = Vec::new();
        for at in &row.touched {
            let (source, slot) = (&plan.sources[*at as usize], row.slots[*at as usize]);
            if slot.kind == Kind::Null {
                continue;
            }
            let mut fits = true;
            if source.event_time {
                event_us = read_event(plan, slot, text);
                fits &= event_us.is_some() || self.misfit(plan, None, source, slot.raw(text));
            }
            for (column, kind) in &source.columns {
                match fit(*kind, slot, text, &mut self.arena, plan.zone) {
                    Some(value) => self.cells.push((*column, value)),
                    None => fits = self.misfit(plan, Some(*column), source, slot.raw(text)),
                }
            }
            if !fits {
                rescued.push((&source.text, slot));
                self.misfits.push((*at, slot));
            }
        }
        self.check_keys(plan, begin);
        rescued.extend(row.unknown.iter().map(|(path, slot)| (path.as_str(), *slot)));
        let rescued = self.write_rescued(rescued, text);
        self.unknown.append(&mut row.unknown);
        self.rows.push(DraftRow { cells_end: self.cells.len(), event_us, rescued });
    }

    /// Notes that a value does not fit a column (`None`: `event_time`); returns false, for "does not fit".
    fn misfit(&mut self, plan: &Plan, column: Option<u32>, source: &Source, json: &str) -> bool {
        let column = column.map(|at| (at as usize, &plan.version.columns[at as usize]));
        let key = column.is_some_and(|(at, _)| at < plan.version.keys);
        if self.refusal.is_none() && (key || plan.strict) {
            let (name, kind) = match column {
                Some((_, column)) => (column.name.as_str(), column.kind.word()),
                None => ("event_time", "timestamp"),
            };
            let reason = if key { Reason::KeyMisfit } else { Reason::Misfit };
            let message = format!("`{}` does not fit column `{name}` ({kind}): {}", source.text, sample(json));
            self.refusal = Some(Fault { reason, message });
        }
        false
    }

    fn check_keys(&mut self, plan: &Plan, begin: usize) {
        let keys = plan.version.keys;
        if keys == 0 || self.refusal.is_some() {
            return;
        }
        let cells = || self.head.iter().chain(&self.cells[begin..]);
        if cells().filter(|(column, _)| (*column as usize) < keys).count() < keys {
            let missing = (0..keys).find(|key| cells().all(|(column, _)| *column as usize != *key));
            let message = missing.map(|at| &plan.version.columns[at]).map_or_else(String::new, |column| {
                let path = if column.path.is_unresolved() { &column.name } else { &column.path.to_string() };
                format!("key column `{}` has no value: `{path}` is missing or null", column.name)
            });
            self.refusal = Some(Fault { reason: Reason::KeyMissing, message });
        }
    }

    /// Writes the JSON object of `_rescued`, in the order of the message.
    fn write_rescued(&mut self, mut values: Vec<(&str, Slot)>, text: &str) -> Option<Value> {
        if values.is_empty() && self.head_rescued.is_empty() {
            return None;
        }
        values.sort_by_key(|(_, slot)| slot.start);
        self.rescued += (values.len() + self.head_rescued.len()) as u64;
        let head = &self.head_rescued;
        Some(rewrite(&mut self.arena, |arena| {
            let mut separator = '{';
            let mut member = |arena: &mut String, path: &str| {
                arena.push(std::mem::replace(&mut separator, ','));
                push_json_string(arena, path);
                arena.push(':');
            };
            for (path, json) in head {
                member(arena, path);
                arena.push_str(json);
            }
            for (path, slot) in values {
                member(arena, path);
                compact(slot.raw(text), arena);
            }
            arena.push('}');
        }))
    }

    /// Bytes of text that the record's rows add to the batch.
    pub fn text_bytes(&self, topic: &str) -> usize {
        let length = |value: &Value| match value {
            Value::Input(start, end) | Value::Arena(start, end) => (end - start) as usize,
            _ => 0,
        };
        let every_row = topic.len() + self.head.iter().map(|(_, value)| length(value)).sum::<usize>();
        let cells: usize = self.cells.iter().map(|(_, value)| length(value)).sum();
        // The arena bounds `_rescued`, and must itself be addressable.
        every_row.saturating_mul(self.rows.len()).saturating_add(cells).saturating_add(self.arena.len())
    }

    /// Moves the rows to the batch.
    pub fn commit(&self, plan: &Plan, rows: &mut Rows, record: &Record<'_>, text: &str) {
        let mut begin = 0;
        for (at, row) in self.rows.iter().enumerate() {
            let event_us = row.event_us.unwrap_or(record.timestamp_us);
            rows.begin(Fixed {
                event_us,
                offset: record.offset,
                row: at as i32,
                timestamp_us: record.timestamp_us,
                rescued: match row.rescued {
                    Some(Value::Arena(start, end)) => Some(&self.arena[start as usize..end as usize]),
                    _ => None,
                },
                day: time::day(event_us, record.timestamp_us, plan.zone),
            });
            for (column, value) in self.head.iter().chain(&self.cells[begin..row.cells_end]) {
                rows.set(*column, *value, text, &self.arena);
            }
            begin = row.cells_end;
        }
    }
}

/// Bytes as a JSON string: the text, or `0x` and hex digits if they are none.
fn bytes_json(bytes: &[u8]) -> String {
    let mut json = String::new();
    match std::str::from_utf8(bytes) {
        Ok(text) => push_json_string(&mut json, text),
        Err(_) => json = format!("\"0x{}\"", hex(bytes)),
    }
    json
}

fn read_event(plan: &Plan, slot: Slot, text: &str) -> Option<i64> {
    match slot.kind {
        Kind::Integer | Kind::Real => plan.clock.read_number(slot, text),
        Kind::Text => plan.clock.read(slot.inner(text), plan.zone),
        Kind::Escaped => {
            let mut plain = String::new();
            unescape(slot.inner(text), &mut plain);
            plan.clock.read(&plain, plan.zone)
        }
        _ => None,
    }
}

/// The beginning of a JSON text without white space, at most 100 characters.
pub(super) fn sample(json: &str) -> String {
    let mut end = json.len().min(1_000);
    while !json.is_char_boundary(end) {
        end -= 1;
    }
    let mut text = String::new();
    compact(&json[..end], &mut text);
    match text.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
