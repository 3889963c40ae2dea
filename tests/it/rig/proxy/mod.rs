//! An HTTP/1.1 fault proxy before an S3 server, the only way to reach "the commit landed, the answer is lost".
//!
//! Requests are forwarded byte for byte: the client signs for the proxy's `Host`, and the server checks the signature
//! against the `Host` it is sent. A rule picks requests (method, part of the path, a header) and does one fault to
//! them; the first rule that matches and is not used up wins. Each request has an upstream connection of its own,
//! so a server that was restarted in between is never met on a dead one. The proxy runs on a thread of its own:
//! it goes on while a test blocks its runtime.

mod http;
mod rules;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::{ObjectStoreExt, PutPayload};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::minio::{self, Minio};
use http::{Head, read_answer};
use rules::Rules;
pub use rules::{Fault, Rule, RuleId};

/// A running proxy; stops on drop, with all its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    upstream: String,
    rules: Rules,
    requests: AtomicU64,
}

impl Proxy {
    /// A proxy before `minio` on a free port, without rules.
    pub fn before(minio: &Minio) -> Self {
        Self::to(&minio.address())
    }

    /// A proxy before `upstream` (`host:port`).
    pub fn to(upstream: &str) -> Self {
        let shared =
            Arc::new(Shared { upstream: upstream.to_owned(), rules: Rules::default(), requests: AtomicU64::new(0) });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let thread = std::thread::spawn({
            let (shared, stop) = (shared.clone(), stop.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(stop.run_until_cancelled(accept(listener, shared)));
            }
        });
        Self { address, shared, stop, thread: Some(thread) }
    }

    /// `http://host:port`, to be given as the endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a rule after those there are.
    pub fn add(&self, rule: Rule) -> RuleId {
        self.shared.rules.add(rule)
    }

    /// Takes a rule away; its hits can still be read.
    pub fn remove(&self, rule: RuleId) {
        self.shared.rules.remove(rule);
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.shared.rules.clear();
    }

    /// How often a rule did its fault.
    pub fn hits(&self, rule: RuleId) -> u64 {
        self.shared.rules.hits(rule)
    }

    /// Requests seen so far, faulty or not.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    // Dropped, and so aborted, with the runtime's last future: no connection outlives the proxy.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let shared = shared.clone();
        connections.spawn(async move {
            // An error is a connection that one side closed: what a proxy does then is close the other.
            let _ = serve(client, &shared).await;
        });
    }
}

/// One client's connection: request after request until a side closes it or a fault does.
async fn serve(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    while let Some(head) = Head::read(&mut client).await? {
        if head.is("expect", "100-continue") {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = http::read_body(&mut client, http::request_body(&head)).await?;
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let answer = match shared.rules.pick(&head) {
            None => forward(shared, &head, &body).await?.1,
            Some((_, Fault::Error503Before)) => unavailable(),
            Some((rule, fault @ (Fault::LoseAnswer | Fault::Error503After))) => {
                let (status, answer) = forward(shared, &head, &body).await?;
                match fault {
                    _ if !(200..300).contains(&status) => {
                        shared.rules.take_back(rule);
                        answer
                    }
                    Fault::LoseAnswer => return Ok(()),
                    _ => unavailable(),
                }
            }
            Some((_, Fault::LoseRequest)) => return Ok(()),
            Some((_, Fault::Delay(time))) => {
                tokio::time::sleep(time).await;
                forward(shared, &head, &body).await?.1
            }
            Some((_, Fault::Hang)) => std::future::pending().await,
            Some((_, Fault::IgnoreCondition)) => overwrite(shared, &head, &body).await?,
        };
        client.write_all(&answer).await?;
        client.flush().await?;
        if head.is("connection", "close") {
            break;
        }
    }
    Ok(())
}

/// Sends the request unchanged; the answer's status and all of its bytes.
async fn forward(shared: &Shared, head: &Head, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
    let mut server = TcpStream::connect(&shared.upstream).await?;
    server.set_nodelay(true)?;
    server.write_all(head.bytes()).await?;
    server.write_all(body).await?;
    read_answer(&mut BufReader::new(server), head.method()).await
}

/// What a server does that knows no conditional PUT: writes the object whatever is there. The condition is among the
/// signed headers, so it cannot be cut out of the request; the object is written with a client of the proxy's own.
async fn overwrite(shared: &Shared, head: &Head, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let (bucket, key) = head.path().trim_start_matches('/').split_once('/').unwrap_or_default();
    let store = minio::store(&format!("http://{}", shared.upstream), bucket);
    let body = http::dechunk(head, body);
    let key = object_store::path::Path::from_url_path(key).map_err(std::io::Error::other)?;
    let put = store.put(&key, PutPayload::from(body)).await.map_err(std::io::Error::other)?;
    let etag = put.e_tag.unwrap_or_default();
    Ok(format!("HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: 0\r\n\r\n").into_bytes())
}

fn unavailable() -> Vec<u8> {
    const BODY: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code>\
        <Message>Please reduce your request rate.</Message></Error>";
    let length = BODY.len();
    format!("HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n{BODY}").into()
}
