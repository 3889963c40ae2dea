//! What SQL must not do here. Every statement is refused, and nothing changed: not the disk, not the tables, not
//! the session.

use super::*;
use crate::error::Kind;

/// Statements and how they are refused; the integration tests try the same over Flight SQL.
const FORBIDDEN: &str = include_str!("../../../tests/slt/forbidden.txt");

fn forbidden() -> impl Iterator<Item = (Kind, String)> {
    FORBIDDEN.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (kind, sql) = line.split_once(':').unwrap();
        let kind = match kind {
            "denied" => Kind::Denied,
            "notfound" => Kind::NotFound,
            "query" => Kind::Query,
            other => panic!("{other}: {sql}"),
        };
        (kind, sql.strip_prefix(' ').unwrap_or(sql).replace("\\n", "\n"))
    })
}

#[tokio::test]
async fn forbidden_statements_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["secret.csv", "secret.json", "secret.parquet"] {
        std::fs::write(dir.path().join(name), "hunter2").unwrap();
    }
    let session = service(&Fixture::fleet()).session();
    let before = state_of(&session, dir.path()).await;
    let mut wrong = Vec::new();
    for (kind, sql) in forbidden() {
        let sql = sql.replace("{dir}", dir.path().to_str().unwrap());
        // Prepared and bound, so that whatever is planned would also run.
        let outcome = match session.prepare(&sql).await {
            Ok(statement) => statement.run(Vec::new()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        let direct = match session.query(&sql).await {
            Ok(query) => query.run().await.map(|_| ()),
            Err(error) => Err(error),
        };
        for outcome in [outcome, direct] {
            match outcome {
                Ok(()) => wrong.push(format!("{sql}\n    was taken")),
                Err(error) => {
                    let text = error.to_string();
                    let telling =
                        text.contains("hunter2") || text.contains("DataFusion") || text.contains("Statement {");
                    if error.kind() != kind || telling {
                        wrong.push(format!("{sql}\n    {:?}: {text}", error.kind()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(state_of(&session, dir.path()).await, before);
    assert!(forbidden().count() >= 80);
}

/// All that a statement could have changed.
async fn state_of(session: &Session, dir: &std::path::Path) -> Vec<String> {
    let mut state: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    state.sort();
    for sql in [
        "SELECT count(*) FROM telemetry",
        "SELECT count(*), count(plate_no) FROM carinfo",
        "SELECT table_schema, table_name, table_type FROM information_schema.tables ORDER BY table_schema, table_name",
        "SELECT name, value FROM information_schema.df_settings ORDER BY name",
        "SHOW ALL",
    ] {
        state.push(rows(session, sql).await.unwrap());
    }
    state
}

#[tokio::test]
async fn nothing_that_touches_files_is_registered() {
    let session = service(&Fixture::fleet()).session();
    let functions =
        session.planned_state().table_functions().keys().cloned().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(
        functions.iter().map(String::as_str).collect::<Vec<_>>(),
        ["at_time", "at_version", "generate_series", "range"]
    );
    assert!(session.planned_state().table_factories().is_empty());
    for format in ["csv", "parquet", "json", "arrow"] {
        assert!(session.planned_state().get_file_format_factory(format).is_none(), "{format}");
    }
}
