//! What one record's rows have in common, and what is noted while they are made: a record is all or nothing.

use std::collections::HashSet;

use super::{
    Record, Records,
    dead::{Reason, hex},
    fit::{Arena, Held, Value},
    plan::{Plan, Source},
    rows::{Fixed, Rows},
    scan::{Cursor, Fault, Kind, Slot, compact},
    time,
    trie::KEY,
    walk::{self, Row},
};
use crate::schema::{ColumnType, Path, push_json_string};

/// One record while its rows are made.
#[derive(Debug, Default)]
pub(super) struct Draft {
    offset: i64,
    timestamp_us: i64,
    /// Columns and values that every row of the record has: from key, headers, topic, timestamp.
    head: Vec<(u32, Value)>,
    /// Columns whose value in the record's head did not fit.
    head_misfits: Vec<u32>,
    head_event_us: Option<i64>,
    /// Path and JSON text of what did not fit in the record's head.
    head_rescued: Vec<(String, String)>,
    arena: Arena,
    /// By column that a value was fitted to: the newest row, counted over all records, that has a value for it, and
    /// whether that one fitted. Values that are put straight are not noted: those columns need none.
    met: Vec<(u64, bool)>,
    row_count: u64,
    /// True if the record's rows need no key.
    pub keyless: bool,
    /// The first reason to refuse the record although it can be read.
    pub refusal: Option<Fault>,
    /// Values at unknown paths, of all rows.
    pub unknown: Vec<(String, Slot)>,
    /// Sources in the payload and those of their values that did not fit, of all rows.
    pub misfits: Vec<(u32, Slot)>,
    /// Values that went to `_rescued`.
    pub rescued: u64,
}

/// Where a row comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    /// Index of the record's object.
    pub row: i32,
    /// A child's row: the `event_time` of the row around it.
    pub event_us: Option<i64>,
    /// A child's row: the element's places in the arrays around it, the outermost first.
    pub indexes: &'a [i64],
}

impl Draft {
    /// Begins a record: forgets the last one and reads what stands outside the payload.
    pub fn begin(
        &mut self,
        plan: &mut Plan,
        (key_row, rows): (&mut Row, &mut Rows),
        record: &Record<'_>,
        records: &Records,
    ) {
        (self.offset, self.timestamp_us) = (record.offset, record.timestamp_us);
        self.head.clear();
        self.head_misfits.clear();
        self.head_event_us = None;
        self.head_rescued.clear();
        self.arena.clear();
        self.met.resize(plan.version.columns.len(), (0, false));
        (self.refusal, self.keyless) = (None, false);
        self.unknown.clear();
        self.misfits.clear();
        self.rescued = 0;
        for at in &plan.heads {
            let source = &plan.sources[*at as usize];
            if source.path == Path::Timestamp {
                self.put_timestamp(plan, source, record.timestamp_us);
            } else if let Some(bytes) = record.bytes_at(&source.path, records) {
                self.put_text(plan, source, bytes);
            }
        }
        key_row.clear();
        if let Some(key) = record.key.filter(|_| plan.reads_key) {
            self.read_key(plan, (key_row, rows), key);
        }
    }

    fn put_text(&mut self, plan: &Plan, source: &Source, bytes: &[u8]) {
        let (text, json) = (std::str::from_utf8(bytes), bytes_json(bytes));
        let mut fits = true;
        if source.event_time {
            self.head_event_us = text.ok().and_then(|text| plan.event.fit_text(text, &mut self.arena)).and_then(micros);
            fits &= self.head_event_us.is_some() || self.misfit(plan, None, source, &json);
        }
        for (column, form) in &source.columns {
            let value = text.ok().and_then(|text| form.fit_text(text, &mut self.arena));
            fits &= self.put_head(plan, *column, source, value, &json);
        }
        if !fits {
            self.head_rescued.push((source.text.clone(), json));
        }
    }

