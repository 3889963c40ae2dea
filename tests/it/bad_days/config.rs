//! A project with mistakes: all of them at once, each with its place.

use super::{SOON, assert_says};
use crate::rig::{Lake, Millpond, Project, python::Output, wait_until};

const SCHEMA: &str =
    "kind = \"events\"\ntopic = \"t\"\nformat = \"jsn\"\n\n[columns.speed]\npath = \"s\"\ntype = \"integr\"\n";

#[tokio::test]
async fn three_mistakes_are_three_problems_with_their_places() {
    let project = Project::new("127.0.0.1:9", Lake::Local).toml("[limits]\nmemry = \"1GiB\"").schema("events", SCHEMA);
    let check = project.run(&["check"]).await;
    assert_eq!(check.code, Some(2), "{check:?}");
    let config = std::fs::read_to_string(project.dir().join("millpond.toml")).unwrap();
    let line = config.lines().position(|line| line.starts_with("memry")).unwrap() + 1;
    let places = [
        format!("millpond.toml:{line}:1: limits.memry: unknown key"),
        "schemas/events.toml:3:10: format: `jsn` is not known here".to_owned(),
        "schemas/events.toml:7:8: columns.speed.type: `integr` is not known here".to_owned(),
    ];
    assert_problems(&check.stdout, &places);
    assert_eq!(check.stderr, "", "problems are what `check` prints");

    let serve = project.run(&["serve"]).await;
    assert_eq!((serve.code, serve.stdout.as_str()), (Some(2), ""), "{serve:?}");
    assert_problems(&serve.stderr, &places);
    assert_says(&serve.stderr, &["error: the project has 3 problems"]);
    assert!(!project.dir().join("lake").exists(), "nothing is made of a wrong project");

    let json = project.run(&["check", "--format", "json"]).await;
    let problems: Vec<serde_json::Value> = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, problems.len()), (Some(2), 3), "{}", json.stdout);
    assert_eq!((&problems[1]["line"], &problems[1]["column"]), (&3.into(), &10.into()), "{}", json.stdout);
}

fn assert_problems(text: &str, places: &[String]) {
    assert_says(text, &["did you mean `memory`?", "did you mean `json`?", "hint: "]);
    for place in places {
        assert_eq!(text.lines().filter(|line| line.ends_with(place.as_str())).count(), 1, "{place} in:\n{text}");
    }
    let placed = text.lines().filter(|line| !line.starts_with("  hint") && !line.starts_with("error: ")).count();
    assert_eq!(placed, places.len(), "no more and no less:\n{text}");
}

#[tokio::test]
async fn a_sound_project_has_no_problems_and_a_missing_one_is_named() {
    let project = Project::new("127.0.0.1:9", Lake::Local).events("events", "t", "");
    let Output { code, stdout, stderr } = project.run(&["check"]).await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "no problems\n", ""));
    let none = project.run(&["serve", "--project", "nowhere"]).await;
    super::assert_failed(&none, 2, &["nowhere", "is not a project folder", "--project"]);
}

#[tokio::test]
async fn views_that_do_not_plan_are_told_before_somebody_reads_them() {
    let project = Project::new("127.0.0.1:9", Lake::Local).events("events", "t", "");
    let view = |name: &str, sql: &str| {
        let path = project.dir().join(format!("queries/{name}.sql"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("--! kind = \"view\"\n{sql}\n")).unwrap();
    };
    // No record has come yet: `events` may have any columns.
    view("may_be", "SELECT speed FROM events");
    view("syntax", "SELECT speed\nFRM events e");
    view("table", "SELECT * FROM event");
    let check = project.run(&["check"]).await;
    assert_eq!(check.code, Some(2), "{check:?}");
    let told = ["queries/syntax.sql:3:5: syntax error", "queries/table.sql:2:15: table `event` does not exist\n"];
    assert_says(&check.stdout, &[told[0], told[1], "did you mean events?"]);
    assert!(!check.stdout.contains("may_be"), "{}", check.stdout);

    let millpond = Millpond::start(&project);
    let warned = |log: &str| log.lines().filter(|line| line.contains("view does not plan")).count();
    let log = wait_until("both views are told", SOON, async || {
        let log = millpond.process().log();
        (warned(&log) == 2).then_some(log)
    })
    .await;
    assert_says(
        &log,
        &["file=\"queries/table.sql\" line=2 ", "file=\"queries/syntax.sql\" line=3 ", "did you mean events?"],
    );
    millpond.kill();
}
