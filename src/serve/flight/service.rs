//! The gRPC service: sessions, tickets, statements and their rows.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{
    Any, Command, DoPutPreparedStatementResult, DoPutUpdateResult, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaAsIpc, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::shelf::{Keep, Shelf};
use super::{Admin, Takes, actions, ingest, metadata, parameters, status};
use crate::config::Rights;
use crate::query::{Query, Role, ScalarValue, Service, Session, Statement, wire};
use crate::serve::accounts::{Accounts, Principal};
use crate::task::Shutdown;
use tracing::{info, warn};

/// How long a ticket pins its tables.
const TICKET: Duration = Duration::from_secs(60);
const TICKETS: usize = 1_000;
const PREPARED_IDLE: Duration = Duration::from_secs(3_600);
const PREPARED: usize = 10_000;
const SESSION_IDLE: Duration = Duration::from_secs(12 * 3_600);
const SESSIONS: usize = 10_000;
/// Running statements that can be cancelled by their ticket.
const RUNNING: usize = 10_000;

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = BoxStream<'static, Result<T, Status>>;

/// The service. Clones share everything.
#[derive(Clone)]
pub(super) struct FlightSql {
    inner: Arc<Inner>,
}

struct Inner {
    queries: Service,
    admin: Option<Admin>,
    takes: Option<Takes>,
    accounts: Arc<Accounts>,
    sessions: Shelf<Seat>,
    prepared: Shelf<Arc<Prepared>>,
    tickets: Shelf<Query>,
    running: Shelf<Shutdown>,
}

/// Marks a request of who may write.
#[derive(Clone, Copy)]
pub(super) struct MayWrite;

/// A session, and who it is of.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) session: Session,
    principal: Principal,
}

impl Seat {
    /// What may be done beyond reading.
    pub(super) fn rights(&self) -> Rights {
        self.principal.rights
    }

    /// What may be read; all if there is no role.
    pub(super) fn role(&self) -> Option<&Role> {
        self.principal.role.as_deref()
    }
}

/// What a request says of who sends it.
pub(super) struct Caller {
    name: Bytes,
    basic: Option<String>,
    has_token: bool,
}

impl Caller {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")));
        let basic =
            header.filter(|value| value.starts_with("Basic ") || value.starts_with("basic ")).map(str::to_owned);
        let name = match (token, &basic) {
            (Some(token), _) => format!("token {token}"),
            (None, Some(basic)) => format!("connection {:?} {basic}", request.remote_addr()),
            (None, None) => format!("connection {:?}", request.remote_addr()),
        };
        Self { name: Bytes::from(name), basic, has_token: token.is_some() }
    }
}

/// A prepared statement and the values bound last.
pub(super) struct Prepared {
    pub(super) statement: Statement,
    values: Mutex<Vec<ScalarValue>>,
}

