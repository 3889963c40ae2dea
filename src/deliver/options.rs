//! What `[sinks.NAME]` says, typed. Nothing here shows a secret in `Debug` or `Display`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::message::Mailbox;
use url::Url;

use super::template::Template;

/// One sink.
#[derive(Clone, PartialEq)]
pub enum SinkOptions {
    /// A Kafka topic of the project's own cluster.
    Kafka(KafkaSink),
    /// An HTTP POST per message.
    Webhook(WebhookSink),
    /// A mail per message.
    Email(EmailSink),
}

/// `type = "kafka"`.
#[derive(Clone, PartialEq)]
pub struct KafkaSink {
    /// The topic, which must exist unless brokers make topics by themselves.
    pub topic: String,
    /// Told, too, when an alert is over.
    pub send_resolved: bool,
}

/// `type = "webhook"`.
#[derive(Clone, PartialEq)]
pub struct WebhookSink {
    /// Where to post. Places stand behind the host only.
    pub url: Template,
    /// Scheme, host and port of it: what may be shown.
    pub origin: String,
    /// More headers, by name.
    pub headers: BTreeMap<String, Template>,
    /// The body; without it the payload as JSON.
    pub body: Option<Template>,
    /// What requests are signed with.
    pub key: Option<SigningKey>,
    /// Told, too, when an alert is over.
    pub send_resolved: bool,
}

/// `type = "email"`.
#[derive(Clone, PartialEq)]
pub struct EmailSink {
    /// What takes the mail.
    pub mailer: Mailer,
    /// The sender.
    pub from: Mailbox,
    /// One address each, once values are filled in.
    pub recipients: Vec<Template>,
    /// The subject; without it the field `message`.
    pub subject: Template,
    /// The text; without it the field `message` and the whole payload.
    pub body: Option<Template>,
    /// Told, too, when an alert is over.
    pub send_resolved: bool,
}

/// What takes mails.
#[derive(Clone, PartialEq)]
pub enum Mailer {
    /// A server.
    Smtp(SmtpServer),
    /// A folder that gets an `.eml` file per mail.
    Folder(PathBuf),
}

/// An SMTP server.
#[derive(Clone, PartialEq)]
pub struct SmtpServer {
    /// Name or address; a certificate must be for it.
    pub host: String,
    /// Port.
    pub port: u16,
    /// When the connection is encrypted.
    pub security: Security,
    /// User and password.
    pub credentials: Option<(String, Secret)>,
}

/// When a connection to an SMTP server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Never.
    None,
    /// By STARTTLS if the server offers it.
    Offered,
    /// By STARTTLS, or there is no mail.
    Required,
    /// From the first byte.
    Implicit,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The key that a webhook's requests are signed with; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// `whsec_` and base64, as Standard Webhooks writes keys; or any other text, taken as it is.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text.strip_prefix("whsec_") {
            _ if text.is_empty() => Err("is empty"),
            None => Ok(Self(text.as_bytes().to_vec())),
            Some(key) => match STANDARD.decode(key) {
                Ok(key) if !key.is_empty() => Ok(Self(key)),
                Ok(_) | Err(_) => Err("is not base64 behind `whsec_`"),
            },
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SmtpServer {
    /// Reads `smtp://host[:port]` or `smtps://host[:port]`. Ports are 465 for `smtps`, 587 with credentials, else 25.
    ///
    /// Credentials are sent over an encrypted connection only, unless `security` says otherwise; it has no say for
    /// `smtps`.
    pub fn parse(
        url: &str,
        credentials: Option<(String, Secret)>,
        security: Option<Security>,
    ) -> Result<Self, &'static str> {
        let url = Url::parse(url).map_err(|_| "is not a URL")?;
        if !matches!(url.scheme(), "smtp" | "smtps") {
            return Err("is neither smtp:// nor smtps://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds credentials: write them as `user` and `password`");
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("holds more than host and port");
        }
        let (security, port) = match url.scheme() {
            "smtps" => (Security::Implicit, 465),
            "smtp" if credentials.is_some() => (security.unwrap_or(Security::Required), 587),
            _ => (security.unwrap_or(Security::Offered), 25),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: url.port().unwrap_or(port), security, credentials })
    }
}

impl SinkOptions {
    /// The word of `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Webhook(_) => "webhook",
            Self::Email(_) => "email",
        }
    }

    /// Whether it is told when an alert is over.
    pub fn sends_resolved(&self) -> bool {
        match self {
            Self::Kafka(KafkaSink { send_resolved, .. })
            | Self::Webhook(WebhookSink { send_resolved, .. })
            | Self::Email(EmailSink { send_resolved, .. }) => *send_resolved,
        }
    }

    /// Where messages go, without secrets.
    pub fn target(&self) -> String {
        match self {
            Self::Kafka(kafka) => format!("topic {}", kafka.topic),
            Self::Webhook(webhook) => webhook.origin.clone(),
            Self::Email(email) => match &email.mailer {
                Mailer::Smtp(SmtpServer { host, port, security: Security::Implicit, .. }) => {
                    format!("smtps://{host}:{port}")
                }
                Mailer::Smtp(SmtpServer { host, port, .. }) => format!("smtp://{host}:{port}"),
                Mailer::Folder(folder) => folder.display().to_string(),
            },
        }
    }
}

impl fmt::Debug for SinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.target())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_credentials_never_go_in_the_clear_by_default() {
        let user = || Some(("me".to_owned(), Secret::new("hush")));
        for (url, credentials, asked, expected) in [
            ("smtp://127.0.0.1:2525", None, None, ("127.0.0.1", 2525, Security::Offered)),
            ("smtp://mail", None, None, ("mail", 25, Security::Offered)),
            ("smtp://mail/", user(), None, ("mail", 587, Security::Required)),
            ("smtp://mail:25", user(), Some(Security::None), ("mail", 25, Security::None)),
            ("smtps://mail.example.com", user(), None, ("mail.example.com", 465, Security::Implicit)),
            ("smtp://[::1]:25", None, Some(Security::Required), ("::1", 25, Security::Required)),
        ] {
            let server = SmtpServer::parse(url, credentials, asked).unwrap();
            assert_eq!((server.host.as_str(), server.port, server.security), expected, "{url}");
        }
        for url in ["mail:25", "http://mail", "smtp://", "smtp://me:hush@mail", "smtp://mail/path", "smtp://mail?x=1"] {
            let error = SmtpServer::parse(url, None, None).err().unwrap();
            assert!(!error.contains("hush"), "{url}: {error}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let webhook = SinkOptions::Webhook(WebhookSink {
            url: Template::parse("https://hooks.example.com/hush").unwrap(),
            origin: "https://hooks.example.com".into(),
            headers: BTreeMap::from([("authorization".into(), Template::parse("hush").unwrap())]),
            body: None,
            key: SigningKey::parse("hush").ok(),
            send_resolved: true,
        });
        let server = SmtpServer::parse("smtp://mail", Some(("me".into(), Secret::new("hush"))), None).unwrap();
        let email = SinkOptions::Email(EmailSink {
            mailer: Mailer::Smtp(server),
            from: "me@example.com".parse().unwrap(),
            recipients: Vec::new(),
            subject: Template::parse("{message}").unwrap(),
            body: None,
            send_resolved: true,
        });
        assert_eq!(format!("{webhook:?}, {email:?}"), "webhook https://hooks.example.com, email smtp://mail:587");
    }
}
