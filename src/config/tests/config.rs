//! `millpond.toml` and what overrides it.

use std::{collections::BTreeMap, time::Duration};

use super::{assert_problems, load, load_with};
use crate::{
    config::{Auth, Brokers, ByteSize, LoadOptions, Login, Problems, Project, Rights},
    error::{Error, Kind},
};

fn config_problems(millpond_toml: &str, expected: &[&str]) {
    assert_problems(&[("millpond.toml", millpond_toml)], expected);
}

fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let Project { dir, config, access, tables, latest, references, imported, views, alerts, streams, made } =
        load(&[]).unwrap();
    assert_eq!(access, None);
    assert_eq!(config.project.timezone, chrono_tz::UTC);
    assert_eq!(config.lake.url.to_file_path().unwrap(), dir.join("lake"));
    assert!(config.lake.url.as_str().ends_with("/lake/"));
    assert_eq!(config.lake.commit_interval, Duration::from_secs(5));
    assert_eq!((config.lake.s3.endpoint, config.lake.s3.region), (None, None));
    assert_eq!(config.kafka.brokers, Brokers::At("127.0.0.1:9092".into()));
    assert!(config.kafka.properties.0.is_empty());
    assert_eq!(config.limits.memory, ByteSize(4 << 30));
    assert_eq!(config.serve.flight_sql, Some(([127, 0, 0, 1], 32010).into()));
    assert_eq!(config.serve.http, Some(([127, 0, 0, 1], 8090).into()));
    assert!(config.sinks.is_empty() && config.notify.is_empty() && latest.is_empty() && references.is_empty());
    assert!(imported.is_empty() && made.is_empty());
    assert!(tables.is_empty() && views.is_empty() && alerts.is_empty() && streams.is_empty());
}

#[test]
fn three_mistakes_are_three_problems_with_their_lines() {
    config_problems(
        "[project]\ntimezone = \"Asia/Soul\"\n\n[lake]\ncommit_interval = \"5 seconds\"\n\n[kafka]\n  broker = \"127.0.0.1:9092\"\n",
        &[
            "millpond.toml:2:12: project.timezone: `Asia/Soul` is not a time zone\n  hint: did you mean `Asia/Seoul`?",
            "millpond.toml:5:19: lake.commit_interval: `5 seconds` is not a duration: unknown unit ` seconds`\n  hint: a whole number and a unit: ms, s, m, h or d, as in \"250ms\" or \"10m\"",
            "millpond.toml:8:3: kafka.broker: unknown key\n  hint: did you mean `brokers`?",
        ],
    );
}

#[test]
fn words_of_later_versions_are_refused_by_name() {
    config_problems(
        "[sinks.ops]\ntype = \"kafka\"\ntopic = \"t\"\n[[notify]]\non = [\"query_error\"]\nto = [\"ops\"]\n",
        &["millpond.toml:5:7: notify.on: `query_error` is not in this version of Millpond"],
    );
}

