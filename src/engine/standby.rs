//! A process that waits to become the lake's writer, and answers questions about what is committed meanwhile.
//!
//! It follows the tables of the lake once a second, so what it shows is a commit behind at most; what is hot is with the
//! writer. Once the writer is gone (at once if it died on this host, after ten seconds of silence elsewhere) it has the
//! claim, closes its doors, and the process starts as any writer does: alerts go on under the same ids.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::catalog::EngineCatalog;
use super::doors::{Addresses, Doors, Gate, Servers};
use super::feed::DEAD_LETTERS;
use super::latest::{self, Keeper};
use super::streams::ALERTS;
use super::without_server::{committed, existing};
use super::{Variables, metrics, s3_options, service, unreadable, view_of};
use crate::config::{Brokers, Project};
use crate::error::{Error, Kind, Result};
use crate::lake::{Claim, Holder, Lake, LiveView, PUBLIC, SYSTEM, Table};
use crate::task::{self, Shutdown, failpoint};

/// How often the lake's tables are looked at.
const FOLLOW: Duration = Duration::from_secs(1);
/// Pause before the lake is asked again whether it has a writer.
const AGAIN: Duration = Duration::from_secs(1);

/// A process that waits to become the lake's writer.
pub struct Standby {
    lake: Lake,
    catalog: Arc<EngineCatalog>,
    addresses: Addresses,
    /// The same doors, for the writer that this process becomes.
    doors: Doors,
    servers: Servers,
    stop: Shutdown,
    claim_stop: Shutdown,
}

impl Standby {
    /// Opens the doors of `project` over what its lake has, which must be there.
    pub async fn start(project: &Project, variables: &Variables) -> Result<Self> {
        let config = &project.config;
        if config.kafka.brokers == Brokers::Embedded {
            let message = "the embedded broker is inside the process that writes: there is nothing to stand by for";
            return Err(Error::new(Kind::Usage, message).hint("set kafka.brokers to a broker of its own"));
        }
        let own = Doors::bind(project).await?;
        let (addresses, doors) = (own.addresses(), own.again()?);
        let lake = existing(project, variables).await?;
        let catalog = committed(project, Some(&lake)).await?;
        let service = service(Some(&lake), &catalog, config)?;
        let s3 = s3_options(config, variables);
        let keeper = Keeper { catalog: Arc::clone(&catalog), service: service.clone(), s3, writing: None };
        // What is kept follows the tables from here on.
        catalog.kept.store(Arc::default());
        let contracts = catalog.fed().contracts.clone();
        keeper.keep(&contracts, &project.latest, &project.references, &project.streams);
        let stop = Shutdown::new();
        let mut servers = Vec::new();
        let gate = Gate::new(project, stop.clone())?;
        gate.serve_flight(own.flight, &service, &mut servers);
        gate.serve_postgres(own.postgres, &service, &mut servers);
        gate.serve_http(
            own.http,
            Arc::new(|| vec!["standing by: another process writes to the lake".to_owned()]),
            metrics::registry(Arc::clone(&catalog))?,
            latest::lookup(Arc::clone(&catalog), service.clone()),
            &mut servers,
        );
        let follows = Follow::new(&lake, &catalog);
        let stopped = stop.clone();
        task::spawn("follow", async move {
            stopped.run_until_cancelled(follows.run()).await;
        });
        Ok(Self { lake, catalog, addresses, doors, servers, stop, claim_stop: Shutdown::new() })
    }

    /// Where its doors are; it is not ready.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Waits until the lake has no writer, becomes it, and stops answering: statements that run have a few seconds to end.
    pub async fn claimed(self) -> Claimed {
        let claim = self.claim().await;
        failpoint::hit("standby_after_claim");
        self.stop.cancel();
        let (servers, catalog) = (self.servers, self.catalog);
        task::spawn("doors", async move {
            for (_, server) in servers {
                let _ = server.await;
            }
            // The writer keeps rows of its own.
            catalog.kept.store(Arc::default());
        });
        Claimed { claim, stop: self.claim_stop, doors: self.doors }
    }