impl FlightSql {
    pub(super) fn new(queries: Service, admin: Option<Admin>, takes: Option<Takes>, accounts: Arc<Accounts>) -> Self {
        let inner = Inner {
            queries,
            admin,
            takes,
            accounts,
            sessions: Shelf::new(SESSIONS, Keep::FromUse(SESSION_IDLE)),
            prepared: Shelf::new(PREPARED, Keep::FromUse(PREPARED_IDLE)),
            tickets: Shelf::new(TICKETS, Keep::FromStart(TICKET)),
            running: Shelf::new(RUNNING, Keep::FromStart(SESSION_IDLE)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Drops what expired, so that unused tickets let go of the tables they pin.
    pub(super) fn sweep(&self) {
        self.inner.sessions.sweep();
        self.inner.prepared.sweep();
        self.inner.tickets.sweep();
        self.inner.running.sweep();
    }

    /// The session of a request.
    pub(super) async fn session(&self, caller: Caller) -> Result<Session, Status> {
        self.seat(caller).await.map(|seat| seat.session)
    }

    /// Whether a request is worth reading: it has a session, or a password to be checked. One of who may write is marked.
    pub(super) fn may_speak(&self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let caller = Caller::of(&request);
        let accounts = &self.inner.accounts;
        let seat = self.inner.sessions.get(&caller.name).filter(|seat| accounts.may_stay(&seat.principal));
        let rights = seat.map(|seat| seat.principal).or_else(|| accounts.anybody("")).map(|principal| principal.rights);
        if rights.is_none() && caller.basic.is_none() {
            return Err(Status::unauthenticated("log in first: user name and password"));
        }
        if rights >= Some(Rights::Writer) {
            request.extensions_mut().insert(MayWrite);
        }
        Ok(request)
    }

    /// The session of a request, and what its client may do.
    pub(super) async fn seat(&self, caller: Caller) -> Result<Seat, Status> {
        let accounts = &self.inner.accounts;
        if let Some(seat) = self.inner.sessions.get(&caller.name).filter(|seat| accounts.may_stay(&seat.principal)) {
            return Ok(seat);
        }
        let principal = match (accounts.anybody(""), caller.basic) {
            (Some(anybody), _) => anybody,
            (None, Some(basic)) => self.come_in(&basic).await?,
            (None, None) if caller.has_token => {
                return Err(Status::unauthenticated("the session is over, or its account has changed: log in again"));
            }
            (None, None) => return Err(Status::unauthenticated("log in first: user name and password")),
        };
        Ok(self.sit(caller.name, principal))
    }

    /// Checks `Basic …`.
    async fn come_in(&self, basic: &str) -> Result<Principal, Status> {
        let principal = self.inner.accounts.basic(basic).await;
        match &principal {
            Ok(principal) => info!(target: "millpond::audit", user = principal.user, door = "flight_sql", "came in"),
            Err(error) => warn!(target: "millpond::audit", door = "flight_sql", reason = error.message(), "refused"),
        }
        principal.map_err(|error| Status::unauthenticated(error.message().to_owned()))
    }

    fn sit(&self, name: Bytes, principal: Principal) -> Seat {
        let mut session = self.inner.queries.session().of(&principal.user, "flight_sql");
        if let Some(role) = principal.role.clone() {
            session = session.in_role(role);
        }
        let seat = Seat { session, principal };
        self.inner.sessions.put_at(name, seat.clone());
        seat
    }

    /// What carries out actions that change something, if anything does.
    pub(super) fn admin(&self) -> Option<&Admin> {
        self.inner.admin.as_ref()
    }

    /// Forgets the session of a request.
    pub(super) fn close_session(&self, caller: &Caller) {
        self.inner.sessions.remove(&caller.name);
    }

    pub(super) fn keep_prepared(&self, statement: Statement) -> Bytes {
        self.inner.prepared.put(Arc::new(Prepared { statement, values: Mutex::new(Vec::new()) }))
    }

    pub(super) fn close_prepared(&self, handle: &[u8]) {
        self.inner.prepared.remove(handle);
    }

    /// A prepared statement, for the one who prepared it.
    fn prepared(&self, handle: &[u8], session: &Session) -> Result<Arc<Prepared>, Status> {
        let found = self.inner.prepared.get(handle).filter(|prepared| prepared.statement.belongs_to(session));
        found.ok_or_else(|| status::expired("prepared statement"))
    }

    /// Ends the statement of a ticket. False if it is neither waiting nor running.
    pub(super) fn cancel(&self, ticket: &Ticket) -> Result<bool, Status> {
        let Command::TicketStatementQuery(ticket) = command(&ticket.ticket)? else { return Ok(false) };
        let waiting = self.inner.tickets.remove(&ticket.statement_handle).is_some();
        let running = self.inner.running.remove(&ticket.statement_handle);
        if let Some(running) = &running {
            running.cancel();
        }
        Ok(waiting || running.is_some())
    }

    /// Plans the statement of a command, if it is one.
    async fn plan(&self, command: &Command, session: &Session) -> Result<Option<Query>, Status> {
        let query = match command {
            Command::CommandStatementQuery(statement) => {
                if statement.transaction_id.is_some() {
                    return Err(actions::no_transactions());
                }
                session.query(&statement.query).await
            }
            Command::CommandPreparedStatementQuery(statement) => {
                let prepared = self.prepared(&statement.prepared_statement_handle, session)?;
                let values = prepared.values.lock().clone();
                prepared.statement.bind(values).await
            }
            Command::CommandStatementSubstraitPlan(_) => {
                return Err(Status::unimplemented("Substrait plans are not accepted"));
            }
            _ => return Ok(None),
        };
        query.map(Some).map_err(status::status)
    }

    async fn info(self, request: Request<FlightDescriptor>) -> Result<FlightInfo, Status> {
        let session = self.session(Caller::of(&request)).await?;
        let descriptor = request.into_inner();
        let asked = command(&descriptor.cmd)?;
        let (schema, ticket, rows) = match self.plan(&asked, &session).await? {
            Some(query) => {
                if query.is_setting() {
                    // Some clients take their statement for done before they read its (empty) result.
                    query.run().await.map_err(status::status)?;
                }
                let schema = query.schema();
                let ticket = TicketStatementQuery { statement_handle: self.inner.tickets.put(query) };
                (schema, Bytes::from(ticket.as_any().encode_to_vec()), -1)
            }
            None => {
                let batch = metadata_batch(asked, &session).await?;
                let rows = i64::try_from(batch.num_rows()).unwrap_or(-1);
                (batch.schema(), descriptor.cmd.clone(), rows)
            }
        };
        let info = FlightInfo::new().try_with_schema(&schema).map_err(status::internal)?;
        Ok(info
            .with_descriptor(descriptor)
            .with_endpoint(FlightEndpoint::new().with_ticket(Ticket::new(ticket)))
            .with_total_records(rows)
            .with_total_bytes(-1)
            .with_ordered(true))
    }

    async fn schema(self, request: Request<FlightDescriptor>) -> Result<SchemaResult, Status> {
        let session = self.session(Caller::of(&request)).await?;
        let asked = command(&request.get_ref().cmd)?;
        let schema = match &asked {
            // Not planned as for running: a statement with parameters has a schema before it has values.
            Command::CommandStatementQuery(c) => session.prepare(&c.query).await.map_err(status::status)?.schema(),
            Command::CommandPreparedStatementQuery(c) => {
                self.prepared(&c.prepared_statement_handle, &session)?.statement.schema()
            }
            _ => metadata_batch(asked, &session).await?.schema(),
        };
        SchemaAsIpc::new(&schema, &IpcWriteOptions::default()).try_into().map_err(status::internal)
    }

    async fn get(self, request: Request<Ticket>) -> Result<Messages<FlightData>, Status> {
        let Seat { session, principal } = self.seat(Caller::of(&request)).await?;
        let accounts = Arc::clone(&self.inner.accounts);
        let asked = command(&request.get_ref().ticket)?;
        let (query, handle) = match &asked {
            Command::TicketStatementQuery(ticket) => {
                let query = self.inner.tickets.get(&ticket.statement_handle);
                let query =
                    query.filter(|query| query.belongs_to(&session)).ok_or_else(|| status::expired("ticket"))?;
                (query, ticket.statement_handle.clone())
            }
            _ => match self.plan(&asked, &session).await? {
                Some(query) => (query, Bytes::new()),
                None => {
                    let batch = metadata_batch(asked, &session).await?;
                    return Ok(encode(batch.schema(), stream::iter([Ok(batch)])));
                }
            },
        };
        let rows = query.run().await.map_err(status::status)?;
        let schema = rows.schema();
        let gone = async move { accounts.gone(&principal).await }.boxed();
        let rows =
            stream::try_unfold((rows, Running::new(self, handle), gone), |(mut rows, running, mut gone)| async move {
                tokio::select! {
                    () = &mut gone => Err(Status::unauthenticated("the account has changed: log in again")),
                    () = running.cancelled.cancelled() => Err(Status::cancelled("the query was cancelled")),
                    batch = rows.try_next() => match batch.map_err(status::status)? {
                        Some(batch) => Ok(Some((batch, (rows, running, gone)))),
                        None => {
                            running.read_to_the_end();
                            Ok(None)
                        }
                    },
                }
            });
        Ok(encode(schema, rows))
    }

    async fn put(self, request: Request<Streaming<FlightData>>) -> Result<Vec<u8>, Status> {
        let seat = self.seat(Caller::of(&request)).await?;
        let session = seat.session.clone();
        let id = request.metadata().get(ingest::ID_HEADER).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let mut messages = request.into_inner();
        let first = messages
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("DoPut without a message: nothing was sent"))?;
        let descriptor = first.flight_descriptor.as_ref();
        let asked = command(&descriptor.ok_or_else(|| Status::invalid_argument("DoPut without a command"))?.cmd)?;
        match asked {
            Command::CommandPreparedStatementQuery(statement) => {
                let handle = statement.prepared_statement_handle;
                let prepared = self.prepared(&handle, &session)?;
                let values = parameters::read(first, messages).await?;
                *prepared.values.lock() = values;
                Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) }.encode_to_vec())
            }
            Command::CommandStatementUpdate(update) => {
                let statement = session.prepare(&update.query).await.map_err(status::status)?;
                run_update(&statement, Vec::new()).await
            }
            Command::CommandPreparedStatementUpdate(update) => {
                let prepared = self.prepared(&update.prepared_statement_handle, &session)?;
                let values = prepared.values.lock().clone();
                run_update(&prepared.statement, values).await
            }
            Command::CommandStatementIngest(command) => {
                let record_count = ingest::take(&seat, id, self.inner.takes.as_ref(), command, first, messages).await?;
                Ok(DoPutUpdateResult { record_count }.encode_to_vec())
            }
            other => Err(Status::unimplemented(format!("DoPut of {} is not offered", other.type_url()))),
        }
    }

    /// Lets a client in; the answer names a new session.
    async fn shake(self, request: Request<Streaming<HandshakeRequest>>) -> Answer<Messages<HandshakeResponse>> {
        let caller = Caller::of(&request);
        drop(request);
        let token = format!("{:032x}", rand::random::<u128>());
        let principal = match (self.inner.accounts.anybody(""), &caller.basic) {
            (Some(anybody), _) => anybody,
            (None, Some(basic)) => self.come_in(basic).await?,
            // Drivers shake hands with a token that they have already.
            (None, None) => {
                let seat = self.seat(caller).await?;
                self.inner.sessions.put_at(Bytes::from(format!("token {token}")), seat);
                return greet(token);
            }
        };
        self.sit(Bytes::from(format!("token {token}")), principal);
        greet(token)
    }
}