#[test]
fn values_that_cannot_be() {
    for (toml, expected) in [
        ("lake = 5", "1:8: lake: expected a table, found a number"),
        ("[lake]\nurl = 5", "2:7: lake.url: expected a text, found a number"),
        (
            "[lake]\nurl = \"gs://b/x\"",
            "2:7: lake.url: `gs://` is not in this version of Millpond\n  hint: a folder such as \"./lake\", or \"s3://bucket/prefix\"",
        ),
        ("[lake]\nurl = \"s3a://b/x\"", "2:7: lake.url: `s3a` is a word of Hadoop\n  hint: write s3://"),
        (
            "[lake]\nurl = \"s3://key:secret@b/x\"",
            "2:7: lake.url: the URL holds credentials\n  hint: they come from the usual AWS variables and files, such as AWS_ACCESS_KEY_ID",
        ),
        (
            "[lake]\nurl = \"s3://b/x y\"",
            "2:7: lake.url: `s3://b/x y` has an odd prefix\n  hint: letters, digits, `.`, `_`, `-` and `=` between slashes",
        ),
        (
            "[lake]\nurl = \"s3:///x\"",
            "2:7: lake.url: `s3:///x` names no bucket\n  hint: a folder such as \"./lake\", or \"s3://bucket/prefix\"",
        ),
        ("[lake]\ncommit_interval = \"0s\"", "2:19: lake.commit_interval: `0s` is too short\n  hint: at least 10ms"),
        (
            "[lake.s3]\nendpoint = \"127.0.0.1:9000\"",
            "2:12: lake.s3.endpoint: `127.0.0.1:9000` is not the address of an S3 store\n  hint: such as \"http://127.0.0.1:9000\"",
        ),
        (
            "[limits]\nmemory = \"4\"",
            "2:10: limits.memory: `4` has no unit\n  hint: a whole number and a unit: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, as in \"512MiB\"",
        ),
        ("[limits]\nmemory = \"1MiB\"", "2:10: limits.memory: `1MiB` is too little\n  hint: at least 192MiB"),
        (
            "[serve]\nhttp = \"8090\"",
            "2:8: serve.http: `8090` is not an address\n  hint: address and port such as \"127.0.0.1:32010\"; port 0 = any free port; \"off\" = none",
        ),
        (
            "[serve]\nhttp = \"127.0.0.1:32010\"",
            "2:8: serve.http: `127.0.0.1:32010` is the address of flight_sql already",
        ),
        (
            "[kafka]\nbrokers = \"a:9092,b:port\"",
            "2:11: kafka.brokers: `b:port` is not the address of a broker\n  hint: host and port such as \"127.0.0.1:9092\", several separated by commas, or \"embedded\"",
        ),
        ("[kafka]\nauth = \"sasl\"", "2:8: kafka.auth: `sasl` is not known here\n  hint: known here: none, msk-iam"),
        (
            "[kafka.properties]\n\"enable.auto.commit\" = false",
            "2:1: kafka.properties.\"enable.auto.commit\": is set by Millpond\n  hint: positions live in the lake's commits: Millpond assigns partitions and tracks them itself",
        ),
        (
            "[kafka.properties]\nauto.offset.reset = \"latest\"",
            "2:13: kafka.properties.\"auto.offset.reset\": is set by Millpond\n  hint: the tables' `start` decides where the first run begins, and a gap is never skipped silently",
        ),
        (
            "[kafka.properties]\n\"sasl.pasword\" = \"x\"",
            "2:1: kafka.properties.\"sasl.pasword\": librdkafka has no such property",
        ),
        (
            "[kafka.properties]\n\"security.protocol\" = \"TLS\"",
            "2:23: kafka.properties.\"security.protocol\": Invalid value \"TLS\" for configuration property \"security.protocol\"",
        ),
        (
            "[kafka.properties]\n\"client.id\" = []",
            "2:15: kafka.properties.\"client.id\": expected a text, found a list",
        ),
        (
            "[kafka.schema_registry]\nurl = \"registry:8081\"",
            "2:7: kafka.schema_registry.url: `registry:8081` is not the address of a schema registry\n  hint: such as \"http://127.0.0.1:8081\" or \"https://registry/apis/ccompat/v7\"",
        ),
        (
            "[kafka.schema_registry]\nurl = \"http://me:secret@registry\"",
            "2:7: kafka.schema_registry.url: the URL holds credentials\n  hint: they have keys of their own: username and password",
        ),
        ("[lake]\ncompression = \"gzip\"", "2:15: lake.compression: `gzip` is no compression\n  hint: `lz4` or `zstd`"),
        ("[kafka.schema_registry]\npassword = \"\"", "2:12: kafka.schema_registry.password: is empty"),
        (
            "[lake]\nx = 1",
            "2:1: lake.x: unknown key\n  hint: known here: url, commit_interval, history, compression, s3",
        ),
        (
            "\"odd key\" = 1",
            "1:1: \"odd key\": unknown key\n  hint: known here: project, lake, kafka, limits, serve, sinks, notify",
        ),
    ] {
        config_problems(toml, &[&format!("millpond.toml:{expected}")]);
    }
}

