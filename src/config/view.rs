//! `queries/<name>.sql`: options as TOML in `--!` lines at the head, then plain SQL.

use std::cell::RefCell;

use super::{
    problem::{Complaint, Problems},
    section::Section,
    tree::{Place, Table},
    words::view,
};

/// A query of `kind = "view"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Name in the catalog = the file's stem.
    pub name: String,
    /// The SQL. The head's lines are left empty, so that a line number in an error is one of the file.
    pub sql: String,
    /// The file as problems name it.
    pub file: String,
}

/// Reads one file. `None` only if problems were reported.
pub(super) fn read(name: &str, file: &str, text: &str, problems: &RefCell<Problems>) -> Option<View> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (head, sql) = split(text, file, problems);
    let tree = Table::parse(file, &head, None, &mut problems.borrow_mut())?;
    let root = Section::peek(&tree, file, problems);
    root.require("kind", "the file begins with the line: --! kind = \"view\"");
    root.choice("kind", &[("view", ())], view::KINDS_LATER)?;
    Section::root(&tree, file, &view::ROOT, problems);
    if !has_statement(&sql) {
        problems.borrow_mut().push(Place::whole(file).problem("", Complaint::new("holds no SQL")));
        return None;
    }
    Some(View { name: name.to_owned(), sql, file: file.to_owned() })
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
