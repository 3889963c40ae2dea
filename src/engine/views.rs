//! Views that do not plan, told before somebody asks for one.

use tracing::warn;

use super::catalog::EngineCatalog;
use crate::config::{Problem, Problems, Project, View};
use crate::error::Error;
use crate::query::Service;

/// What is wrong with a project's views and derived columns. Before the first record of every table not all columns are known; a view is then
/// judged by its syntax and the tables it names.
pub(super) async fn problems(project: &Project, service: &Service, catalog: &EngineCatalog) -> Problems {
    let known = catalog.fed().tables.values().all(|live| live.pin().schema_version > 0);
    let session = service.session();
    let mut problems = Problems::default();
    for View { name, file, .. } in &project.views {
        if let Err(error) = session.check_view(name, known).await {
            problems.push(problem(file, &error));
        }
    }
    // Columns that are derived by SQL; a place in the text that was made of it tells nobody anything.
    for latest in project.latest.iter().filter(|latest| !latest.derived.is_empty()) {
        if let Err(error) = session.check_view(&latest.table, known).await {
            let file = format!("schemas/{}.toml", latest.table);
            let problem = Problem::of_file(file, format!("columns: {}", first_line(error.message())));
            problems.push(match error.hint_text() {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        }
    }
    problems
}

/// Says what is wrong with them; whoever reads one is told in full.
pub(super) async fn warn(project: &Project, service: &Service, catalog: &EngineCatalog) {
    for problem in problems(project, service, catalog).await.0 {
        let Problem { file, line, message, hint, .. } = problem;
        let reason = first_line(&message);
        warn!(file, line, reason, hint, "view does not plan");
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn problem(file: &str, error: &Error) -> Problem {
    let mut problem = Problem::of_file(file, error.message());
    if let Some((line, column)) = error.place() {
        // A view's text has the lines and columns of its file.
        (problem.line, problem.column) = (line as usize, column as usize);
    }
    match error.hint_text() {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}
