//! The project folder, typed; every problem at once.
//!
//! [`Project::load`] reads `millpond.toml` and what overrides it, the contracts of tables in `schemas/` and the
//! views in `queries/`. It returns all of it, or the whole list of [`Problems`], each with file, line, column,
//! key and a way out; nothing is accepted and ignored. This is what `millpond check` does.
//!
//! ```text
//! defaults.toml < millpond.toml < millpond.<env>.toml < MILLPOND__SECTION__KEY < --set     (overrides, tree)
//!        └─ text → tree of places, ${…} replaced (tree, interpolate) → typed (section; settings, contract, view)
//! ```
//!
//! `words` lists every key there is; `docs/reference.md` explains them, and a test holds the two together.
//! The environment is read here and nowhere else ([`LoadOptions::from_environment`]).

mod access;
mod alert;
mod contract;
mod interpolate;
mod kafka;
mod latest;
mod load;
mod names;
mod nearest;
mod overrides;
mod problem;
mod query;
mod reference;
mod section;
mod settings;
mod sinks;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod verifier;
mod watch;
mod words;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use access::{Access, FILE as ACCESS_FILE, Login, Rights, Role, User};
pub use contract::column_type;
pub use kafka::{Auth, Brokers, Properties, SchemaRegistry};
pub use nearest::nearest;
pub use problem::{Problem, Problems};
pub use query::View;
pub use settings::{Config, Kafka, Lake, Limits, ProjectConfig, S3, Serve, TlsFiles};
pub use tree::not_toml;
pub use units::{ByteSize, Interval, UnitError};
pub use verifier::{Verifier, md5_answer, md5_of, same};
pub use watch::Watch;

use crate::schema::{Contract, Imported, Latest, Reference};
use crate::stream::{Rule, StreamQuery, TableQuery};

/// A project that is right in itself; whether brokers and stores answer is another matter.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// The folder, absolute.
    pub dir: PathBuf,
    /// `millpond.toml` with everything that overrides it.
    pub config: Config,
    /// `access.toml`; without that file there are no accounts.
    pub access: Option<Access>,
    /// `schemas/*.toml` of the kinds that topics feed, by name.
    pub tables: Vec<Contract>,
    /// `schemas/*.toml` of `kind = "latest"`, by name.
    pub latest: Vec<Latest>,
    /// `schemas/*.toml` of `kind = "reference"` whose rows are those of files as they are now, by name.
    pub references: Vec<Reference>,
    /// `schemas/*.toml` of `kind = "reference"` that files are taken into, by name.
    pub imported: Vec<Imported>,
    /// `queries/*.sql` of `kind = "view"`, by name.
    pub views: Vec<View>,
    /// `queries/*.sql` of `kind = "alert"`, by name.
    pub alerts: Vec<Rule>,
    /// `queries/*.sql` of `kind = "stream"`, by name.
    pub streams: Vec<StreamQuery>,
    /// `queries/*.sql` of `kind = "table"`, by name.
    pub made: Vec<TableQuery>,
}

/// What overrides a project's files.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `--env`: overlays `millpond.<env>.toml`.
    pub env: Option<String>,
    /// `--set section.key=value`, the last one wins.
    pub sets: Vec<String>,
    /// Environment variables: `MILLPOND__SECTION__KEY`, and those that `${NAME}` may name.
    pub vars: BTreeMap<String, String>,
}

impl LoadOptions {
    /// Nothing but the variables of this process (those that are UTF-8).
    pub fn from_environment() -> Self {
        let vars =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { vars: vars.collect(), ..Self::default() }
    }
}

/// The contract of an events table that declares nothing, fed by a topic of its name.
pub fn events(table: &str) -> Result<Contract, Problems> {
    load::events(table)
}

impl Project {
    /// Loads the project in `dir`, or says everything that is wrong with it.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self, Problems> {
        load::load(dir, options)
    }

    /// The table that people know the rows called `name` by: those of a latest table are apart from what is derived.
    pub fn table_of<'a>(&'a self, name: &'a str) -> &'a str {
        let latest = self.latest.iter().find(|latest| latest.merged_name() == name);
        latest.map_or(name, |latest| latest.table.as_str())
    }

    /// Where files are, as somebody says it in the folder `dir`: an absolute url, or what is wrong with it.
    pub fn files_url(text: &str, dir: &Path) -> Result<String, String> {
        reference::url(text, dir).map_err(|complaint| match complaint.hint {
            Some(hint) => format!("{} ({hint})", complaint.message),
            None => complaint.message,
        })
    }

    /// The same, with nobody who is told: no sinks, no news, rules and stream queries that send nothing.
    #[must_use]
    pub fn muted(mut self) -> Self {
        self.config.sinks.clear();
        self.config.notify.clear();
        self.alerts.iter_mut().for_each(|rule| rule.to.clear());
        self.streams.retain(|query| query.keeps);
        self.streams.iter_mut().for_each(|query| query.to.clear());
        self
    }

    /// The rule `name` as another file has it, or says everything that is wrong with that.
    pub fn rule(&self, name: &str, file: &Path) -> Result<Rule, Problems> {
        load::rule(name, file, &self.config)
    }
}
