//! Queries of the project that do not plan, told before somebody asks for a view or misses an alert.

use tracing::warn;

use super::catalog::EngineCatalog;
use super::streams;
use crate::config::{Problem, Problems, Project, View};
use crate::error::Error;
use crate::query::Service;
use crate::stream::{Plan, Rule};

/// What is wrong with a project's queries and derived columns, and a line for each rule that says how it runs. Before the
/// first record of every table not all columns are known; a query is then judged by its syntax and the tables it names.
pub(super) async fn check(project: &Project, service: &Service, catalog: &EngineCatalog) -> (Problems, Vec<String>) {
    let known = catalog.fed().tables.values().all(|live| live.pin().schema_version > 0);
    let session = service.session();
    let (mut problems, mut notes) = (Problems::default(), Vec::new());
    for View { name, file, .. } in &project.views {
        if let Err(error) = session.check_view(name, known).await {
            problems.push(problem(file, &error));
        }
    }
    for rule in &project.alerts {
        match streams::plan(rule, service, catalog).await {
            Ok(plan) => match unfilled(rule, &plan) {
                Some(place) => {
                    let text = format!("message: the query selects no column `{place}`");
                    problems.push(Problem::of_file(&rule.file, text).hint("select it, or write {{ for a brace"));
                }
                None => notes.push(note(rule, &plan)),
            },
            Err(error) if streams::waits_for_columns(&error, catalog) => {
                notes.push(format!("alert {}: waits for its columns: {}", rule.name, error.headline()));
            }
            Err(error) => problems.push(problem(&rule.file, &error)),
        }
    }
    // Columns that are derived by SQL; a place in the text that was made of it tells nobody anything.
    for latest in project.latest.iter().filter(|latest| !latest.derived.is_empty()) {
        if let Err(error) = session.check_view(&latest.table, known).await {
            let file = format!("schemas/{}.toml", latest.table);
            let problem = Problem::of_file(file, format!("columns: {}", error.headline()));
            problems.push(match error.hint_text() {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        }
    }
    (problems, notes)
}

/// Says what is wrong with views; whoever reads one is told in full. A rule says it when it is planned.
pub(super) async fn warn(project: &Project, service: &Service, catalog: &EngineCatalog) {
    let views = Project { alerts: Vec::new(), ..project.clone() };
    for problem in check(&views, service, catalog).await.0.0 {
        let Problem { file, line, message, hint, .. } = problem;
        let reason = message.lines().next().unwrap_or_default();
        warn!(file, line, reason, hint, "view does not plan");
    }
}

/// How a rule runs, and what it keeps in memory.
fn note(rule: &Rule, plan: &Plan) -> String {
    let query = plan.query();
    let look_up = |(table, by_key): (String, bool)| match by_key {
        true => format!("looks up {table} by its key"),
        false => format!("looks up {table} and keeps an index of all its rows"),
    };
    let mut parts = vec![format!("{} over {}", plan.class(rule), query.stream())];
    parts.extend(query.look_ups().into_iter().map(look_up));
    if rule.waits() {
        parts.push("keeps the rows of the last seconds, in order of their times".to_owned());
    }
    let to = if rule.to.is_empty() { "told to nobody".to_owned() } else { format!("told to {}", rule.to.join(", ")) };
    format!("alert {}: {}; {to}", rule.name, parts.join("; "))
}

/// A place of the message that no column fills.
fn unfilled(rule: &Rule, plan: &Plan) -> Option<String> {
    let columns = plan.query().schema();
    rule.message.places().find(|place| !is_filled(place, &columns)).map(str::to_owned)
}

fn is_filled(place: &str, columns: &arrow::datatypes::Schema) -> bool {
    let first = place.split('.').next().unwrap_or(place);
    [place, first].iter().any(|name| columns.field_with_name(name).is_ok() || crate::stream::FIELDS.contains(name))
}

fn problem(file: &str, error: &Error) -> Problem {
    let mut problem = Problem::of_file(file, error.message());
    if let Some((line, column)) = error.place() {
        // A query's text has the lines and columns of its file.
        (problem.line, problem.column) = (line as usize, column as usize);
    }
    match error.hint_text() {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}
