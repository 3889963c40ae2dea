//! Takes over what is edited in the project folder while it runs: contracts between two batches of their table, views
//! with the next statement.
//!
//! The whole project is loaded anew, so what is taken over is what `millpond check` would accept. If anything in it is
//! wrong, a syntax error or half of a `git pull`, all of what ran goes on, and the log says why.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use super::catalog::EngineCatalog;
use crate::config::{LoadOptions, Problems, Project, Watch};
use crate::schema::Contract;
use crate::task::Shutdown;

/// Hands edits to those who run.
pub struct Reload {
    /// The project's folder.
    pub dir: PathBuf,
    /// What overrides its files.
    pub options: LoadOptions,
    /// The tables that are fed, by name.
    pub contracts: BTreeMap<String, watch::Sender<Arc<Contract>>>,
    /// What SQL sees.
    pub catalog: Arc<EngineCatalog>,
}

impl Reload {
    /// Runs until stopped.
    pub async fn run(self, stop: Shutdown) {
        let mut watch = Watch::new(vec![self.dir.join("schemas"), self.dir.join("queries")]);
        while stop.run_until_cancelled(watch.changed()).await.is_some() {
            let (dir, options) = (self.dir.clone(), self.options.clone());
            match tokio::task::spawn_blocking(move || Project::load(&dir, &options)).await {
                Ok(Ok(project)) => self.take(project),
                Ok(Err(problems)) => refuse(&problems),
                Err(error) => warn!(error = %error, "project not read again"),
            }
        }
    }

    fn take(&self, project: Project) {
        let views = project.views.into_iter().map(|view| (view.name, view.sql)).collect();
        if *self.catalog.views.read() != views {
            info!(views = views.len(), "views taken over");
            *self.catalog.views.write() = views;
        }
        let mut gone: Vec<&String> = self.contracts.keys().collect();
        for contract in project.tables {
            gone.retain(|table| **table != contract.table);
            let Some(fed) = self.contracts.get(&contract.table) else {
                warn!(table = contract.table, "a new table is fed from the next start on");
                continue;
            };
            fed.send_if_modified(|known| {
                let edited = **known != contract;
                if edited {
                    *known = Arc::new(contract);
                }
                edited
            });
        }
        for table in gone {
            warn!(table, "the contract is gone: the table is fed until the next stop, its rows stay");
        }
    }
}

fn refuse(problems: &Problems) {
    for problem in &problems.0 {
        warn!(problem = %problem, "project not taken over, what ran before goes on");
    }
}
