//! `schemas/<table>.toml` with `kind = "latest"` into [`schema::Latest`](crate::schema::Latest).

use std::cell::RefCell;

use super::{
    names,
    problem::{Complaint, Problems},
    section::Section,
    tree::Table,
    words::latest,
};
use crate::schema::{Cardinality, Contract, Latest, LatestSource, Merge, OnDelete};

/// Reads the latest table `table`, whose sources are among `contracts`. `None` only if problems were reported.
pub(super) fn read(
    tree: &Table,
    table: &str,
    file: &str,
    contracts: &[Contract],
    problems: &RefCell<Problems>,
) -> Option<Latest> {
    let root = Section::root(tree, file, &latest::ROOT, problems);
    root.require("key", "the columns that tell one row from another, such as [\"car_id\"]");
    root.require("sources", "the tables that rows are merged from, such as [sources.carinfo]");
    let key = key(&root);
    let sources = sources(&root, &key, contracts);
    let derived = derived(&root);
    if key.is_empty() || sources.is_empty() {
        return None;
    }
    taken_twice(&root, &sources);
    Some(Latest { table: table.to_owned(), key, sources, derived })
}

/// `key`: names of columns.
pub(super) fn key(root: &Section) -> Vec<String> {
    let mut key: Vec<String> = Vec::new();
    let items = root.has("key").then(|| root.list("key")).flatten();
    let is_empty = items.as_ref().is_some_and(Vec::is_empty);
    for item in items.unwrap_or_default() {
        match names::column(item.text) {
            Ok(()) if key.iter().any(|other| other == item.text) => {
                root.report(item.place, "key", Complaint::new(format!("`{}` is given twice", item.text)));
            }
            Ok(()) => key.push(item.text.to_owned()),
            Err(complaint) => root.report(item.place, "key", complaint),
        }
    }
    if is_empty {
        root.complain("key", Complaint::new("is empty"));
    }
    key
}

fn sources(root: &Section, key: &[String], contracts: &[Contract]) -> Vec<LatestSource> {
    let Some(section) = root.has("sources").then(|| root.table("sources")).flatten() else { return Vec::new() };
    if section.table.entries.is_empty() {
        root.complain("sources", Complaint::new("is empty"));
    }
    let mut sources = Vec::new();
    for entry in &section.table.entries {
        let Some(source) = section.section(&entry.key, &latest::SOURCE) else { continue };
        let Some(contract) = contracts.iter().find(|contract| contract.file == entry.key) else {
            let names: Vec<&str> = contracts.iter().map(|contract| contract.file.as_str()).collect();
            let complaint = Complaint::new(format!("`{}` is no mirror or events table of this project", entry.key));
            section.report(&entry.place, &entry.key, complaint.hint(format!("there are: {}", names.join(", "))));
            continue;
        };
        sources.extend(read_source(&source, &entry.key, key, contract));
    }
    sources
}

fn read_source(section: &Section, table: &str, key: &[String], contract: &Contract) -> Option<LatestSource> {
    let is_mirror = contract.format.is_change();
    let merges = [("row", Merge::Row), ("last_non_null", Merge::LastNonNull)];
    let merge = section.has("merge").then(|| section.choice("merge", &merges, &[])).flatten();
    if is_mirror && merge == Some(Merge::LastNonNull) {
        let complaint = Complaint::new("a database's row is told as a whole, and null is a value of it");
        section.complain("merge", complaint.hint("leave `merge` out"));
    }
    let deletes =
        [("drop_row", OnDelete::DropRow), ("null_columns", OnDelete::NullColumns), ("ignore", OnDelete::Ignore)];
    let on_delete = section.has("on_delete").then(|| section.choice("on_delete", &deletes, &[])).flatten();
    if !is_mirror && section.has("on_delete") {
        section.complain("on_delete", Complaint::new("events delete nothing").hint("only a mirror has it"));
    }
    let own_key = source_key(section, key)?;
    if is_mirror && on_delete == Some(OnDelete::DropRow) && !same_columns(&own_key, &contract.key) {
        let complaint = Complaint::new(format!("a row of {table} is not the only one of its kind: its key is another"));
        section.complain("on_delete", complaint.hint("on_delete = \"null_columns\""));
    }
    let cardinality = cardinality(section, table, is_mirror && !same_columns(&own_key, &contract.key));
    Some(LatestSource {
        table: table.to_owned(),
        key: own_key,
        prefix: section.read("prefix", prefix).unwrap_or_default(),
        columns: columns(section),
        merge: merge.unwrap_or(Merge::Row),
        on_delete: on_delete.unwrap_or(OnDelete::NullColumns),
        cardinality,
    })
}

