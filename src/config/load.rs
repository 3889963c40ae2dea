//! Walks the project folder.

use std::{
    cell::RefCell,
    fs, io,
    path::{Path, PathBuf},
};

use chrono_tz::Tz;

use super::{
    Access, LoadOptions, Project, access, contract,
    interpolate::Interpolation,
    latest, names, overrides,
    problem::{Complaint, Problem, Problems},
    query::{self, Around, Query},
    reference,
    settings::{self, Config},
    tree::{Place, Table},
};
use crate::deliver::SinkOptions;
use crate::schema::{Contract, Imported, Latest, Reference};
use crate::stream::Rule;

pub(super) const DEFAULTS: &str = include_str!("defaults.toml");
pub(super) const EVENTS_DEFAULTS: &str = include_str!("events_defaults.toml");
pub(super) const MIRROR_DEFAULTS: &str = include_str!("mirror_defaults.toml");
pub(super) const REFERENCE_DEFAULTS: &str = include_str!("reference_defaults.toml");
const CONFIG_FILE: &str = "millpond.toml";

pub(super) fn load(dir: &Path, options: &LoadOptions) -> Result<Project, Problems> {
    let folder = |path: PathBuf| if path.is_dir() { Ok(path) } else { Err(io::ErrorKind::NotADirectory.into()) };
    let absolute = dir.canonicalize().and_then(folder).map_err(|error| {
        let problem = Problem::of_file(dir.display().to_string(), format!("is not a project folder: {error}"));
        Problems(vec![problem.hint("name the folder that holds millpond.toml with --project")])
    })?;
    let interpolation = Interpolation { vars: &options.vars, dir: &absolute };
    let loader = Loader { dir, absolute: &absolute, interpolation, problems: RefCell::default() };

    let config = loader.config(options);
    let timezone = config.as_ref().map_or(Tz::UTC, |config| config.project.timezone);
    // A registry that was written wrongly is one problem already.
    let registry = config.as_ref().is_none_or(|config| config.kafka.schema_registry.url.is_some());
    let Tables { contracts: tables, latest, references, imported } = loader.tables(timezone, registry);
    let queries = loader.queries(config.as_ref());
    let access = loader.access();
    if let Some(config) = &config {
        loader.must_be_closed(config, access.as_ref());
    }

    let mut problems = loader.problems.into_inner();
    problems.0.sort_by(|a, b| (rank(a), &a.file, a.line, a.column).cmp(&(rank(b), &b.file, b.line, b.column)));
    match config {
        Some(config) if problems.is_empty() => {
            let mut project = Project {
                dir: absolute,
                config,
                access,
                tables,
                latest,
                references,
                imported,
                views: Vec::new(),
                alerts: Vec::new(),
                streams: Vec::new(),
                made: Vec::new(),
            };
            for query in queries {
                match query {
                    Query::View(view) => project.views.push(view),
                    Query::Alert(rule) => project.alerts.push(*rule),
                    Query::Stream(query) => project.streams.push(query),
                    Query::Table(query) => project.made.push(query),
                }
            }
            Ok(project)
        }
        _ => Err(problems),
    }
}

/// The contract of a table that declares nothing, fed by a topic of its name.
pub(super) fn events(table: &str) -> Result<Contract, Problems> {
    let problems = RefCell::default();
    names::relation(table).map_err(|complaint| Problems(vec![Place::whole(table).problem("", complaint)]))?;
    let text = format!("kind = \"events\"\ntopic = \"{table}\"\n");
    let mut tree = defaults(EVENTS_DEFAULTS, &problems);
    tree.overlay(Table::parse(table, &text, None, &mut problems.borrow_mut()).unwrap_or_default());
    let contract = contract::read(&tree, table, table, Path::new("."), Tz::UTC, false, &problems);
    contract.ok_or_else(|| problems.into_inner())
}

/// The rule `name` as another file has it.
pub(super) fn rule(name: &str, path: &Path, config: &Config) -> Result<Rule, Problems> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path)
        .map_err(|error| Problems(vec![Problem::of_file(&file, format!("cannot be read: {error}"))]))?;
    let problems = RefCell::default();
    match query::read(name, &file, &text, &around(Some(config)), &problems) {
        Some(Query::Alert(rule)) => Ok(*rule),
        Some(_) => {
            let problem = Problem::of_file(&file, "is no rule");
            Err(Problems(vec![problem.hint("a rule's file begins with the line: --! kind = \"alert\"")]))
        }
        None => Err(problems.into_inner()),
    }
}