#[test]
fn values_that_can_be() {
    let load = |toml: &str| load(&[("millpond.toml", toml)]).unwrap_or_else(|problems| panic!("{toml}: {problems}"));
    for (url, expected) in [
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket/a/b//", "s3://bucket/a/b/"),
        ("/srv/lake", "file:///srv/lake/"),
        ("/srv/./x/../lake/", "file:///srv/lake/"),
        ("file:///srv/lake", "file:///srv/lake/"),
    ] {
        assert_eq!(load(&format!("[lake]\nurl = \"{url}\"")).config.lake.url.as_str(), expected);
    }
    for (brokers, expected) in [
        ("embedded", Brokers::Embedded),
        ("a:1,b", Brokers::At("a:1,b".into())),
        ("[::1]:9092", Brokers::At("[::1]:9092".into())),
        ("PLAINTEXT://a:1", Brokers::At("PLAINTEXT://a:1".into())),
    ] {
        assert_eq!(load(&format!("[kafka]\nbrokers = \"{brokers}\"")).config.kafka.brokers, expected);
    }
    let serve = load("[serve]\nflight_sql = \"off\"\nhttp = \"localhost:0\"").config.serve;
    assert_eq!((serve.flight_sql, serve.http), (None, Some(([127, 0, 0, 1], 0).into())));
    assert_eq!(serve.postgres, Some(([127, 0, 0, 1], 5433).into()));
    assert!(load("[serve]\nflight_sql = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"").config.serve.http.is_some());

    let properties =
        load("[kafka.properties]\nsecurity.protocol = \"SSL\"\n\"fetch.wait.max.ms\" = 50\n\"check.crcs\" = true\n");
    let expected = vars(&[("security.protocol", "SSL"), ("fetch.wait.max.ms", "50"), ("check.crcs", "true")]);
    assert_eq!(properties.config.kafka.properties.0, expected);
}

#[test]
fn later_layers_win() {
    let base = "[lake]\ncommit_interval = \"1s\"\n[kafka]\nbrokers = \"file:1\"\n[kafka.properties]\nclient.id = \"file\"\nsecurity.protocol = \"SSL\"\n";
    let overlay = "[kafka]\nbrokers = \"overlay:1\"\nproperties.\"client.id\" = \"overlay\"\n";
    let files = [("millpond.toml", base), ("millpond.prod.toml", overlay)];
    let set = |value: &str| vec![format!("kafka.brokers={value}")];
    for (env, variable, sets, expected) in [
        (None, None, vec![], "file:1"),
        (Some("prod"), None, vec![], "overlay:1"),
        (Some("prod"), Some("variable:1"), vec![], "variable:1"),
        (Some("prod"), Some("variable:1"), set("set:1"), "set:1"),
        (None, None, [set("first:1"), set("last:1")].concat(), "last:1"),
    ] {
        let mut options = LoadOptions { env: env.map(str::to_owned), sets, vars: BTreeMap::new() };
        if let Some(value) = variable {
            options.vars = vars(&[("MILLPOND__KAFKA__BROKERS", value), ("UNRELATED", "x")]);
        }
        let config = load_with(&files, &options).unwrap().config;
        assert_eq!(config.kafka.brokers, Brokers::At(expected.into()));
        assert_eq!(config.lake.commit_interval, Duration::from_secs(1), "untouched by the overlay");
        let client = if env.is_some() { "overlay" } else { "file" };
        assert_eq!(config.kafka.properties.0, vars(&[("client.id", client), ("security.protocol", "SSL")]));
    }
    let options = LoadOptions {
        vars: vars(&[("MILLPOND__KAFKA__PROPERTIES__SASL__PASSWORD", "p"), ("MILLPOND__LAKE__S3__REGION", "eu")]),
        sets: vec!["kafka.properties.client.id=set".into(), "kafka.properties.\"sasl.username\"=u".into()],
        ..LoadOptions::default()
    };
    let config = load_with(&files, &options).unwrap().config;
    assert_eq!(config.lake.s3.region.as_deref(), Some("eu"));
    let expected =
        vars(&[("client.id", "set"), ("sasl.password", "p"), ("sasl.username", "u"), ("security.protocol", "SSL")]);
    assert_eq!(config.kafka.properties.0, expected);
}

#[test]
fn overrides_have_problems_too() {
    let options = LoadOptions {
        env: Some("prod".into()),
        sets: vec!["kafka.brokers".into(), "lake.ulr=./x".into(), "limits.memory=lots".into()],
        vars: vars(&[("MILLPOND__KAFKA__BROKER", "x"), ("MILLPOND__", "x"), ("MILLPOND_LOG", "debug")]),
    };
    let shown = load_with(&[], &options).unwrap_err().to_string();
    assert_eq!(
        shown,
        "millpond.prod.toml: there is no such file\n  hint: --env names it\n\
         --set kafka.brokers: is not section.key=value\n  hint: such as --set kafka.brokers=127.0.0.1:9092\n\
         --set lake.ulr: lake.ulr: unknown key\n  hint: did you mean `url`?\n\
         --set limits.memory: limits.memory: `lots` is not a size\n  hint: a whole number and a unit: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, as in \"512MiB\"\n\
         environment variable MILLPOND__: names no key\n  hint: such as MILLPOND__KAFKA__BROKERS\n\
         environment variable MILLPOND__KAFKA__BROKER: kafka.broker: unknown key\n  hint: did you mean `brokers`?"
    );
    let options = LoadOptions { env: Some("../prod".into()), ..LoadOptions::default() };
    assert_eq!(load_with(&[], &options).unwrap_err().0[0].message, "`../prod` is not the name of an environment");
}

#[test]
fn variables_are_replaced_and_never_shown() {
    let file = "[kafka]\nbrokers = \"${BROKER}:9092\"\n[kafka.properties]\n\"sasl.password\" = \"${PASSWORD}\"\n\"client.id\" = \"$${x}\"\n[kafka.schema_registry]\npassword = \"${PASSWORD}\"\nca = \"ca.pem\"\n[limits]\nmemory = \"${PASSWORD}\"";
    let mut options = LoadOptions { vars: vars(&[("BROKER", "b"), ("PASSWORD", "512MiB")]), ..LoadOptions::default() };
    let config = load_with(&[("millpond.toml", file)], &options).unwrap().config;
    assert_eq!(config.kafka.brokers, Brokers::At("b:9092".into()));
    assert_eq!(config.kafka.properties.0["sasl.password"], "512MiB");
    assert_eq!(config.kafka.properties.0["client.id"], "${x}");
    assert_eq!(config.kafka.schema_registry.password.as_deref(), Some("512MiB"));
    assert!(config.kafka.schema_registry.ca.as_ref().unwrap().is_absolute());
    assert!(!format!("{config:?}").contains("\"512MiB\""), "{config:?}");

    options.vars = vars(&[("PASSWORD", "512MiB")]);
    options.sets = vec!["kafka.brokers=elsewhere".into()];
    assert!(load_with(&[("millpond.toml", file)], &options).is_ok(), "what is replaced needs no variable");

    options = LoadOptions { vars: vars(&[("PASSWORD", "hunter2")]), ..LoadOptions::default() };
    let shown = load_with(&[("millpond.toml", file)], &options).unwrap_err().to_string();
    assert_eq!(
        shown,
        "millpond.toml:2:11: kafka.brokers: the environment variable `BROKER` is not set\n\
         millpond.toml:10:10: limits.memory: `${PASSWORD}` is not a size\n  hint: a whole number and a unit: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, as in \"512MiB\""
    );
}

#[test]
fn a_syntax_error_hides_no_problem_of_other_files() {
    assert_problems(
        &[
            ("millpond.toml", "[lake]\nurl = \n"),
            ("schemas/a.toml", "kind = \"events\"\ntopic = \"a\"\nformat = \"xml\"\n"),
            ("schemas/b.toml", "kind = \"events\"\nkind = \"events\"\n"),
            ("queries/v.sql", "--! kind = view\nSELECT 1\n"),
        ],
        &[
            "millpond.toml:2:7: not valid TOML: string values must be quoted, expected literal string",
            "queries/v.sql:1:12: not valid TOML: string values must be quoted, expected literal string",
            "schemas/a.toml:3:10: format: `xml` is not known here\n  hint: known here: json, avro, protobuf",
            "schemas/b.toml:2:1: not valid TOML: duplicate key",
        ],
    );
}

#[test]
fn a_folder_that_is_no_project() {
    for path in ["/no/such/folder", "/etc/passwd"] {
        let problems = Project::load(path.as_ref(), &LoadOptions::default()).unwrap_err();
        assert!(problems.to_string().starts_with(&format!("{path}: is not a project folder: ")), "{problems}");
        assert_eq!(problems.len(), 1, "{problems}");
    }
    let empty = tempfile::tempdir().unwrap();
    let problems = Project::load(empty.path(), &LoadOptions::default()).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems.0[0].message, "there is no such file");
    assert!(problems.0[0].file.ends_with("/millpond.toml"));
}

#[test]
fn problems_are_usage_errors_and_json() {
    let problems: Problems = load(&[("millpond.toml", "[lake]\nulr = 1")]).unwrap_err();
    assert_eq!(
        problems.to_json(),
        serde_json::json!([{
            "file": "millpond.toml", "line": 2, "column": 1, "key": "lake.ulr",
            "message": "unknown key", "hint": "did you mean `url`?",
        }])
    );
    let error = Error::from(problems);
    assert_eq!((error.kind(), error.exit_code()), (Kind::Usage, 2));
    assert_eq!(
        error.to_string(),
        "the project has a problem\nmillpond.toml:2:1: lake.ulr: unknown key\n  hint: did you mean `url`?"
    );
    let whole = load(&[("queries/v.sql", "--! kind = \"view\"\n")]).unwrap_err().to_json();
    assert_eq!(whole[0]["line"], serde_json::Value::Null);
}

#[test]
fn the_demo_project_has_no_problem() {
    let root = env!("CARGO_MANIFEST_DIR");
    let project = Project::load(root.as_ref(), &LoadOptions::default()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(project.config.kafka.brokers, Brokers::Embedded);
    assert!(!project.tables.is_empty() && !project.views.is_empty());
}

const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHQ=$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn accounts_and_roles_are_read() {
    let text = format!(
        "[roles.analyst]\ntables = [\"telemetry\", \"car_*\"]\nstatement_timeout = \"30s\"\nqueries = 4\n\
         memory = \"64MiB\"\nresult_rows = 1000\nresult_size = \"1MiB\"\n\
         filter = {{ telemetry = \"region = 'seoul'\" }}\nmask = {{ telemetry = [\"lat\"], car_state = \"plate\" }}\n\
         [users.ann]\nrole = \"analyst\"\nverifier = \"{VERIFIER}\"\n[users.bob]\nrole = \"admin\"\nverifier = \"{VERIFIER}\"\nlogin = \"password\"\n"
    );
    let access = load(&[("access.toml", &text)]).unwrap().access.unwrap();
    let role = &access.users["ann"].role;
    assert_eq!((role.rights, role.tables.len(), role.queries), (Rights::Reader, 2, Some(4)));
    assert_eq!((role.memory, role.result_rows), (Some(ByteSize(64 << 20)), Some(1_000)));
    assert_eq!(role.filter["telemetry"], "region = 'seoul'");
    assert_eq!(role.mask["car_state"], ["plate"]);
    assert_eq!((access.users["bob"].role.rights, access.users["bob"].login), (Rights::Admin, Login::Password));
    for (text, expected) in [
        ("[roles.a]", "access.toml:1:8: roles.a.tables: is missing"),
        ("[users.a]\nrole = \"reader\"", "access.toml:1:8: users.a.verifier: is missing"),
        ("[users.a]\nrole = \"boss\"\nverifier = \"x\"", "access.toml:2:8: users.a.role: `boss` is not a role"),
        (
            "[users.a]\nrole = \"reader\"\nverifier = \"secret\"",
            "access.toml:3:12: users.a.verifier: is no verifier of SCRAM-SHA-256",
        ),
        (
            "[roles.a]\ntables = [\"*\"]\nqueries = 0",
            "access.toml:3:11: roles.a.queries: `0` is not a number of statements",
        ),
        (
            "[roles.a]\ntables = [\"*\"]\nresult_rows = 0",
            "access.toml:3:15: roles.a.result_rows: `0` is not a number of rows",
        ),
        ("[user.a]", "access.toml:1:2: user: unknown key"),
    ] {
        let problems = load(&[("access.toml", text)]).unwrap_err().to_string();
        assert!(problems.contains(expected), "{text}: {problems}");
    }
}

#[test]
fn whoever_can_be_reached_from_elsewhere_has_accounts_and_tls() {
    let user = format!("[users.ann]\nrole = \"reader\"\nverifier = \"{VERIFIER}\"\n");
    let open = "[serve]\nhttp = \"0.0.0.0:8090\"\n";
    let closed = "[serve]\nhttp = \"0.0.0.0:8090\"\ntls = { cert = \"server.pem\", key = \"server.key\" }\n";
    let pem = [("server.pem", ""), ("server.key", "")];
    let refused = |files: &[(&str, &str)], reason: &str| {
        let problems = load(files).unwrap_err().to_string();
        let wanted = format!("serve.http: `0.0.0.0:8090` can be reached from other machines, and {reason}");
        assert!(problems.contains(&wanted), "{problems}");
    };
    refused(&[("millpond.toml", open)], "there are neither accounts nor TLS");
    refused(&[("millpond.toml", open), ("access.toml", &user)], "there is no TLS");
    refused(&[&[("millpond.toml", closed), ("access.toml", "")][..], &pem].concat(), "there are no accounts");
    assert!(load(&[&[("millpond.toml", closed), ("access.toml", &user)][..], &pem].concat()).is_ok());
    assert!(load(&[("millpond.toml", "[serve]\nhttp = \"[::1]:8090\"")]).is_ok());
}

#[test]
fn msk_iam_takes_the_region_from_the_brokers() {
    for (brokers, region) in [
        ("b-1.fleet.x1y2.c3.kafka.eu-central-1.amazonaws.com:9098", "eu-central-1"),
        ("localhost:1,boot-abc.c2.kafka-serverless.us-west-2.amazonaws.com:9098", "us-west-2"),
    ] {
        let file = format!("[kafka]\nbrokers = \"{brokers}\"\nauth = \"msk-iam\"");
        let auth = load(&[("millpond.toml", &*file)]).unwrap().config.kafka.auth;
        assert_eq!(auth, Auth::MskIam { region: region.to_owned() });
    }
    let file = "[kafka]\nbrokers = \"b.kafka.eu-west-1.amazonaws.com:9098\"\nauth = \"msk-iam\"\n\
                properties = { \"sasl.mechanism\" = \"PLAIN\" }";
    let problems = load(&[("millpond.toml", file)]).unwrap_err().to_string();
    assert!(problems.contains("`msk-iam` sets sasl.mechanism itself"), "{problems}");
}

/// What `docker/compose.yaml` puts together: the demo's tables and queries, and a table of its database.
#[test]
fn the_project_of_the_containers_is_sound() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let mut files = vec![
        ("millpond.toml".to_owned(), read(root.join("docker/millpond.toml"))),
        ("schemas/customer.toml".to_owned(), read(root.join("docker/customer.toml"))),
    ];
    for folder in ["schemas", "queries", "reference"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            files.push((format!("{folder}/{name}"), read(root.join(folder).join(&name))));
        }
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let project = load(&files).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(project.config.sinks.contains_key("customer"));
}