/// `has_several`: rows of another key name the table's.
fn cardinality(section: &Section, table: &str, has_several: bool) -> Cardinality {
    let words = [("one", Cardinality::One), ("list", Cardinality::List)];
    let cardinality = section.has("cardinality").then(|| section.choice("cardinality", &words, &[])).flatten();
    if cardinality == Some(Cardinality::List) && !has_several {
        let complaint = Complaint::new(format!("{table} has one row for each key of this table"));
        section.complain("cardinality", complaint.hint("only a mirror whose key is another can have several"));
    }
    cardinality.unwrap_or(Cardinality::One)
}

fn same_columns(a: &[String], b: &[String]) -> bool {
    a.len() == b.len() && a.iter().all(|name| b.contains(name))
}

/// `key = { mine = "theirs" }`; columns that it does not name have the same name there.
fn source_key(section: &Section, key: &[String]) -> Option<Vec<String>> {
    let Some(renamed) = section.has("key").then(|| section.table("key")).flatten() else {
        return (!section.has("key")).then(|| key.to_vec());
    };
    for entry in renamed.table.entries.iter().filter(|entry| !key.contains(&entry.key)) {
        let complaint = Complaint::new(format!("`{}` is no key column of this table", entry.key));
        renamed.report(&entry.place, &entry.key, complaint.hint(format!("there are: {}", key.join(", "))));
    }
    let theirs = |mine: &String| {
        let named = renamed.has(mine).then(|| renamed.read(mine, |text| Ok::<_, Complaint>(text.to_owned()))).flatten();
        named.unwrap_or_else(|| mine.clone())
    };
    Some(key.iter().map(theirs).collect())
}

fn prefix(text: &str) -> Result<String, Complaint> {
    let legal = |c: char| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(legal) || text.contains("__") {
        return Err(Complaint::new(format!("`{text}` cannot begin a column's name")).hint("such as \"device_\""));
    }
    Ok(text.to_owned())
}

fn columns(section: &Section) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for item in section.has("columns").then(|| section.list("columns")).flatten().unwrap_or_default() {
        if columns.iter().any(|other| other == item.text) {
            section.report(item.place, "columns", Complaint::new(format!("`{}` is given twice", item.text)));
        } else {
            columns.push(item.text.to_owned());
        }
    }
    columns
}

/// Complains of columns that two sources name under one name.
fn taken_twice(root: &Section, sources: &[LatestSource]) {
    let named = |source: &LatestSource| -> Vec<String> {
        let own = source.list_column().map_or_else(|| source.columns.clone(), |list| vec![list]);
        own.iter().map(|column| format!("{}{column}", source.prefix)).collect()
    };
    for (at, source) in sources.iter().enumerate() {
        for other in &sources[at + 1..] {
            let twice = named(other).into_iter().find(|column| named(source).contains(column));
            if let Some(column) = twice {
                let (a, b) = (&source.table, &other.table);
                let complaint = Complaint::new(format!("`{column}` would come from {a} and from {b}"));
                root.complain("sources", complaint.hint("give one of them a `prefix`, or other `columns`"));
            }
            // Which columns a table has is known only when it is fed.
            let may_have_any = |source: &LatestSource| source.columns.is_empty() && source.list_column().is_none();
            if may_have_any(source) && may_have_any(other) && source.prefix == other.prefix {
                let (a, b) = (&source.table, &other.table);
                let complaint = Complaint::new(format!("{a} and {b} may have columns of the same name"));
                root.complain(
                    "sources",
                    complaint.hint("give one of them a `prefix`, or say which `columns` are taken"),
                );
            }
        }
    }
}

fn derived(root: &Section) -> Vec<(String, String)> {
    let Some(section) = root.has("columns").then(|| root.table("columns")).flatten() else { return Vec::new() };
    let mut derived = Vec::new();
    for entry in &section.table.entries {
        if let Err(complaint) = names::column(&entry.key) {
            section.report(&entry.place, &entry.key, complaint);
            continue;
        }
        let Some(column) = section.section(&entry.key, &latest::COLUMN) else { continue };
        column.require("sql", "what it is made of, such as \"NOT (door_fl_open OR door_fr_open)\"");
        let sql = column.read("sql", |text| Ok::<_, Complaint>(text.to_owned()));
        derived.extend(sql.map(|sql| (entry.key.clone(), sql)));
    }
    derived
}