/// What queries may refer to.
fn around(config: Option<&Config>) -> Around<'_> {
    let timezone = config.map_or(Tz::UTC, |config| config.project.timezone);
    let mut around = Around { timezone, ..Around::default() };
    for (name, options) in config.iter().flat_map(|config| &config.sinks) {
        around.sinks.push(name);
        if matches!(options, SinkOptions::Kafka(_)) {
            around.topics.push(name);
        }
    }
    around
}

/// Files first, then what overrides them.
fn rank(problem: &Problem) -> bool {
    problem.file.starts_with("--") || problem.file.starts_with(overrides::VARIABLE)
}

/// The default of each key of `millpond.toml` and of events tables, as layers below the user's.
fn defaults(text: &str, problems: &RefCell<Problems>) -> Table {
    Table::parse("defaults", text, None, &mut problems.borrow_mut()).unwrap_or_default()
}

/// A file of the project as the person would name it.
fn shown(dir: &Path, relative: impl AsRef<Path>) -> String {
    let path = dir.join(relative);
    path.strip_prefix(".").unwrap_or(&path).display().to_string()
}

struct Loader<'a> {
    dir: &'a Path,
    absolute: &'a Path,
    interpolation: Interpolation<'a>,
    problems: RefCell<Problems>,
}

/// The tables that `schemas/` declares.
#[derive(Default)]
struct Tables {
    contracts: Vec<Contract>,
    latest: Vec<Latest>,
    references: Vec<Reference>,
    imported: Vec<Imported>,
}

/// A file of `schemas/` or `queries/` whose name is right.
struct Named {
    name: String,
    file: String,
    text: String,
}

