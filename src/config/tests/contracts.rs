//! `schemas/<table>.toml`.

use std::time::Duration;

use super::{assert_problems, load};
use crate::schema::{
    ArrayContract, ArrayShape, Cardinality, ColumnContract, ColumnType, Contract, Element, EventTime, Format,
    LatestSource, Match, Merge, OnDelete, OnNewField, OnTypeConflict, Path, Start, TimeFormat,
};

fn value(path: &str) -> Path {
    Path::Value(path.split('.').map(str::to_owned).collect())
}

#[test]
fn everything_is_read() {
    let file = r#"
kind = "events"
topics = ["fleet.a", "fleet.b"]
format = "json"
start = "2026-11-01T00:00:00+09:00"
key = ["car_id", "trip_id"]
time = { path = "reported_at", format = "EEE MMM dd HH:mm:ss z yyyy", allowed_lateness = "5s" }
strip = "vehicle.body."
on_new_field = "rescue"
on_type_conflict = "dead_letter"
infer_timestamps = true
commit_interval = "250ms"
retention = "400d"
[match]
metadata.kind = ["car", 7, true]
"$header.source" = "a"
[arrays."vehicle.sensors"]
as = "pivot"
by = "name"
value = "v"
[arrays.'["odd.key"]']
as = "first"
[columns.car_id]
path = "$key"
[columns.battery_v]
path = "vehicle.powertrain.battery.voltage"
type = "double"
[columns.trace]
path = "$header.x-trace.id"
[columns.plain]
type = "bigint"
default = 0
not_null = true
description = "a number"
[columns.opened]
format = "unix_ms"
zone = "America/New_York"
[columns.tags]
type = "string[]"
[columns.phone]
path = "customer.phone"
drop = true
"#;
    let project = load(&[("millpond.toml", "project.timezone = \"Asia/Seoul\""), ("schemas/telemetry.toml", file)]);
    let column = |name: &str, path, kind| ColumnContract { name: name.into(), path, kind, ..ColumnContract::default() };
    let array =
        |path: &[&str], shape| ArrayContract { path: path.iter().map(|part| (*part).to_owned()).collect(), shape };
    let expected = Contract {
        table: "telemetry".into(),
        file: "telemetry".into(),
        topics: vec!["fleet.a".into(), "fleet.b".into()],
        format: Format::Json,
        start: Start::At(1_793_458_800_000),
        key: vec!["car_id".into(), "trip_id".into()],
        time: Some(EventTime {
            path: value("reported_at"),
            format: TimeFormat::Pattern("EEE MMM dd HH:mm:ss z yyyy".into()),
        }),
        strip: vec!["vehicle".into(), "body".into()],
        on_new_field: OnNewField::Rescue,
        on_type_conflict: OnTypeConflict::DeadLetter,
        columns: vec![
            column("car_id", Some(Path::Key(vec![])), None),
            column("battery_v", Some(value("vehicle.powertrain.battery.voltage")), Some(ColumnType::Double)),
            column("trace", Some(Path::Header("x-trace.id".into())), None),
            ColumnContract {
                default: Some("0".into()),
                not_null: true,
                description: Some("a number".into()),
                ..column("plain", None, Some(ColumnType::Int64))
            },
            ColumnContract {
                format: Some(TimeFormat::UnixMillis),
                zone: Some(chrono_tz::America::New_York),
                ..column("opened", None, Some(ColumnType::Timestamp))
            },
            column("tags", None, Some(ColumnType::List(Element::String))),
        ],
        dropped: vec![vec!["customer".into(), "phone".into()]],
        arrays: vec![
            array(&["vehicle", "sensors"], ArrayShape::Pivot { by: "name".into(), value: Some("v".into()) }),
            array(&["odd.key"], ArrayShape::First),
        ],
        matches: vec![
            Match { path: value("metadata.kind"), values: vec!["car".into(), "7".into(), "true".into()] },
            Match { path: Path::Header("source".into()), values: vec!["a".into()] },
        ],
        first_of: vec!["fleet.a".into(), "fleet.b".into()],
        infer_timestamps: true,
        raw: false,
        load: None,
        commit_interval: Some(Duration::from_millis(250)),
        retention: Some(Duration::from_secs(400 * 86_400)),
        allowed_lateness: Duration::from_secs(5),
        timezone: chrono_tz::Asia::Seoul,
    };
    assert_eq!(project.unwrap().tables, [expected]);
}

