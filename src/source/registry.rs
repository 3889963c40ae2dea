//! A schema registry with Confluent's HTTP API: which schema an id stands for. Ids never change their meaning, so
//! an answer is kept for as long as the process lives.
//!
//! What can be trusted decides what happens: only the registry's own "no such schema" (404 with its error code
//! 40403), heard three times, makes an id unknown, and only for a minute. Anything else — nobody answers, 5xx, a
//! page of a proxy, a refused password, a schema that cannot be read — is [`Trouble`]: the caller waits.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use reqwest::{Certificate, Client, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::decode::{Records, SchemaText, WriterSchema, WriterSchemas};
use crate::error::{Error, Kind, Result};
use crate::schema::Format;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer larger than this is no schema.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Schemas that one schema may refer to, directly or not.
const MAX_REFERENCES: usize = 500;
/// A schema is unknown when the registry has said so this many times …
const UNKNOWN_AFTER: usize = 3;
/// … with this pause between: a follower may lag behind its leader …
const UNKNOWN_PAUSE: Duration = Duration::from_secs(1);
/// … and it is asked again after this long.
const UNKNOWN_FOR: Duration = Duration::from_secs(60);
/// The registry's code for "no such schema".
const SCHEMA_NOT_FOUND: i64 = 40403;

/// How to reach a registry.
pub struct RegistryOptions {
    /// What stands before `/schemas/ids/…`.
    pub url: Url,
    /// For HTTP basic authentication.
    pub username: Option<String>,
    /// For HTTP basic authentication.
    pub password: Option<String>,
    /// A file of certificates (PEM) to trust beside the system's.
    pub ca: Option<PathBuf>,
}

/// A registry, and what it has answered. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    client: Client,
    options: RegistryOptions,
    known: Mutex<HashMap<u32, Known>>,
}

struct Known {
    schema: Arc<WriterSchema>,
    until: Option<Instant>,
}

/// Why a schema cannot be had now. Asking again may help; nothing is wrong with the records.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nobody answers.
    #[error("the schema registry at {url} cannot be reached: {reason}")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// It answers, but not with a schema.
    #[error("the schema registry at {url} does not answer with a schema: {reason}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What it answered.
        reason: String,
    },
    /// A schema that Millpond cannot read.
    #[error("schema {id} of the schema registry cannot be read: {reason}")]
    Schema {
        /// Its id.
        id: u32,
        /// What in it.
        reason: String,
    },
}

/// The part of an answer that is read.
#[derive(Deserialize)]
struct Answer {
    schema: String,
    #[serde(rename = "schemaType", default)]
    kind: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: u32,
}

#[derive(Deserialize)]
struct Refusal {
    error_code: i64,
}

impl Registry {
    /// Prepares a client; asks nobody yet. Fails if the certificates cannot be read.
    pub fn new(options: RegistryOptions) -> Result<Self> {
        let mut client = Client::builder().timeout(TIMEOUT).user_agent("millpond");
        for certificate in options.ca.as_ref().map(certificates).transpose()?.unwrap_or_default() {
            client = client.add_root_certificate(certificate);
        }
        let client = client
            .build()
            .map_err(|error| Error::new(Kind::Internal, "no client for the schema registry").because(error))?;
        Ok(Self(Arc::new(Inner { client, options, known: Mutex::default() })))
    }

    /// The same, for records of `format`; `None` if those name no schemas.
    pub fn of(self, format: Format) -> Option<(Self, Format)> {
        format.needs_registry().then_some((self, format))
    }

    /// The same records with the schemas that their payloads name. The records are given back with the trouble.
    pub async fn with_schemas(
        &self,
        records: Records,
        format: Format,
    ) -> std::result::Result<Records, (Records, Trouble)> {
        match self.schemas(&records.schema_ids(format)).await {
            Ok(schemas) => Ok(records.with_schemas(schemas)),
            Err(trouble) => Err((records, trouble)),
        }
    }

    async fn schemas(&self, ids: &BTreeSet<u32>) -> std::result::Result<WriterSchemas, Trouble> {
        let mut missing = self.missing(ids);
        for attempt in 1..=UNKNOWN_AFTER {
            let mut refused = Vec::new();
            for id in missing {
                match self.fetch(id).await? {
                    Some(schema) => self.keep(id, schema, None),
                    None if attempt == UNKNOWN_AFTER => {
                        self.keep(id, WriterSchema::unknown(), Some(Instant::now() + UNKNOWN_FOR));
                    }
                    None => refused.push(id),
                }
            }
            if refused.is_empty() {
                break;
            }
            missing = refused;
            tokio::time::sleep(UNKNOWN_PAUSE).await;
        }
        let known = self.0.known.lock();
        Ok(ids.iter().filter_map(|id| Some((*id, Arc::clone(&known.get(id)?.schema)))).collect())
    }

