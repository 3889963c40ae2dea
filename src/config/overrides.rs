//! The layers above the files: `MILLPOND__SECTION__KEY` variables and `--set section.key=value`.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::{
    problem::{Complaint, Problem, Problems},
    tree::{Entry, Node, Place, Table, Value},
};

/// How problems of variables begin.
pub(super) const VARIABLE: &str = "environment variable";
const PREFIX: &str = "MILLPOND__";

/// The layer of the environment, and the layer of `--set` arguments.
pub(super) fn layers(vars: &BTreeMap<String, String>, sets: &[String], problems: &mut Problems) -> [Table; 2] {
    let mut environment = Table::default();
    for (name, value) in vars.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let file = format!("{VARIABLE} {name}");
        let path: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        if path.iter().any(String::is_empty) {
            problems.push(Problem::of_file(file, "names no key").hint("such as MILLPOND__KAFKA__BROKERS"));
            continue;
        }
        environment.overlay(nest(path, value, &file));
    }
    let mut arguments = Table::default();
    for set in sets {
        let file = format!("--set {}", set.split('=').next().unwrap_or(set));
        let parsed = set.split_once('=').and_then(|(key, value)| Some((key_path(key)?, value)));
        match parsed {
            Some((path, value)) => arguments.overlay(nest(path, value, &file)),
            None => problems.push(Place::whole(&file).problem(
                "",
                Complaint::new("is not section.key=value").hint("such as --set kafka.brokers=127.0.0.1:9092"),
            )),
        }
    }
    [environment, arguments]
}

/// The parts of a dotted key, by TOML's own rules.
fn key_path(key: &str) -> Option<Vec<String>> {
    if key.contains(['\n', '\r']) {
        return None;
    }
    let line = format!("{key} = 0");
    let mut table = DeTable::parse(&line).ok()?.into_inner();
    let mut path = Vec::new();
    loop {
        let mut entries = table.into_iter();
        let (Some((key, value)), None) = (entries.next(), entries.next()) else { return None };
        path.push(key.into_inner().into_owned());
        match value.into_inner() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(path),
        }
    }
}

fn nest(path: Vec<String>, value: &str, file: &str) -> Table {
    let place = Place::whole(file);
    let text = Value::Text { text: value.to_owned(), written: value.to_owned() };
    let leaf = Node { place: place.clone(), value: text };
    let node = path.into_iter().rev().fold(leaf, |node, key| {
        let entry = Entry { key, place: place.clone(), node };
        Node { place: place.clone(), value: Value::Table(Table { entries: vec![entry] }) }
    });
    match node.value {
        Value::Table(table) => table,
        _ => Table::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::key_path;

    #[test]
    fn keys_are_dotted_keys_of_toml() {
        for (key, expected) in [
            ("kafka.brokers", Some(vec!["kafka", "brokers"])),
            (" kafka . brokers ", Some(vec!["kafka", "brokers"])),
            ("kafka.properties.\"security.protocol\"", Some(vec!["kafka", "properties", "security.protocol"])),
            ("", None),
            ("kafka..brokers", None),
            ("[kafka]\nbrokers", None),
            ("a = 1\nb", None),
        ] {
            let expected: Option<Vec<String>> = expected.map(|path| path.into_iter().map(str::to_owned).collect());
            assert_eq!(key_path(key), expected, "{key}");
        }
    }
}
