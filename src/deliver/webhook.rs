//! An HTTP POST per message, signed as <https://www.standardwebhooks.com> describes: `webhook-id`,
//! `webhook-timestamp` (seconds since 1970), and `webhook-signature: v1,<base64 of HMAC-SHA256(id.timestamp.body)>`.
//! A secret that begins with `whsec_` is base64, any other is taken as it is.
//!
//! 2xx is delivered. 4xx is final, but for 408, 425 and 429. Anything else is tried again; redirects are not followed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use sha2::Sha256;

use super::channel::{Failure, root_cause};
use super::message::Message;
use super::options::{SigningKey, WebhookSink};
use super::template::Escape;
use crate::error::{Error, Kind, Result};

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// So much of a refusal's text is shown.
const SHOWN_CHARS: usize = 200;

/// A server that is posted to.
pub struct Webhook {
    options: WebhookSink,
    client: Client,
    is_json: bool,
}

impl Webhook {
    pub(super) fn open(options: &WebhookSink) -> Result<Self> {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .timeout(ANSWER)
            .user_agent(concat!("millpond/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::new(Kind::Internal, "an HTTP client cannot be made").because(error))?;
        let content_type = options.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let is_json = content_type.is_none_or(|(_, value)| value.start().contains("json"));
        Ok(Self { options: options.clone(), client, is_json })
    }

    pub(super) async fn deliver(&self, message: &Message) -> std::result::Result<(), Failure> {
        let body = match &self.options.body {
            Some(body) => body.render(&message.payload, if self.is_json { Escape::Json } else { Escape::Text }),
            None => serde_json::to_string(&message.payload).map_err(|error| Failure::refused(error.to_string()))?,
        };
        let url = self.options.url.render(&message.payload, Escape::Url);
        let headers = self.headers(message, &body, Utc::now())?;
        let sent = self.client.post(url).headers(headers).body(body).send().await;
        let response = sent.map_err(|error| match error.is_timeout() {
            true => Failure::again(format!("{} did not answer within {} s", self.options.origin, ANSWER.as_secs())),
            // The error's own text holds the url, which may be a secret.
            false => Failure::again(format!("{}: {}", self.options.origin, root_cause(&error.without_url()))),
        })?;
        if response.status().is_success() { Ok(()) } else { Err(refusal(response, Utc::now()).await) }
    }

    fn headers(&self, message: &Message, body: &str, now: DateTime<Utc>) -> std::result::Result<HeaderMap, Failure> {
        let wrong = |name: &str| Failure::refused(format!("its header {name} cannot be sent"));
        let value = |name: &str, text: &str| HeaderValue::from_bytes(text.as_bytes()).map_err(|_| wrong(name));
        let id = one_line(&message.id);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, template) in &self.options.headers {
            let text = template.render(&message.payload, Escape::Line);
            headers.insert(HeaderName::try_from(name).map_err(|_| wrong(name))?, value(name, &text)?);
        }
        for name in ["idempotency-key", "webhook-id"] {
            headers.insert(name, value(name, &id)?);
        }
        let timestamp = now.timestamp().to_string();
        if let Some(key) = &self.options.key {
            let signature = sign(key, &id, &timestamp, body);
            headers.insert("webhook-signature", value("webhook-signature", &signature)?);
        }
        headers.insert("webhook-timestamp", value("webhook-timestamp", &timestamp)?);
        Ok(headers)
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn sign(key: &SigningKey, id: &str, timestamp: &str, body: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.bytes()) else {
        // HMAC takes keys of any length.
        return String::new();
    };
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

async fn refusal(mut response: Response, now: DateTime<Utc>) -> Failure {
    let status = response.status();
    let pause = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
    let text = response.chunk().await.ok().flatten().unwrap_or_default();
    let text: String = String::from_utf8_lossy(&text).chars().take(SHOWN_CHARS).collect();
    let text = one_line(text.trim());
    let reason = if text.is_empty() { format!("answer {status}") } else { format!("answer {status}: {text}") };
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Failure::Again { reason, pause }
        }
        status if status.is_client_error() => Failure::Refused { reason },
        _ => Failure::Again { reason, pause },
    }
}

/// Seconds, or a date.
fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(value.trim()).ok()?;
    Some((until.to_utc() - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::message::{MessageKind, tests::message};
    use super::super::template::Template;
    use super::*;

    fn webhook(headers: &[(&str, &str)], secret: Option<&str>) -> Webhook {
        let template = |text: &str| Template::parse(text).unwrap();
        Webhook::open(&WebhookSink {
            url: template("http://127.0.0.1:1/"),
            origin: "http://127.0.0.1:1".into(),
            headers: headers.iter().map(|(name, text)| ((*name).to_owned(), template(text))).collect(),
            body: None,
            key: secret.map(|secret| SigningKey::parse(secret).unwrap()),
            send_resolved: true,
        })
        .unwrap()
    }

    /// The example of the specification's own libraries.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let plain = SigningKey::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_ne!(sign(&plain, "a", "1", "b"), sign(&secret, "a", "1", "b"), "no prefix, no base64");
        for wrong in ["", "whsec_", "whsec_not base64"] {
            assert!(SigningKey::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_carry_the_id_and_values_cannot_add_one() {
        let mut evil = message("schema_change/telemetry/3", MessageKind::News);
        evil.payload.insert("table".into(), "x\r\nX-Evil: 1".into());
        let at = DateTime::from_timestamp(1_614_265_330, 0).unwrap();
        let headers = webhook(&[("X-Table", "{table}"), ("content-type", "text/plain")], Some("s"))
            .headers(&evil, "body", at)
            .unwrap();
        assert_eq!(headers["x-table"], "x  X-Evil: 1");
        assert!(!headers.contains_key("x-evil"));
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(headers["idempotency-key"], "schema_change/telemetry/3");
        assert_eq!(headers["webhook-id"], headers["idempotency-key"]);
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert!(headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
        assert!(!webhook(&[], None).headers(&evil, "body", at).unwrap().contains_key("webhook-signature"));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc3339("2026-11-24T12:00:00Z").unwrap().to_utc();
        for (value, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Tue, 24 Nov 2026 12:01:30 GMT", Some(90)),
            ("Tue, 24 Nov 2026 11:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        }
    }
}
