//! TOML as a tree in which each key and value knows where it was written, and in which a later layer
//! (overlay file, environment, `--set`) replaces values of an earlier one.

use std::sync::Arc;

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    interpolate::Interpolation,
    problem::{Complaint, Problem, Problems},
};

/// Where something was written.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// A TOML value. Numbers keep their text: nothing here computes with them.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// `written` is the text before `${…}` was replaced; messages quote it, so that they never show a secret.
    Text {
        text: String,
        written: String,
    },
    Number(String),
    Boolean(bool),
    Datetime(String),
    List(Vec<Node>),
    Table(Table),
    /// A text with something wrong inside `${…}`; a later layer may still replace it.
    Broken(Vec<Complaint>),
}

/// Entries in file order, keys unique.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub entries: Vec<Entry>,
}

/// `key = value` or `[key]`.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

impl Place {
    /// The whole of `file`.
    pub fn whole(file: &str) -> Self {
        Self { file: file.into(), line: 0, column: 0 }
    }

    pub fn problem(&self, key: impl Into<String>, complaint: impl Into<Complaint>) -> Problem {
        let Complaint { message, hint } = complaint.into();
        let Self { file, line, column } = self;
        Problem { file: file.to_string(), line: *line, column: *column, key: key.into(), message, hint }
    }
}

impl Value {
    /// What it is, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text { .. } => "a text",
            Self::Number(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::Datetime(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Broken(_) => "broken",
        }
    }
}

impl Node {
    fn report_broken(&self, key: &str, problems: &mut Problems) {
        match &self.value {
            Value::Broken(complaints) => {
                for complaint in complaints {
                    problems.push(self.place.problem(key, complaint.clone()));
                }
            }
            Value::List(items) => items.iter().for_each(|item| item.report_broken(key, problems)),
            Value::Table(table) => table.report_broken(key, problems),
            Value::Text { .. } | Value::Number(_) | Value::Boolean(_) | Value::Datetime(_) => {}
        }
    }
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The text under `key`, if it is one.
    pub fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.node.value {
            Value::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    fn get_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.key == key)
    }

    /// Lays `over` on top: its values win, tables are merged.
    pub fn overlay(&mut self, over: Table) {
        for entry in over.entries {
            match self.get_mut(&entry.key) {
                Some(Entry { node: Node { value: Value::Table(under), .. }, place, .. })
                    if matches!(entry.node.value, Value::Table(_)) =>
                {
                    *place = entry.place;
                    if let Value::Table(over) = entry.node.value {
                        under.overlay(over);
                    }
                }
                Some(under) => *under = entry,
                None => self.entries.push(entry),
            }
        }
    }

    /// Makes one level of the table at `path`: `security.protocol = …` becomes `"security.protocol" = …`.
    pub fn flatten(&mut self, path: &[&str]) {
        if let [first, rest @ ..] = path {
            if let Some(Entry { node: Node { value: Value::Table(inner), .. }, .. }) = self.get_mut(first) {
                inner.flatten(rest);
            }
            return;
        }
        for entry in std::mem::take(&mut self.entries) {
            match entry.node.value {
                Value::Table(mut inner) => {
                    inner.flatten(&[]);
                    let joined =
                        inner.entries.into_iter().map(|e| Entry { key: format!("{}.{}", entry.key, e.key), ..e });
                    self.entries.extend(joined);
                }
                _ => self.entries.push(entry),
            }
        }
    }

    /// Reports what is wrong inside `${…}`.
    pub fn report_broken(&self, prefix: &str, problems: &mut Problems) {
        for entry in &self.entries {
            entry.node.report_broken(&join(prefix, &entry.key), problems);
        }
    }

    /// Parses `source`. Syntax errors are pushed to `problems`, and then there is no table.
    pub fn parse(
        file: &str,
        source: &str,
        interpolation: Option<&Interpolation>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let lines = Lines::new(file, source);
        let (document, errors) = DeTable::parse_recoverable(source);
        let mut last_line = 0;
        for error in &errors {
            let place = lines.place(error.span().map_or(source.len(), |span| span.start));
            // The parser's recovery may stumble again over what it just complained of.
            if place.line != last_line {
                let problem = place.problem("", Complaint::new(format!("not valid TOML: {}", error.message())));
                last_line = problem.line;
                problems.push(problem);
            }
        }
        if !errors.is_empty() {
            return None;
        }
        let reader = Reader { lines, interpolation };
        Some(reader.table(document.into_inner()))
    }
}

/// What a file's text is not, at the place where that is.
pub fn not_toml(file: &str, source: &str, error: &toml::de::Error) -> Problem {
    let place = error.span().map_or_else(|| Place::whole(file), |span| Lines::new(file, source).place(span.start));
    place.problem("", Complaint::new(error.message()))
}

/// Turns byte offsets into places.
struct Lines<'a> {
    file: Arc<str>,
    source: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(file: &str, source: &'a str) -> Self {
        let starts = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.into(), source, starts }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = self.source.get(start..offset).map_or(0, |text| text.chars().count()) + 1;
        Place { file: self.file.clone(), line, column }
    }
}

struct Reader<'a> {
    lines: Lines<'a>,
    interpolation: Option<&'a Interpolation<'a>>,
}

impl Reader<'_> {
    fn table(&self, table: DeTable<'_>) -> Table {
        let entry = |(key, value): (Spanned<DeString<'_>>, Spanned<DeValue<'_>>)| {
            let place = self.lines.place(key.span().start);
            // The span of a `[header]`'s table is the header's: the key's place says more.
            let at = if value.get_ref().is_table() { place.clone() } else { self.lines.place(value.span().start) };
            Entry { key: key.into_inner().into_owned(), place, node: self.node(value.into_inner(), at) }
        };
        Table { entries: table.into_iter().map(entry).collect() }
    }

    fn node(&self, value: DeValue<'_>, place: Place) -> Node {
        let value = match value {
            DeValue::String(text) => self.text(text.into_owned()),
            DeValue::Integer(n) => {
                let number = i64::from_str_radix(n.as_str(), n.radix());
                Value::Number(number.map_or_else(|_| n.to_string(), |number| number.to_string()))
            }
            DeValue::Float(n) => Value::Number(n.as_str().to_owned()),
            DeValue::Boolean(b) => Value::Boolean(b),
            DeValue::Datetime(d) => Value::Datetime(d.to_string()),
            DeValue::Array(items) => {
                let item = |item: &Spanned<DeValue<'_>>| {
                    self.node(item.get_ref().clone(), self.lines.place(item.span().start))
                };
                Value::List(items.iter().map(item).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node { place, value }
    }

    fn text(&self, written: String) -> Value {
        match self.interpolation.map(|interpolation| interpolation.apply(&written)) {
            None => Value::Text { text: written.clone(), written },
            Some(Ok(text)) => Value::Text { text, written },
            Some(Err(complaints)) => Value::Broken(complaints),
        }
    }
}

/// `prefix.key`, quoted like TOML if `key` is not a bare key.
pub(super) fn join(prefix: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let dot = if prefix.is_empty() { "" } else { "." };
    if bare { format!("{prefix}{dot}{key}") } else { format!("{prefix}{dot}\"{key}\"") }
}
