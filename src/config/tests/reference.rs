//! Holds `docs/reference.md` against the code: the same keys, the same defaults, and examples that work.

use std::collections::{BTreeMap, BTreeSet};

use super::load;
use crate::config::{
    Problems, load as loading,
    tree::{Table, Value},
    words::{Words, access, alert, events, latest, mirror, notify, project, reference, stream, table, view},
};
use crate::schema::Contract;

const REFERENCE: &str = include_str!("../../../docs/reference.md");

/// A row of a table of options.
#[derive(Debug)]
struct Row {
    key: String,
    default: Option<String>,
    example: String,
}

/// What the page says about one kind of file.
struct Chapter {
    rows: Vec<Row>,
    later: BTreeSet<String>,
}

fn chapter(heading: &str) -> Chapter {
    let start = REFERENCE.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no chapter {heading}"));
    let text = &REFERENCE[start + 4..];
    let text = text.find("\n## ").map_or(text, |end| &text[..end]);
    let code = |cell: &str| cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).map(str::to_owned);
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 6, "{line}");
            assert!(["live", "restart", "refused"].contains(&cells[5]), "{line}");
            assert!(cells[3] == "none" || code(cells[3]).is_some(), "{line}");
            Row { key: code(cells[0]).unwrap(), default: code(cells[3]), example: code(cells[4]).unwrap() }
        })
        .collect();
    let later = text.lines().find(|line| line.starts_with("Not in this version: ")).unwrap();
    let words = later.split('`').skip(1).step_by(2);
    Chapter { rows, later: words.map(|word| word.rsplit(" = ").next().unwrap().trim_matches('"').to_owned()).collect() }
}

/// Keys that hold a value: not those that are tables with words of their own.
fn leaves(words: &[(&str, &Words)]) -> BTreeSet<String> {
    let tables: Vec<&str> = words.iter().map(|(table, _)| table.split(".<").next().unwrap_or(table)).collect();
    let keys = words.iter().flat_map(|(table, words)| words.keys.iter().map(|key| full(table, key)));
    keys.filter(|key| !tables.contains(&key.as_str())).collect()
}

fn later(words: &[(&str, &Words)], values: &[&[&str]]) -> BTreeSet<String> {
    let keys = words.iter().flat_map(|(table, words)| words.later.iter().map(|key| full(table, key)));
    keys.chain(values.iter().copied().flatten().map(|value| (*value).to_owned())).collect()
}

