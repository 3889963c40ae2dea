//! `millpond.toml`, typed.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use chrono_tz::{TZ_VARIANTS, Tz};
use url::Url;

use super::{
    kafka::{self, Auth, Brokers, Properties, SchemaRegistry},
    nearest::nearest,
    problem::{Complaint, Problems},
    section::Section,
    sinks,
    tree::Table,
    units::{ByteSize, Interval},
    words::project,
};
use crate::{deliver::SinkOptions, lake::Compression, news::Rule};

const SHORTEST_COMMIT_INTERVAL: Duration = Duration::from_millis(10);
const SHORTEST_HISTORY: Duration = Duration::from_secs(3_600);
const LEAST_MEMORY: ByteSize = ByteSize(192 << 20);
/// Less lets no query that groups or sorts begin.
const LEAST_QUERY_MEMORY: ByteSize = ByteSize(1 << 20);

/// Everything `millpond.toml` says, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[project]`
    pub project: ProjectConfig,
    /// `[lake]`
    pub lake: Lake,
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[limits]`
    pub limits: Limits,
    /// `[serve]`
    pub serve: Serve,
    /// `[sinks.NAME]`
    pub sinks: BTreeMap<String, SinkOptions>,
    /// `[[notify]]`
    pub notify: Vec<Rule>,
}

/// `[project]`
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectConfig {
    /// Days of `_day`, and timestamps without a zone.
    pub timezone: Tz,
}

/// `[lake]`
#[derive(Debug, Clone, PartialEq)]
pub struct Lake {
    /// `file:///absolute/folder/` or `s3://bucket/prefix/`; ends in `/`.
    pub url: Url,
    /// How often new rows become durable; a table may override it.
    pub commit_interval: Duration,
    /// How far back tables can be read as they were.
    pub history: Duration,
    /// What makes data files smaller; if nothing is said, it depends on where the lake is.
    pub compression: Option<Compression>,
    /// `[lake.s3]`: only for `s3://`.
    pub s3: S3,
}

/// `[lake.s3]`
#[derive(Debug, Clone, PartialEq)]
pub struct S3 {
    /// A store that is not AWS, `http://` or `https://`.
    pub endpoint: Option<Url>,
    /// The region; if absent, the usual AWS variables and files decide.
    pub region: Option<String>,
}

/// `[kafka]`
#[derive(Debug, Clone, PartialEq)]
pub struct Kafka {
    /// Where to connect.
    pub brokers: Brokers,
    /// How to say who we are; properties do the rest.
    pub auth: Auth,
    /// `[kafka.properties]`, for librdkafka.
    pub properties: Properties,
    /// `[kafka.schema_registry]`
    pub schema_registry: SchemaRegistry,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes that all stages together may hold.
    pub memory: ByteSize,
    /// Statements of clients that run at once.
    pub queries: usize,
    /// Bytes that one query may hold; three quarters of what is there for queries if nothing is said.
    pub query_memory: Option<ByteSize>,
}

/// `[serve]`: loopback addresses; port 0 = any free port; `None` = off.
#[derive(Debug, Clone, PartialEq)]
pub struct Serve {
    /// Arrow Flight SQL.
    pub flight_sql: Option<SocketAddr>,
    /// The PostgreSQL wire.
    pub postgres: Option<SocketAddr>,
    /// Health and metrics.
    pub http: Option<SocketAddr>,
    /// What secures all of them.
    pub tls: Option<TlsFiles>,
}

/// `[serve.tls]`: PEM files, relative to the project's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsFiles {
    /// The certificate with its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients must show a certificate that one of these signed.
    pub client_ca: Option<PathBuf>,
}