impl Loader<'_> {
    fn config(&self, options: &LoadOptions) -> Option<Config> {
        let mut layers = vec![Some(defaults(DEFAULTS, &self.problems))];
        layers.push(self.toml(CONFIG_FILE, "a folder with a file of this name is a project; an empty file is enough"));
        if let Some(env) = &options.env {
            if !env.is_empty() && env.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
                layers.push(self.toml(&format!("millpond.{env}.toml"), "--env names it"));
            } else {
                let problem = Problem::of_file("--env", format!("`{env}` is not the name of an environment"));
                self.push(problem.hint("such as `prod` for millpond.prod.toml"));
            }
        }
        let readable = layers.iter().all(Option::is_some);
        layers.extend(overrides::layers(&options.vars, &options.sets, &mut self.problems.borrow_mut()).map(Some));
        let mut tree = Table::default();
        for mut layer in layers.into_iter().flatten() {
            layer.flatten(&["kafka", "properties"]);
            tree.overlay(layer);
        }
        tree.report_broken("", &mut self.problems.borrow_mut());
        // What is readable is checked all the same; but a layer is missing, so there is no configuration.
        settings::read(&tree, &shown(self.dir, CONFIG_FILE), self.absolute, &self.table_names(), &self.problems)
            .filter(|_| readable)
    }

    /// Accounts, if there is a file of them.
    fn access(&self) -> Option<Access> {
        if !self.absolute.join(access::FILE).exists() {
            return None;
        }
        let tree = self.toml(access::FILE, "")?;
        tree.report_broken("", &mut self.problems.borrow_mut());
        Some(access::read(&tree, &shown(self.dir, access::FILE), &self.problems))
    }

    /// Whoever can be reached from other machines has accounts and TLS.
    fn must_be_closed(&self, config: &Config, access: Option<&Access>) {
        let serve = &config.serve;
        let doors = [("flight_sql", serve.flight_sql), ("postgres", serve.postgres), ("http", serve.http)];
        for (door, address) in doors.into_iter().filter_map(|(door, address)| Some((door, address?))) {
            let missing = match (access.is_some_and(|access| !access.users.is_empty()), serve.tls.is_some()) {
                _ if address.ip().is_loopback() => continue,
                (true, true) => continue,
                (false, true) => "there are no accounts",
                (true, false) => "there is no TLS",
                (false, false) => "there are neither accounts nor TLS",
            };
            let message = format!("serve.{door}: `{address}` can be reached from other machines, and {missing}");
            let problem = Problem::of_file(shown(self.dir, CONFIG_FILE), message);
            self.push(problem.hint(
                "millpond user add makes accounts, [serve] tls = { cert = \"…\", key = \"…\" } names a certificate; or serve a loopback address such as 127.0.0.1",
            ));
        }
    }

    /// Names of the tables, whether their files are right or not.
    fn table_names(&self) -> Vec<String> {
        let files = fs::read_dir(self.absolute.join("schemas")).into_iter().flatten().filter_map(Result::ok);
        let names = files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".toml")?.to_owned()));
        names.filter(|name| !name.starts_with('.')).collect()
    }

    fn tables(&self, timezone: Tz, registry: bool) -> Tables {
        let (mut tables, mut merged) = (Tables::default(), Vec::new());
        for Named { name, file, text } in self.named("schemas", "toml") {
            let user = Table::parse(&file, &text, Some(&self.interpolation), &mut self.problems.borrow_mut());
            let Some(user) = user else { continue };
            if user.text("kind") == Some("latest") {
                user.report_broken("", &mut self.problems.borrow_mut());
                merged.push((name, file, user));
                continue;
            }
            let is_reference = user.text("kind") == Some("reference");
            let below = match user.text("kind") {
                Some("mirror") => MIRROR_DEFAULTS,
                Some("reference") => REFERENCE_DEFAULTS,
                _ => EVENTS_DEFAULTS,
            };
            let mut tree = defaults(below, &self.problems);
            tree.overlay(user);
            tree.flatten(&["match"]);
            tree.report_broken("", &mut self.problems.borrow_mut());
            if is_reference {
                match reference::read(&tree, &name, &file, self.absolute, &self.problems) {
                    Some(reference::Declared::Reference(spec)) => tables.references.push(spec),
                    Some(reference::Declared::Imported(spec)) => tables.imported.push(spec),
                    None => {}
                }
            } else {
                tables.contracts.extend(contract::read(
                    &tree,
                    &name,
                    &file,
                    self.absolute,
                    timezone,
                    registry,
                    &self.problems,
                ));
            }
        }
        contract::share_topics(&mut tables.contracts);
        for (name, file, tree) in merged {
            tables.latest.extend(latest::read(&tree, &name, &file, &tables.contracts, &self.problems));
        }
        tables
    }

    fn queries(&self, config: Option<&Config>) -> Vec<Query> {
        let mut queries = Vec::new();
        let around = around(config);
        for Named { name, file, text } in self.named("queries", "sql") {
            let table = Path::new("schemas").join(format!("{name}.toml"));
            if self.absolute.join(&table).exists() {
                let message = format!("there is a table of this name: {}", shown(self.dir, &table));
                self.push(Problem::of_file(&file, message).hint("rename one of the two files"));
            }
            queries.extend(query::read(&name, &file, &text, &around, &self.problems));
        }
        queries
    }

    /// The files of `folder` that end in `.ending`, by name. Hidden files are an editor's business.
    fn named(&self, folder: &str, ending: &str) -> Vec<Named> {
        let mut paths: Vec<PathBuf> = match fs::read_dir(self.absolute.join(folder)) {
            Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.push(Problem::of_file(shown(self.dir, folder), format!("cannot be read: {error}")));
                Vec::new()
            }
        };
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let Some(file_name) = path.file_name() else { continue };
            let file_name = file_name.to_string_lossy();
            if file_name.starts_with('.') {
                continue;
            }
            let relative = format!("{folder}/{file_name}");
            let file = shown(self.dir, &relative);
            if path.is_dir() {
                self.push(
                    Problem::of_file(file, "folders in here are not read")
                        .hint(format!("put the files into {folder}/ itself")),
                );
                continue;
            }
            let Some(name) = file_name.strip_suffix(&format!(".{ending}")) else { continue };
            if let Err(complaint) = names::relation(name) {
                self.push(Place::whole(&file).problem("", complaint));
            }
            if let Some(text) = self.text(&relative, None) {
                files.push(Named { name: name.to_owned(), file, text });
            }
        }
        files
    }

    fn toml(&self, relative: &str, absent: &str) -> Option<Table> {
        let text = self.text(relative, Some(absent))?;
        let file = shown(self.dir, relative);
        Table::parse(&file, &text, Some(&self.interpolation), &mut self.problems.borrow_mut())
    }

    /// A file's text; `absent` is the hint if there is no such file.
    fn text(&self, relative: &str, absent: Option<&str>) -> Option<String> {
        fs::read_to_string(self.absolute.join(relative))
            .map_err(|error| {
                let complaint = match (error.kind(), absent) {
                    (io::ErrorKind::NotFound, Some(hint)) => Complaint::new("there is no such file").hint(hint),
                    (io::ErrorKind::InvalidData, _) => Complaint::new("is not UTF-8 text"),
                    _ => Complaint::new(format!("cannot be read: {error}")),
                };
                self.push(Place::whole(&shown(self.dir, relative)).problem("", complaint));
            })
            .ok()
    }

    fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }
}
