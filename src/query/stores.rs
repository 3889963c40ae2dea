//! The object stores queries may read: the configured ones, wrapped read-only inside their folder. DataFusion's
//! own registry would answer `file://` with the whole disk.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use url::{Position, Url};

/// Stores by scheme and authority; the first that covers an authority serves it.
#[derive(Debug)]
pub(super) struct Stores {
    stores: Vec<(String, Arc<dyn ObjectStore>)>,
}

impl Stores {
    /// Each store answers for its URL's scheme and authority with paths from that authority's root; of those only
    /// paths under the URL's own path may be read.
    pub(super) fn new(configured: Vec<(Url, Arc<dyn ObjectStore>)>) -> Self {
        let mut stores: Vec<(String, Vec<Path>, Arc<dyn ObjectStore>)> = Vec::new();
        for (url, inner) in configured {
            let prefix = Path::from_url_path(url.path()).unwrap_or_default();
            let key = key(&url);
            match stores.iter_mut().find(|(k, _, _)| *k == key) {
                Some((_, prefixes, _)) => prefixes.push(prefix),
                None => stores.push((key, vec![prefix], inner)),
            }
        }
        let stores = stores
            .into_iter()
            .map(|(key, prefixes, inner)| (key, Arc::new(ReadOnly { inner, prefixes }) as Arc<dyn ObjectStore>))
            .collect();
        Self { stores }
    }
}

fn key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), &url[Position::BeforeHost..Position::AfterPort])
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        tracing::debug!(store = key(url), "object store not registered: only configured ones are read");
        None
    }

    fn get_store(&self, url: &Url) -> datafusion::common::Result<Arc<dyn ObjectStore>> {
        let wanted = key(url);
        let found = self.stores.iter().find(|(key, _)| *key == wanted);
        found.map(|(_, store)| Arc::clone(store)).ok_or_else(|| {
            DataFusionError::Plan(format!("no object store is configured for {wanted}: queries read the lake only"))
        })
    }
}

/// A store that reads under some folders and writes nowhere.
#[derive(Debug)]
struct ReadOnly {
    inner: Arc<dyn ObjectStore>,
    prefixes: Vec<Path>,
}

impl ReadOnly {
    fn check(&self, path: &Path) -> Result<()> {
        if self.prefixes.iter().any(|prefix| path.prefix_matches(prefix)) {
            return Ok(());
        }
        Err(refused(path, "outside the configured lake"))
    }
}

fn refused(path: &Path, why: &str) -> object_store::Error {
    object_store::Error::PermissionDenied { path: path.to_string(), source: why.into() }
}

impl fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read-only {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for ReadOnly {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check(location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check(location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check(prefix.unwrap_or(&Path::default())) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check(prefix.unwrap_or(&Path::default()))?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn put_opts(&self, location: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(refused(location, "queries do not write"))
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(refused(location, "queries do not write"))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|path| Err(refused(&path?, "queries do not delete"))).boxed()
    }

    async fn copy_opts(&self, _: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        Err(refused(to, "queries do not write"))
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn only_the_configured_folder_is_read_and_nothing_is_written() {
        let memory = Arc::new(InMemory::new());
        let (inside, outside) = (Path::from("lake/public/t/1.parquet"), Path::from("lakeside/secret"));
        for path in [&inside, &outside] {
            memory.put(path, PutPayload::from_static(b"x")).await.unwrap();
        }
        let stores = Stores::new(vec![(Url::parse("s3://bucket/lake").unwrap(), memory.clone())]);
        let store = stores.get_store(&Url::parse("s3://bucket/").unwrap()).unwrap();
        assert_eq!(store.get(&inside).await.unwrap().bytes().await.unwrap(), "x");
        assert!(store.get(&outside).await.is_err());
        assert!(store.get_range(&outside, 0..1).await.is_err());
        assert!(store.head(&outside).await.is_err());
        assert!(store.list_with_delimiter(None).await.is_err());
        assert!(store.list(None).next().await.unwrap().is_err());
        assert!(store.put(&inside, PutPayload::from_static(b"y")).await.is_err());
        assert!(store.put_multipart(&inside).await.is_err());
        assert!(store.copy(&inside, &Path::from("lake/copy")).await.is_err());
        assert!(store.delete(&inside).await.is_err());
        assert_eq!(memory.get(&inside).await.unwrap().bytes().await.unwrap(), "x");

        stores.register_store(&Url::parse("file:///").unwrap(), memory);
        for url in ["file:///etc/passwd", "http://localhost:1/x", "https://example.com/", "s3://other/", "memory:///"] {
            assert!(stores.get_store(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
    }
}
