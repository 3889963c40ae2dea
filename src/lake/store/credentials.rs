//! Credentials from the AWS default chain (profile files, SSO, web identity, ECS, EC2), kept until shortly
//! before they expire.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};

/// The chain may ask several services on the network.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);
/// Credentials are renewed this long before they expire.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);
/// Credentials without an expiry (a profile file) are read again after this time.
const RENEW_UNDATED: Duration = Duration::from_secs(15 * 60);
/// Never ask the chain more often than this, however soon its credentials expire.
const RENEW_AT_MOST: Duration = Duration::from_secs(10);

/// No credentials could be found or renewed.
#[derive(Debug, thiserror::Error)]
#[error("no usable AWS credentials: {0}")]
pub(super) struct NoCredentials(String);

/// The default chain behind object_store's interface.
#[derive(Debug)]
pub(super) struct Chain {
    provider: SharedCredentialsProvider,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    credential: Arc<AwsCredential>,
    until: Instant,
}

impl Chain {
    /// Builds the chain and asks it once, so that missing credentials are named at start-up.
    pub(super) async fn open(region: &str) -> Result<Self> {
        let missing = || {
            Error::new(Kind::Usage, "no AWS credentials were found").hint(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role is attached",
            )
        };
        let looking = async {
            let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
                .region(aws_config::Region::new(region.to_owned()))
                .load()
                .await;
            let provider = config.credentials_provider().ok_or_else(missing)?;
            let chain = Self { provider, kept: Mutex::new(None) };
            chain.credential().await.map_err(|error| missing().because(error))?;
            Ok(chain)
        };
        tokio::time::timeout(LOOKUP_TIMEOUT, looking)
            .await
            .map_err(|_| missing().because(format!("nobody answered within {} s", LOOKUP_TIMEOUT.as_secs())))?
    }

    async fn credential(&self) -> Result<Arc<AwsCredential>, NoCredentials> {
        let mut kept = self.kept.lock().await;
        if let Some(fresh) = kept.as_ref().filter(|kept| Instant::now() < kept.until) {
            return Ok(Arc::clone(&fresh.credential));
        }
        let found = self.provider.provide_credentials().await.map_err(|error| NoCredentials(root_cause(&error)))?;
        let credential = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        });
        let until = Instant::now() + kept_for(found.expiry(), SystemTime::now());
        *kept = Some(Kept { credential: Arc::clone(&credential), until });
        Ok(credential)
    }
}

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.credential().await.map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })
    }
}

/// How long credentials that expire at `expiry` are used before the chain is asked again.
fn kept_for(expiry: Option<SystemTime>, now: SystemTime) -> Duration {
    let lasts = match expiry {
        Some(expiry) => expiry.duration_since(now).unwrap_or_default().saturating_sub(RENEW_BEFORE),
        None => RENEW_UNDATED,
    };
    lasts.max(RENEW_AT_MOST)
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::future::ProvideCredentials as Answer;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Hands out `key-1`, `key-2`, … each good for one hour; with `lasts` unset it has none.
    #[derive(Debug, Default)]
    struct Counting {
        asked: AtomicU32,
        lasts: Option<Duration>,
    }

    impl ProvideCredentials for Counting {
        fn provide_credentials<'a>(&'a self) -> Answer<'a>
        where
            Self: 'a,
        {
            let n = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            Answer::ready(match self.lasts {
                Some(lasts) => Ok(Credentials::new(
                    format!("key-{n}"),
                    "secret",
                    Some("token".into()),
                    Some(SystemTime::now() + lasts),
                    "test",
                )),
                None => Err(CredentialsError::not_loaded("nothing here")),
            })
        }
    }

    fn chain(lasts: Option<Duration>) -> Chain {
        let provider = SharedCredentialsProvider::new(Counting { asked: AtomicU32::new(0), lasts });
        Chain { provider, kept: Mutex::new(None) }
    }

    #[test]
    fn credentials_are_renewed_before_they_expire() {
        let now = SystemTime::now();
        for (lasts_s, kept_s) in [(Some(3600), 3300), (Some(301), 10), (Some(1), 10), (None, 900)] {
            let expiry = lasts_s.map(|s| now + Duration::from_secs(s));
            assert_eq!(kept_for(expiry, now), Duration::from_secs(kept_s), "{lasts_s:?}");
        }
        assert_eq!(kept_for(Some(now - Duration::from_secs(9)), now), RENEW_AT_MOST);
    }

    #[tokio::test]
    async fn the_chain_is_asked_again_only_when_it_is_time() {
        let chain = chain(Some(Duration::from_secs(3600)));
        for _ in 0..3 {
            assert_eq!(chain.get_credential().await.unwrap().key_id, "key-1");
        }
        chain.kept.lock().await.as_mut().unwrap().until = Instant::now();
        let renewed = chain.get_credential().await.unwrap();
        assert_eq!((renewed.key_id.as_str(), renewed.token.as_deref()), ("key-2", Some("token")));
    }

    #[tokio::test]
    async fn missing_credentials_name_their_cause() {
        let error = chain(None).get_credential().await.unwrap_err();
        assert!(error.to_string().contains("no usable AWS credentials"), "{error}");
    }
}
