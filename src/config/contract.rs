//! `schemas/<table>.toml` into [`schema::Contract`](crate::schema::Contract).

use std::cell::RefCell;

use chrono::DateTime;
use chrono_tz::Tz;

use super::{
    names,
    problem::{Complaint, Problems},
    section::Section,
    settings::commit_interval,
    tree::{Place, Table, Value},
    words::events,
};
use crate::{
    decode::check_time_format,
    schema::{
        ColumnContract, ColumnType, Contract, EventTime, OnNewField, OnTypeConflict, Path, Start, TimeFormat,
        derive_name,
    },
};

const TIME_FORMATS: &str = "rfc3339, unix_s, unix_ms, unix_us, or a pattern such as \"yyyy-MM-dd HH:mm:ss\"";
const TYPES: [(&str, ColumnType); 7] = [
    ("boolean", ColumnType::Boolean),
    ("bigint", ColumnType::Int64),
    ("double", ColumnType::Double),
    ("string", ColumnType::String),
    ("json", ColumnType::Json),
    ("timestamp", ColumnType::Timestamp),
    ("date", ColumnType::Date),
];

/// Reads the contract of table `table`, defaults below it already. `None` only if problems were reported.
pub(super) fn read(
    tree: &Table,
    table: &str,
    file: &str,
    timezone: Tz,
    problems: &RefCell<Problems>,
) -> Option<Contract> {
    // A file of another kind has other keys: one problem says it all.
    let kind = Section::peek(tree, file, problems);
    kind.require("kind", "kind = \"events\"");
    kind.choice("kind", &[("events", ())], events::KINDS_LATER)?;

    let root = Section::root(tree, file, &events::ROOT, problems);
    root.choice("format", &[("json", ())], events::FORMATS_LATER);
    let topics = topics(&root);
    let start = start(&root);
    let time = root.section("time", &events::TIME).and_then(|section| event_time(&section));
    let strip = root.read("strip", strip).unwrap_or_default();
    let new_field = [("add", OnNewField::Add), ("rescue", OnNewField::Rescue)];
    let on_new_field = root.choice("on_new_field", &new_field, &[]);
    let conflict = [
        ("widen", OnTypeConflict::Widen),
        ("rescue", OnTypeConflict::Rescue),
        ("string", OnTypeConflict::String),
        ("dead_letter", OnTypeConflict::DeadLetter),
    ];
    let on_type_conflict = root.choice("on_type_conflict", &conflict, &[]);
    let commit_interval = root.read("commit_interval", commit_interval);
    let columns = columns(&root);
    let key = key(&root, &columns, &strip);
    Some(Contract {
        table: table.to_owned(),
        topics: topics?,
        start: start?,
        key,
        time,
        strip,
        on_new_field: on_new_field?,
        on_type_conflict: on_type_conflict?,
        columns,
        commit_interval,
        timezone,
    })
}

fn topics(root: &Section) -> Option<Vec<String>> {
    if root.has("topic") && root.has("topics") {
        root.complain("topics", Complaint::new("`topic` is given already").hint("put all topics into `topics`"));
        return None;
    }
    if !root.has("topics") {
        // A later word for the same thing was refused by name already.
        if !root.has("topic_pattern") {
            root.require("topic", "topic = \"…\" names the Kafka topic that feeds the table, topics = […] several");
        }
        return root.read("topic", topic).map(|topic| vec![topic]);
    }
    let mut topics: Vec<String> = Vec::new();
    let mut all_fine = true;
    let items = root.list("topics")?;
    if items.is_empty() {
        root.complain("topics", Complaint::new("is empty"));
        return None;
    }
    for item in items {
        match topic(item.text) {
            Ok(topic) if topics.contains(&topic) => {
                root.report(item.place, "topics", Complaint::new(format!("`{topic}` is given twice")));
                all_fine = false;
            }
            Ok(topic) => topics.push(topic),
            Err(complaint) => {
                root.report(item.place, "topics", complaint);
                all_fine = false;
            }
        }
    }
    all_fine.then_some(topics)
}

fn topic(text: &str) -> Result<String, Complaint> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > 249 || !text.chars().all(legal) || matches!(text, "." | "..") {
        return Err(Complaint::new(format!("`{text}` is not a name Kafka allows"))
            .hint("up to 249 letters, digits, `.`, `_` and `-`"));
    }
    Ok(text.to_owned())
}

fn start(root: &Section) -> Option<Start> {
    let date = root.node("start").and_then(|node| match &node.value {
        Value::Datetime(date) => Some(date),
        _ => None,
    });
    match date {
        Some(date) => start_at(date).map_err(|complaint| root.complain("start", complaint)).ok(),
        None => root.read("start", |text| match text {
            "earliest" => Ok(Start::Earliest),
            "latest" => Ok(Start::Latest),
            other => start_at(other),
        }),
    }
}

