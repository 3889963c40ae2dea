//! A real MinIO on loopback, and another S3 server.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStoreExt, RetryConfig};
use tokio::sync::OnceCell;

use super::process::{Process, component};
use super::{folder, free_port};

const START: Duration = Duration::from_secs(30);

/// The keys of every MinIO of the tests.
pub const ACCESS_KEY: &str = "millpond";
/// The keys of every MinIO of the tests.
pub const SECRET_KEY: &str = "millpond-secret";

/// An S3 server and its data folder; killed on drop.
pub struct Minio {
    server: &'static str,
    port: u16,
    dir: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Minio {
    /// The server all tests share: use buckets of your own. It lives until the binary ends.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Minio> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A server of the test's own, to stop, restart and freeze.
    pub async fn start() -> Self {
        Self::start_server("minio").await
    }

    /// Versity Gateway instead: the same keys, buckets are folders, too.
    pub async fn other() -> Self {
        Self::start_server("versitygw").await
    }

    async fn start_server(server: &'static str) -> Self {
        let minio = Self { server, port: free_port(), dir: folder(server), process: Mutex::new(None) };
        minio.restart().await;
        minio
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://host:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// kill -9: connections are refused, the data stay.
    pub fn stop(&self) {
        self.process.lock().unwrap().take();
    }

    /// Starts it (again) on the same port and data, and waits until it is ready.
    pub async fn restart(&self) {
        self.stop();
        let data = self.dir.join("data");
        let mut command = component(&[self.server, data.to_str().unwrap(), &self.port.to_string()]);
        command.env("MINIO_ROOT_USER", ACCESS_KEY).env("MINIO_ROOT_PASSWORD", SECRET_KEY);
        command.env("ROOT_ACCESS_KEY", ACCESS_KEY).env("ROOT_SECRET_KEY", SECRET_KEY);
        let process = Process::spawn(self.server, &command, &self.dir.join("server.log"));
        // `/minio/health/ready` says yes before keys and buckets are known: the proof is an object written.
        self.bucket("ready");
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let probe = builder(&self.endpoint(), "ready").with_retry(retry).build().unwrap();
        process.wait_ready(START, || async { probe.put(&Path::from("probe"), "x".into()).await.is_ok() }).await;
        *self.process.lock().unwrap() = Some(process);
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Goes on after `pause`.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        self.process.lock().unwrap().as_ref().expect("minio is stopped").signal(signal);
    }

    /// Makes a bucket (three characters or more): MinIO takes a folder in its data for one.
    pub fn bucket(&self, name: &str) {
        std::fs::create_dir_all(self.dir.join("data").join(name)).unwrap();
    }

    /// A client of `bucket` that does not go through a proxy.
    pub fn store(&self, bucket: &str) -> AmazonS3 {
        store(&self.endpoint(), bucket)
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        self.stop();
        super::discard(&self.dir);
    }
}

/// A client of `bucket` at `endpoint`, which is a MinIO's or a proxy's before it.
pub fn store(endpoint: &str, bucket: &str) -> AmazonS3 {
    builder(endpoint, bucket).build().unwrap()
}

fn builder(endpoint: &str, bucket: &str) -> AmazonS3Builder {
    AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .with_bucket_name(bucket)
}

/// The variables with which Millpond and the outside readers reach a MinIO.
pub fn credentials() -> [(&'static str, String); 3] {
    [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ]
}