    async fn claim(&self) -> Claim {
        let address = self.addresses.any();
        let mut told = None;
        loop {
            let me = Holder::here(address.clone(), chrono::Utc::now());
            let error = match Claim::take(self.lake.stores(), me, &self.claim_stop).await {
                Ok(claim) => return claim,
                Err(error) => error,
            };
            // Who writes is said once, and again when it is another.
            let text = error.to_string();
            if told.as_ref() != Some(&text) {
                match error.kind() {
                    Kind::Refused => info!(writer = error.message(), "standing by"),
                    _ => warn!(error = text, "cannot see who writes to the lake, asking again"),
                }
                told = Some(text);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// The writer claim, taken before the start, and the doors that are bound already.
pub struct Claimed {
    pub(super) claim: Claim,
    pub(super) stop: Shutdown,
    pub(super) doors: Doors,
}

/// Follows what another process commits.
struct Follow {
    lake: Lake,
    catalog: Arc<EngineCatalog>,
    tables: BTreeMap<String, Table>,
    alerts: Option<Table>,
    /// It could not be read the last time.
    is_away: bool,
}

impl Follow {
    fn new(lake: &Lake, catalog: &Arc<EngineCatalog>) -> Self {
        let (lake, catalog) = (lake.clone(), Arc::clone(catalog));
        Self { lake, catalog, tables: BTreeMap::new(), alerts: None, is_away: false }
    }

    async fn run(mut self) {
        loop {
            match self.look().await {
                Ok(()) => {
                    if std::mem::take(&mut self.is_away) {
                        info!("the lake is followed again");
                    }
                }
                Err(error) if !self.is_away => {
                    self.is_away = true;
                    warn!(error = %error, "the lake cannot be followed, trying again");
                }
                Err(_) => {}
            }
            tokio::time::sleep(FOLLOW).await;
        }
    }

    async fn look_at(&mut self, name: String) -> Result<()> {
        let table = match self.tables.remove(&name) {
            Some(mut table) => {
                let before = table.version();
                table.refresh().await.map_err(unreadable)?;
                if table.version() == before {
                    self.tables.insert(name, table);
                    return Ok(());
                }
                table
            }
            None => match self.lake.open(PUBLIC, &name).await.map_err(unreadable)? {
                Some(table) => table,
                None => return Ok(()),
            },
        };
        let schema = table.arrow_schema().map_err(unreadable)?;
        let view = view_of(&name, Some(&table), schema, &self.catalog.versions)?;
        match self.catalog.fed().tables.get(&name) {
            Some(live) => live.show(view),
            None => self.catalog.show(&name, &Arc::new(LiveView::new(view))),
        }
        self.tables.insert(name, table);
        Ok(())
    }

    async fn look(&mut self) -> Result<()> {
        let mut failed = Ok(());
        for name in self.lake.table_names(PUBLIC).await.map_err(unreadable)? {
            // One that cannot be read holds none of the others up.
            failed = failed.and(self.look_at(name).await);
        }
        failed?;
        if let Some(letters) = self.catalog.dead_letters.get() {
            letters.refresh().await.map_err(unreadable)?;
        } else if let Some(table) = self.lake.open(SYSTEM, DEAD_LETTERS).await.map_err(unreadable)? {
            let letters = crate::lake::DeadLetters::new(table, crate::decode::dead_letters_schema());
            let _ = self.catalog.dead_letters.set(Arc::new(letters.map_err(unreadable)?));
        }
        match &mut self.alerts {
            Some(table) => table.refresh().await.map_err(unreadable)?,
            none => *none = self.lake.open(SYSTEM, ALERTS).await.map_err(unreadable)?,
        }
        if let Some(table) = &self.alerts {
            self.catalog.streams.show(table.snapshot().map_err(unreadable)?);
        }
        self.catalog.runs.follow(&self.lake).await;
        self.catalog.gaps.follow(&self.lake).await;
        Ok(())
    }
}