fn start_at(text: &str) -> Result<Start, Complaint> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(at) if at.timestamp_millis() >= 0 => Ok(Start::At(at.timestamp_millis())),
        _ => Err(Complaint::new(format!("`{text}` is not a start"))
            .hint("\"earliest\", \"latest\" or a time with its offset such as \"2026-11-01T00:00:00+09:00\"")),
    }
}

fn event_time(section: &Section) -> Option<EventTime> {
    section.require("path", "where the time stands, such as \"reported_at\"");
    section.require("format", TIME_FORMATS);
    let path = section.read("path", path);
    let format = section.read("format", time_format);
    Some(EventTime { path: path?, format: format? })
}

fn time_format(text: &str) -> Result<TimeFormat, Complaint> {
    let format = TimeFormat::parse(text);
    check_time_format(&format)
        .map_err(|why| Complaint::new(format!("`{text}` is not a time format: {why}")).hint(TIME_FORMATS))?;
    Ok(format)
}

fn path(text: &str) -> Result<Path, Complaint> {
    match text.parse() {
        // To the schema room it is a column nobody has found yet.
        Ok(Path::Value(parts)) if parts.is_empty() => Err(Complaint::new("is empty")),
        Ok(path) => Ok(path),
        Err(why) => Err(Complaint::new(format!("`{text}`: {why}"))),
    }
}

fn strip(text: &str) -> Result<Vec<String>, Complaint> {
    match text.strip_suffix('.').unwrap_or(text).parse() {
        Ok(Path::Value(parts)) => Ok(parts),
        Ok(_) => Err(Complaint::new(format!("`{text}` is not inside the payload"))
            .hint("the start of paths that names leave out, such as \"vehicle.\"")),
        Err(why) => Err(Complaint::new(format!("`{text}`: {why}"))),
    }
}

/// The declared columns that are right.
fn columns(root: &Section) -> Vec<ColumnContract> {
    let Some(section) = root.has("columns").then(|| root.table("columns")).flatten() else { return Vec::new() };
    let mut columns: Vec<ColumnContract> = Vec::new();
    for entry in &section.table.entries {
        let name = entry.key.as_str();
        if let Err(complaint) = names::column(name) {
            section.report(&entry.place, name, complaint);
            continue;
        }
        let Some(column) = section.section(name, &events::COLUMN) else { continue };
        let path = column.read("path", path);
        let kind = column.choice("type", &TYPES, &[]);
        if !column.has("path") && !column.has("type") {
            section.report(&entry.place, name, Complaint::new("says nothing").hint("give it `path` or `type`"));
            continue;
        }
        let fits = match (&path, kind) {
            (Some(Path::Topic | Path::Header(_)), Some(ColumnType::Json)) => false,
            (Some(Path::Topic), Some(kind)) => kind == ColumnType::String,
            (Some(Path::Timestamp), Some(kind)) => matches!(kind, ColumnType::Timestamp | ColumnType::Date),
            _ => true,
        };
        if !fits {
            column.complain("type", Complaint::new("does not suit the path").hint("leave `type` out"));
        }
        if let (false, Err(complaint)) = (column.has("path"), names::found(name)) {
            section.report(&entry.place, name, complaint);
        }
        columns.push(ColumnContract { name: name.to_owned(), path, kind });
    }
    columns
}

fn key(root: &Section, columns: &[ColumnContract], strip: &[String]) -> Vec<String> {
    let mut key: Vec<String> = Vec::new();
    for item in root.has("key").then(|| root.list("key")).flatten().unwrap_or_default() {
        let refuse = |place: &Place, complaint: Complaint| root.report(place, "key", complaint);
        let name = item.text;
        let declared = columns.iter().find(|column| column.name == name);
        // The payload path that would give the column its name may have been given away.
        let gives_name = |path: &Path| matches!(path, Path::Value(parts) if derive_name(parts, strip) == name);
        let taken = columns.iter().find(|column| column.path.as_ref().is_some_and(gives_name));
        if let Err(complaint) = names::column(name) {
            refuse(item.place, complaint);
        } else if let (None, Err(complaint)) = (declared, names::found(name)) {
            refuse(item.place, complaint);
        } else if key.iter().any(|other| other == name) {
            refuse(item.place, Complaint::new(format!("`{name}` is given twice")));
        } else if declared.is_some_and(|column| column.kind == Some(ColumnType::Json)) {
            refuse(item.place, Complaint::new(format!("column `{name}` is JSON, which cannot be a key")));
        } else if let (None, Some(taken)) = (declared, taken) {
            refuse(
                item.place,
                Complaint::new(format!("there cannot be a column `{name}`: its path feeds column `{}`", taken.name))
                    .hint(format!("did you mean `{}`?", taken.name)),
            );
        } else {
            key.push(name.to_owned());
        }
    }
    key
}
