//! The lake's object store: a local folder, forced to disk at every write, or a bucket of any S3.
//!
//! [`Location`] says where a lake is; [`Stores`] are its handles. Every path is relative to the lake's url.
//! There are two handles on the same objects: `data` is patient (30 s of retries: data files and reads),
//! `commit` gives up early (3 tries, 15 s), because an unanswered commit must soon be asked about, not tried
//! for ever.
//!
//! What object_store 0.13.2 does with a PUT-if-absent on S3 (read in its source):
//!
//! | the store answers | we see |
//! |---|---|
//! | 412, 304, 409 | `AlreadyExists`; on S3 a 409 may also mean that another request was in flight: read before believing |
//! | 5xx, 408, 429, connection refused or dropped before the answer | the same PUT again. If the first one landed, the second gets 412: our own object looks like a rival's |
//! | no answer in time | an error at once (never repeated): the PUT may have landed |
//! | 403, 401, 404 | `PermissionDenied`, `Unauthenticated`, `NotFound` at once, without a retry |
//!
//! So whoever uses PUT-if-absent reads the object back and looks for its own mark.

mod credentials;
mod durable;
mod fault;
mod reason;
mod s3;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fmt, io};

use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use url::Url;

pub use durable::DurableLocal;
pub use reason::{reason, store_error};
pub use s3::{S3Keys, S3Options};

use crate::error::{Error, Kind, Result};

/// Where a lake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// An absolute folder of this host.
    Folder(PathBuf),
    /// A bucket, and the prefix below it (without slashes at its ends; may be empty).
    Bucket {
        /// The bucket's name.
        bucket: String,
        /// The key prefix of every object of the lake.
        prefix: String,
    },
}

impl Location {
    /// Reads `[lake] url`: `s3://bucket/prefix`, `file:///folder`, or a folder relative to `base` (the project).
    pub fn parse(url: &str, base: &Path) -> Result<Self> {
        let usage = |message: String| Error::new(Kind::Usage, message).hint("write a folder or `s3://bucket/prefix`");
        let url = url.trim();
        if url.is_empty() {
            return Err(usage("the lake's url is empty".into()));
        }
        match url.split_once("://") {
            None => Self::folder(&base.join(url)),
            Some(("file", _)) => {
                let parsed = Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
                Self::folder(&parsed.ok_or_else(|| usage(format!("the lake's url `{url}` is no local folder")))?)
            }
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                // The name is not repeated in the message: it may hold `key:secret@`.
                let named = bucket.len() >= 3 && bucket.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
                if !named {
                    return Err(usage("the lake's url holds no valid bucket name".into()));
                }
                let prefix = prefix.trim_matches('/');
                ObjectPath::parse(prefix).map_err(|error| {
                    usage(format!("the lake's url has the invalid prefix `{prefix}`")).because(error)
                })?;
                Ok(Self::Bucket { bucket: bucket.into(), prefix: prefix.into() })
            }
            Some((scheme, _)) => Err(usage(format!("a lake cannot be kept at `{scheme}://`"))),
        }
    }

    /// The folder at `path`; a relative one is taken from the working directory.
    pub fn folder(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)
            .map_err(|error| Error::new(Kind::Usage, "the lake's folder has no absolute path").because(error))?;
        Ok(Self::Folder(path.components().collect()))
    }

    /// The lake as a url that ends in a slash: `file:///srv/lake/` or `s3://bucket/prefix/`.
    pub fn url(&self) -> Result<Url> {
        match self {
            Self::Folder(path) => Url::from_directory_path(path).ok(),
            Self::Bucket { .. } => Url::parse(&format!("{self}/")).ok(),
        }
        .ok_or_else(|| Error::new(Kind::Usage, format!("the lake's location `{self}` is no url")))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// The handles of one lake's object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stores {
    location: Location,
    endpoint: Option<String>,
    data: Arc<dyn ObjectStore>,
    commit: Arc<dyn ObjectStore>,
}

impl Stores {
    /// Opens a lake that exists: a missing folder is an error (readers create nothing).
    pub async fn open(location: &Location, s3: &S3Options) -> Result<Self> {
        match location {
            Location::Folder(path) if !path.exists() => {
                Err(Error::new(Kind::NotFound, format!("there is no lake at {location}"))
                    .hint("correct `[lake] url`, or start `millpond serve` once to create it"))
            }
            _ => Self::open_or_create(location, s3).await,
        }
    }