/// Reads the merged tree of all layers; `tables` are the names of the project's tables. `None` only if problems were
/// reported.
pub(super) fn read(
    tree: &Table,
    file: &str,
    dir: &Path,
    tables: &[String],
    problems: &RefCell<Problems>,
) -> Option<Config> {
    let root = Section::root(tree, file, &project::ROOT, problems);
    let project = root.section("project", &project::PROJECT).and_then(|s| {
        let timezone = s.read("timezone", timezone)?;
        Some(ProjectConfig { timezone })
    });
    let lake = root.section("lake", &project::LAKE).and_then(|s| lake(&s, dir));
    let kafka = root.section("kafka", &project::KAFKA).and_then(|s| kafka::read(&s, dir));
    let limits = root.section("limits", &project::LIMITS).and_then(|s| {
        let (memory, queries) = (s.read("memory", memory), s.read_scalar("queries", queries));
        let query_memory = if s.has("query_memory") { Some(s.read("query_memory", query_memory)?) } else { None };
        Some(Limits { memory: memory?, queries: queries?, query_memory })
    });
    let serve = root.section("serve", &project::SERVE).and_then(|s| serve(&s, dir));
    let sinks = sinks::sinks(&root, dir);
    // One with a problem of its own is there all the same.
    let named: Vec<&str> = root.names("sinks");
    let notify = sinks::notify(&root, &named, tables);
    Some(Config {
        project: project?,
        lake: lake?,
        kafka: kafka?,
        limits: limits?,
        serve: serve?,
        sinks,
        notify: notify?,
    })
}

pub(super) fn timezone(text: &str) -> Result<Tz, Complaint> {
    text.parse().map_err(|_| {
        let complaint = Complaint::new(format!("`{text}` is not a time zone"));
        match nearest(text, TZ_VARIANTS.iter().map(|tz| tz.name())) {
            Some(near) => complaint.hint(format!("did you mean `{near}`?")),
            None => complaint.hint("an IANA name such as \"Asia/Seoul\" or \"UTC\""),
        }
    })
}

fn memory(text: &str) -> Result<ByteSize, Complaint> {
    let size: ByteSize = text.parse()?;
    if size < LEAST_MEMORY {
        return Err(Complaint::new(format!("`{text}` is too little")).hint(format!("at least {LEAST_MEMORY}")));
    }
    Ok(size)
}

/// Memory of one query.
pub(super) fn query_memory(text: &str) -> Result<ByteSize, Complaint> {
    let size: ByteSize = text.parse()?;
    if size < LEAST_QUERY_MEMORY {
        return Err(Complaint::new(format!("`{text}` is too little")).hint(format!("at least {LEAST_QUERY_MEMORY}")));
    }
    Ok(size)
}

/// A number of statements that run at once.
pub(super) fn queries(text: &str) -> Result<usize, Complaint> {
    match text.parse::<usize>() {
        Ok(count @ 1..=10_000) => Ok(count),
        _ => Err(Complaint::new(format!("`{text}` is not a number of statements")).hint("1 to 10000")),
    }
}

/// A commit interval, for the lake or for one table.
pub(super) fn commit_interval(text: &str) -> Result<Duration, Complaint> {
    let interval = text.parse::<Interval>()?.duration();
    if interval < SHORTEST_COMMIT_INTERVAL {
        return Err(Complaint::new(format!("`{text}` is too short")).hint("at least 10ms"));
    }
    Ok(interval)
}

fn history(text: &str) -> Result<Duration, Complaint> {
    let history = text.parse::<Interval>()?.duration();
    if history < SHORTEST_HISTORY {
        return Err(Complaint::new(format!("`{text}` is too short"))
            .hint("at least 1h: who reads a table now needs its files for a while"));
    }
    Ok(history)
}

fn lake(section: &Section, dir: &Path) -> Option<Lake> {
    let url = section.read("url", |text| lake_url(text, dir));
    let interval = section.read("commit_interval", commit_interval);
    let history = section.read("history", history);
    let compression = section.read("compression", |text| {
        text.parse().map_err(|()| Complaint::new(format!("`{text}` is no compression")).hint("`lz4` or `zstd`"))
    });
    let s3 = section.section("s3", &project::S3).map(|s| {
        let region = s.read("region", |text| match text.trim() {
            "" => Err(Complaint::new("is empty")),
            region => Ok(region.to_owned()),
        });
        S3 { endpoint: s.read("endpoint", endpoint), region }
    });
    Some(Lake { url: url?, commit_interval: interval?, history: history?, compression, s3: s3? })
}

fn endpoint(text: &str) -> Result<Url, Complaint> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err(Complaint::new(format!("`{text}` is not the address of an S3 store"))
            .hint("such as \"http://127.0.0.1:9000\"")),
    }
}

