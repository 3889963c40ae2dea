//! The task of a table that has nothing to read: for commands that decode records again without a server.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::catalog::EngineCatalog;
use super::ingest::{Beside, Ingest};
use super::retry::Retries;
use super::status::TableStatus;
use super::{ENCODING_PERCENT, joined, open_table, registry, share};
use crate::config::Project;
use crate::error::{Error, Kind, Result};
use crate::lake::{Encoding, Lake, PUBLIC};
use crate::news::News;
use crate::schema::Contract;
use crate::source::Delivery;
use crate::task::{self, Shutdown};

/// Such a task, which runs until it is ended.
pub struct Idle {
    ingest: JoinHandle<Result<()>>,
    nothing_to_read: mpsc::Sender<Delivery>,
    _unedited: watch::Sender<Arc<Contract>>,
}

impl Idle {
    /// Starts the task of the table of `contract`, which `catalog` knows from then on; `None` if the table is not there.
    pub async fn start(
        project: &Project,
        lake: &Lake,
        catalog: &EngineCatalog,
        contract: &Contract,
        abort: &Shutdown,
    ) -> Result<Option<Self>> {
        let table = open_table(lake, PUBLIC, &contract.table).await?;
        let fed = catalog.fed();
        let (Some(table), Some(live), Some(dead_letters)) =
            (table, fed.tables.get(&contract.table), catalog.dead_letters.get())
        else {
            return Ok(None);
        };
        let (nothing_to_read, deliveries) = mpsc::channel(1);
        let (retry, retries) = mpsc::channel(1);
        let (again, agains) = mpsc::channel(1);
        let registry = registry(&project.config)?.and_then(|registry| registry.of(contract.format));
        catalog.retries.write().insert(contract.table.clone(), Retries::new(retry, again, registry));
        let contract = Arc::new(contract.clone());
        let mut beside = Vec::new();
        for (name, _) in super::beside(&contract) {
            let (Some(table), Some(live)) = (open_table(lake, PUBLIC, &name).await?, fed.tables.get(&name)) else {
                return Err(Error::new(Kind::Unavailable, format!("table {name} is not there yet"))
                    .hint("`millpond serve` makes it"));
            };
            beside.push(Beside { live: Arc::clone(live), table });
        }
        let (unedited, edits) = watch::channel(Arc::clone(&contract));
        let ingest = Ingest {
            contract,
            live: Arc::clone(live),
            table,
            beside,
            dead_letters: Arc::clone(dead_letters),
            versions: Arc::clone(&catalog.versions),
            edits,
            deliveries,
            retries,
            agains,
            budget: catalog.ingest_budget.clone(),
            encoding: Arc::new(Encoding::new(share(&project.config, ENCODING_PERCENT))),
            commit_interval: project.config.lake.commit_interval,
            status: Arc::new(TableStatus::default()),
            news: News::default(),
            stop: Shutdown::new(),
            abort: abort.clone(),
        };
        let ingest = task::spawn("idle", async move { ingest.run().await.map_err(Error::from) });
        Ok(Some(Self { ingest, nothing_to_read, _unedited: unedited }))
    }

    /// Ends it.
    pub async fn end(self) -> Result<()> {
        drop(self.nothing_to_read);
        joined(self.ingest.await)
    }
}
