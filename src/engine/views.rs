//! Views that do not plan, told before somebody asks for one.

use tracing::warn;

use super::catalog::EngineCatalog;
use crate::config::{Problem, Problems, View};
use crate::error::Error;
use crate::query::Service;

/// What is wrong with `views`. Before the first record of every table not all columns are known; a view is then
/// judged by its syntax and the tables it names.
pub(super) async fn problems(views: &[View], service: &Service, catalog: &EngineCatalog) -> Problems {
    let known = catalog.fed().tables.values().all(|live| live.pin().schema_version > 0);
    let session = service.session();
    let mut problems = Problems::default();
    for view in views {
        if let Err(error) = session.check_view(&view.name, known).await {
            problems.push(problem(&view.file, &error));
        }
    }
    problems
}

/// Says what is wrong with `views`; whoever reads one is told in full.
pub(super) async fn warn(views: &[View], service: &Service, catalog: &EngineCatalog) {
    for problem in problems(views, service, catalog).await.0 {
        let Problem { file, line, message, hint, .. } = problem;
        let reason = message.lines().next().unwrap_or_default();
        warn!(file, line, reason, hint, "view does not plan");
    }
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
