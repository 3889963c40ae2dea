//! A web server that keeps what is posted to it.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::Json;
use axum::http::HeaderMap;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::free_port;

/// What was posted.
#[derive(Debug, Clone)]
pub struct Posted {
    /// When it came.
    pub at: SystemTime,
    /// `Idempotency-Key`.
    pub id: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Value,
}

/// A server on loopback; ends on drop. Nobody listens before `listen`.
pub struct Hook {
    port: u16,
    posted: Arc<Mutex<Vec<Posted>>>,
    server: Option<JoinHandle<()>>,
}

impl Hook {
    /// An address where nobody listens yet.
    pub fn closed() -> Self {
        Self { port: free_port(), posted: Arc::default(), server: None }
    }

    /// A server that takes everything.
    pub async fn open() -> Self {
        let mut hook = Self::closed();
        hook.listen().await;
        hook
    }

    /// Begins to take everything.
    pub async fn listen(&mut self) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let posted = Arc::clone(&self.posted);
        let take = move |headers: HeaderMap, Json(body): Json<Value>| async move {
            let id = headers["idempotency-key"].to_str().unwrap().to_owned();
            posted.lock().unwrap().push(Posted { at: SystemTime::now(), id, headers, body });
        };
        let app = axum::Router::new().fallback(take);
        let server = async move { axum::serve(listener, app).await.unwrap() };
        self.server = Some(millpond::task::spawn("hook", server));
    }

    /// Where to post.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// What was posted so far.
    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}