#[test]
fn a_topic_is_enough() {
    let file = "kind = \"events\"\ntopic = \"t\"\n";
    let tables =
        load(&[("schemas/b.toml", file), ("schemas/a.toml", file), ("schemas/README.md", "x")]).unwrap().tables;
    assert_eq!(tables.iter().map(|table| table.table.as_str()).collect::<Vec<_>>(), ["a", "b"], "both share a topic");
    let expected = Contract {
        table: "a".into(),
        file: "a".into(),
        topics: vec!["t".into()],
        format: Format::Json,
        start: Start::Earliest,
        key: vec![],
        time: None,
        strip: vec![],
        on_new_field: OnNewField::Add,
        on_type_conflict: OnTypeConflict::Widen,
        columns: vec![],
        dropped: vec![],
        arrays: vec![],
        matches: vec![],
        first_of: vec![],
        infer_timestamps: false,
        raw: false,
        load: None,
        commit_interval: None,
        retention: None,
        allowed_lateness: Duration::from_secs(2),
        timezone: chrono_tz::UTC,
    };
    assert_eq!(tables[0], expected);
}

#[test]
fn starts_and_time_formats() {
    for (start, expected) in [
        ("\"earliest\"", Start::Earliest),
        ("\"latest\"", Start::Latest),
        ("\"1970-01-01T00:00:01Z\"", Start::At(1_000)),
        ("1970-01-01T00:00:01.5Z", Start::At(1_500)),
        ("1970-01-01 09:00:00+09:00", Start::At(0)),
    ] {
        let file = format!("kind = \"events\"\ntopic = \"t\"\nstart = {start}\n");
        let project = load(&[("schemas/t.toml", &file)]).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(project.tables[0].start, expected, "{start}");
    }
    for (format, expected) in [
        ("rfc3339", Some(TimeFormat::Rfc3339)),
        ("unix_s", Some(TimeFormat::UnixSeconds)),
        ("unix_ms", Some(TimeFormat::UnixMillis)),
        ("unix_us", Some(TimeFormat::UnixMicros)),
        ("yyyy-MM-dd'T'HH:mm:ss.SSSX", Some(TimeFormat::Pattern("yyyy-MM-dd'T'HH:mm:ss.SSSX".into()))),
        ("dd.MM.uuuu", Some(TimeFormat::Pattern("dd.MM.uuuu".into()))),
        ("yyyy-MM-dd'T", None),
        ("%Y-%m-%d", None),
        ("unix", None),
        ("HH:mm", None),
        ("", None),
    ] {
        let file = format!("kind = \"events\"\ntopic = \"t\"\ntime = {{ path = \"at\", format = \"{format}\" }}\n");
        let time = load(&[("schemas/t.toml", &file)]).ok().map(|project| project.tables[0].time.clone().unwrap());
        assert_eq!(time.map(|time| time.format), expected, "{format}");
    }
}

