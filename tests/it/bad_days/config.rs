//! A project with mistakes: all of them at once, each with its place.

use super::assert_says;
use crate::rig::{Lake, Project, python::Output};

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
