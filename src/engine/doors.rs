//! The doors of a process, bound before anything else is done: a taken port is found before anything is written.

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::Registry;
use tokio::task::JoinHandle;

use crate::config::Project;
use crate::error::Result;
use crate::query::Service;
use crate::serve::http::Readiness;
use crate::serve::{Accounts, Flight, Http, Lookup, Postgres, Tls};
use crate::task::{self, Shutdown};

/// Bound doors; those that are switched off are not there.
pub(super) struct Doors {
    pub(super) flight: Option<Flight>,
    pub(super) postgres: Option<Postgres>,
    pub(super) http: Option<Http>,
}

/// Where doors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Arrow Flight SQL.
    pub flight_sql: Option<SocketAddr>,
    /// The PostgreSQL wire.
    pub postgres: Option<SocketAddr>,
    /// Health and metrics.
    pub http: Option<SocketAddr>,
}

/// Servers that run, by name.
pub(super) type Servers = Vec<(&'static str, JoinHandle<Result<()>>)>;

impl Doors {
    /// Binds what `[serve]` names.
    pub(super) async fn bind(project: &Project) -> Result<Self> {
        let serve = &project.config.serve;
        let closed = serve.tls.is_some() && project.access.as_ref().is_some_and(|access| !access.users.is_empty());
        let flight = bind(serve.flight_sql, |address| Flight::bind(address, closed)).await?;
        let postgres = bind(serve.postgres, |address| Postgres::bind(address, closed)).await?;
        Ok(Self { flight, postgres, http: bind(serve.http, |address| Http::bind(address, closed)).await? })
    }

    /// The same doors for whoever serves after these.
    pub(super) fn again(&self) -> Result<Self> {
        Ok(Self {
            flight: self.flight.as_ref().map(Flight::again).transpose()?,
            postgres: self.postgres.as_ref().map(Postgres::again).transpose()?,
            http: self.http.as_ref().map(Http::again).transpose()?,
        })
    }

    /// Where they are.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            flight_sql: self.flight.as_ref().map(Flight::address),
            postgres: self.postgres.as_ref().map(Postgres::address),
            http: self.http.as_ref().map(Http::address),
        }
    }
}

impl Addresses {
    /// One of them, as others are told where this process is.
    pub(super) fn any(&self) -> Option<String> {
        self.flight_sql.or(self.postgres).or(self.http).map(|address| address.to_string())
    }
}

/// What all doors of a process share: who may come in, and what secures them.
pub(super) struct Gate {
    pub(super) accounts: Arc<Accounts>,
    tls: Option<Arc<Tls>>,
    stop: Shutdown,
}

impl Gate {
    pub(super) fn new(project: &Project, stop: Shutdown) -> Result<Self> {
        let tls = project.config.serve.tls.as_ref().map(Tls::load).transpose()?;
        Ok(Self { accounts: Accounts::new(project.access.as_ref())?, tls, stop })
    }

    /// Serves Flight SQL, if it is switched on; actions are carried out by `admin`.
    pub(super) fn serve_flight(&self, door: Option<Flight>, service: &Service, servers: &mut Servers) {
        if let Some(door) = door {
            let work = door.run(service.clone(), Arc::clone(&self.accounts), self.tls.clone(), self.stop.clone());
            servers.push(("flight sql", task::spawn("flight-sql", work)));
        }
    }

    /// Serves the PostgreSQL wire, if it is switched on.
    pub(super) fn serve_postgres(&self, door: Option<Postgres>, service: &Service, servers: &mut Servers) {
        if let Some(door) = door {
            let work = door.run(service.clone(), Arc::clone(&self.accounts), self.tls.clone(), self.stop.clone());
            servers.push(("postgres", task::spawn("postgres", work)));
        }
    }

    /// Serves HTTP, if it is switched on.
    pub(super) fn serve_http(
        &self,
        door: Option<Http>,
        readiness: Readiness,
        numbers: Registry,
        lookup: Lookup,
        servers: &mut Servers,
    ) {
        if let Some(door) = door {
            let accounts = Arc::clone(&self.accounts);
            let work = door.run(readiness, numbers, lookup, accounts, self.tls.clone(), self.stop.clone());
            servers.push(("http", task::spawn("http", work)));
        }
    }
}

async fn bind<T, F: Future<Output = Result<T>>>(
    address: Option<SocketAddr>,
    bind: impl FnOnce(SocketAddr) -> F,
) -> Result<Option<T>> {
    match address {
        Some(address) => Ok(Some(bind(address).await?)),
        None => Ok(None),
    }
}
