//! Queries of the project that do not plan, told before somebody asks for a view or misses an alert.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use tracing::warn;

use super::catalog::EngineCatalog;
use super::{stream_queries, streams, table_queries};
use crate::config::{Problem, Problems, Project, View};
use crate::error::Error;
use crate::lake::LiveView;
use crate::query::{By, Continuous, Service};
use crate::schema::{SchemaVersion, quoted_name};
use crate::stream::{Plan, Rule, StreamQuery, TableQuery, columns_of};

/// What is wrong with a project's queries and derived columns, and a line for each rule that says how it runs. Before the
/// first record of every table not all columns are known; a query is then judged by its syntax and the tables it names.
pub(super) async fn check(project: &Project, service: &Service, catalog: &EngineCatalog) -> (Problems, Vec<String>) {
    let known = catalog.fed().tables.values().all(|live| live.pin().schema_version > 0);
    let session = service.session();
    let (mut problems, mut notes) = (Problems::default(), Vec::new());
    stream_queries(project, service, catalog, &mut problems, &mut notes).await;
    table_queries(project, service, catalog, &mut problems, &mut notes).await;
    for View { name, file, columns, .. } in &project.views {
        match session.check_view(name, known).await {
            Err(error) => problems.push(problem(file, &error)),
            Ok(()) if known && !columns.is_empty() => {
                let Ok(query) = session.query(&format!("SELECT * FROM {}", quoted_name(name))).await else { continue };
                let schema = query.schema();
                for column in columns.keys().filter(|column| schema.field_with_name(column).is_err()) {
                    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                    let text = format!("columns.{column}: the view has no such column");
                    problems.push(Problem::of_file(file, text).hint(format!("it has: {}", names.join(", "))));
                }
            }
            Ok(()) => {}
        }
    }
    for rule in &project.alerts {
        let planned = match &rule.schedule {
            Some(schedule) => scheduled(rule, service).await.map(|columns| {
                let note = format!("alert {}: runs {schedule}; {}", rule.name, told_to(rule));
                (columns, note)
            }),
            None => {
                let plan = streams::plan(rule, service, catalog).await;
                plan.map(|plan| (plan.query().schema(), note(project, rule, &plan)))
            }
        };
        match planned {
            Ok((columns, note)) => match unfilled(rule, &columns) {
                Some(place) => {
                    let text = format!("message: the query selects no column `{place}`");
                    problems.push(Problem::of_file(&rule.file, text).hint("select it, or write {{ for a brace"));
                }
                None => notes.push(note),
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
            problems.push(Problem::of_file(file, format!("columns: {}", error.headline())).hint_of(&error));
        }
    }
    (problems, notes)
}

/// Checks stream queries, and shows their tables to whoever reads them.
async fn stream_queries(
    project: &Project,
    service: &Service,
    catalog: &EngineCatalog,
    problems: &mut Problems,
    notes: &mut Vec<String>,
) {
    let mut left: Vec<&StreamQuery> = project.streams.iter().collect();
    // One may read what another one makes.
    while !left.is_empty() {
        let before = left.len();
        let mut failed = Vec::new();
        for query in std::mem::take(&mut left) {
            match stream_queries::plan(query, service, catalog).await {
                Ok(select) => match SchemaVersion::selected(&columns_of(&select), &query.key) {
                    Ok(version) => {
                        notes.push(note_of_stream(project, query, &select));
                        show(query, &version, catalog);
                    }
                    Err(reason) => problems.push(Problem::of_file(&query.file, reason)),
                },
                Err(error) => failed.push((query, error)),
            }
        }
        if failed.len() == before {
            let (waiting, wrong): (Vec<_>, Vec<_>) =
                failed.into_iter().partition(|(_, error)| streams::waits_for_columns(error, catalog));
            for (query, error) in &waiting {
                notes.push(format!("stream {}: waits for its columns: {}", query.name, error.headline()));
                show(query, &SchemaVersion { number: 0, keys: 0, columns: Vec::new() }, catalog);
            }
            if waiting.is_empty() {
                wrong.iter().for_each(|(query, error)| problems.push(problem(&query.file, error)));
                return;
            }
            failed = wrong;
        }
        left = failed.into_iter().map(|(query, _)| query).collect();
    }
}

/// Checks queries whose rows are tables, and shows those to whoever reads them.
async fn table_queries(
    project: &Project,
    service: &Service,
    catalog: &EngineCatalog,
    problems: &mut Problems,
    notes: &mut Vec<String>,
) {
    let mut left: Vec<&TableQuery> = project.made.iter().collect();
    // One may read what another one makes.
    while !left.is_empty() {
        let before = left.len();
        let mut failed = Vec::new();
        for query in std::mem::take(&mut left) {
            match table_queries::columns(query, service, catalog).await {
                Ok((columns, by_parts)) => {
                    notes.push(note_of_table(query, by_parts));
                    if !catalog.fed().tables.contains_key(&query.name)
                        && let Ok(view) = super::view_of(&query.name, None, columns, &catalog.versions)
                    {
                        catalog.show(&query.name, &Arc::new(LiveView::new(view)));
                    }
                }
                Err(error) => failed.push((query, error)),
            }
        }
        if failed.len() == before {
            for (query, error) in &failed {
                match streams::waits_for_columns(error, catalog) {
                    true => notes.push(format!("table {}: waits for its columns: {}", query.name, error.headline())),
                    false => problems.push(problem(&query.file, error)),
                }
            }
            return;
        }
        left = failed.into_iter().map(|(query, _)| query).collect();
    }
}

/// When a table is made anew, and what of it.
fn note_of_table(query: &TableQuery, by_parts: bool) -> String {
    let when = match &query.schedule {
        Some(schedule) => format!("made anew {schedule}"),
        None => "made anew when somebody asks".to_owned(),
    };
    let what = match &query.partition_by {
        Some(column) if by_parts => format!("by {column}, what changed"),
        Some(column) => format!("as a whole: `{column}` is no column that parts its sources"),
        None => "as a whole".to_owned(),
    };
    format!("table {}: {when}, {what}", query.name)
}

/// Shows the table that a stream query will have, unless it is there.
fn show(query: &StreamQuery, version: &SchemaVersion, catalog: &EngineCatalog) {
    let table = query.table();
    if !query.keeps || catalog.fed().tables.contains_key(&table) {
        return;
    }
    if let Ok(mut view) = super::view_of(&table, None, version.arrow_schema(), &catalog.versions) {
        view.schema_version = version.number;
        catalog.show(&table, &Arc::new(LiveView::new(view)));
    }
}

/// How a stream query runs, and where its rows go.
fn note_of_stream(project: &Project, query: &StreamQuery, select: &Continuous) -> String {
    let look_ups = select.look_ups();
    let mut parts = vec![format!("{} over {}", select.class(), project.table_of(select.stream()))];
    parts.extend(look_ups.iter().map(|(table, by)| look_up(project.table_of(table), *by)));
    parts.extend(select.memory().map(|memory| format!("keeps {}", memory.describe())));
    let mut to = Vec::new();
    if query.keeps {
        to.push(format!("appended to {}", query.table()));
    }
    if query.upsert {
        to.push(format!("the newest of each key in {}", query.name));
    }
    if !query.to.is_empty() {
        to.push(format!("sent to {}", query.to.join(", ")));
    }
    format!("stream {}: {}; {}", query.name, parts.join("; "), to.join("; "))
}

fn look_up(table: &str, by: By) -> String {
    match by {
        By::Key => format!("looks up {table} by its key"),
        By::Index => format!("looks up {table} and keeps an index of all its rows"),
        By::Comparison => format!("compares each row with all rows of {table}"),
    }
}

/// Says what is wrong with views; whoever reads one is told in full. A rule says it when it is planned.
pub(super) async fn warn(project: &Project, service: &Service, catalog: &EngineCatalog) {
    let views = Project { alerts: Vec::new(), streams: Vec::new(), made: Vec::new(), ..project.clone() };
    for problem in check(&views, service, catalog).await.0.0 {
        let Problem { file, line, message, hint, .. } = problem;
        let reason = message.lines().next().unwrap_or_default();
        warn!(file, line, reason, hint, "view does not plan");
    }
}

/// How a rule runs, and what it keeps in memory.
fn note(project: &Project, rule: &Rule, plan: &Plan) -> String {
    let query = plan.query();
    let mut parts = vec![format!("{} over {}", plan.class(rule), project.table_of(query.stream()))];
    parts.extend(query.look_ups().iter().map(|(table, by)| look_up(project.table_of(table), *by)));
    if plan.ordered() {
        parts.push("keeps the rows of the last seconds, in order of their times".to_owned());
    }
    parts.extend(query.memory().map(|memory| format!("keeps {}", memory.describe())));
    format!("alert {}: {}; {}", rule.name, parts.join("; "), told_to(rule))
}

fn told_to(rule: &Rule) -> String {
    if rule.to.is_empty() { "told to nobody".to_owned() } else { format!("told to {}", rule.to.join(", ")) }
}

/// The columns that the query of a rule on a schedule gives.
async fn scheduled(rule: &Rule, service: &Service) -> Result<SchemaRef, Error> {
    let columns = service.session().query(&rule.sql).await?.schema();
    rule.has_key(&columns)?;
    Ok(columns)
}

/// A place of the message that no column fills.
fn unfilled(rule: &Rule, columns: &Schema) -> Option<String> {
    rule.message.places().find(|place| !is_filled(place, columns)).map(str::to_owned)
}

fn is_filled(place: &str, columns: &Schema) -> bool {
    let first = place.split('.').next().unwrap_or(place);
    [place, first].iter().any(|name| columns.field_with_name(name).is_ok() || crate::stream::FIELDS.contains(name))
}

fn problem(file: &str, error: &Error) -> Problem {
    let mut problem = Problem::of_file(file, error.message());
    if let Some((line, column)) = error.place() {
        // A query's text has the lines and columns of its file.
        (problem.line, problem.column) = (line as usize, column as usize);
    }
    problem.hint_of(error)
}
