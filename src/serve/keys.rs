//! Rows by key over HTTP: `GET /v1/latest/<table>/<key>` gives one as a JSON object, `GET /v1/latest/<table>?key=…&key=…`
//! those of several keys as an array. The parts of a key of several columns are parts of the path, or divided by `,`.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::json::writer::{JsonArray, WriterBuilder};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures::future::BoxFuture;
use serde_json::Value;

use super::accounts::Principal;
use crate::error::{Error, Kind, Result};
use crate::query::PUBLIC;

/// Most keys of one request.
const MOST_KEYS: usize = 10_000;

/// Gives the rows of a table that have these keys, each key with a text per key column; `None` if there is no such table.
pub type Lookup = Arc<dyn Fn(String, Vec<Vec<String>>) -> Found + Send + Sync>;
/// The rows to come.
pub type Found = BoxFuture<'static, Result<Option<RecordBatch>>>;

pub(super) fn routes(lookup: Lookup) -> Router {
    Router::new()
        .route("/v1/latest/{table}/{*key}", get(one))
        .route("/v1/latest/{table}", get(several))
        .with_state(lookup)
}

async fn one(
    State(lookup): State<Lookup>,
    Extension(principal): Extension<Principal>,
    Path((table, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = refusal(&principal, &table) {
        return refusal;
    }
    let key = key.split('/').map(str::to_owned).collect();
    match rows(&lookup, &table, vec![key]).await {
        Ok(Some(mut rows)) => match rows.pop() {
            Some(row) => tagged(&row, &headers),
            None => failed(StatusCode::NOT_FOUND, "there is no row with this key"),
        },
        Ok(None) => unknown(&table),
        Err(error) => broken(&error),
    }
}

async fn several(
    State(lookup): State<Lookup>,
    Extension(principal): Extension<Principal>,
    Path(table): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = refusal(&principal, &table) {
        return refusal;
    }
    let query = query.unwrap_or_default();
    let named = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "key");
    let keys: Vec<Vec<String>> = named.map(|(_, key)| key.split(',').map(str::to_owned).collect()).collect();
    if keys.is_empty() || keys.len() > MOST_KEYS {
        return failed(StatusCode::BAD_REQUEST, &format!("name the keys, at most {MOST_KEYS}: ?key=…&key=…"));
    }
    match rows(&lookup, &table, keys).await {
        Ok(Some(rows)) => tagged(&Value::Array(rows), &headers),
        Ok(None) => unknown(&table),
        Err(error) => broken(&error),
    }
}

/// Keys are looked up in whole tables only: conditions and masks of a role are for SQL.
fn refusal(principal: &Principal, table: &str) -> Option<Response> {
    let role = principal.role.as_ref().filter(|role| !role.may_read_all_of(table))?;
    let message = match role.may_read(PUBLIC, table) {
        true => format!("your role may read a part of {table} only: ask for it by SQL"),
        false => format!("permission denied for table {table}"),
    };
    Some(failed(StatusCode::FORBIDDEN, &message))
}

async fn rows(lookup: &Lookup, table: &str, keys: Vec<Vec<String>>) -> Result<Option<Vec<Value>>> {
    let Some(rows) = lookup(table.to_owned(), keys).await? else { return Ok(None) };
    let cannot = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(Kind::Internal, "the rows cannot be written as JSON").because(cause)
    };
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(Vec::new());
    writer.write(&rows).and_then(|()| writer.finish()).map_err(|error| cannot(error.into()))?;
    serde_json::from_slice(&writer.into_inner()).map(Some).map_err(|error| cannot(error.into()))
}

/// A JSON answer, or 304 if the client has it.
fn tagged(value: &Value, headers: &HeaderMap) -> Response {
    let text = value.to_string();
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag)) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::CONTENT_TYPE, "application/json".to_owned()), (header::ETAG, tag)], text).into_response()
}

fn unknown(table: &str) -> Response {
    failed(StatusCode::NOT_FOUND, &format!("there is no table `{table}` with one row per key"))
}

fn broken(error: &Error) -> Response {
    let status = match error.kind() {
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::Unavailable | Kind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    failed(status, &error.to_string())
}

fn failed(status: StatusCode, message: &str) -> Response {
    let text = serde_json::json!({ "error": message }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
