//! Who answers: a server over Flight SQL, or a session in this process.

use std::error::Error as _;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::Action;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::error::{Error, Kind, Result};
use crate::query::Session;

/// A message may hold a single row larger than the server's usual size.
const MESSAGE_BYTES: usize = 256 << 20;

/// Rows of a statement: their schema, then batches.
pub type Results = (SchemaRef, BoxStream<'static, Result<RecordBatch>>);

/// Runs statements.
#[async_trait]
pub trait Target: Send {
    /// Runs one statement. Dropping the stream cancels it.
    async fn query(&mut self, sql: &str) -> Result<Results>;
}

/// A session in this process.
pub struct Local {
    session: Session,
}

impl Local {
    /// Statements of this session.
    pub fn new(session: Session) -> Self {
        Self { session }
    }
}

#[async_trait]
impl Target for Local {
    async fn query(&mut self, sql: &str) -> Result<Results> {
        let rows = self.session.query(sql).await?.run().await?;
        Ok((rows.schema(), rows.boxed()))
    }
}

/// A server over Arrow Flight SQL. A connection that broke is made again by the next statement.
pub struct Remote {
    url: Arc<str>,
    client: FlightSqlServiceClient<Channel>,
}

impl Remote {
    /// Connects to `grpc://host:port`.
    pub async fn connect(url: &str) -> Result<Self> {
        let address = ["grpc://", "grpc+tcp://", "http://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let wrong = || {
            Error::new(Kind::Usage, format!("`{url}` is not the address of a server"))
                .hint("give an address such as grpc://127.0.0.1:32010")
        };
        let endpoint = Endpoint::from_shared(format!("http://{}", address.ok_or_else(wrong)?)).map_err(|_| wrong())?;
        let channel = endpoint.tcp_nodelay(true).connect().await.map_err(|cause| {
            Error::new(Kind::Unavailable, format!("no server answers at {url}"))
                .because(root_cause(&cause))
                .hint("start one with `millpond serve` or `millpond demo`, or read a lake with --project DIR")
        })?;
        let inner = FlightServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
        let mut client = FlightSqlServiceClient::new_from_inner(inner);
        // A token keeps the session when the connection has to be made again.
        client.handshake("", "").await.map_err(|error| translate(error, url))?;
        Ok(Self { url: url.into(), client })
    }

    /// Has the server carry out an action; the answer's body.
    pub async fn act(&mut self, action: &str, body: Bytes) -> Result<Bytes> {
        self.act_telling(action, body, |_| {}).await
    }

    /// The same for one that tells how far it is: `told` gets the answers before the last.
    pub async fn act_telling(&mut self, action: &str, body: Bytes, mut told: impl FnMut(&Bytes)) -> Result<Bytes> {
        let action = Action { r#type: action.to_owned(), body };
        let answers = self.client.do_action(Request::new(action)).await;
        let mut answers = answers.map_err(|error| translate(error, &self.url))?;
        let mut last: Option<Bytes> = None;
        while let Some(answer) = answers.message().await.map_err(|status| from_status(&status, &self.url))? {
            if let Some(before) = last.replace(answer.body) {
                told(&before);
            }
        }
        last.ok_or_else(|| Error::new(Kind::Internal, "the server gave no answer"))
    }
}

#[async_trait]
impl Target for Remote {
    async fn query(&mut self, sql: &str) -> Result<Results> {
        let url = &self.url;
        let info = self.client.execute(sql.to_owned(), None).await.map_err(|e| translate(e, url))?;
        let mut tickets = Vec::new();
        for endpoint in &info.endpoint {
            tickets.extend(endpoint.ticket.clone());
        }
        let schema: Schema = info.try_decode_schema().map_err(|e| translate(e.into(), url))?;
        let mut parts = Vec::new();
        for ticket in tickets {
            let rows = self.client.do_get(ticket).await.map_err(|e| translate(e, url))?;
            let url = Arc::clone(url);
            parts.push(rows.map_err(move |e| translate(e, &url)));
        }
        Ok((schema.into(), stream::iter(parts).flatten().boxed()))
    }
}

/// tonic's own words end in "transport error".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |&error| error.source()).last().unwrap_or(error).to_string()
}

fn translate(error: FlightError, url: &str) -> Error {
    match error {
        FlightError::Tonic(status) => from_status(&status, url),
        other => Error::new(Kind::Internal, "the server's answer cannot be read").because(other),
    }
}

fn from_status(status: &Status, url: &str) -> Error {
    // Only a status made on this side has a source: there was no answer.
    if status.source().is_some() {
        return Error::new(Kind::Unavailable, format!("the server at {url} is gone"))
            .because(root_cause(status))
            .hint("the next statement connects again; a new server does not know what SET changed");
    }
    let kind = match status.code() {
        Code::InvalidArgument => Kind::Query,
        Code::NotFound => Kind::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
        Code::FailedPrecondition => Kind::Refused,
        Code::Unavailable => Kind::Unavailable,
        Code::ResourceExhausted => Kind::Exhausted,
        Code::DeadlineExceeded => Kind::Deadline,
        Code::Cancelled => Kind::Cancelled,
        _ => Kind::Internal,
    };
    Error::new(kind, status.message())
}
