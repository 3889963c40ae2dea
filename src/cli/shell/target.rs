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
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tower::service_fn;

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
    /// Connects to `grpc://host:port` or, through TLS, `grpcs://host:port`. Name and password are in the URL
    /// (`grpcs://ann:secret@host:port`), or in the environment as `MILLPOND_USER` and `MILLPOND_PASSWORD`.
    pub async fn connect(url: &str) -> Result<Self> {
        let at = Address::parse(url)?;
        let shown: Arc<str> = at.shown().into();
        let endpoint = Endpoint::from_shared(format!("http://{}", at.place)).map_err(|_| at.wrong())?.tcp_nodelay(true);
        let connected = match at.tls()? {
            None => endpoint.connect().await,
            Some((connector, name)) => {
                let place = at.place.clone();
                let secure = service_fn(move |_: Uri| {
                    let (connector, name, place) = (connector.clone(), name.clone(), place.clone());
                    async move {
                        let stream = TcpStream::connect(&place).await?;
                        stream.set_nodelay(true)?;
                        Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
                    }
                });
                endpoint.connect_with_connector(secure).await
            }
        };
        let channel = connected.map_err(|cause| {
            Error::new(Kind::Unavailable, format!("no server answers at {shown}"))
                .because(root_cause(&cause))
                .hint("start one with `millpond serve` or `millpond demo`, or read a lake with --project DIR")
        })?;
        let inner = FlightServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
        let mut client = FlightSqlServiceClient::new_from_inner(inner);
        // A token keeps the session when the connection has to be made again.
        client.handshake(&at.user, &at.password).await.map_err(|error| at.not_let_in(&error.to_string()))?;
        Ok(Self { url: shown, client })
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

/// Where a server is, and who asks.
struct Address {
    text: String,
    place: String,
    is_secured: bool,
    user: String,
    password: String,
}

impl Address {
    fn parse(text: &str) -> Result<Self> {
        let schemes = [("grpc://", false), ("grpc+tcp://", false), ("http://", false)];
        let secured = [("grpcs://", true), ("grpc+tls://", true), ("https://", true)];
        let found = schemes.iter().chain(&secured).find_map(|(scheme, tls)| Some((text.strip_prefix(scheme)?, *tls)));
        let (rest, is_secured) = found.unwrap_or_default();
        let (account, place) = rest.rsplit_once('@').map_or(("", rest), |(account, place)| (account, place));
        let plain = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        let (user, password) = account.split_once(':').unwrap_or((account, ""));
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let mut address = Self {
            text: text.to_owned(),
            place: place.to_owned(),
            is_secured,
            user: plain(user),
            password: plain(password),
        };
        if address.user.is_empty() {
            (address.user, address.password) = (variable("MILLPOND_USER"), variable("MILLPOND_PASSWORD"));
        } else if address.password.is_empty() {
            address.password = variable("MILLPOND_PASSWORD");
        }
        if place.is_empty() { Err(address.wrong()) } else { Ok(address) }
    }

    /// Without the password.
    fn shown(&self) -> String {
        match self.text.rsplit_once('@') {
            Some((_, place)) => format!("{}://{place}", self.text.split("://").next().unwrap_or_default()),
            None => self.text.clone(),
        }
    }

    /// Why there is no session. The client library tells a refusal in words only.
    fn not_let_in(&self, told: &str) -> Error {
        let shown = self.shown();
        if told.contains("valid authentication credentials") {
            let message = match self.user.is_empty() {
                true => format!("the server at {shown} wants to know who you are"),
                false => format!("the server at {shown} does not let {} in: user name or password is wrong", self.user),
            };
            let hint = "MILLPOND_USER and MILLPOND_PASSWORD, or grpcs://user:password@host:port";
            return Error::new(Kind::Denied, message).hint(hint);
        }
        let error =
            Error::new(Kind::Unavailable, format!("the server at {shown} does not answer")).because(told.to_owned());
        if self.is_secured { error } else { error.hint("if it has a certificate, its address begins with grpcs://") }
    }

    fn wrong(&self) -> Error {
        Error::new(Kind::Usage, format!("`{}` is not the address of a server", self.shown()))
            .hint("give an address such as grpc://127.0.0.1:32010")
    }

    /// What secures the connection, and the name that the certificate must have.
    fn tls(&self) -> Result<Option<(TlsConnector, ServerName<'static>)>> {
        if !self.is_secured {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        // The system's, or those that SSL_CERT_FILE names.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(Kind::Internal, "TLS cannot be set up").because(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let host = self.place.rsplit_once(':').map_or(self.place.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| self.wrong())?;
        Ok(Some((TlsConnector::from(Arc::new(config)), name)))
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
