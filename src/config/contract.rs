//! `schemas/<table>.toml` into [`schema::Contract`](crate::schema::Contract).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use chrono::DateTime;
use chrono_tz::Tz;

use super::{
    names,
    problem::{Complaint, Problems},
    reference,
    section::Section,
    settings::{commit_interval, timezone as timezone_name},
    tree::{Place, Table, Value},
    units::Interval,
    words::{Words, events, mirror},
};
use crate::{
    decode::{Packing, check_time_format, is_value},
    schema::{
        ALLOWED_LATENESS, ArrayContract, ArrayShape, ColumnContract, ColumnType, Contract, Element, EventTime,
        FileFormat, Format, FullLoad, Match, OnNewField, OnTypeConflict, Path, PathError, Start, TimeFormat,
        derive_name,
    },
};

const TIME_FORMATS: &str = "rfc3339, unix_s, unix_ms, unix_us, or a pattern such as \"yyyy-MM-dd HH:mm:ss\"";
const EVENT_FORMATS: [(&str, Format); 3] =
    [("json", Format::Json), ("avro", Format::Avro), ("protobuf", Format::Protobuf)];
const CHANGE_FORMATS: [(&str, Format); 3] =
    [("debezium-json", Format::DebeziumJson), ("debezium-avro", Format::DebeziumAvro), ("dms-json", Format::DmsJson)];
/// How often it is looked for new files of a full load.
const LOAD_POLL: Duration = Duration::from_secs(10);
const SHORTEST_RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// The type of a column that a word of contracts means.
pub fn column_type(word: &str) -> Option<ColumnType> {
    TYPES.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind)
}

const TYPES: [(&str, ColumnType); 11] = [
    ("boolean", ColumnType::Boolean),
    ("bigint", ColumnType::Int64),
    ("double", ColumnType::Double),
    ("string", ColumnType::String),
    ("json", ColumnType::Json),
    ("timestamp", ColumnType::Timestamp),
    ("date", ColumnType::Date),
    ("boolean[]", ColumnType::List(Element::Boolean)),
    ("bigint[]", ColumnType::List(Element::Int64)),
    ("double[]", ColumnType::List(Element::Double)),
    ("string[]", ColumnType::List(Element::String)),
];

fn retention(text: &str) -> Result<Duration, Complaint> {
    let retention = text.parse::<Interval>()?.duration();
    if retention < SHORTEST_RETENTION {
        return Err(Complaint::new(format!("`{text}` is too short")).hint("at least 1d: rows go by whole days"));
    }
    Ok(retention)
}

/// `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Events,
    Mirror,
}

const KINDS: [(&str, Kind); 2] = [("events", Kind::Events), ("mirror", Kind::Mirror)];