fn full(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// `key → value` of a file of defaults, values as in TOML.
fn defaults(text: &str) -> BTreeMap<String, String> {
    fn collect(table: &Table, prefix: &str, out: &mut BTreeMap<String, String>) {
        for entry in &table.entries {
            let key = format!("{prefix}{}", entry.key);
            match &entry.node.value {
                Value::Table(inner) => collect(inner, &format!("{key}."), out),
                Value::Text { text, .. } => drop(out.insert(key, format!("\"{text}\""))),
                Value::Number(text) => drop(out.insert(key, text.clone())),
                other => panic!("{key} is {}", other.name()),
            }
        }
    }
    let table = Table::parse("defaults", text, None, &mut Problems::default()).unwrap();
    let mut out = BTreeMap::new();
    collect(&table, "", &mut out);
    out
}

#[test]
fn keys_and_defaults_are_those_of_the_code() {
    let project_later: &[&[&str]] = &[notify::EVENTS_LATER];
    let chapters = [
        ("millpond.toml", project::ALL, project_later, loading::DEFAULTS),
        ("access.toml", access::ALL, &[], ""),
        ("schemas/&lt;table&gt;.toml", events::ALL, &[], loading::EVENTS_DEFAULTS),
        ("schemas/&lt;mirror&gt;.toml", mirror::ALL, &[], loading::MIRROR_DEFAULTS),
        ("schemas/&lt;latest&gt;.toml", latest::ALL, &[], ""),
        ("schemas/&lt;reference&gt;.toml", reference::ALL, &[], loading::REFERENCE_DEFAULTS),
        ("queries/&lt;name&gt;.sql", view::ALL, &[], ""),
        ("queries/&lt;alert&gt;.sql", alert::ALL, &[], ""),
        ("queries/&lt;stream&gt;.sql", stream::ALL, &[], ""),
        ("queries/&lt;table&gt;.sql", table::ALL, &[], ""),
    ];
    for (heading, words, values, default_file) in chapters {
        let chapter = chapter(heading);
        let documented: BTreeSet<String> = chapter.rows.iter().map(|row| row.key.clone()).collect();
        assert_eq!(documented.len(), chapter.rows.len(), "{heading}: a key twice");
        assert_eq!(documented, leaves(words), "{heading}");
        assert_eq!(chapter.later, later(words, values), "{heading}");
        let documented = chapter.rows.iter().filter_map(|row| Some((row.key.clone(), row.default.clone()?)));
        assert_eq!(documented.collect::<BTreeMap<_, _>>(), defaults(default_file), "{heading}");
    }
}

#[test]
fn each_example_of_millpond_toml_changes_something() {
    let config = |lines: &[String]| {
        let table = ("schemas/telemetry.toml", "kind = \"events\"\ntopic = \"t\"");
        let pem = ["server.pem", "server.key", "clients.pem", "a.pem", "b.pem"].map(|name| (name, ""));
        let loaded = load(&[&[("millpond.toml", &*lines.join("\n")), table][..], &pem].concat());
        let mut config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
        // The lake's default is a folder of the project, and each project here has its own.
        if config.lake.url.as_str().starts_with("file:") {
            config.lake.url = "file:///lake/".parse().unwrap();
        }
        config
    };
    for row in chapter("millpond.toml").rows {
        let base = around(&row.key);
        let key = row.key.trim_start_matches("sinks.<name>.").trim_start_matches("notify.");
        let mut changed: Vec<String> =
            base.iter().filter(|line| !line.starts_with(&format!("{key} = "))).cloned().collect();
        changed.push(format!("{key} = {}", row.example));
        // Each type of sink has keys of its own: there is no other to change it to.
        let same = row.default.as_ref() == Some(&row.example) || key == "type";
        assert_eq!(config(&changed) == config(&base), same, "{changed:?}: accepted and ignored");
    }
}

/// What must stand before an option of a sink or a rule, so that the option means something.
fn around(key: &str) -> Vec<String> {
    const OPS: &str = "[sinks.ops]\ntype = \"kafka\"\ntopic = \"t\"";
    let lines: &[&str] = match key.strip_prefix("sinks.<name>.") {
        None if key.starts_with("notify.") => {
            &[OPS, "[sinks.all]\ntype = \"kafka\"\ntopic = \"a\"\n[[notify]]", "to = [\"all\"]"]
        }
        None if key.starts_with("serve.tls.") => &["serve.tls.cert = \"a.pem\"", "serve.tls.key = \"b.pem\""],
        None => &[],
        Some("topic" | "send_resolved") => &["[sinks.x]", "type = \"kafka\"", "topic = \"t\""],
        Some("type" | "url" | "headers" | "secret") => &["[sinks.x]", "type = \"webhook\"", "url = \"http://x/\""],
        Some(_) => &[
            "[sinks.x]",
            "type = \"email\"",
            "smtp = \"smtp://mail\"",
            "user = \"u\"",
            "password = \"p\"",
            "from = \"a@b.c\"",
            "recipients = \"a@b.c\"",
        ],
    };
    lines.iter().map(|line| (*line).to_owned()).collect()
}

fn contract(lines: &[String]) -> Contract {
    let registry = "kafka.schema_registry.url = \"http://127.0.0.1:8081\"";
    let mut project = load(&[("millpond.toml", registry), ("schemas/t.toml", &lines.join("\n"))])
        .unwrap_or_else(|problems| panic!("{problems}"));
    project.tables.remove(0)
}

#[test]
fn each_example_of_a_mirror_changes_something() {
    let head = ["kind = \"mirror\"", "topic = \"t\"", "format = \"debezium-json\"", "key = [\"id\"]"];
    for row in chapter("schemas/&lt;mirror&gt;.toml").rows {
        let key = row.key.replace("<name>", "x");
        let mut base: Vec<String> = head.iter().map(|line| (*line).to_owned()).collect();
        base.extend(match key.rsplit_once('.') {
            Some(("columns.x", "drop")) => vec!["columns.x.path = \"a\"".to_owned()],
            Some(("columns.x", "format" | "zone")) => vec!["columns.x.type = \"timestamp\"".to_owned()],
            Some(("columns.x", "default")) => vec!["columns.x.type = \"bigint\"".to_owned()],
            Some(("columns.x", _)) => vec!["columns.x.type = \"string\"".to_owned()],
            Some(("load", "format" | "poll")) => vec!["load.url = \"export/*.csv\"".to_owned()],
            _ => Vec::new(),
        });
        let replaced = if key == "topics" { "topic" } else { &key };
        let mut changed: Vec<String> =
            base.iter().filter(|line| !line.starts_with(&format!("{replaced} = "))).cloned().collect();
        changed.push(format!("{key} = {}", row.example));
        assert_eq!(contract(&changed) == contract(&base), key == "kind", "{changed:?}: accepted and ignored");
    }
}

#[test]
fn each_example_of_an_alert_changes_something() {
    let sinks = "[sinks.outlier]\ntype = \"kafka\"\ntopic = \"t\"\n[sinks.customer]\ntype = \"kafka\"\ntopic = \"u\"\n";
    let rule = |options: &[String]| {
        let head: String = options.iter().map(|option| format!("--! {option}\n")).collect();
        let files = [("millpond.toml", sinks), ("queries/r.sql", &*format!("{head}SELECT 1"))];
        let mut rule = load(&files).unwrap_or_else(|problems| panic!("{problems}")).alerts.remove(0);
        assert!(!rule.hash.is_empty());
        (rule.hash, rule.file) = Default::default();
        rule
    };
    let base = ["kind = \"alert\"".to_owned(), "key = \"id\"".to_owned()];
    for row in chapter("queries/&lt;alert&gt;.sql").rows {
        let is_other = |line: &&String| !line.starts_with(&format!("{} = ", row.key));
        let mut changed: Vec<String> = base.iter().filter(is_other).cloned().collect();
        changed.push(format!("{} = {}", row.key, row.example));
        let base = match &*row.key {
            // Says nothing alone.
            "expect" => [base.as_slice(), &["absent_for = \"1m\"".to_owned()]].concat(),
            _ => base.to_vec(),
        };
        changed.extend(base.iter().filter(|line| line.starts_with("absent_for") && row.key == "expect").cloned());
        assert_eq!(rule(&changed) == rule(&base), row.key == "kind", "{changed:?}: accepted and ignored");
    }
}

#[test]
fn each_example_of_a_table_query_changes_something() {
    let query = |options: &[String]| {
        let head: String = options.iter().map(|option| format!("--! {option}\n")).collect();
        let loaded = load(&[("queries/daily.sql", &*format!("{head}SELECT 1"))]);
        let mut query = loaded.unwrap_or_else(|problems| panic!("{problems}")).made.remove(0);
        assert!(!query.hash.is_empty());
        (query.hash, query.file, query.sql) = Default::default();
        query
    };
    for row in chapter("queries/&lt;table&gt;.sql").rows {
        let mut base = vec!["kind = \"table\"".to_owned()];
        // Says nothing alone.
        base.extend((row.key == "lookback").then(|| "partition_by = \"day\"".to_owned()));
        let is_other = |line: &&String| !line.starts_with(&format!("{} = ", row.key));
        let mut changed: Vec<String> = base.iter().filter(is_other).cloned().collect();
        changed.push(format!("{} = {}", row.key, row.example));
        assert_eq!(query(&changed) == query(&base), row.key == "kind", "{changed:?}: accepted and ignored");
    }
    for (options, problem) in [
        ("--! every = \"1h\"\n--! schedule = \"0 2 * * *\"", "does not go with `every`"),
        ("--! lookback = \"3d\"", "says nothing without `partition_by`"),
        ("--! partition_by = \"day\"\n--! lookback = \"36h\"", "is no number of days"),
        ("--! partition_by = [\"day\", \"car\"]", "names one column"),
        ("--! schedule = \"tomorrow\"", "hint: minute, hour, day of the month"),
    ] {
        let text = format!("--! kind = \"table\"\n{options}\nSELECT 1");
        let problems = load(&[("queries/daily.sql", &text)]).unwrap_err().to_string();
        assert!(problems.contains(problem), "{options}: {problems}");
    }
}

#[test]
fn each_example_of_a_latest_table_changes_something() {
    let mirror = "kind = \"mirror\"\ntopic = \"t\"\nformat = \"dms-json\"\nkey = [\"car_id\"]\n";
    let other = mirror.replace("car_id", "device_id");
    let events = "kind = \"events\"\ntopic = \"t\"\n";
    let spec = |lines: &[String]| {
        let files = [
            ("schemas/cars.toml", mirror),
            ("schemas/devices.toml", &*other),
            ("schemas/signals.toml", events),
            ("schemas/state.toml", &lines.join("\n")),
        ];
        load(&files).unwrap_or_else(|problems| panic!("{problems}")).latest.remove(0)
    };
    for row in chapter("schemas/&lt;latest&gt;.toml").rows {
        let source = match row.key.rsplit_once('.') {
            Some((_, "merge")) => "signals",
            Some((_, "cardinality")) => "devices",
            _ => "cars",
        };
        let key = row.key.replace("<table>", source).replace("<name>", "x");
        let base = [
            "kind = \"latest\"".to_owned(),
            "key = [\"id\"]".to_owned(),
            format!("sources.{source}.key.id = \"car_id\""),
        ];
        let (key, example) = match &*key {
            "sources.cars.key" => ("sources.cars.key".to_owned(), "{ id = \"vehicle\" }".to_owned()),
            _ => (key, row.example),
        };
        let replaced =
            |line: &&String| !line.starts_with(&format!("{key} = ")) && !line.starts_with(&format!("{key}."));
        let mut changed: Vec<String> = base.iter().filter(replaced).cloned().collect();
        changed.push(format!("{key} = {example}"));
        if key == "key" {
            changed.retain(|line| !line.contains(".key.id"));
            changed.push(format!("sources.{source}.prefix = \"p_\""));
        }
        assert_eq!(spec(&changed) == spec(&base), key == "kind", "{changed:?}: accepted and ignored");
    }
}

#[test]
fn each_example_of_a_reference_table_changes_something() {
    let spec = |lines: &[String]| {
        let project =
            load(&[("schemas/zones.toml", &lines.join("\n"))]).unwrap_or_else(|problems| panic!("{problems}"));
        let mut spec = (project.references.into_iter().next(), project.imported.into_iter().next());
        // Each project here has a folder of its own.
        let urls = spec.0.iter_mut().map(|spec| &mut spec.url);
        for url in urls.chain(spec.1.iter_mut().filter_map(|spec| spec.url.as_mut())) {
            *url = url.rsplit('/').next().unwrap().to_owned();
        }
        spec
    };
    let base = ["kind = \"reference\"".to_owned(), "url = \"zones.csv\"".to_owned()];
    for row in chapter("schemas/&lt;reference&gt;.toml").rows {
        let is_other = |line: &&String| !line.starts_with(&format!("{} = ", row.key));
        let mut changed: Vec<String> = base.iter().filter(is_other).cloned().collect();
        changed.push(format!("{} = {}", row.key, row.example));
        let is_same = row.key == "kind";
        assert_eq!(spec(&changed) == spec(&base), is_same, "{changed:?}: accepted and ignored");
    }
}

#[test]
fn each_example_of_a_contract_changes_something() {
    let head = ["kind = \"events\"".to_owned(), "topic = \"t\"".to_owned()];
    let time = ["time.path = \"a\"".to_owned(), "time.format = \"unix_s\"".to_owned()];
    let path = ["columns.x.path = \"a\"".to_owned()];
    let column = |kind: &str| [path.as_slice(), &[format!("columns.x.type = \"{kind}\"")]].concat();
    let array = ["arrays.x.as = \"pivot\"".to_owned(), "arrays.x.by = \"a\"".to_owned()];
    for row in chapter("schemas/&lt;table&gt;.toml").rows {
        let key = row.key.replace("<name>", "x").replace("<path>", "x");
        let mut base = head.to_vec();
        base.extend(match key.rsplit_once('.') {
            Some(("time", _)) => time.to_vec(),
            Some(("columns.x", "drop")) => path.to_vec(),
            Some(("columns.x", "format" | "zone")) => column("timestamp"),
            Some(("columns.x", "default")) => column("bigint"),
            Some(("columns.x", _)) => column("string"),
            Some(("arrays.x", "as")) => vec!["arrays.x.as = \"json\"".to_owned()],
            Some(("arrays.x", _)) => array.to_vec(),
            _ => Vec::new(),
        });
        let replaced = if key == "topics" { "topic" } else { &key };
        let mut changed: Vec<String> =
            base.iter().filter(|line| !line.starts_with(&format!("{replaced} = "))).cloned().collect();
        changed.push(format!("{key} = {}", row.example));
        assert_eq!(contract(&changed) == contract(&base), key == "kind", "{changed:?}: accepted and ignored");
    }
}
