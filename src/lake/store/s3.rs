//! Buckets: object_store's S3 client with our timeouts, retries and credentials.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, HeaderValue, ObjectStore, RetryConfig, StaticCredentialProvider};
use url::Url;

use super::credentials::Chain;
use crate::error::{Error, Kind, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole request of the patient handle, body included.
const DATA_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const DATA_RETRY: Duration = Duration::from_secs(30);
/// A whole request of the impatient handle. A PUT-if-absent that times out is not repeated.
const COMMIT_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const COMMIT_RETRY: Duration = Duration::from_secs(15);
/// Retries after the first try: 3 tries.
const COMMIT_RETRIES: usize = 2;

/// `[lake.s3]` and the keys found in the environment by `config`.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// `http(s)://host:port` of an S3 that is not AWS (path-style requests); `None` is AWS.
    pub endpoint: Option<String>,
    /// The bucket's region; `us-east-1` when unset.
    pub region: Option<String>,
    /// `AWS_ACCESS_KEY_ID` and company; without them the AWS default chain (profile, SSO, web identity, ECS,
    /// EC2) is asked, which reads the environment itself.
    pub keys: Option<S3Keys>,
}

/// A static set of keys. Its debug form hides the secrets.
#[derive(Clone)]
pub struct S3Keys {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Keys").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// The patient and the impatient handle on `bucket`, both below `prefix`.
pub(super) async fn open(
    bucket: &str,
    prefix: &str,
    options: &S3Options,
) -> Result<(Arc<dyn ObjectStore>, Arc<dyn ObjectStore>)> {
    let region = options.region.as_deref().unwrap_or("us-east-1");
    if let Some(endpoint) = &options.endpoint {
        check_endpoint(endpoint)?;
    }
    let credentials: AwsCredentialProvider = match &options.keys {
        Some(keys) => Arc::new(StaticCredentialProvider::new(AwsCredential {
            key_id: keys.access_key_id.clone(),
            secret_key: keys.secret_access_key.clone(),
            token: keys.session_token.clone(),
        })),
        None => Arc::new(Chain::open(region).await?),
    };
    let build = |request_timeout: Duration, retry: RetryConfig| -> Result<Arc<dyn ObjectStore>> {
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(request_timeout)
            .with_user_agent(HeaderValue::from_static(concat!("millpond/", env!("CARGO_PKG_VERSION"))))
            .with_allow_http(options.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")));
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_credentials(Arc::clone(&credentials))
            .with_client_options(client)
            .with_retry(retry);
        builder = match &options.endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false),
            // A dot in the name does not fit AWS's wildcard certificate.
            None => builder.with_virtual_hosted_style_request(!bucket.contains('.')),
        };
        let store = builder.build().map_err(|error| {
            Error::new(Kind::Usage, "the settings of `[lake.s3]` do not fit together").because(error)
        })?;
        Ok(if prefix.is_empty() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, prefix)) })
    };
    Ok((build(DATA_REQUEST_TIMEOUT, data_retry())?, build(COMMIT_REQUEST_TIMEOUT, commit_retry())?))
}

fn data_retry() -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: 10, retry_timeout: DATA_RETRY }
}

fn commit_retry() -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: COMMIT_RETRIES, retry_timeout: COMMIT_RETRY }
}

fn check_endpoint(endpoint: &str) -> Result<()> {
    let parsed = Url::parse(endpoint).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.username().is_empty()
    });
    match parsed {
        Some(_) => Ok(()),
        None => Err(Error::new(Kind::Usage, "`[lake.s3] endpoint` is no plain http or https address")
            .hint("write it like http://127.0.0.1:9000; the bucket belongs into `[lake] url`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_plain_addresses() {
        for good in ["http://127.0.0.1:9000", "https://s3.example.com", "http://localhost:9000/"] {
            check_endpoint(good).unwrap();
        }
        for bad in ["127.0.0.1:9000", "ftp://x", "http://", "http://x/bucket", "http://key:hush@x", "http://x?y=1"] {
            let error = check_endpoint(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{bad}");
            assert!(!error.to_string().contains("hush"));
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let keys =
            S3Keys { access_key_id: "id".into(), secret_access_key: "hush".into(), session_token: Some("hush".into()) };
        let options = S3Options { keys: Some(keys), ..S3Options::default() };
        assert!(!format!("{options:?}").contains("hush"));
    }
}