/// Reads the contract of table `table` of the project in `dir`, defaults below it already; `registry` tells whether there is
/// one to ask for schemas. `None` only if problems were reported.
pub(super) fn read(
    tree: &Table,
    table: &str,
    file: &str,
    dir: &std::path::Path,
    timezone: Tz,
    registry: bool,
    problems: &RefCell<Problems>,
) -> Option<Contract> {
    // A file of another kind has other keys: one problem says it all.
    let kind = Section::peek(tree, file, problems);
    kind.require("kind", "kind = \"events\", or \"mirror\" for the changes of a database's table");
    let kind = kind.choice("kind", &KINDS, &[])?;

    let (words, column_words) = match kind {
        Kind::Events => (&events::ROOT, &events::COLUMN),
        Kind::Mirror => (&mirror::ROOT, &mirror::COLUMN),
    };
    let root = Section::root(tree, file, words, problems);
    let format = format(&root, kind);
    if !registry && format.is_some_and(Format::needs_registry) {
        let complaint = Complaint::new("needs a schema registry");
        root.complain("format", complaint.hint("set kafka.schema_registry.url in millpond.toml"));
    }
    let topics = topics(&root);
    let start = start(&root);
    let is_events = kind == Kind::Events;
    let time = is_events.then(|| root.section("time", &events::TIME)).flatten();
    let allowed_lateness = time.as_ref().filter(|section| section.has("allowed_lateness"));
    let allowed_lateness = allowed_lateness.and_then(|section| {
        let parse = |text: &str| Ok::<_, Complaint>(text.parse::<Interval>()?.duration());
        section.read("allowed_lateness", parse)
    });
    let time = time.and_then(|section| event_time(&section));
    let strip = is_events.then(|| root.read("strip", strip)).flatten().unwrap_or_default();
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
    let retention = is_events.then(|| root.read("retention", retention)).flatten();
    let load =
        if is_events { None } else { root.section("load", &mirror::LOAD).and_then(|section| load(&section, dir)) };
    let matches = matches(&root);
    let (columns, dropped) = columns(&root, column_words, timezone);
    let arrays = if is_events { arrays(&root) } else { Vec::new() };
    let key = key(&root, &columns, &strip);
    if !is_events && key.is_empty() && !root.has("key") {
        root.require("key", "the table's primary key, such as [\"id\"]");
    } else if !is_events && key.is_empty() {
        root.complain("key", Complaint::new("is empty").hint("the table's primary key, such as [\"id\"]"));
    }
    let contract = Contract {
        table: table.to_owned(),
        file: table.to_owned(),
        topics: topics?,
        format: format?,
        start: start?,
        key,
        time,
        strip,
        on_new_field: on_new_field?,
        on_type_conflict: on_type_conflict?,
        columns,
        dropped,
        arrays,
        matches,
        first_of: Vec::new(),
        infer_timestamps: root.boolean("infer_timestamps").unwrap_or(false),
        raw: root.boolean("raw").unwrap_or(false),
        load,
        commit_interval,
        retention,
        allowed_lateness: allowed_lateness.unwrap_or(ALLOWED_LATENESS),
        timezone,
    };
    let contract = if is_events { contract } else { contract.into_changes() };
    tables_of_its_own(&root, &contract);
    Some(contract)
}

/// `[load]`.
fn load(section: &Section, dir: &std::path::Path) -> Option<FullLoad> {
    section.require("url", "where the files are, such as \"s3://exports/carinfo/*.parquet\"");
    let url = section.read("url", |text| reference::url(text, dir))?;
    let format = section.has("format").then(|| section.choice("format", &reference::FORMATS, &[])).flatten();
    if !section.has("format") && FileFormat::of_name(Packing::of_name(&url).1).is_none() {
        let complaint = Complaint::new("does not say what is in the files");
        section.complain("url", complaint.hint("add format = \"csv\" (or \"json\", \"parquet\")"));
        return None;
    }
    let poll = if section.has("poll") { section.read("poll", reference::poll)? } else { LOAD_POLL };
    Some(FullLoad { url, format, poll })
}

/// `format`: events have others than changes.
fn format(root: &Section, kind: Kind) -> Option<Format> {
    let of_changes = "debezium-json, debezium-avro or dms-json";
    root.require("format", &format!("how the changes are written: {of_changes}"));
    let written = root.table.text("format");
    let (own, others, complaint) = match kind {
        Kind::Events => {
            (&EVENT_FORMATS, &CHANGE_FORMATS, Complaint::new("is of changes, not of events").hint("kind = \"mirror\""))
        }
        Kind::Mirror => (&CHANGE_FORMATS, &EVENT_FORMATS, Complaint::new("tells of no changes").hint(of_changes)),
    };
    if others.iter().any(|(word, _)| Some(*word) == written) {
        root.complain("format", complaint);
        return None;
    }
    root.choice("format", own, &[])
}

/// Complains of tables beside the main one that would have one name.
fn tables_of_its_own(root: &Section, contract: &Contract) {
    let mut names: BTreeSet<String> = contract.raw_table().into_iter().collect();
    for child in contract.family().into_iter().skip(1) {
        if !names.insert(child.table.clone()) {
            let complaint = Complaint::new(format!("two tables would be called `{}`", child.table));
            root.complain("arrays", complaint.hint("leave `raw` out, or make one of the arrays `json`"));
        }
    }
}

