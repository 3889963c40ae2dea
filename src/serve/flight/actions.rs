//! DoAction: prepared statements, cancelling, session options.
//!
//! The session messages of Flight.proto are not in the crate; they are written out here with their field numbers.

use std::collections::HashMap;

use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, ProstMessageExt,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo, IpcMessage,
    SchemaAsIpc,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Request, Status};

use super::service::{Caller, FlightSql};
use super::{parameters, status};
use crate::config::Rights;
use crate::query::{CATALOG, PUBLIC, Session};
use tracing::info;

const ACTIONS: [(&str, &str); 7] = [
    ("CreatePreparedStatement", "plans a statement for repeated use"),
    ("ClosePreparedStatement", "forgets a prepared statement"),
    ("CancelFlightInfo", "ends a running statement"),
    ("CancelQuery", "ends a running statement (the older form)"),
    ("SetSessionOptions", "changes options of this session"),
    ("GetSessionOptions", "shows the options of this session"),
    ("CloseSession", "forgets this session"),
];

/// How the names of actions begin that change something; the engine carries them out.
const ADMIN: &str = "millpond.";
/// What an action tells waits until it is sent, so much of it.
const TOLD: usize = 16;

/// The actions offered.
pub(super) fn list() -> impl Iterator<Item = ActionType> {
    ACTIONS.into_iter().map(|(name, does)| ActionType { r#type: name.to_owned(), description: does.to_owned() })
}

pub(super) fn no_transactions() -> Status {
    Status::unimplemented("there are no transactions: every statement sees the newest rows; use autocommit")
}

/// Results of an action, in order.
type Results = BoxStream<'static, Result<Bytes, Status>>;

/// Runs an action.
pub(super) async fn run(service: FlightSql, request: Request<Action>) -> Result<Results, Status> {
    let body = request.get_ref().body.clone();
    let results = match request.get_ref().r#type.as_str() {
        "CreatePreparedStatement" => {
            let asked: ActionCreatePreparedStatementRequest = unpack(&body)?;
            if asked.transaction_id.is_some() {
                return Err(no_transactions());
            }
            let statement =
                service.session(Caller::of(&request)).await?.prepare(&asked.query).await.map_err(status::status)?;
            let dataset_schema = ipc(&statement.schema())?;
            let parameter_schema = ipc(&parameters::schema(&statement))?;
            let prepared_statement_handle = service.keep_prepared(statement);
            Ok(packed(ActionCreatePreparedStatementResult {
                prepared_statement_handle,
                dataset_schema,
                parameter_schema,
            }))
        }
        "ClosePreparedStatement" => {
            let asked: ActionClosePreparedStatementRequest = unpack(&body)?;
            service.close_prepared(&asked.prepared_statement_handle);
            Ok(Vec::new())
        }
        "CancelFlightInfo" => {
            let asked = CancelFlightInfoRequest::decode(body).map_err(status::malformed)?;
            service.session(Caller::of(&request)).await?;
            let cancelled = cancel(&service, &asked.info.unwrap_or_default())?;
            Ok(plain(CancelFlightInfoResult::new(cancelled)))
        }
        "CancelQuery" => {
            let asked: ActionCancelQueryRequest = unpack(&body)?;
            service.session(Caller::of(&request)).await?;
            let info = FlightInfo::decode(asked.info).map_err(status::malformed)?;
            // The numbers of the older enumeration are the same.
            Ok(packed(ActionCancelQueryResult { result: cancel(&service, &info)? as i32 }))
        }
        "SetSessionOptions" => {
            let asked = SetSessionOptionsRequest::decode(body).map_err(status::malformed)?;
            let session = service.session(Caller::of(&request)).await?;
            let errors = asked.session_options.into_iter().filter_map(|(name, value)| {
                set(&session, &name, value.option_value).map(|value| (name, OptionError { value }))
            });
            Ok(plain(SetSessionOptionsResult { errors: errors.collect() }))
        }
        "GetSessionOptions" => {
            let shown = service.session(Caller::of(&request)).await?.show(None).map_err(status::status)?;
            let fixed = [("catalog", CATALOG.to_owned()), ("schema", PUBLIC.to_owned())];
            let value = |text| OptionValue { option_value: Some(Value::Text(text)) };
            let session_options = shown.into_iter().chain(fixed).map(|(name, text)| (name.to_owned(), value(text)));
            Ok(plain(GetSessionOptionsResult { session_options: session_options.collect() }))
        }
        "CloseSession" => {
            service.close_session(&Caller::of(&request));
            Ok(plain(CloseSessionResult { status: CLOSED }))
        }
        "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => Err(no_transactions()),
        name if name.starts_with(ADMIN) => {
            let refused = || Status::permission_denied("this server is read-only: it carries out no such action");
            let seat = service.seat(Caller::of(&request)).await?;
            if seat.rights() < Rights::Admin {
                return Err(Status::permission_denied(format!("{name} needs a role with rights = \"admin\"")));
            }
            info!(target: "millpond::audit", user = seat.session.user(), action = name, "carried out");
            let admin = service.admin().ok_or_else(refused)?;
            let (tell, told) = mpsc::channel(TOLD);
            return Ok(answers(admin(name.to_owned(), body, tell), told).boxed());
        }
        "CreatePreparedSubstraitPlan" => Err(Status::unimplemented("Substrait plans are not accepted")),
        other => Err(Status::unimplemented(format!("the action {other} is not offered"))),
    };
    Ok(stream::iter(results?.into_iter().map(Ok)).boxed())
}

/// What `work` tells, then what it answers. It ends when nobody listens.
fn answers(
    work: BoxFuture<'static, crate::error::Result<Bytes>>,
    told: mpsc::Receiver<Bytes>,
) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    stream::unfold((Some(work), told), async |(work, mut told)| {
        let mut work = work?;
        tokio::select! {
            biased;
            Some(body) = told.recv() => Some((Ok(body), (Some(work), told))),
            done = &mut work => Some((done.map_err(status::status), (None, told))),
        }
    })
}