fn lake_url(text: &str, dir: &Path) -> Result<Url, Complaint> {
    let hint = "a folder such as \"./lake\", or \"s3://bucket/prefix\"";
    let wrong = |why: &str| Complaint::new(format!("`{text}` {why}")).hint(hint);
    if text.trim().is_empty() {
        return Err(wrong("is empty"));
    }
    let Some((scheme, _)) = text.split_once("://") else {
        return folder(dir, Path::new(text)).ok_or_else(|| wrong("is not a folder"));
    };
    let mut url = Url::parse(text).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
    match scheme {
        "file" => {
            let path = url.to_file_path().map_err(|()| wrong("is not an absolute path"))?;
            folder(dir, &path).ok_or_else(|| wrong("is not a folder"))
        }
        "s3" => {
            if !url.username().is_empty() || url.password().is_some() {
                return Err(Complaint::new("the URL holds credentials")
                    .hint("they come from the usual AWS variables and files, such as AWS_ACCESS_KEY_ID"));
            }
            if url.host_str().is_none_or(str::is_empty) {
                return Err(wrong("names no bucket"));
            }
            if url.query().is_some() || url.fragment().is_some() || url.port().is_some() {
                return Err(wrong("holds more than bucket and prefix"));
            }
            let prefix = url.path().trim_matches('/').to_owned();
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '=' | '/');
            if !prefix.chars().all(legal) || prefix.contains("//") {
                return Err(wrong("has an odd prefix").hint("letters, digits, `.`, `_`, `-` and `=` between slashes"));
            }
            url.set_path(&if prefix.is_empty() { "/".to_owned() } else { format!("/{prefix}/") });
            Ok(url)
        }
        "s3a" | "s3n" => Err(Complaint::new(format!("`{scheme}` is a word of Hadoop")).hint("write s3://")),
        "gs" | "az" | "abfs" | "abfss" | "hdfs" => Err(Complaint::later(&format!("{scheme}://")).hint(hint)),
        _ => Err(wrong("is of no known kind")),
    }
}

/// The folder as a `file://` URL, without `.` and `..`: object stores know neither.
fn folder(dir: &Path, path: &Path) -> Option<Url> {
    let mut clean = PathBuf::new();
    for part in dir.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    Url::from_directory_path(clean).ok()
}

fn serve(section: &Section, dir: &Path) -> Option<Serve> {
    let flight_sql = section.read("flight_sql", address);
    let postgres = section.read("postgres", address);
    let http = section.read("http", address);
    let (flight_sql, postgres, http) = (flight_sql?, postgres?, http?);
    let doors = [("flight_sql", flight_sql), ("postgres", postgres), ("http", http)];
    for (at, (name, address)) in doors.iter().enumerate() {
        let Some(address) = address.filter(|address| address.port() != 0) else { continue };
        if let Some((other, _)) = doors[..at].iter().find(|(_, other)| *other == Some(address)) {
            section.complain(name, Complaint::new(format!("`{address}` is the address of {other} already")));
            return None;
        }
    }
    let tls = match section.section("tls", &project::TLS) {
        Some(tls) => Some(tls_files(&tls, dir)?),
        None => None,
    };
    Some(Serve { flight_sql, postgres, http, tls })
}

fn tls_files(section: &Section, dir: &Path) -> Option<TlsFiles> {
    section.require("cert", "the certificate with its chain, a PEM file");
    section.require("key", "the certificate's private key, a PEM file");
    let file = |text: &str| match dir.join(text) {
        path if path.is_file() => Ok(path),
        path => Err(Complaint::new(format!("there is no file {}", path.display()))),
    };
    let (cert, key) = (section.read("cert", file), section.read("key", file));
    let client_ca = if section.has("client_ca") { Some(section.read("client_ca", file)?) } else { None };
    Some(TlsFiles { cert: cert?, key: key?, client_ca })
}

fn address(text: &str) -> Result<Option<SocketAddr>, Complaint> {
    if text == "off" {
        return Ok(None);
    }
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address: SocketAddr = numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        Complaint::new(format!("`{text}` is not an address"))
            .hint("address and port such as \"127.0.0.1:32010\"; port 0 = any free port; \"off\" = none")
    })?;
    Ok(Some(address))
}