    fn missing(&self, ids: &BTreeSet<u32>) -> Vec<u32> {
        let mut known = self.0.known.lock();
        let now = Instant::now();
        known.retain(|_, known| known.until.is_none_or(|until| now < until));
        ids.iter().copied().filter(|id| !known.contains_key(id)).collect()
    }

    fn keep(&self, id: u32, schema: WriterSchema, until: Option<Instant>) {
        self.0.known.lock().insert(id, Known { schema: Arc::new(schema), until });
    }

    /// The schema `id`; `None` if the registry says that it has none.
    async fn fetch(&self, id: u32) -> std::result::Result<Option<WriterSchema>, Trouble> {
        let Some(answer) = self.ask(&["schemas", "ids", &id.to_string()]).await? else { return Ok(None) };
        let mut schema = SchemaText {
            kind: answer.kind.unwrap_or_else(|| "AVRO".to_owned()),
            text: answer.schema,
            references: Vec::new(),
        };
        let references = answer.references.unwrap_or_default();
        self.follow(references, &mut HashSet::new(), &mut schema.references).await?;
        WriterSchema::parse(&schema).map(Some).map_err(|reason| Trouble::Schema { id, reason })
    }

    /// Adds what `references` name to `texts`, and before each what it refers to itself.
    fn follow<'a>(
        &'a self,
        references: Vec<Reference>,
        seen: &'a mut HashSet<String>,
        texts: &'a mut Vec<(String, String)>,
    ) -> BoxFuture<'a, std::result::Result<(), Trouble>> {
        async move {
            for Reference { name, subject, version } in references {
                if !seen.insert(name.clone()) {
                    continue;
                }
                let path = ["subjects", &subject, "versions", &version.to_string()];
                let fault = |reason: String| Trouble::Answer { url: self.url(&path).into(), reason };
                if seen.len() > MAX_REFERENCES {
                    return Err(fault(format!("more than {MAX_REFERENCES} schemas refer to each other")));
                }
                let answer = self.ask(&path).await?;
                let answer = answer.ok_or_else(|| fault("a schema that another refers to is not there".to_owned()))?;
                self.follow(answer.references.unwrap_or_default(), seen, texts).await?;
                texts.push((name, answer.schema));
            }
            Ok(())
        }
        .boxed()
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.0.options.url.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(path);
        }
        // A version that was deleted is still what its writers used.
        if path.first() == Some(&"subjects") {
            url.set_query(Some("deleted=true"));
        }
        url
    }

    /// GETs `path`; `None` if the registry knows it and says that there is no such thing.
    async fn ask(&self, path: &[&str]) -> std::result::Result<Option<Answer>, Trouble> {
        let url = self.url(path);
        let unreachable = |error: reqwest::Error| Trouble::Unreachable {
            url: self.0.options.url.to_string(),
            reason: innermost(&error.without_url()),
        };
        let mut request = self
            .0
            .client
            .get(url.clone())
            .header(reqwest::header::ACCEPT, "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(username) = &self.0.options.username {
            request = request.basic_auth(username, self.0.options.password.as_ref());
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                let reason = format!("more than {} MiB", MAX_ANSWER_BYTES >> 20);
                return Err(Trouble::Answer { url: url.into(), reason });
            }
        }
        let not_found = || serde_json::from_slice::<Refusal>(&body).is_ok_and(|it| it.error_code == SCHEMA_NOT_FOUND);
        if status == StatusCode::NOT_FOUND && not_found() {
            return Ok(None);
        }
        let answer = match status.is_success() {
            true => serde_json::from_slice(&body).map_err(|error| error.to_string()),
            false => Err(status.to_string()),
        };
        answer.map(Some).map_err(|reason| Trouble::Answer { url: url.into(), reason })
    }
}

fn certificates(file: &PathBuf) -> Result<Vec<Certificate>> {
    let wrong = |reason: String| {
        Error::new(Kind::Usage, format!("the certificates in {} cannot be used: {reason}", file.display()))
            .hint("kafka.schema_registry.ca names a file of certificates in PEM form")
    };
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if certificates.is_empty() => Err(wrong("it holds none".to_owned())),
        result => result.map_err(|error| wrong(error.to_string())),
    }
}