/// Says for each topic which table has the records that nobody can read as dead letters: a table that takes all
/// records has them in any case; if all tables have `match`, it is the first by name whose `match` looks inside.
pub(super) fn share_topics(tables: &mut [Contract]) {
    let takes_all =
        |topic: &String| tables.iter().any(|table| table.matches.is_empty() && table.topics.contains(topic));
    let mut taken: BTreeSet<String> =
        tables.iter().flat_map(|table| &table.topics).filter(|topic| takes_all(topic)).cloned().collect();
    tables.sort_by(|a, b| a.table.cmp(&b.table));
    for table in tables.iter_mut().filter(|table| table.matches.iter().any(|one| matches!(one.path, Path::Value(_)))) {
        table.first_of = table.topics.iter().filter(|topic| taken.insert((*topic).clone())).cloned().collect();
    }
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
        Ok(Path::Index(_)) => Err(Complaint::new(format!("`{text}`: {}", PathError::UnknownSource(text.to_owned())))),
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

fn matches(root: &Section) -> Vec<Match> {
    let Some(section) = root.has("match").then(|| root.table("match")).flatten() else { return Vec::new() };
    let mut matches = Vec::new();
    for entry in &section.table.entries {
        let values = section.scalars(&entry.key);
        match path(&entry.key) {
            Ok(Path::Timestamp) => section.report(&entry.place, &entry.key, Complaint::new("cannot be matched")),
            Ok(path) => matches.extend(values.map(|values| Match { path, values })),
            Err(complaint) => section.report(&entry.place, &entry.key, complaint),
        }
    }
    matches
}

/// The declared columns that are right, and the paths that are left out.
fn columns(root: &Section, words: &Words, timezone: Tz) -> (Vec<ColumnContract>, Vec<Vec<String>>) {
    let (mut columns, mut dropped) = (Vec::new(), Vec::new());
    let Some(section) = root.has("columns").then(|| root.table("columns")).flatten() else { return (columns, dropped) };
    for entry in &section.table.entries {
        let name = entry.key.as_str();
        if let Err(complaint) = names::column(name) {
            section.report(&entry.place, name, complaint);
            continue;
        }
        let Some(entry_section) = section.section(name, words) else { continue };
        if entry_section.table.entries.is_empty() {
            section.report(&entry.place, name, Complaint::new("says nothing").hint("give it `path` or `type`"));
        } else if entry_section.boolean("drop") == Some(true) {
            dropped.extend(drop_path(&entry_section));
        } else {
            if let (false, Err(complaint)) = (entry_section.has("path"), names::found(name)) {
                section.report(&entry.place, name, complaint);
            }
            columns.push(column(&entry_section, name, timezone));
        }
    }
    (columns, dropped)
}

fn column(section: &Section, name: &str, timezone: Tz) -> ColumnContract {
    let path = section.read("path", path);
    let format = section.read("format", time_format);
    let zone = section.read("zone", timezone_name);
    let written = section.choice("type", &TYPES, &[]);
    let of_timestamps = ["format", "zone"].into_iter().filter(|key| section.has(key));
    for key in of_timestamps.clone().filter(|_| written.is_some_and(|kind| kind != ColumnType::Timestamp)) {
        section.complain(key, Complaint::new("only a timestamp has it").hint("type = \"timestamp\""));
    }
    let kind = written.or((of_timestamps.count() > 0).then_some(ColumnType::Timestamp));
    let fits = match (&path, kind) {
        (Some(Path::Topic | Path::Header(_)), Some(ColumnType::Json)) => false,
        (Some(Path::Topic), Some(kind)) => kind == ColumnType::String,
        (Some(Path::Timestamp), Some(kind)) => matches!(kind, ColumnType::Timestamp | ColumnType::Date),
        _ => true,
    };
    if !fits {
        section.complain("type", Complaint::new("does not suit the path").hint("leave `type` out"));
    }
    let default = section.scalar("default");
    match (kind, &default) {
        (None, Some(_)) => section.complain("default", Complaint::new("needs a type").hint("say what it is: `type`")),
        (Some(kind), Some(text)) if !is_value(kind, format.as_ref(), zone.unwrap_or(timezone), text) => {
            section.complain("default", Complaint::new(format!("is no value of the type {}", kind.word())));
        }
        _ => {}
    }
    ColumnContract {
        name: name.to_owned(),
        path,
        kind,
        format,
        zone,
        scale: scale(section, kind),
        default,
        not_null: section.boolean("not_null").unwrap_or(false),
        description: section.read("description", |text| Ok::<_, Complaint>(text.to_owned())),
    }
}

/// `scale` of a decimal.
fn scale(section: &Section, kind: Option<ColumnType>) -> Option<u8> {
    let text = section.has("scale").then(|| section.scalar("scale")).flatten()?;
    let scale = text.parse().ok().filter(|scale| *scale <= 100);
    if scale.is_none() {
        section.complain("scale", Complaint::new("is not a number from 0 to 100"));
    } else if !matches!(kind, Some(ColumnType::Double | ColumnType::String)) {
        section.complain("scale", Complaint::new("only a decimal has it").hint("type = \"string\" or \"double\""));
    }
    scale
}

/// The path of an entry with `drop = true`.
fn drop_path(section: &Section) -> Option<Vec<String>> {
    let others = ["type", "format", "zone", "default", "not_null"];
    for key in others.into_iter().filter(|key| section.has(key)) {
        section.complain(key, Complaint::new("a dropped path is no column").hint("leave it out, or `drop`"));
    }
    section.require("path", "which payload path is left out, such as \"customer.phone\"");
    section.read("path", payload_path)
}

fn arrays(root: &Section) -> Vec<ArrayContract> {
    let Some(section) = root.has("arrays").then(|| root.table("arrays")).flatten() else { return Vec::new() };
    let mut arrays: Vec<ArrayContract> = Vec::new();
    for entry in &section.table.entries {
        let Some(array) = section.section(&entry.key, &events::ARRAY) else { continue };
        array.require("as", "what becomes of the array: json, list, pivot, first or child");
        let shape = array_shape(&array);
        match payload_path(&entry.key) {
            Ok(path) if arrays.iter().any(|other| other.path == path) => {
                section.report(&entry.place, &entry.key, Complaint::new("is given twice"));
            }
            Ok(path) => arrays.extend(shape.map(|shape| ArrayContract { path, shape })),
            Err(complaint) => section.report(&entry.place, &entry.key, complaint),
        }
    }
    arrays
}

fn array_shape(section: &Section) -> Option<ArrayShape> {
    let pivot = ArrayShape::Pivot { by: String::new(), value: None };
    let shapes = [
        ("json", &ArrayShape::Json),
        ("list", &ArrayShape::List),
        ("pivot", &pivot),
        ("first", &ArrayShape::First),
        ("child", &ArrayShape::Child),
    ];
    let shape = section.choice("as", &shapes, &[])?.clone();
    let member = |text: &str| Ok::<_, Complaint>(text.to_owned());
    if shape == pivot {
        section.require("by", "the member that names an element, such as \"name\"");
        let (by, value) = (section.read("by", member), section.read("value", member));
        return Some(ArrayShape::Pivot { by: by?, value });
    }
    for key in ["by", "value"].into_iter().filter(|key| section.has(key)) {
        section.complain(key, Complaint::new("only a pivot has it").hint("as = \"pivot\""));
    }
    Some(shape)
}

fn payload_path(text: &str) -> Result<Vec<String>, Complaint> {
    match path(text)? {
        Path::Value(parts) => Ok(parts),
        _ => Err(Complaint::new(format!("`{text}` is not inside the payload"))),
    }
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
        } else if let Some(ColumnType::Json | ColumnType::List(_)) = declared.and_then(|column| column.kind) {
            refuse(item.place, Complaint::new(format!("column `{name}` is JSON or a list, which cannot be a key")));
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