    fn put_timestamp(&mut self, plan: &Plan, source: &Source, us: i64) {
        let mut fits = true;
        for (column, form) in &source.columns {
            let value = match form.kind {
                ColumnType::Timestamp => Some(Value::integer(us)),
                ColumnType::Int64 => Some(Value::integer(us.div_euclid(1_000))),
                ColumnType::Date => Some(Value::integer(time::day(us, us, form.zone).into())),
                ColumnType::String => {
                    time::write_timestamp(us).map(|text| self.arena.write(|arena| arena.push_str(&text)))
                }
                ColumnType::Boolean | ColumnType::Double | ColumnType::Json | ColumnType::List(_) => None,
            };
            fits &= self.put_head(plan, *column, source, value, &us.to_string());
        }
        if !fits {
            self.head_rescued.push((source.text.clone(), us.to_string()));
        }
    }

    /// Values inside a JSON key. A key that is no JSON object is rescued as text; its columns are null.
    fn read_key(&mut self, plan: &mut Plan, (row, rows): (&mut Row, &mut Rows), key: &[u8]) {
        let read = std::str::from_utf8(key).ok().and_then(|text| {
            let mut cursor = Cursor::new(text);
            let object =
                cursor.peek() == b'{' && walk::object(&mut cursor, &mut plan.trie, KEY, (row, rows), 0, true).is_ok();
            cursor.skip_space();
            (object && cursor.at_end()).then_some(text)
        });
        let Some(text) = read else {
            row.clear();
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
                self.head_event_us = plan.event.fit(slot, text, &mut self.arena).and_then(micros);
                fits &= self.head_event_us.is_some() || self.misfit(plan, None, source, slot.raw(text));
            }
            for (column, form) in &source.columns {
                let value = form.fit(slot, text, &mut self.arena).map(|value| self.arena.keep(value, text));
                fits &= self.put_head(plan, *column, source, value, slot.raw(text));
            }
            if !fits {
                let mut json = String::new();
                compact(slot.raw(text), &mut json);
                self.head_rescued.push((source.text.clone(), json));
            }
        }
    }

    /// Sets a column of all rows of the record; false if the value (JSON `json`) does not fit.
    fn put_head(&mut self, plan: &Plan, column: u32, source: &Source, value: Option<Value>, json: &str) -> bool {
        match value {
            Some(value) => self.head.push((column, value)),
            None => {
                self.head_misfits.push(column);
                self.misfit(plan, Some(column), source, json);
            }
        }
        value.is_some()
    }

    /// Ends the row of `rows` whose other values `row` found in the payload `text`; returns its `event_time`, if it has
    /// one of its own.
    pub fn add(
        &mut self,
        plan: &Plan,
        (row, rows): (&mut Row, &mut Rows),
        text: &str,
        origin: Origin<'_>,
    ) -> Option<i64> {
        self.row_count += 1;
        let mut event_us = self.head_event_us.or(origin.event_us);
        let mut rescued: Vec<(&str, Slot)> = Vec::new();
        for (column, value) in &self.head {
            rows.set(*column, *value, text, &self.arena);
        }
        for (column, level) in &plan.indexes {
            if let Some(index) = origin.indexes.get(usize::from(*level).wrapping_sub(1)) {
                rows.set(*column, Value::integer(*index), text, &self.arena);
            }
        }
        for at in &row.touched {
            let (source, slot) = (&plan.sources[*at as usize], row.slots[*at as usize]);
            if slot.kind == Kind::Null {
                continue;
            }
            let mut fits = true;
            if source.event_time {
                event_us = plan.event.fit(slot, text, &mut self.arena).and_then(micros);
                fits &= event_us.is_some() || self.misfit(plan, None, source, slot.raw(text));
            } else if source.unknown {
                row.unknown.push((source.text.clone(), slot));
            }
            for (column, form) in &source.columns {
                let value = form.fit(slot, text, &mut self.arena);
                self.met[*column as usize] = (self.row_count, value.is_some());
                match value {
                    Some(value) => rows.set(*column, value, text, &self.arena),
                    None => fits = self.misfit(plan, Some(*column), source, slot.raw(text)),
                }
            }
            if !fits {
                rescued.push((&source.text, slot));
                if !source.columns.is_empty() {
                    self.misfits.push((*at, slot));
                }
            }
        }
        for (node, slot) in &row.unfit {
            let path = plan.trie.text(*node);
            if plan.strict && self.refusal.is_none() {
                let message = format!("`{path}` cannot be pivoted: {}", sample(slot.raw(text)));
                self.refusal = Some(Fault { reason: Reason::Misfit, message });
            }
            rescued.push((path, *slot));
        }
        self.add_defaults(plan, rows);
        self.check_required(plan);
        rescued.extend(row.unknown.iter().map(|(path, slot)| (path.as_str(), *slot)));
        rescued.sort_by_key(|(_, slot)| slot.start());
        if !row.unfit.is_empty() {
            keep_last(&mut rescued);
        }
        let rescued = self.write_rescued(&rescued, text);
        self.unknown.append(&mut row.unknown);
        let shown_us = event_us.unwrap_or(self.timestamp_us);
        rows.end_row(Fixed {
            event_us: shown_us,
            offset: self.offset,
            row: origin.row,
            timestamp_us: self.timestamp_us,
            rescued: match rescued.map(Value::get) {
                Some(Held::Text(range)) => Some(&self.arena.text[range]),
                _ => None,
            },
            day: time::day(shown_us, self.timestamp_us, plan.zone),
        });
        event_us
    }

    /// Notes that a value does not fit a column (`None`: `event_time`); returns false, for "does not fit".
    fn misfit(&mut self, plan: &Plan, column: Option<u32>, source: &Source, json: &str) -> bool {
        let column = column.map(|at| (at as usize, &plan.version.columns[at as usize]));
        let required = column.is_some_and(|(at, _)| plan.required.contains(&(at as u32)));
        if self.refusal.is_none() && (required || plan.strict) {
            let (name, kind) = match column {
                Some((_, column)) => (column.logical(), column.kind.word()),
                None => ("event_time", "timestamp"),
            };
            let key = column.is_some_and(|(at, _)| at < plan.version.keys);
            let reason = if key { Reason::KeyMisfit } else { Reason::Misfit };
            let message = format!("`{}` does not fit column `{name}` ({kind}): {}", source.text, sample(json));
            self.refusal = Some(Fault { reason, message });
        }
        false
    }

    /// Gives the row the defaults of columns for which it has no value, not even one that does not fit.
    fn add_defaults(&mut self, plan: &Plan, rows: &mut Rows) {
        for (column, form, text) in &plan.defaults {
            let in_row = self.met[*column as usize].0 == self.row_count;
            let met = in_row || self.is_in_head(*column) || self.head_misfits.contains(column);
            if !met && let Some(value) = form.fit_text(text, &mut self.arena) {
                self.met[*column as usize] = (self.row_count, true);
                rows.set(*column, value, text, &self.arena);
            }
        }
    }

    fn check_required(&mut self, plan: &Plan) {
        if self.refusal.is_some() {
            return;
        }
        for at in &plan.required {
            if self.met[*at as usize] == (self.row_count, true) || self.is_in_head(*at) {
                continue;
            }
            let at = *at as usize;
            if self.keyless {
                continue;
            }
            let column = &plan.version.columns[at];
            let path = if column.path.is_unresolved() { &column.name } else { &column.path.to_string() };
            let (reason, what) = if at < plan.version.keys {
                (Reason::KeyMissing, "key column")
            } else {
                (Reason::ValueMissing, "column")
            };
            let message = format!("{what} `{}` has no value: `{path}` is missing or null", column.name);
            self.refusal = Some(Fault { reason, message });
            return;
        }
    }

    fn is_in_head(&self, column: u32) -> bool {
        self.head.iter().any(|(other, _)| *other == column)
    }

    /// Writes the JSON object of `_rescued`, in the order of the message.
    fn write_rescued(&mut self, values: &[(&str, Slot)], text: &str) -> Option<Value> {
        if values.is_empty() && self.head_rescued.is_empty() {
            return None;
        }
        self.rescued += (values.len() + self.head_rescued.len()) as u64;
        let head = &self.head_rescued;
        Some(self.arena.write(|arena| {
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
}

/// The microseconds of a timestamp's value.
fn micros(value: Value) -> Option<i64> {
    match value.get() {
        Held::Integer(us) => Some(us),
        _ => None,
    }
}

/// Leaves one value per path.
fn keep_last(values: &mut Vec<(&str, Slot)>) {
    let mut later = HashSet::new();
    values.reverse();
    values.retain(|(path, _)| later.insert(*path));
    values.reverse();
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