fn greet(token: String) -> Answer<Messages<HandshakeResponse>> {
    let header: MetadataValue<_> = format!("Bearer {token}").parse().map_err(status::malformed)?;
    let answer = HandshakeResponse { protocol_version: 0, payload: Bytes::from(token) };
    let mut response = Response::new(stream::iter([Ok(answer)]).boxed());
    response.metadata_mut().insert("authorization", header);
    Ok(response)
}

/// SET and RESET are the only "updates".
async fn run_update(statement: &Statement, values: Vec<ScalarValue>) -> Result<Vec<u8>, Status> {
    if statement.has_rows() {
        return Err(Status::invalid_argument("the statement returns rows: execute it as a query, not as an update"));
    }
    statement.run(values).await.map_err(status::status)?;
    Ok(DoPutUpdateResult { record_count: 0 }.encode_to_vec())
}

/// A statement under way, so that it can be cancelled by its ticket.
struct Running {
    service: FlightSql,
    handle: Bytes,
    cancelled: Shutdown,
}

impl Running {
    fn new(service: FlightSql, handle: Bytes) -> Self {
        let cancelled = Shutdown::new();
        if !handle.is_empty() {
            service.inner.running.put_at(handle.clone(), cancelled.clone());
        }
        Self { service, handle, cancelled }
    }

