//! Takes over what is edited in the project folder while it runs: contracts between two batches of their table, or with
//! a new feed if readers and tables must be set up anew; views with the next statement.
//!
//! The whole project is loaded anew, so what is taken over is what `millpond check` would accept. If anything in it is
//! wrong, a syntax error or half of a `git pull`, all of what ran goes on, and the log says why.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tracing::{info, warn};

use super::catalog::EngineCatalog;
use super::feeder::{Order, Plan};
use super::import::Follows;
use super::latest::Keeper;
use crate::config::{ACCESS_FILE, LoadOptions, Problems, Project, Watch};
use crate::schema::{Contract, Edit, Refusal};
use crate::serve::Accounts;
use crate::task::Shutdown;

/// A project with problems is read once more after this long.
const HALF_WRITTEN: Duration = Duration::from_millis(300);

/// Hands edits to those who run.
pub struct Reload {
    /// The project's folder.
    pub dir: PathBuf,
    /// What overrides its files.
    pub options: LoadOptions,
    /// Nobody is told of anything.
    pub muted: bool,
    /// Who may come in.
    pub accounts: Arc<Accounts>,
    /// The contracts of the tables that are fed.
    pub contracts: Contracts,
    /// What is to be fed from now on.
    pub orders: mpsc::Sender<Order>,
    /// What SQL sees.
    pub catalog: Arc<EngineCatalog>,
    /// Keeps the tables with one row per key.
    pub keeper: Keeper,
    /// Imports files as they come.
    pub follows: Follows,
}

/// Contracts of tables, each with those who follow its edits.
#[derive(Default)]
pub struct Contracts(BTreeMap<String, watch::Sender<Arc<Contract>>>);

impl Contracts {
    /// Nobody follows them yet.
    pub fn new(contracts: impl IntoIterator<Item = Contract>) -> Self {
        let followed = |contract: Contract| (contract.table.clone(), watch::Sender::new(Arc::new(contract)));
        Self(contracts.into_iter().map(followed).collect())
    }

    /// What feeds them and follows their edits.
    pub fn plan(&self) -> Plan {
        Plan {
            contracts: self.0.values().map(|contract| Arc::clone(&contract.borrow())).collect(),
            edits: self.0.iter().map(|(table, contract)| (table.clone(), contract.subscribe())).collect(),
        }
    }

    fn get(&self, table: &str) -> Option<Arc<Contract>> {
        self.0.get(table).map(|contract| Arc::clone(&contract.borrow()))
    }

    /// Whoever followed the one before hears no more of it.
    fn begin(&mut self, contract: Contract) {
        self.0.insert(contract.table.clone(), watch::Sender::new(Arc::new(contract)));
    }

    fn edit(&self, contract: Contract) {
        if let Some(followed) = self.0.get(&contract.table) {
            followed.send_replace(Arc::new(contract));
        }
    }
}

impl Reload {
    /// Runs until stopped.
    pub async fn run(mut self, stop: Shutdown) {
        let access = self.dir.join(ACCESS_FILE);
        let mut watch = Watch::new(vec![self.dir.join("schemas"), self.dir.join("queries"), access]);
        while stop.run_until_cancelled(watch.changed()).await.is_some() {
            let mut loaded = self.load().await;
            if let Ok(Err(_)) = loaded {
                // Another file may be half written at this moment.
                tokio::time::sleep(HALF_WRITTEN).await;
                loaded = self.load().await;
            }
            match loaded {
                Ok(Ok(project)) => self.take(project).await,
                Ok(Err(problems)) => refuse(&problems),
                Err(error) => warn!(error = %error, "project not read again"),
            }
        }
    }

    async fn load(&self) -> Result<Result<Project, Problems>, JoinError> {
        let (dir, options, muted) = (self.dir.clone(), self.options.clone(), self.muted);
        let load = move || Project::load(&dir, &options).map(|project| if muted { project.muted() } else { project });
        tokio::task::spawn_blocking(load).await
    }

    async fn take(&mut self, project: Project) {
        if let Err(error) = self.accounts.take_over(project.access.as_ref()) {
            warn!(error = %error, "accounts not taken over, those before go on");
        }
        let views = project.views.into_iter().map(|view| (view.name.clone(), view)).collect();
        if *self.catalog.views.read() != views {
            info!(views = views.len(), "views taken over");
            *self.catalog.views.write() = views;
        }
        let mut gone: Vec<String> = self.contracts.0.keys().cloned().collect();
        let mut anew = false;
        let fed = self.catalog.fed();
        for contract in project.tables {
            gone.retain(|table| *table != contract.table);
            // One that could not be fed is tried again with the next edit.
            let is_fed = fed.contracts.iter().any(|fed| fed.table == contract.table);
            let known = self.contracts.get(&contract.table).filter(|_| is_fed);
            if known.as_deref() == Some(&contract) {
                continue;
            }
            match self.judge(known.as_deref(), &contract) {
                Ok(Edit::Live) => {
                    self.catalog.edit(&contract);
                    self.contracts.edit(contract);
                }
                Ok(Edit::Anew) => {
                    info!(table = contract.table, "contract taken over with a new feed");
                    self.contracts.begin(contract);
                    anew = true;
                }
                Err(Refusal { reason, hint }) => {
                    let table = contract.table;
                    warn!(table, reason, hint, "contract not taken over, the one before goes on");
                }
            }
        }
        for table in gone {
            info!(table, "the contract is gone: the table is no longer fed, its rows stay");
            self.contracts.0.remove(&table);
            anew = true;
        }
        let contracts = self.contracts.plan().contracts;
        self.follows.take_over(&project.imported);
        self.keeper.keep(&contracts, &project.latest, &project.references, &project.streams);
        self.catalog.table_queries.take_over(project.made);
        self.catalog.stream_queries.take_over(project.streams);
        self.catalog.streams.take_over(project.alerts);
        if anew {
            // Nobody takes it once all of this ends.
            let _ = self.orders.send(Order::Feed(self.contracts.plan())).await;
        }
    }

    fn judge(&self, known: Option<&Contract>, next: &Contract) -> Result<Edit, Refusal> {
        if let Some(newest) = self.catalog.versions.newest(&next.table) {
            next.suits(&newest.version)?;
        }
        known.map_or(Ok(Edit::Anew), |known| known.change_to(next))
    }
}

fn refuse(problems: &Problems) {
    for problem in &problems.0 {
        warn!(problem = %problem, "project not taken over, what ran before goes on");
    }
}
