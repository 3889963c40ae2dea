//! `queries/<name>.sql`: options as TOML in `--!` lines at the head, then plain SQL.

use std::cell::RefCell;
use std::collections::BTreeMap;

use chrono_tz::Tz;

use super::{
    alert,
    problem::{Complaint, Problems},
    section::Section,
    stream, table,
    tree::{Place, Table},
    words,
};
use crate::stream::{Rule, StreamQuery, TableQuery};

/// What a file of `queries/` makes.
pub(super) enum Query {
    View(View),
    Alert(Box<Rule>),
    Stream(StreamQuery),
    Table(TableQuery),
}

/// What a query's file may refer to of the project's configuration.
#[derive(Default)]
pub(super) struct Around<'a> {
    /// The sinks.
    pub sinks: Vec<&'a str>,
    /// Those that are topics.
    pub topics: Vec<&'a str>,
    /// The zone of schedules.
    pub timezone: Tz,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum QueryKind {
    View,
    Alert,
    Stream,
    Table,
}

/// A query of `kind = "view"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Name in the catalog = the file's stem.
    pub name: String,
    /// The SQL. The head's lines are left empty, so that a line number in an error is one of the file.
    pub sql: String,
    /// The file as problems name it.
    pub file: String,
    /// What people should know of its columns, by their names.
    pub columns: BTreeMap<String, String>,
}

/// Reads one file. `None` only if problems were reported.
pub(super) fn read(name: &str, file: &str, text: &str, around: &Around, problems: &RefCell<Problems>) -> Option<Query> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (head, sql) = split(text, file, problems);
    let tree = Table::parse(file, &head, None, &mut problems.borrow_mut())?;
    let root = Section::peek(&tree, file, problems);
    root.require("kind", "the file begins with the line: --! kind = \"view\"");
    let kinds = [
        ("view", QueryKind::View),
        ("alert", QueryKind::Alert),
        ("stream", QueryKind::Stream),
        ("table", QueryKind::Table),
    ];
    let kind = root.choice("kind", &kinds, &[])?;
    let known = match kind {
        QueryKind::View => &words::view::ROOT,
        QueryKind::Alert => &words::alert::ROOT,
        QueryKind::Stream => &words::stream::ROOT,
        QueryKind::Table => &words::table::ROOT,
    };
    let root = Section::root(&tree, file, known, problems);
    if !has_statement(&sql) {
        problems.borrow_mut().push(Place::whole(file).problem("", Complaint::new("holds no SQL")));
        return None;
    }
    match kind {
        QueryKind::View => Some(Query::View(view(name, file, sql, &root))),
        QueryKind::Alert => alert::read(name, file, sql, text, &root, around).map(Box::new).map(Query::Alert),
        QueryKind::Stream => stream::read(name, file, sql, text, &root, around).map(Query::Stream),
        QueryKind::Table => table::read(name, file, sql, text, &root, around).map(Query::Table),
    }
}

fn view(name: &str, file: &str, sql: String, root: &Section) -> View {
    let described = root.has("columns").then(|| root.table("columns")).flatten();
    let description = |section: &Section, column: &str| {
        let text = section.read(column, |text| Ok::<_, Complaint>(text.to_owned()))?;
        Some((column.to_owned(), text))
    };
    let columns = described
        .map(|section| root.names("columns").into_iter().filter_map(|column| description(&section, column)).collect());
    View { name: name.to_owned(), sql, file: file.to_owned(), columns: columns.unwrap_or_default() }
}

/// Head and body, each with the lines of the other left empty: both keep the file's lines and columns.
fn split(text: &str, file: &str, problems: &RefCell<Problems>) -> (String, String) {
    let (mut head, mut sql) = (String::new(), String::new());
    let mut in_head = true;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if let Some(option) = trimmed.strip_prefix("--!") {
            if in_head {
                head.push_str(&" ".repeat(line.len() - option.len()));
                head.push_str(option);
            } else {
                let column = line.chars().count() - trimmed.chars().count() + 1;
                let place = Place { line: number + 1, column, ..Place::whole(file) };
                problems.borrow_mut().push(place.problem(
                    "",
                    Complaint::new("an option below the SQL").hint("`--!` lines stand at the head of the file"),
                ));
            }
        } else {
            in_head &= trimmed.is_empty() || trimmed.starts_with("--");
            sql.push_str(line);
        }
        head.push('\n');
        sql.push('\n');
    }
    (head, sql)
}

fn has_statement(sql: &str) -> bool {
    sql.lines().map(str::trim).any(|line| !line.is_empty() && line != ";" && !line.starts_with("--"))
}