fn cancel(service: &FlightSql, info: &FlightInfo) -> Result<CancelStatus, Status> {
    let mut found = false;
    for ticket in info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.as_ref()) {
        found |= service.cancel(ticket)?;
    }
    if found { Ok(CancelStatus::Cancelled) } else { Err(status::expired("flight")) }
}

/// Sets one option; the protocol's error code if that fails.
fn set(session: &Session, name: &str, value: Option<Value>) -> Option<i32> {
    let text = match value {
        // No value: back to the default.
        None => return session.reset(name).is_err().then_some(INVALID_NAME),
        Some(Value::Text(text)) => text,
        Some(Value::Flag(flag)) => flag.to_string(),
        Some(Value::Integer(number)) => number.to_string(),
        Some(Value::Double(number)) => number.to_string(),
    };
    match name.to_ascii_lowercase().as_str() {
        "catalog" => (text != CATALOG).then_some(INVALID_VALUE),
        "schema" => (text != PUBLIC).then_some(INVALID_VALUE),
        _ => match session.set(name, &text) {
            Ok(()) => None,
            Err(error) if error.kind() == crate::error::Kind::Denied => Some(INVALID_NAME),
            Err(_) => Some(INVALID_VALUE),
        },
    }
}

fn unpack<M: ProstMessageExt>(body: &Bytes) -> Result<M, Status> {
    let any = Any::decode(body.clone()).map_err(status::malformed)?;
    let message = any.unpack().map_err(status::malformed)?;
    message.ok_or_else(|| status::malformed(format!("it is a {}", any.type_url)))
}

fn packed<M: ProstMessageExt>(message: M) -> Vec<Bytes> {
    plain(message.as_any())
}

#[allow(clippy::needless_pass_by_value)] // Callers build the message for this call.
fn plain<M: Message>(message: M) -> Vec<Bytes> {
    vec![Bytes::from(message.encode_to_vec())]
}

fn ipc(schema: &Schema) -> Result<Bytes, Status> {
    let IpcMessage(bytes) =
        SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into().map_err(status::internal)?;
    Ok(bytes)
}

const INVALID_NAME: i32 = 1;
const INVALID_VALUE: i32 = 2;
const CLOSED: i32 = 1;

/// `SessionOptionValue`.
#[derive(Clone, PartialEq, Message)]
struct OptionValue {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4")]
    option_value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(sfixed64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}

#[derive(Clone, PartialEq, Message)]
struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    session_options: HashMap<String, OptionValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    errors: HashMap<String, OptionError>,
}

#[derive(Clone, PartialEq, Message)]
struct OptionError {
    #[prost(int32, tag = "1")]
    value: i32,
}

#[derive(Clone, PartialEq, Message)]
struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    session_options: HashMap<String, OptionValue>,
}

#[derive(Clone, PartialEq, Message)]
struct CloseSessionResult {
    #[prost(int32, tag = "1")]
    status: i32,
}