#[test]
fn mistakes() {
    let head = "kind = \"events\"\ntopic = \"t\"\n";
    for (rest, expected) in [
        ("topics = [\"u\"]", vec!["3:10: topics: `topic` is given already\n  hint: put all topics into `topics`"]),
        (
            "format = \"avro\"",
            vec!["3:10: format: needs a schema registry\n  hint: set kafka.schema_registry.url in millpond.toml"],
        ),
        (
            "on_type_conflict = \"deadletter\"",
            vec!["3:20: on_type_conflict: `deadletter` is not known here\n  hint: did you mean `dead_letter`?"],
        ),
        (
            "on_new_field = \"ignore\"",
            vec!["3:16: on_new_field: `ignore` is not known here\n  hint: known here: add, rescue"],
        ),
        (
            "start = \"yesterday\"",
            vec![
                "3:9: start: `yesterday` is not a start\n  hint: \"earliest\", \"latest\" or a time with its offset such as \"2026-11-01T00:00:00+09:00\"",
            ],
        ),
        (
            "start = 2026-11-01T00:00:00",
            vec![
                "3:9: start: `2026-11-01T00:00:00` is not a start\n  hint: \"earliest\", \"latest\" or a time with its offset such as \"2026-11-01T00:00:00+09:00\"",
            ],
        ),
        (
            "retention = \"23h\"\nraw = \"yes\"\n[arrays.\"vehicle.sensors\"]\nas = \"child\"",
            vec![
                "3:13: retention: `23h` is too short\n  hint: at least 1d: rows go by whole days",
                "4:7: raw: expected true or false, found a text",
            ],
        ),
        (
            "raw = true\n[arrays.raw]\nas = \"child\"\n[arrays.\"a.b\"]\nas = \"child\"\n[arrays.a_b]\nas = \"child\"",
            vec![
                "4:2: arrays: two tables would be called `t__raw`\n  hint: leave `raw` out, or make one of the arrays `json`",
                "4:2: arrays: two tables would be called `t__a_b`\n  hint: leave `raw` out, or make one of the arrays `json`",
            ],
        ),
        (
            "infer_timestamps = \"yes\"\nmatch = { type = [], \"$timestamp\" = 1, \"a..b\" = 1, c = 2026-01-01 }",
            vec![
                "3:20: infer_timestamps: expected true or false, found a text",
                "4:18: match.type: expected a list of texts, numbers and booleans",
                "4:22: match.\"$timestamp\": cannot be matched",
                "4:40: match.\"a..b\": `a..b`: a path reads like `a.b[\"odd.key\"]`; it breaks at byte 2",
                "4:56: match.c: expected a text, number or boolean, found a date",
            ],
        ),
        (
            "[arrays]\na = { by = \"x\" }\nb = { as = \"pivot\" }\nc = { as = \"list\", by = \"x\" }\n\"$key.x\" = { as = \"json\" }\nd = { as = \"rows\" }\n'[\"c\"]' = { as = \"first\" }",
            vec![
                "4:1: arrays.a.as: is missing\n  hint: what becomes of the array: json, list, pivot, first or child",
                "5:1: arrays.b.by: is missing\n  hint: the member that names an element, such as \"name\"",
                "6:25: arrays.c.by: only a pivot has it\n  hint: as = \"pivot\"",
                "7:1: arrays.\"$key.x\": `$key.x` is not inside the payload",
                "8:12: arrays.d.as: `rows` is not known here\n  hint: known here: json, list, pivot, first, child",
                "9:1: arrays.\"[\"c\"]\": is given twice",
            ],
        ),
        (
            "[columns]\na = { drop = true }\nb = { path = \"$key\", drop = true, type = \"json\" }\nc = { path = \"c\", default = 1 }\nd = { type = \"bigint\", default = \"x\", zone = \"Mars\" }\ne = { type = \"bigint\", not_null = 1, path = \"$index.1\" }",
            vec![
                "4:1: columns.a.path: is missing\n  hint: which payload path is left out, such as \"customer.phone\"",
                "5:14: columns.b.path: `$key` is not inside the payload",
                "5:42: columns.b.type: a dropped path is no column\n  hint: leave it out, or `drop`",
                "6:29: columns.c.default: needs a type\n  hint: say what it is: `type`",
                "7:34: columns.d.default: is no value of the type bigint",
                "7:46: columns.d.zone: `Mars` is not a time zone\n  hint: an IANA name such as \"Asia/Seoul\" or \"UTC\"",
                "7:46: columns.d.zone: only a timestamp has it\n  hint: type = \"timestamp\"",
                "8:35: columns.e.not_null: expected true or false, found a number",
                "8:45: columns.e.path: `$index.1`: `$index.1` is none of $key, $key.path, $header.name, $topic, $timestamp",
            ],
        ),
        (
            "time = { path = \"at\", format = \"iso\", allowed_lateness = \"2 ells\" }",
            vec![
                "3:32: time.format: `iso` is not a time format: `i` is not supported in a time pattern\n  hint: rfc3339, unix_s, unix_ms, unix_us, or a pattern such as \"yyyy-MM-dd HH:mm:ss\"",
                "3:58: time.allowed_lateness: `2 ells` is not a duration: unknown unit ` ells`\n  hint: a whole number and a unit: ms, s, m, h or d, as in \"250ms\" or \"10m\"",
            ],
        ),
        (
            "[time]\nformat = \"rfc3339\"",
            vec!["3:2: time.path: is missing\n  hint: where the time stands, such as \"reported_at\""],
        ),
        (
            "strip = \"$key.\"",
            vec![
                "3:9: strip: `$key.` is not inside the payload\n  hint: the start of paths that names leave out, such as \"vehicle.\"",
            ],
        ),
        ("kye = []", vec!["3:1: kye: unknown key\n  hint: did you mean `key`?"]),
        ("key = \"car_id\"", vec!["3:7: key: expected a list, found a text"]),
        (
            "key = [\"car_id\", \"car_id\", \"_offset\", \"CarId\"]",
            vec![
                "3:18: key: `car_id` is given twice",
                "3:28: key: `_offset` is reserved\n  hint: every table has event_time and the columns that begin with `_`; `time` says where event_time comes from",
                "3:39: key: `CarId` is not a lower snake case name\n  hint: such as `car_id`",
            ],
        ),
        (
            "key = [\"car_id\", \"tags\"]\n[columns.id]\npath = \"car.id\"\n[columns.tags]\ntype = \"json\"",
            vec![
                "3:8: key: there cannot be a column `car_id`: its path feeds column `id`\n  hint: did you mean `id`?",
                "3:18: key: column `tags` is JSON or a list, which cannot be a key",
            ],
        ),
        (
            "columns.event_time.path = \"at\"",
            vec![
                "3:9: columns.event_time: `event_time` is reserved\n  hint: every table has event_time and the columns that begin with `_`; `time` says where event_time comes from",
            ],
        ),
        ("[columns.x]", vec!["3:10: columns.x: says nothing\n  hint: give it `path` or `type`"]),
        (
            "columns.x.type = \"int\"",
            vec![
                "3:18: columns.x.type: `int` is not known here\n  hint: known here: boolean, bigint, double, string, json, timestamp, date, boolean[], bigint[], double[], string[]",
            ],
        ),
        (
            "columns.x.typ = \"string\"\ncolumns.x.path = \"y\"",
            vec!["3:11: columns.x.typ: unknown key\n  hint: did you mean `type`?"],
        ),
        ("columns.x = \"string\"", vec!["3:13: columns.x: expected a table, found a text"]),
        (
            "columns.x.path = \"a..b\"",
            vec!["3:18: columns.x.path: `a..b`: a path reads like `a.b[\"odd.key\"]`; it breaks at byte 2"],
        ),
        (
            "columns.x = { path = \"$topic\", type = \"double\" }",
            vec!["3:39: columns.x.type: does not suit the path\n  hint: leave `type` out"],
        ),
        ("columns.x.path = \"\"", vec!["3:18: columns.x.path: is empty"]),
        (
            "key = [\"a__b\"]\n[columns.x_]\ntype = \"double\"",
            vec![
                "3:8: key: no payload path gives the name `a__b`\n  hint: say where it comes from: columns.a__b.path",
                "4:10: columns.x_: no payload path gives the name `x_`\n  hint: say where it comes from: columns.x_.path",
            ],
        ),
        (
            "strip = \"vehicle.\"\nkey = [\"car_id\"]\ncolumns.id.path = \"vehicle.carId\"",
            vec!["4:8: key: there cannot be a column `car_id`: its path feeds column `id`\n  hint: did you mean `id`?"],
        ),
    ] {
        let expected: Vec<String> = expected.iter().map(|problem| format!("schemas/t.toml:{problem}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        assert_problems(&[("schemas/t.toml", &format!("{head}{rest}\n"))], &expected);
    }
}

#[test]
fn records_that_nobody_can_read_are_one_tables_dead_letters() {
    let table = |topics: &str, rest: &str| format!("kind = \"events\"\ntopics = {topics}\n{rest}\n");
    let inside = "match = { type = \"x\" }";
    let project = load(&[
        ("schemas/a.toml", &table("[\"one\", \"two\"]", "match = { \"$key\" = \"x\" }")),
        ("schemas/b.toml", &table("[\"one\", \"two\", \"three\"]", inside)),
        ("schemas/c.toml", &table("[\"two\", \"one\", \"four\"]", inside)),
        ("schemas/d.toml", &table("[\"three\"]", "")),
    ]);
    let owned: Vec<Vec<String>> = project.unwrap().tables.into_iter().map(|table| table.first_of).collect();
    let texts = |topics: &[&str]| topics.iter().map(|topic| (*topic).to_owned()).collect::<Vec<_>>();
    assert_eq!(owned, [texts(&[]), texts(&["one", "two"]), texts(&["four"]), texts(&[])]);
}

#[test]
fn mistakes_of_the_head() {
    let feeds = "hint: topic = \"…\" names the Kafka topic that feeds the table, topics = […] several";
    for (file, expected) in [
        (
            "",
            vec![
                "1:1: kind: is missing\n  hint: kind = \"events\", or \"mirror\" for the changes of a database's table"
                    .to_owned(),
            ],
        ),
        (
            "kind = \"reference\"\nkey = 5\nanything = true\nmode = \"apend\"\npoll = \"10ms\"",
            vec![
                "2:7: key: expected a list, found a number".into(),
                "3:1: anything: unknown key\n  hint: known here: kind, url, format, key, mode, poll".into(),
                "4:8: mode: `apend` is not known here\n  hint: did you mean `append`?".into(),
                "5:8: poll: is too short\n  hint: at least \"1s\"".into(),
            ],
        ),
        (
            "kind = \"reference\"\nmode = \"upsert\"",
            vec!["2:8: mode: needs a key\n  hint: such as key = [\"id\"]: a row takes the place of its like".into()],
        ),
        (
            "kind = \"reference\"\nurl = \"zones\"",
            vec![
                "2:7: url: does not say what is in the files\n  hint: add format = \"csv\" (or \"json\", \"parquet\")"
                    .into(),
            ],
        ),
        (
            "kind = \"reference\"\nurl = \"http://x/zones.csv\"",
            vec!["2:7: url: files at `http://` cannot be read\n  hint: a path, or \"s3://bucket/zones/*.csv\"".into()],
        ),
        (
            "kind = \"reference\"\nurl = \"s3://bucket\"",
            vec!["2:7: url: names no files\n  hint: such as \"s3://bucket/zones/*.csv\"".into()],
        ),
        ("kind = \"reference\"\nurl = \"a[.csv\"", vec!["2:7: url: is no pattern: invalid range pattern".into()]),
        ("kind = \"event\"", vec!["1:8: kind: `event` is not known here\n  hint: did you mean `events`?".into()]),
        ("kind = \"events\"", vec![format!("1:1: topic: is missing\n  {feeds}")]),
        (
            "kind = \"events\"\ntopic_pattern = \"a.*\"",
            vec!["2:1: topic_pattern: `topic_pattern` is not in this version of Millpond".into()],
        ),
        ("kind = \"events\"\ntopics = []", vec!["2:10: topics: is empty".into()]),
        (
            "kind = \"events\"\ntopics = [\"a\", \"a\", \"b c\"]",
            vec![
                "2:16: topics: `a` is given twice".into(),
                "2:21: topics: `b c` is not a name Kafka allows\n  hint: up to 249 letters, digits, `.`, `_` and `-`"
                    .into(),
            ],
        ),
    ] {
        let expected: Vec<String> = expected.iter().map(|problem| format!("schemas/t.toml:{problem}")).collect();
        assert_problems(&[("schemas/t.toml", file)], &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn names_of_files_are_names_of_tables() {
    let file = "kind = \"events\"\ntopic = \"t\"\n";
    assert_problems(
        &[
            ("schemas/CarState.toml", file),
            ("schemas/t__raw.toml", file),
            ("schemas/sub/x.toml", file),
            ("schemas/.hidden.toml", "not toml"),
        ],
        &[
            "schemas/CarState.toml: `CarState` is not a lower snake case name\n  hint: such as `car_state`",
            "schemas/sub: folders in here are not read\n  hint: put the files into schemas/ itself",
            "schemas/t__raw.toml: `t__raw` is reserved\n  hint: names with `__` are those of tables Millpond makes up, such as `<table>__raw`",
        ],
    );
}

#[test]
fn a_mirror_is_the_contract_of_its_changes() {
    let file = "kind = \"mirror\"\ntopic = \"fleet.dms\"\nformat = \"dms-json\"\nkey = [\"car_id\"]\n\
                match = { \"metadata.table-name\" = \"carinfo\" }\n\
                columns.plate = { path = \"plate_no\", type = \"string\" }\n\
                columns.price = { type = \"double\", scale = 2 }\n\
                columns.secret = { path = \"pin\", drop = true }\n";
    let project = load(&[("schemas/carinfo.toml", file)]).unwrap_or_else(|problems| panic!("{problems}"));
    let contract = &project.tables[0];
    assert_eq!((&*contract.table, &*contract.file), ("carinfo__changes", "carinfo"));
    assert_eq!((contract.format, &contract.strip), (Format::DmsJson, &vec!["after".to_owned()]));
    let path = |name: &str| contract.column(name).and_then(|column| column.path.clone());
    assert_eq!(path("plate"), Some(value("after.plate_no")));
    assert_eq!(path("price"), None);
    assert_eq!(path("_op"), Some(value("op")));
    assert_eq!(contract.column("price").and_then(|column| column.scale), Some(2));
    assert_eq!(contract.dropped, [["after".to_owned(), "pin".to_owned()]]);
    assert_eq!(contract.matches[0].path, value("metadata.table-name"));
    assert_eq!(contract.time.as_ref().unwrap().path, value("source_time"));

    let head = "kind = \"mirror\"\ntopic = \"t\"\n";
    for (rest, expected) in [
        (
            "key = [\"id\"]",
            vec![
                "1:1: format: is missing\n  hint: how the changes are written: debezium-json, debezium-avro or dms-json",
            ],
        ),
        (
            "format = \"json\"\nkey = [\"id\"]",
            vec!["3:10: format: tells of no changes\n  hint: debezium-json, debezium-avro or dms-json"],
        ),
        ("format = \"dms-json\"", vec!["1:1: key: is missing\n  hint: the table's primary key, such as [\"id\"]"]),
        (
            "format = \"dms-json\"\nkey = []",
            vec!["4:7: key: is empty\n  hint: the table's primary key, such as [\"id\"]"],
        ),
        (
            "format = \"debezium-avro\"\nkey = [\"id\"]",
            vec!["3:10: format: needs a schema registry\n  hint: set kafka.schema_registry.url in millpond.toml"],
        ),
        (
            "format = \"dms-json\"\nkey = [\"id\"]\ncolumns.a = { type = \"bigint\", scale = 2 }\ncolumns.b = { type = \"double\", scale = \"x\" }",
            vec![
                "5:40: columns.a.scale: only a decimal has it\n  hint: type = \"string\" or \"double\"",
                "6:40: columns.b.scale: is not a number from 0 to 100",
            ],
        ),
    ] {
        let expected: Vec<String> = expected.iter().map(|problem| format!("schemas/t.toml:{problem}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        assert_problems(&[("schemas/t.toml", &format!("{head}{rest}\n"))], &expected);
    }
    let events = "kind = \"events\"\ntopic = \"t\"\nformat = \"dms-json\"\n";
    let expected = ["schemas/t.toml:3:10: format: is of changes, not of events\n  hint: kind = \"mirror\""];
    assert_problems(&[("schemas/t.toml", events)], &expected);
}

#[test]
fn a_latest_table_names_its_sources() {
    let mirror = |key: &str| format!("kind = \"mirror\"\ntopic = \"t\"\nformat = \"dms-json\"\nkey = [\"{key}\"]\n");
    let (cars, devices) = (mirror("car_id"), mirror("device_id"));
    let events = "kind = \"events\"\ntopic = \"e\"\n";
    let files = |latest: &str| {
        let files = [
            ("schemas/cars.toml", &*cars),
            ("schemas/devices.toml", &*devices),
            ("schemas/signals.toml", events),
            ("schemas/state.toml", latest),
        ];
        files.map(|(name, text)| (name, text.to_owned()))
    };
    let whole = "kind = \"latest\"\nkey = [\"car_id\"]\n[sources.cars]\non_delete = \"drop_row\"\n\
                 [sources.devices]\nprefix = \"device_\"\ncardinality = \"list\"\n\
                 [sources.signals]\nkey = { car_id = \"vehicle\" }\nmerge = \"last_non_null\"\ncolumns = [\"lat\", \"lon\"]\n\
                 [columns.moving]\nsql = \"speed > 0\"\n";
    let given = files(whole);
    let given: Vec<(&str, &str)> = given.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let project = load(&given).unwrap_or_else(|problems| panic!("{problems}"));
    let latest = &project.latest[0];
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let source = |table: &str, key: &str, prefix: &str, columns: &[&str], merge, on_delete| LatestSource {
        table: table.into(),
        key: texts(&[key]),
        prefix: prefix.into(),
        columns: texts(columns),
        merge,
        on_delete,
        cardinality: if table == "devices" { Cardinality::List } else { Cardinality::One },
    };
    assert_eq!(
        latest.sources,
        [
            source("cars", "car_id", "", &[], Merge::Row, OnDelete::DropRow),
            source("devices", "car_id", "device_", &[], Merge::Row, OnDelete::NullColumns),
            source("signals", "vehicle", "", &["lat", "lon"], Merge::LastNonNull, OnDelete::NullColumns),
        ]
    );
    assert_eq!(latest.derived, [("moving".to_owned(), "speed > 0".to_owned())]);
    assert_eq!(latest.derived_sql().unwrap(), "SELECT *, (speed > 0) AS \"moving\" FROM public.\"state__merged\"");

    let head = "kind = \"latest\"\nkey = [\"car_id\"]\n";
    for (text, expected) in [
        (
            "kind = \"latest\"\n".to_owned(),
            vec![
                "1:1: key: is missing\n  hint: the columns that tell one row from another, such as [\"car_id\"]",
                "1:1: sources: is missing\n  hint: the tables that rows are merged from, such as [sources.carinfo]",
            ],
        ),
        (
            format!("{head}sources.nobody.prefix = \"a_\"\n"),
            vec![
                "3:9: sources.nobody: `nobody` is no mirror or events table of this project\n  hint: there are: cars, devices, signals",
            ],
        ),
        (
            format!("{head}sources.cars.merge = \"last_non_null\"\n"),
            vec![
                "3:22: sources.cars.merge: a database's row is told as a whole, and null is a value of it\n  hint: leave `merge` out",
            ],
        ),
        (
            format!("{head}sources.signals.on_delete = \"drop_row\"\n"),
            vec!["3:29: sources.signals.on_delete: events delete nothing\n  hint: only a mirror has it"],
        ),
        (
            format!("{head}sources.devices.on_delete = \"drop_row\"\n"),
            vec![
                "3:29: sources.devices.on_delete: a row of devices is not the only one of its kind: its key is another\n  hint: on_delete = \"null_columns\"",
            ],
        ),
        (
            format!("{head}sources.cars.cardinality = \"list\"\n"),
            vec![
                "3:28: sources.cars.cardinality: cars has one row for each key of this table\n  hint: only a mirror whose key is another can have several",
            ],
        ),
        (
            format!("{head}[sources.cars]\ncolumns = [\"devices\"]\n[sources.devices]\ncardinality = \"list\"\n"),
            vec![
                "3:2: sources: `devices` would come from cars and from devices\n  hint: give one of them a `prefix`, or other `columns`",
            ],
        ),
        (
            format!("{head}[sources.cars]\nkey = {{ id = \"car_id\" }}\n"),
            vec!["4:9: sources.cars.key.id: `id` is no key column of this table\n  hint: there are: car_id"],
        ),
        (
            format!("{head}[sources.cars]\nprefix = \"a_\"\n[sources.signals]\nprefix = \"a_\"\n"),
            vec![
                "3:2: sources: cars and signals may have columns of the same name\n  hint: give one of them a `prefix`, or say which `columns` are taken",
            ],
        ),
        (
            format!("{head}[sources.cars]\ncolumns = [\"lat\"]\n[sources.signals]\ncolumns = [\"lat\"]\n"),
            vec![
                "3:2: sources: `lat` would come from cars and from signals\n  hint: give one of them a `prefix`, or other `columns`",
            ],
        ),
    ] {
        let expected: Vec<String> = expected.iter().map(|problem| format!("schemas/state.toml:{problem}")).collect();
        let given = files(&text);
        let given: Vec<(&str, &str)> = given.iter().map(|(name, text)| (*name, text.as_str())).collect();
        assert_problems(&given, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