    /// Opens a lake for writing; a missing folder is created (a bucket never is).
    ///
    /// Looks up the credentials of a bucket but sends it nothing: [`probe`](crate::lake::probe) does that.
    pub async fn open_or_create(location: &Location, s3: &S3Options) -> Result<Self> {
        match location {
            Location::Folder(path) => {
                let explain = |error| fault::explain(location, None, "open the lake's folder", error);
                let store = DurableLocal::open_or_create(path).map_err(explain)?;
                let location = Location::Folder(store.root().to_path_buf());
                Ok(Self::from_store(location, Arc::new(store)))
            }
            Location::Bucket { bucket, prefix } => {
                let (data, commit) = s3::open(bucket, prefix, s3).await?;
                Ok(Self { location: location.clone(), endpoint: s3.endpoint.clone(), data, commit })
            }
        }
    }

    /// One store for both handles (a folder; memory in tests).
    pub fn from_store(location: Location, store: Arc<dyn ObjectStore>) -> Self {
        Self { location, endpoint: None, data: Arc::clone(&store), commit: store }
    }

    /// Where the lake is (a folder: canonical).
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The patient handle: data files, reads, listings. At most 30 s of retries.
    pub fn data(&self) -> &Arc<dyn ObjectStore> {
        &self.data
    }

    /// The impatient handle: commits, claims, probes. 3 tries, none begun after 15 s.
    pub fn commit(&self) -> &Arc<dyn ObjectStore> {
        &self.commit
    }

    /// Removes what killed processes staged below these folders and never published, where that was before `before`;
    /// how many files. A bucket has none.
    pub(super) async fn sweep(&self, folders: &[&str], before: SystemTime) -> io::Result<usize> {
        let Location::Folder(root) = &self.location else { return Ok(0) };
        let folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
        let work = move || folders.iter().map(|folder| sweep::sweep(folder, before)).sum();
        tokio::task::spawn_blocking(work).await?
    }

    /// Words a store's error for people. `doing` completes "could not …" (`write the probe`).
    pub fn explain(&self, doing: &str, error: object_store::Error) -> Error {
        fault::explain(&self.location, self.endpoint.as_deref(), doing, error)
    }

    /// The error for a store that did not answer `doing` in time.
    pub(super) fn silent(&self, doing: &str, after: std::time::Duration) -> Error {
        fault::silent(&self.location, self.endpoint.as_deref(), doing, after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_and_written_back() {
        let base = Path::new("/srv/project");
        for (url, shown, lake_url) in [
            ("./lake", "/srv/project/lake", "file:///srv/project/lake/"),
            ("lake/", "/srv/project/lake", "file:///srv/project/lake/"),
            ("/data/a b", "/data/a b", "file:///data/a%20b/"),
            ("file:///data/lake", "/data/lake", "file:///data/lake/"),
            ("s3://fleet", "s3://fleet", "s3://fleet/"),
            ("s3://fleet/", "s3://fleet", "s3://fleet/"),
            ("s3://fleet/a/b/", "s3://fleet/a/b", "s3://fleet/a/b/"),
        ] {
            let location = Location::parse(url, base).unwrap();
            assert_eq!(location.to_string(), shown, "{url}");
            assert_eq!(location.url().unwrap().as_str(), lake_url, "{url}");
        }
    }

    #[test]
    fn wrong_locations_are_usage_errors_that_leak_no_secret() {
        for url in
            ["", "  ", "gs://bucket/x", "s3://", "s3://a", "s3:///x", "s3://key:hush@bucket/x", "s3://bucket/a//b"]
        {
            let error = Location::parse(url, Path::new("/srv")).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{url}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_reader_creates_no_folder_and_a_file_is_no_lake() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Location::parse("a/b/lake", dir.path()).unwrap();
        let error = Stores::open(&missing, &S3Options::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(!dir.path().join("a").exists());

        Stores::open_or_create(&missing, &S3Options::default()).await.unwrap();
        assert!(dir.path().join("a/b/lake").is_dir());

        std::fs::write(dir.path().join("file"), b"x").unwrap();
        for url in ["file", "file/lake"] {
            let location = Location::parse(url, dir.path()).unwrap();
            let error = Stores::open_or_create(&location, &S3Options::default()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{error}");
            assert!(error.message().contains("is a file"), "{error}");
        }
    }
}
