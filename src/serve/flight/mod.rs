//! Arrow Flight SQL on arrow-flight's gRPC service.
//!
//! `FlightService` is implemented itself, not through the crate's `FlightSqlService`: every command then has one
//! path for GetFlightInfo, GetSchema, PollFlightInfo and DoGet, which that trait's blanket implementation leaves
//! out or spreads over thirty methods.
//!
//! * One endpoint without locations, because flightsql-dbapi reads only the first and Grafana refuses more.
//! * The ticket of a statement is a random handle of a query that is planned and has its tables pinned; it lives
//!   until it is read to its end, for 60 s at most, and their number is bounded. Tickets of metadata are the command itself.
//! * A session is found by the bearer token that Handshake gave, else by the connection.
//! * Schemas are wire schemas everywhere; messages stay under 2 MiB of data.

mod actions;
mod door;
mod info;
mod ingest;
mod metadata;
mod parameters;
mod service;
mod shelf;
mod status;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow_flight::flight_service_server::FlightServiceServer;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use self::door::Door;
use super::accounts::Accounts;
use super::address;
use super::tls::{self, Tls};
use crate::error::{Error, Kind, Result};
use crate::query::Service;
use crate::task::Shutdown;

/// How often expired handles are dropped.
const SWEEP: Duration = Duration::from_secs(5);
/// How long running statements may go on after shutdown began.
const DRAIN: Duration = Duration::from_secs(10);
/// Requests of one connection at once.
const MOST_STREAMS: u32 = 64;
/// Connections that answer no ping are closed.
const PING: Duration = Duration::from_secs(30);

/// A bound Flight SQL door.
pub struct Flight {
    listener: TcpListener,
    address: SocketAddr,
    admin: Option<Admin>,
    takes: Option<Takes>,
}

/// Rows that a client wants in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingest {
    /// Its name.
    pub table: String,
    /// What becomes of the rows that it has.
    pub there: There,
    /// What tells this request from another. Sent again, it changes nothing.
    pub id: Option<String>,
}

/// What becomes of a table that is there already, if rows are sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// They are not taken.
    Fail,
    /// They come to its rows.
    Append,
    /// They are its rows from then on.
    Replace,
}

/// Rows, as they come from a client.
pub type Sent = BoxStream<'static, Result<RecordBatch>>;

/// Takes rows in, all of them or none: how many.
pub type Takes = Arc<dyn Fn(Ingest, Sent) -> BoxFuture<'static, Result<u64>> + Send + Sync>;

/// Carries out an action that changes something: its name, its body, the answer's body. What it tells before it is done is
/// answered, too.
pub type Admin = Arc<dyn Fn(String, Bytes, mpsc::Sender<Bytes>) -> BoxFuture<'static, Result<Bytes>> + Send + Sync>;

impl Flight {
    /// Binds `[serve] flight_sql`. Who can be reached from elsewhere must be `closed`: with accounts and TLS.
    pub async fn bind(address: SocketAddr, closed: bool) -> Result<Self> {
        let listener = address::bind(address, "flight_sql", closed).await?;
        let address = listener.local_addr().map_err(broken)?;
        Ok(Self { listener, address, admin: None, takes: None })
    }

    /// Also offers the actions `millpond.…`, which `admin` carries out. Without it they are refused.
    #[must_use]
    pub fn admin(self, admin: Admin) -> Self {
        Self { admin: Some(admin), ..self }
    }

    /// Also takes rows, which it hands to `takes`. Without it they are refused.
    #[must_use]
    pub fn takes(self, takes: Takes) -> Self {
        Self { takes: Some(takes), ..self }
    }

    /// The same door for whoever serves after this one.
    pub fn again(&self) -> Result<Self> {
        let listener = address::again(&self.listener).map_err(broken)?;
        Ok(Self { listener, address: self.address, admin: None, takes: None })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop; statements that run then have ten seconds to end.
    pub async fn run(
        self,
        queries: Service,
        accounts: Arc<Accounts>,
        tls: Option<Arc<Tls>>,
        shutdown: Shutdown,
    ) -> Result<()> {
        let service = service::FlightSql::new(queries, self.admin, self.takes, accounts);
        let shelves = service.clone();
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                shelves.sweep();
            }
        };
        let known = service.clone();
        let door = Door::new(service);
        // Of who has neither a session nor a password not one message is read.
        let door = InterceptedService::new(door, move |request| known.may_speak(request));
        let taken = tls::incoming(self.listener, tls, "h2");
        let connections = stream::unfold(taken, async |mut taken| {
            let wire = taken.recv().await?;
            Some((Ok::<_, std::io::Error>(wire), taken))
        });
        // `grpc.health.v1`, without an account: whether there is a server says nothing of what it has.
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<FlightServiceServer<service::FlightSql>>().await;
        let closing = async {
            shutdown.cancelled().await;
            reporter.set_not_serving::<FlightServiceServer<service::FlightSql>>().await;
            std::future::pending::<()>().await;
        };
        let server = Server::builder()
            .http2_keepalive_interval(Some(PING))
            .http2_keepalive_timeout(Some(PING))
            .max_concurrent_streams(MOST_STREAMS)
            .add_service(health)
            .add_service(door)
            .serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());
        let drained = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            result = server => result.map_err(broken),
            () = drained => Ok(()),
            () = sweep => Ok(()),
            () = closing => Ok(()),
        }
    }
}

fn broken(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Internal, "the Flight SQL server stopped").because(cause)
}
