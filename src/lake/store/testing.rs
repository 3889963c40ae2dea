//! Stores that misbehave, for tests of the lake's room.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Location, S3Keys, S3Options, Stores};

/// Both handles on `store`.
pub(crate) fn stores(store: Arc<dyn ObjectStore>) -> Stores {
    Stores::from_store(Location::Folder(PathBuf::from("/in/memory")), store)
}

/// The lake `s3://fleet/lake` at `endpoint`.
pub(crate) async fn s3(endpoint: &str) -> Stores {
    let keys = S3Keys { access_key_id: "id".into(), secret_access_key: "secret".into(), session_token: None };
    let options = S3Options { endpoint: Some(endpoint.into()), region: None, keys: Some(keys) };
    let location = Location::Bucket { bucket: "fleet".into(), prefix: "lake".into() };
    Stores::open_or_create(&location, &options).await.unwrap()
}

/// The address of a server that gives every request the same answer and closes; it lives as long as the test.
pub(crate) async fn answering(status: &str, body: &str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    crate::task::spawn("answering", async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            // One read holds the head and the few bytes of a probe; what is left unread is not missed.
            let mut request = [0; 16 * 1024];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    });
    endpoint
}

/// A store that does not keep PUT-if-absent: it overwrites, and either admits it or (lying) says it refused.
#[derive(Debug)]
pub(crate) struct Careless {
    inner: InMemory,
    lies: bool,
}

impl Careless {
    pub(crate) fn new(lies: bool) -> Self {
        Self { inner: InMemory::new(), lies }
    }
}

/// A store that never answers.
#[derive(Debug)]
pub(crate) struct Mute;

/// A store in memory that can be made to fail every request, or to lose the answer of one PUT-if-absent.
#[derive(Debug, Default)]
pub(crate) struct Moody {
    inner: InMemory,
    /// Every request fails while this is set.
    pub(crate) down: AtomicBool,
    /// The next PUT-if-absent lands, but is answered as refused (a retry that met its own first try).
    pub(crate) lose_next_answer: AtomicBool,
    /// Nothing can be written while this is set, as on a full disk.
    pub(crate) full: AtomicBool,
}

impl Moody {
    fn check(&self) -> Result<()> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(Error::Generic { store: "Moody", source: "down".into() }),
            false => Ok(()),
        }
    }
}

/// What a test store does; the rest goes to memory.
#[async_trait]
trait Quirk: fmt::Debug + Send + Sync + 'static {
    fn memory(&self) -> &InMemory;
    async fn before(&self) -> Result<()> {
        Ok(())
    }
    async fn put(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.memory().put_opts(location, payload, opts).await
    }
}

fn exists(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "412".into() }
}

#[async_trait]
impl Quirk for Careless {
    fn memory(&self) -> &InMemory {
        &self.inner
    }
    async fn put(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        use object_store::ObjectStoreExt;
        let existed = self.inner.head(location).await.is_ok();
        let done = self.inner.put(location, payload).await;
        if existed && self.lies && opts.mode == PutMode::Create { Err(exists(location)) } else { done }
    }
}

#[async_trait]
impl Quirk for Moody {
    fn memory(&self) -> &InMemory {
        &self.inner
    }
    async fn before(&self) -> Result<()> {
        self.check()
    }
    async fn put(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if self.full.load(Ordering::SeqCst) {
            return Err(Error::Generic { store: "Moody", source: "no space left on device".into() });
        }
        let create = opts.mode == PutMode::Create;
        let done = self.inner.put_opts(location, payload, opts).await?;
        if create && self.lose_next_answer.swap(false, Ordering::SeqCst) { Err(exists(location)) } else { Ok(done) }
    }
}

static NOTHING: std::sync::LazyLock<InMemory> = std::sync::LazyLock::new(InMemory::new);

#[async_trait]
impl Quirk for Mute {
    fn memory(&self) -> &InMemory {
        &NOTHING
    }
    async fn before(&self) -> Result<()> {
        std::future::pending().await
    }
}

macro_rules! store {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }

        #[async_trait]
        impl ObjectStore for $name {
            async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
                self.before().await?;
                Quirk::put(self, location, payload, opts).await
            }
            async fn put_multipart_opts(
                &self,
                location: &Path,
                opts: PutMultipartOptions,
            ) -> Result<Box<dyn MultipartUpload>> {
                self.before().await?;
                self.memory().put_multipart_opts(location, opts).await
            }
            async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
                self.before().await?;
                self.memory().get_opts(location, options).await
            }
            fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
                self.memory().delete_stream(locations)
            }
            fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
                self.memory().list(prefix)
            }
            async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
                self.before().await?;
                self.memory().list_with_delimiter(prefix).await
            }
            async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
                self.before().await?;
                self.memory().copy_opts(from, to, options).await
            }
        }
    };
}
store!(Careless);
store!(Moody);
store!(Mute);
