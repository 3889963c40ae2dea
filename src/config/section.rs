//! Reads one table of a file: what is missing, unknown or wrong becomes a problem with its place.

use std::cell::RefCell;

use super::{
    nearest::nearest,
    problem::{Complaint, Problems},
    tree::{Node, Place, Table, Value, join},
    words::Words,
};

/// A table being read. Each reader returns `None` if the key is absent, or if it is wrong and was reported.
pub(super) struct Section<'a> {
    pub table: &'a Table,
    place: Place,
    prefix: String,
    problems: &'a RefCell<Problems>,
}

/// A text of a list.
pub(super) struct Item<'a> {
    pub text: &'a str,
    pub place: &'a Place,
}

impl<'a> Section<'a> {
    /// The top of a file, before it is known what it may hold.
    pub fn peek(table: &'a Table, file: &str, problems: &'a RefCell<Problems>) -> Self {
        Self { table, place: Place { line: 1, column: 1, ..Place::whole(file) }, prefix: String::new(), problems }
    }

    /// The top of a file. Reports the keys that are not in `words`.
    pub fn root(table: &'a Table, file: &str, words: &Words, problems: &'a RefCell<Problems>) -> Self {
        let section = Self::peek(table, file, problems);
        section.refuse_unknown(words);
        section
    }

    /// The table `key`. Reports the keys that are not in `words`.
    pub fn section(&self, key: &str, words: &Words) -> Option<Self> {
        let section = self.table(key)?;
        section.refuse_unknown(words);
        Some(section)
    }

    /// The table `key`, whatever its keys are.
    pub fn table(&self, key: &str) -> Option<Self> {
        let node = self.node(key)?;
        match &node.value {
            Value::Table(table) => Some(Self {
                table,
                place: self.table.get(key).map_or_else(|| node.place.clone(), |entry| entry.place.clone()),
                prefix: self.full(key),
                problems: self.problems,
            }),
            other => {
                self.report(&node.place, key, Complaint::new(format!("expected a table, found {}", other.name())));
                None
            }
        }
    }

