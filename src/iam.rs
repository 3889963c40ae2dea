//! Who this process is to Amazon's Kafka: `auth = "msk-iam"`.
//!
//! A broker takes a request to `kafka-cluster:Connect` that is signed (Signature Version 4, in its query) as a token of
//! SASL/OAUTHBEARER, in base64 for URLs. It is good for a quarter of an hour; librdkafka asks for the next one before that.
//! Credentials come from the usual chain (environment, profile files, SSO, web identity, ECS, EC2).

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::error::{Error, Kind, Result};

/// How long a token is good.
const LIFETIME: Duration = Duration::from_secs(900);
/// The chain may ask several services on the network.
const PATIENCE: Duration = Duration::from_secs(15);
const ACTION: &str = "kafka-cluster%3AConnect";

/// An identity in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iam {
    region: String,
}

/// What a broker takes for a password.
#[derive(Debug)]
pub struct Token {
    /// Its text.
    pub text: String,
    /// Milliseconds since 1970 at which it ends.
    pub ends_at_ms: i64,
}

impl Iam {
    /// In this region, such as `eu-central-1`.
    pub fn new(region: &str) -> Self {
        Self { region: region.to_owned() }
    }

    /// A new token. Blocks while the chain of credentials is asked, 15 s at most.
    pub fn token(&self) -> Result<Token> {
        let iam = self.clone();
        // librdkafka asks on whatever thread polls, which may be one that a runtime of ours has.
        let asked = std::thread::Builder::new().name("iam".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|cause| trouble().because(cause))?;
            let token = runtime.block_on(iam.ask());
            // A name that is still being looked up is not waited for.
            runtime.shutdown_background();
            token
        });
        let asked = asked.map_err(|cause| trouble().because(cause))?;
        asked.join().map_err(|_| trouble())?
    }

    async fn ask(&self) -> Result<Token> {
        let looking = async {
            let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
                .region(aws_config::Region::new(self.region.clone()))
                .load()
                .await;
            let provider = config.credentials_provider().ok_or_else(trouble)?;
            provider.provide_credentials().await.map_err(|cause| trouble().because(cause))
        };
        let credentials = tokio::time::timeout(PATIENCE, looking).await.map_err(|cause| trouble().because(cause))??;
        self.sign(credentials, SystemTime::now())
    }

    fn sign(&self, credentials: Credentials, now: SystemTime) -> Result<Token> {
        let region = &self.region;
        let url = format!("https://kafka.{region}.amazonaws.com/?Action={ACTION}");
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(LIFETIME);
        let identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name("kafka-cluster")
            .time(now)
            .settings(settings)
            .build()
            .map_err(|cause| trouble().because(cause))?;
        let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(&[]));
        let signed = request.and_then(|request| sign(request, &parameters.into()));
        let (instructions, _) = signed.map_err(|cause| trouble().because(cause))?.into_parts();
        let mut url = url::Url::parse(&url).map_err(|cause| trouble().because(cause))?;
        for (name, value) in instructions.params() {
            url.query_pairs_mut().append_pair(name, value);
        }
        url.query_pairs_mut().append_pair("User-Agent", "millpond");
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + LIFETIME;
        let ends_at_ms = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
        Ok(Token { text: BASE64_URL_SAFE_NO_PAD.encode(url.as_str()), ends_at_ms })
    }
}

fn trouble() -> Error {
    Error::new(Kind::Denied, "no token for Amazon's Kafka: there are no usable AWS credentials").hint(
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role is attached that may kafka-cluster:Connect",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// What AWS's own signer (aws-msk-iam-sasl-signer-python 1.0.2) signs at 2026-11-30T12:34:56Z with the same credentials.
    #[test]
    fn tokens_are_those_of_amazons_signer() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_042_096);
        for (key, session, signature) in [
            ("AKIDEXAMPLE", None, "2bb291485796c023caea6187915235b7f0aef5417d64bbd47cee3edc198c166e"),
            (
                "ASIAEXAMPLE",
                Some("IQoJb3JpZ2luX2VjEXAMPLE+/token=="),
                "c8d2645cd4873e87ffed10449c64b99d0355e96b4476383a30703615ecb42d93",
            ),
        ] {
            let credentials = Credentials::new(key, SECRET, session.map(str::to_owned), None, "test");
            let token = Iam::new("eu-central-1").sign(credentials, now).unwrap();
            assert_eq!(token.ends_at_ms, 1_796_042_996_000);
            let url = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token.text).unwrap()).unwrap();
            let url = url::Url::parse(&url).unwrap();
            assert_eq!(url.host_str(), Some("kafka.eu-central-1.amazonaws.com"));
            let mut query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
            assert_eq!(query.remove("User-Agent").as_deref(), Some("millpond"));
            assert_eq!(query.remove("X-Amz-Security-Token").as_deref(), session);
            let scope = format!("{key}/20261130/eu-central-1/kafka-cluster/aws4_request");
            let wanted = [
                ("Action", "kafka-cluster:Connect"),
                ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
                ("X-Amz-Credential", &scope),
                ("X-Amz-Date", "20261130T123456Z"),
                ("X-Amz-Expires", "900"),
                ("X-Amz-Signature", signature),
                ("X-Amz-SignedHeaders", "host"),
            ];
            let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(query, BTreeMap::from(wanted));
        }
    }
}
