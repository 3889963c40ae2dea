//! Whole projects in, problems out.

mod config;
mod contracts;
mod reference;
mod sinks;
mod views;

use std::{fs, path::Path};

use super::{LoadOptions, Problems, Project};

/// A project of `files` (path, content) in a folder of its own; `millpond.toml` is empty unless given.
pub(super) fn load(files: &[(&str, &str)]) -> Result<Project, Problems> {
    load_with(files, &LoadOptions::default())
}

/// The same; the folder's path is left out of problems.
pub(super) fn load_with(files: &[(&str, &str)], options: &LoadOptions) -> Result<Project, Problems> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("millpond.toml"), "").unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, content).unwrap();
    }
    Project::load(dir.path(), options).map_err(|mut problems| {
        let prefix = format!("{}/", dir.path().display());
        for problem in &mut problems.0 {
            problem.file = problem.file.replace(&prefix, "");
            problem.message = problem.message.replace(&prefix, "");
        }
        problems
    })
}

/// Asserts that `files` give exactly these problems, as people see them.
pub(super) fn assert_problems(files: &[(&str, &str)], expected: &[&str]) {
    let shown = match load(files) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(shown, expected, "of {files:#?}");
}