    /// The value of `key`; `None` if it is broken, too.
    pub fn node(&self, key: &str) -> Option<&'a Node> {
        self.table.get(key).map(|entry| &entry.node).filter(|node| !matches!(node.value, Value::Broken(_)))
    }

    /// The keys of the table `key`.
    pub fn names(&self, key: &str) -> Vec<&'a str> {
        match self.node(key).map(|node| &node.value) {
            Some(Value::Table(table)) => table.entries.iter().map(|entry| entry.key.as_str()).collect(),
            Some(_) | None => Vec::new(),
        }
    }

    /// True if the file says anything about `key`.
    pub fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    /// The text of `key`, parsed.
    pub fn read<T, E: Into<Complaint>>(&self, key: &str, parse: impl FnOnce(&'a str) -> Result<T, E>) -> Option<T> {
        let node = self.node(key)?;
        let Value::Text { text, written } = &node.value else {
            self.report(&node.place, key, Complaint::new(format!("expected a text, found {}", node.value.name())));
            return None;
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(complaint) => {
                let Complaint { message, hint } = complaint.into();
                let hide = |words: String| {
                    if text == written || text.is_empty() { words } else { words.replace(text.as_str(), written) }
                };
                self.report(&node.place, key, Complaint { message: hide(message), hint: hint.map(hide) });
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        let node = self.node(key)?;
        if let Value::Boolean(value) = node.value {
            return Some(value);
        }
        self.report(&node.place, key, Complaint::new(format!("expected true or false, found {}", node.value.name())));
        None
    }

    /// A text, or a number or boolean as JSON writes it.
    pub fn scalar(&self, key: &str) -> Option<String> {
        let node = self.node(key)?;
        let scalar = scalar(&node.value);
        if scalar.is_none() {
            let found = node.value.name();
            self.report(&node.place, key, Complaint::new(format!("expected a text, number or boolean, found {found}")));
        }
        scalar
    }

    /// A text, number or boolean, parsed.
    pub fn read_scalar<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        parse(&self.scalar(key)?).map_err(|complaint| self.complain(key, complaint)).ok()
    }

    /// One or several of what [`Self::scalar`] reads, at least one.
    pub fn scalars(&self, key: &str) -> Option<Vec<String>> {
        let node = self.node(key)?;
        let Value::List(items) = &node.value else { return self.scalar(key).map(|value| vec![value]) };
        let values: Option<Vec<String>> = items.iter().map(|item| scalar(&item.value)).collect();
        let values = values.filter(|values| !values.is_empty());
        if values.is_none() {
            self.report(&node.place, key, Complaint::new("expected a list of texts, numbers and booleans"));
        }
        values
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)], later: &[&str]) -> Option<T> {
        self.read(key, |text| choose(text, choices, later))
    }

    /// The texts of a list.
    pub fn list(&self, key: &str) -> Option<Vec<Item<'a>>> {
        let node = self.node(key)?;
        let Value::List(items) = &node.value else {
            self.report(&node.place, key, Complaint::new(format!("expected a list, found {}", node.value.name())));
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::Text { text, .. } => texts.push(Item { text, place: &item.place }),
                Value::Broken(_) => return None,
                other => {
                    self.report(&item.place, key, Complaint::new(format!("expected a text, found {}", other.name())));
                    return None;
                }
            }
        }
        Some(texts)
    }

    /// The texts of a list, or the only one.
    pub fn list_or_one(&self, key: &str) -> Option<Vec<Item<'a>>> {
        let node = self.node(key)?;
        match &node.value {
            Value::Text { text, .. } => Some(vec![Item { text, place: &node.place }]),
            _ => self.list(key),
        }
    }

    /// The tables of a list (`[[key]]`). Reports the keys that are not in `words`.
    pub fn tables(&self, key: &str, words: &Words) -> Option<Vec<Self>> {
        let node = self.node(key)?;
        let wrong = |place: &Place, found: &Value| {
            let complaint = Complaint::new(format!("expected [[{key}]], found {}", found.name()));
            self.report(place, key, complaint);
        };
        let Value::List(items) = &node.value else {
            wrong(&node.place, &node.value);
            return None;
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            let Value::Table(table) = &item.value else {
                wrong(&item.place, &item.value);
                return None;
            };
            let section = Self { table, place: item.place.clone(), prefix: self.full(key), problems: self.problems };
            section.refuse_unknown(words);
            tables.push(section);
        }
        Some(tables)
    }

    /// Reports `key` as missing if it is.
    pub fn require(&self, key: &str, hint: &str) {
        if !self.has(key) {
            self.report(&self.place, key, Complaint::new("is missing").hint(hint));
        }
    }

    /// Reports a problem of the value of `key`.
    pub fn complain(&self, key: &str, complaint: impl Into<Complaint>) {
        let place = self.table.get(key).map_or(&self.place, |entry| &entry.node.place);
        self.report(place, key, complaint);
    }

    /// Reports a problem of `key` that stands at `place`.
    pub fn report(&self, place: &Place, key: &str, complaint: impl Into<Complaint>) {
        self.problems.borrow_mut().push(place.problem(self.full(key), complaint));
    }

    fn full(&self, key: &str) -> String {
        join(&self.prefix, key)
    }

    fn refuse_unknown(&self, words: &Words) {
        for entry in &self.table.entries {
            let key = entry.key.as_str();
            if words.later.contains(&key) {
                self.report(&entry.place, key, Complaint::later(key));
            } else if !words.keys.contains(&key) {
                self.report(&entry.place, key, Complaint::new("unknown key").hint(meant(key, words.keys)));
            }
        }
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Text { text, .. } | Value::Number(text) => Some(text.clone()),
        Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Finds `text` among `choices`; words of `later` are refused by name.
pub(super) fn choose<T: Copy>(text: &str, choices: &[(&str, T)], later: &[&str]) -> Result<T, Complaint> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    if later.contains(&text) {
        return Err(Complaint::later(text));
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    Err(Complaint::new(format!("`{text}` is not known here")).hint(meant(text, &words)))
}

/// The hint for an unknown word.
pub(super) fn meant(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}
