//! The HTTP door: is it alive, is it ready, what are its numbers; and rows by key (`keys`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::accounts::Accounts;
use super::address;
use super::keys::{self, Lookup};
use super::tls::{self, Tls, Wire};
use crate::error::{Error, Kind, Result};
use crate::task::{self, Shutdown};

/// Answers why the process cannot do its work now, one line each; empty if it can.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// How long a client may take for the head of a request, and leave its connection without one.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long open connections may go on after shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

const INDEX: &str = "Millpond\n\n  /healthz   the process lives\n  /readyz    it can do its work, or 503 and why not\n  /metrics   numbers for Prometheus\n  /v1/latest/<table>/<key>, /v1/latest/<table>?key=<key>&key=<key>   rows as JSON\n\nSQL: Arrow Flight SQL at the address in [serve] flight_sql, or `millpond sql`\n";

/// A bound HTTP door.
pub struct Http {
    listener: TcpListener,
    address: SocketAddr,
}

impl Http {
    /// Binds `[serve] http`. Who can be reached from elsewhere must be `closed`: with accounts and TLS.
    pub async fn bind(address: SocketAddr, closed: bool) -> Result<Self> {
        let listener = address::bind(address, "http", closed).await?;
        let address = listener.local_addr().map_err(broken)?;
        Ok(Self { listener, address })
    }

    /// The same door for whoever serves after this one.
    pub fn again(&self) -> Result<Self> {
        Ok(Self { listener: address::again(&self.listener).map_err(broken)?, address: self.address })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop.
    pub async fn run(
        self,
        readiness: Readiness,
        metrics: Registry,
        lookup: Lookup,
        accounts: Arc<Accounts>,
        tls: Option<Arc<Tls>>,
        shutdown: Shutdown,
    ) -> Result<()> {
        let own = Router::new().route("/metrics", get(numbers).with_state(metrics)).merge(keys::routes(lookup));
        let routes = routes(readiness).merge(own.layer(middleware::from_fn_with_state(accounts, known)));
        let mut connections = tls::incoming(self.listener, tls, "http/1.1");
        let (open, mut all_closed) = mpsc::channel::<()>(1);
        loop {
            let wire = tokio::select! {
                wire = connections.recv() => wire,
                () = shutdown.cancelled() => None,
            };
            let Some(wire) = wire else { break };
            let (routes, shutdown, open) = (routes.clone(), shutdown.clone(), open.clone());
            task::spawn("http", async move {
                serve(wire, routes, &shutdown).await;
                drop(open);
            });
        }
        drop((open, connections));
        // Whoever still has a connection then loses it with the process.
        let _ = tokio::time::timeout(DRAIN, all_closed.recv()).await;
        Ok(())
    }
}

/// Answers what comes over one connection. One that is open and says nothing is closed after a while.
async fn serve(wire: Wire, routes: Router, shutdown: &Shutdown) {
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(wire), TowerToHyperService::new(routes)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn broken(cause: std::io::Error) -> Error {
    Error::new(Kind::Internal, "the HTTP server stopped").because(cause)
}

/// Lets those pass who have an account, if one is needed.
async fn known(State(accounts): State<Arc<Accounts>>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let principal = match (accounts.anybody(""), header) {
        (Some(anybody), _) => Ok(anybody),
        (None, Some(header)) => accounts.basic(&header).await,
        (None, None) => Err(Error::new(Kind::Denied, "log in first: user name and password")),
    };
    match principal {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(error) => {
            tracing::warn!(target: "millpond::audit", door = "http", reason = error.message(), "refused");
            let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"millpond\", charset=\"UTF-8\"")];
            (StatusCode::UNAUTHORIZED, ask, format!("{}\n", error.message())).into_response()
        }
    }
}

fn routes(readiness: Readiness) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let reasons = readiness();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn numbers(State(metrics): State<Registry>) -> Response {
    match TextEncoder::new().encode_to_string(&metrics.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(error = %error, "metrics not encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be encoded\n").into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use prometheus::IntCounter;

    use super::*;

    #[tokio::test]
    async fn the_endpoints_answer_and_the_door_closes() {
        let http = Http::bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
        let base = format!("http://{}", http.address());
        let ready = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ready);
        let readiness: Readiness = Arc::new(move || {
            if asked.load(Ordering::Relaxed) { Vec::new() } else { vec!["kafka is away".into(), "lake is slow".into()] }
        });
        let registry = Registry::new();
        let counter = IntCounter::new("millpond_test_rows_total", "rows").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.inc_by(7);
        let shutdown = Shutdown::new();
        let cars = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![7])) as ArrayRef)]).unwrap();
        let lookup: Lookup = Arc::new(move |table, keys| {
            let found = match &*table {
                "cars" if keys.iter().any(|key| *key == ["7"]) => Ok(Some(cars.clone())),
                "cars" => Ok(Some(cars.slice(0, 0))),
                "away" => Err(Error::new(Kind::Unavailable, "ask again")),
                _ => Ok(None),
            };
            Box::pin(std::future::ready(found))
        });
        let server = crate::task::spawn(
            "server",
            http.run(readiness, registry, lookup, Accounts::new(None).unwrap(), None, shutdown.clone()),
        );
        let get = async |path: &str| {
            let answer = reqwest::get(format!("{base}{path}")).await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        assert_eq!(get("/healthz").await, (200, "ok\n".into()));
        assert_eq!(get("/readyz").await, (503, "kafka is away\nlake is slow\n".into()));
        ready.store(true, Ordering::Relaxed);
        assert_eq!(get("/readyz").await, (200, "ready\n".into()));
        assert!(get("/metrics").await.1.contains("millpond_test_rows_total 7"));
        assert!(get("/").await.1.contains("/metrics"));
        assert_eq!(get("/nothing").await.0, 404);
        assert_eq!(get("/v1/latest/cars/7").await, (200, "{\"id\":7}".into()));
        assert_eq!(get("/v1/latest/cars?key=8&key=7").await, (200, "[{\"id\":7}]".into()));
        assert_eq!(get("/v1/latest/cars/8").await, (404, "{\"error\":\"there is no row with this key\"}".into()));
        assert_eq!(get("/v1/latest/cars").await.0, 400);
        assert_eq!(get("/v1/latest/away/1").await, (503, "{\"error\":\"ask again\"}".into()));
        assert!(get("/v1/latest/none/1").await.1.contains("no table `none`"));
        let first = reqwest::get(format!("{base}/v1/latest/cars/7")).await.unwrap();
        let tag = first.headers()["etag"].clone();
        let again = reqwest::Client::new().get(format!("{base}/v1/latest/cars/7")).header("if-none-match", tag);
        assert_eq!(again.send().await.unwrap().status().as_u16(), 304);
        shutdown.cancel();
        server.await.unwrap().unwrap();
        assert!(reqwest::get(format!("{base}/healthz")).await.is_err());
    }
}