/// What the operating system or TLS said, without the layers around it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::decode::{Record, RecordsBuilder};

    /// What a server on loopback was asked.
    #[derive(Clone, Default)]
    struct Asked(Arc<Mutex<Vec<String>>>);

    /// Answers each request by its path (status and body), and keeps what was asked for.
    async fn server(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> (Url, Asked) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Asked::default();
        let keep = asked.clone();
        crate::task::spawn("registry", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let request = String::from_utf8(request).unwrap();
                let path = request.split(' ').nth(1).unwrap().to_owned();
                let (status, body) = answer(&path);
                keep.0.lock().push(request);
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        (url, asked)
    }

    fn registry(url: Url) -> Registry {
        Registry::new(RegistryOptions { url, username: None, password: None, ca: None }).unwrap()
    }

    fn records(ids: &[u32]) -> Records {
        let mut builder = RecordsBuilder::new(0);
        for (at, id) in ids.iter().enumerate() {
            let payload = [&[0], &id.to_be_bytes()[..], b"x"].concat();
            let record =
                Record { offset: at as i64, timestamp_us: 0, key: None, payload: Some(&payload), headers: &[] };
            builder.push(record);
        }
        builder.finish("t".into(), 0, 0)
    }

    /// The trouble that an answer means.
    async fn trouble(status: u16, body: &str) -> String {
        let body = body.to_owned();
        let (url, _) = server(move |_| (status, body.clone())).await;
        registry(url).with_schemas(records(&[7]), Format::Avro).await.unwrap_err().1.to_string()
    }

    const NOT_FOUND: &str = r#"{"error_code":40403,"message":"Schema 7 not found"}"#;

    #[tokio::test]
    async fn a_schema_is_asked_for_once_with_what_it_refers_to() {
        let (url, asked) = server(|path| {
            let answer = match path {
                "/base/schemas/ids/7" => {
                    r#"{"schema":"\"a.B\"","references":[{"name":"a.B","subject":"b/c","version":2}]}"#
                }
                "/base/subjects/b%2Fc/versions/2?deleted=true" => {
                    r#"{"subject":"b/c","id":1,"version":2,"schema":"{\"type\":\"enum\",\"name\":\"a.B\",\"symbols\":[]}"}"#
                }
                other => panic!("{other}"),
            };
            (200, answer.to_owned())
        })
        .await;
        let options = RegistryOptions { url, username: Some("me".into()), password: Some("secret".into()), ca: None };
        let registry = Registry::new(options).unwrap();
        for _ in 0..2 {
            registry.with_schemas(records(&[7, 7]), Format::Avro).await.unwrap();
        }
        let asked = asked.0.lock();
        assert_eq!(asked.len(), 2, "an answer is kept: {asked:?}");
        assert!(asked.iter().all(|request| request.to_lowercase().contains("authorization: basic bwu6c2vjcmv0")));
    }

    #[tokio::test]
    async fn an_id_is_unknown_once_the_registry_said_so_three_times() {
        let (url, asked) = server(|_| (404, NOT_FOUND.to_owned())).await;
        let registry = registry(url);
        for _ in 0..2 {
            registry.with_schemas(records(&[7]), Format::Avro).await.unwrap();
            assert_eq!(asked.0.lock().len(), UNKNOWN_AFTER, "and is not asked again at once");
        }
    }

    #[tokio::test]
    async fn whatever_is_no_clear_answer_is_trouble() {
        for (status, body, reason) in [
            (404, "<html>no such page</html>", "404"),
            (404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#, "404"),
            (401, "", "401"),
            (500, r#"{"error_code":50001}"#, "500"),
            (200, "<html>please log in</html>", "does not answer with a schema: expected value"),
            (200, "{}", "missing field `schema`"),
            (200, r#"{"schema":"{"}"#, "schema 7 of the schema registry cannot be read: not JSON"),
            (
                200,
                r#"{"schema":"message {","schemaType":"PROTOBUF"}"#,
                "schema 7 of the schema registry cannot be read",
            ),
        ] {
            let said = trouble(status, body).await;
            assert!(said.contains(reason), "{status} {body}: {said}");
        }
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let registry = registry(format!("http://{closed}").parse().unwrap());
        let (given_back, trouble) = registry.with_schemas(records(&[7]), Format::Avro).await.unwrap_err();
        assert!(matches!(trouble, Trouble::Unreachable { .. }), "{trouble}");
        assert!(trouble.to_string().contains(&closed.to_string()), "{trouble}");
        assert_eq!(given_back.len(), 1);
    }

    #[tokio::test]
    async fn a_schema_that_refers_to_itself_ends() {
        let (url, _) = server(|path| {
            let schema = if path.contains("subjects") { r#"{"type":"fixed","name":"x","size":1}"# } else { r#""x""# };
            let references = serde_json::json!([{"name": "x", "subject": "x", "version": 1}]);
            (200, serde_json::json!({"schema": schema, "references": references}).to_string())
        })
        .await;
        registry(url).with_schemas(records(&[7]), Format::Avro).await.unwrap();
    }

    #[tokio::test]
    async fn records_without_ids_ask_nobody() {
        let registry = registry("http://127.0.0.1:1".parse().unwrap());
        assert_eq!(registry.with_schemas(records(&[]), Format::Avro).await.unwrap().len(), 0);
    }

    #[test]
    fn certificates_are_read_before_anything_starts() {
        let ca = |path: PathBuf| {
            let url = "https://registry".parse().unwrap();
            Registry::new(RegistryOptions { url, username: None, password: None, ca: Some(path) }).err().unwrap()
        };
        let empty = tempfile::NamedTempFile::new().unwrap();
        for (path, reason) in [("/no/such.pem".into(), "No such file"), (empty.path().to_owned(), "it holds none")] {
            let error = ca(path);
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.message().contains(reason), "{error}");
        }
    }
}