    /// Lets go of the ticket, and with it of the tables it pins: a dashboard asks often, and every ticket holds
    /// the hot rows of its moment.
    fn read_to_the_end(&self) {
        self.service.inner.tickets.remove(&self.handle);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.service.inner.running.remove(&self.handle);
    }
}

async fn metadata_batch(asked: Command, session: &Session) -> Result<RecordBatch, Status> {
    let name = asked.type_url().to_owned();
    let batch = metadata::answer(asked, session).await?;
    batch.ok_or_else(|| Status::unimplemented(format!("{name} is not offered")))
}

fn command(bytes: &[u8]) -> Result<Command, Status> {
    let any = Any::decode(bytes).map_err(status::malformed)?;
    Command::try_from(any).map_err(status::malformed)
}

/// The batches of messages whose first was read for its command.
pub(super) fn decode(first: FlightData, rest: Streaming<FlightData>) -> FlightRecordBatchStream {
    let rest = rest.map_err(|status| FlightError::Tonic(Box::new(status)));
    FlightRecordBatchStream::new_from_flight_data(stream::iter([Ok(first)]).chain(rest))
}

/// Batches as messages, cut to size.
fn encode(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, Status>> + Send + 'static,
) -> Messages<FlightData> {
    let cut = batches
        .map_ok(|batch| stream::iter(wire::split(batch, wire::MESSAGE_BYTES)).map(Ok))
        .try_flatten()
        .map_err(|status| FlightError::Tonic(Box::new(status)));
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(usize::MAX)
        .build(cut)
        .map_err(Status::from)
        .boxed()
}

#[tonic::async_trait]
impl FlightService for FlightSql {
    type HandshakeStream = Messages<HandshakeResponse>;
    type ListFlightsStream = Messages<FlightInfo>;
    type DoGetStream = Messages<FlightData>;
    type DoPutStream = Messages<PutResult>;
    type DoExchangeStream = Messages<FlightData>;
    type DoActionStream = Messages<ActionResult>;
    type ListActionsStream = Messages<ActionType>;

    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        self.clone().shake(request).boxed().await
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        Ok(Response::new(stream::empty().boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        self.clone().info(request).boxed().await.map(Response::new)
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<PollInfo> {
        let info = self.clone().info(request).boxed().await?;
        Ok(Response::new(PollInfo {
            info: Some(info),
            flight_descriptor: None,
            progress: Some(1.0),
            expiration_time: None,
        }))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        self.clone().schema(request).boxed().await.map(Response::new)
    }

    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        self.clone().get(request).boxed().await.map(Response::new)
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        let app_metadata = self.clone().put(request).boxed().await?.into();
        Ok(Response::new(stream::iter([Ok(PutResult { app_metadata })]).boxed()))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        Err(Status::unimplemented("DoExchange is not offered"))
    }

    async fn do_action(&self, request: Request<Action>) -> Answer<Self::DoActionStream> {
        let bodies = actions::run(self.clone(), request).boxed().await?;
        Ok(Response::new(bodies.map_ok(|body| ActionResult { body }).boxed()))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        Ok(Response::new(stream::iter(actions::list().map(Ok)).boxed()))
    }
}
