//! One mail in one conversation with an SMTP server (RFC 5321, STARTTLS by RFC 3207, AUTH by RFC 4954).
//!
//! Commands and replies are lettre's; the conversation is ours, because lettre's own asynchronous one brings its
//! executor's and TLS features into crates that everything else here is built on.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use lettre::address::Envelope;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::commands::{Auth, Data, Ehlo, Mail, Quit, Rcpt, Starttls};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter, ServerInfo};
use lettre::transport::smtp::response::{Response, Severity};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tracing::warn;

use super::channel::{Failure, root_cause};
use super::options::{Security, SmtpServer};
use crate::error::{Error, Kind, Result};

/// Longer replies are no SMTP.
const REPLY_BYTES: u64 = 64 * 1024;
/// Challenges of one authentication.
const CHALLENGES: usize = 4;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A server, and how to trust it.
pub struct Smtp {
    server: SmtpServer,
    tls: TlsConnector,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Said<T> = std::result::Result<T, Failure>;

/// A conversation under way.
struct Talk {
    stream: BufReader<Box<dyn Stream>>,
    server: ServerInfo,
}

impl Smtp {
    /// Trusts the system's certificate authorities (`SSL_CERT_FILE` names others).
    pub fn new(server: SmtpServer) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(Kind::Internal, "TLS cannot be set up").because(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { server, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Hands over one mail.
    pub async fn send(&self, envelope: &Envelope, mail: &[u8]) -> Said<()> {
        let SmtpServer { host, port, security, credentials } = &self.server;
        let connected = TcpStream::connect((host.as_str(), *port)).await;
        let tcp: Box<dyn Stream> =
            Box::new(connected.map_err(|error| Failure::again(format!("{host}:{port}: {error}")))?);
        let mut talk = match security {
            Security::Implicit => Talk::begin(self.encrypt(tcp).await?).await?,
            Security::None | Security::Offered | Security::Required => Talk::begin(tcp).await?,
        };
        talk.hello().await?;
        let offered = talk.server.supports_feature(Extension::StartTls);
        match security {
            Security::Required if !offered => return Err(Failure::again(format!("{host} offers no STARTTLS"))),
            Security::Required | Security::Offered if offered => {
                talk.ask(Starttls).await?;
                talk = Talk { stream: BufReader::new(self.encrypt(talk.plain()?).await?), server: talk.server };
                talk.hello().await?;
            }
            Security::None | Security::Offered | Security::Required | Security::Implicit => {}
        }
        if let Some((user, password)) = credentials {
            talk.authenticate(Credentials::new(user.clone(), password.reveal().to_owned())).await?;
        }
        talk.hand_over(envelope, mail).await?;
        // The mail is theirs now, whatever becomes of the goodbye.
        let _ = tokio::time::timeout(GOODBYE, talk.ask(Quit)).await;
        Ok(())
    }

    async fn encrypt(&self, stream: Box<dyn Stream>) -> Said<Box<dyn Stream>> {
        let host = &self.server.host;
        let name = ServerName::try_from(host.clone())
            .map_err(|_| Failure::again(format!("{host} is no name a certificate can be for")))?;
        let encrypted = self.tls.connect(name, stream).await;
        let encrypted = encrypted.map_err(|error| Failure::again(format!("{host}: TLS: {}", root_cause(&error))))?;
        Ok(Box::new(encrypted))
    }
}

impl Talk {
    /// Reads the greeting.
    async fn begin(stream: Box<dyn Stream>) -> Said<Self> {
        let mut talk = Self { stream: BufReader::new(stream), server: ServerInfo::default() };
        talk.reply().await?.accepted()?;
        Ok(talk)
    }

    async fn hello(&mut self) -> Said<()> {
        let reply = self.ask(Ehlo::new(ClientId::default())).await?;
        self.server = ServerInfo::from_response(&reply)
            .map_err(|error| Failure::again(format!("the mail server's greeting is unclear: {error}")))?;
        Ok(())
    }

    /// The stream below. What was sent before encryption began must not be read after it (CVE-2011-0411).
    fn plain(&mut self) -> Said<Box<dyn Stream>> {
        if !self.stream.buffer().is_empty() {
            return Err(Failure::again("the mail server sent something between STARTTLS and TLS"));
        }
        let closed: Box<dyn Stream> = Box::new(tokio::io::empty());
        Ok(std::mem::replace(self.stream.get_mut(), closed))
    }

    async fn authenticate(&mut self, credentials: Credentials) -> Said<()> {
        let unclear = |error: lettre::transport::smtp::Error| Failure::again(format!("authentication: {error}"));
        let mechanism = self.server.get_auth_mechanism(&[Mechanism::Plain, Mechanism::Login]);
        let mechanism = mechanism.ok_or_else(|| Failure::again("the mail server takes no user and password"))?;
        let mut reply = self.tell(Auth::new(mechanism, credentials.clone(), None).map_err(unclear)?).await?;
        for _ in 0..CHALLENGES {
            if !reply.has_code(334) {
                break;
            }
            let answer = Auth::new_from_response(mechanism, credentials.clone(), &reply).map_err(unclear)?;
            reply = self.tell(answer).await?;
        }
        reply.accepted().map(drop)
    }

    async fn hand_over(&mut self, envelope: &Envelope, mail: &[u8]) -> Said<()> {
        let mut parameters = Vec::new();
        let mut addresses = envelope.to().iter().chain(envelope.from());
        if addresses.any(|address| !AsRef::<str>::as_ref(address).is_ascii()) {
            if !self.server.supports_feature(Extension::SmtpUtfEight) {
                return Err(Failure::refused("the mail server takes no addresses outside ASCII"));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        self.ask(Mail::new(envelope.from().cloned(), parameters)).await?;
        let (mut taken, mut refused) = (0, None);
        for recipient in envelope.to() {
            match self.tell(Rcpt::new(recipient.clone(), Vec::new())).await?.taken() {
                Ok(()) => taken += 1,
                Err(failure @ Failure::Refused { .. }) => refused = refused.or(Some(failure)),
                Err(failure) => return Err(failure),
            }
        }
        if let Some(failure) = refused {
            if taken == 0 {
                return Err(failure);
            }
            warn!(reason = failure.reason(), "mail goes to the other recipients only");
        }
        self.tell(Data).await?.taken()?;
        self.write(&transparent(mail)).await?;
        self.reply().await?.taken()
    }

    /// A command that must be accepted.
    async fn ask(&mut self, command: impl Display) -> Said<Response> {
        self.tell(command).await?.accepted()
    }

    async fn tell(&mut self, command: impl Display) -> Said<Response> {
        self.write(command.to_string().as_bytes()).await?;
        self.reply().await
    }

    async fn write(&mut self, bytes: &[u8]) -> Said<()> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| broken(&error))
    }

    async fn reply(&mut self) -> Said<Response> {
        let mut text = String::new();
        let mut limited = (&mut self.stream).take(REPLY_BYTES);
        loop {
            let start = text.len();
            let read = limited.read_line(&mut text).await.map_err(|error| broken(&error))?;
            if read == 0 {
                return Err(Failure::again("the mail server hung up"));
            }
            // `250-…` goes on, `250 …` ends.
            if text.as_bytes().get(start + 3) != Some(&b'-') {
                break;
            }
        }
        text.parse().map_err(|_| Failure::again("the mail server's reply is no SMTP"))
    }
}

fn broken(error: &std::io::Error) -> Failure {
    Failure::again(format!("the connection to the mail server broke: {error}"))
}

trait Verdict: Sized {
    /// Refusals are about us (greeting, user, sender): a person can put them right while the mail waits.
    fn accepted(self) -> Said<Self>;
    /// Refusals for good are about this mail.
    fn taken(self) -> Said<()>;
}

impl Verdict for Response {
    fn accepted(self) -> Said<Self> {
        if self.is_positive() { Ok(self) } else { Err(Failure::again(words(&self))) }
    }

    fn taken(self) -> Said<()> {
        match self.code().severity {
            Severity::PositiveCompletion | Severity::PositiveIntermediate => Ok(()),
            Severity::TransientNegativeCompletion => Err(Failure::again(words(&self))),
            Severity::PermanentNegativeCompletion => Err(Failure::refused(words(&self))),
        }
    }
}

fn words(reply: &Response) -> String {
    let text: Vec<&str> = reply.message().collect();
    format!("the mail server says {} {}", reply.code(), text.join(" "))
}

/// The mail with a dot before each line that begins with one, and the line that ends it.
fn transparent(mail: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(mail.len() + 16);
    for line in mail.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_lone_dot_does_not_end_a_mail() {
        for (mail, sent) in [
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("a\r\n.\r\nb\r\n..\r\n", "a\r\n..\r\nb\r\n...\r\n.\r\n"),
            (".a\n.b", "..a\n..b\r\n.\r\n"),
        ] {
            assert_eq!(String::from_utf8(transparent(mail.as_bytes())).unwrap(), sent);
        }
    }

    /// A server that says `replies` in turn, one for each line it gets (a mail is one line), and what it got.
    async fn talk(replies: &'static [&'static str], credentials: bool, security: Security) -> (Said<()>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            let (reader, mut writer) = stream.split();
            let mut lines = BufReader::new(reader).lines();
            let mut data = false;
            for reply in replies {
                writer.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
                data = reply.starts_with("354") || data;
                loop {
                    let Ok(Some(line)) = lines.next_line().await else { return got };
                    got.push(line.clone());
                    if !data || line == "." {
                        data = false;
                        break;
                    }
                }
            }
            got
        };
        let credentials = credentials.then(|| ("me".to_owned(), crate::deliver::Secret::new("hush")));
        let smtp = Smtp::new(SmtpServer { host: "127.0.0.1".into(), port, security, credentials }).unwrap();
        let to = vec!["a@example.com".parse().unwrap(), "b@example.com".parse().unwrap()];
        let envelope = Envelope::new(Some("from@example.com".parse().unwrap()), to).unwrap();
        let sending = async {
            let sent = smtp.send(&envelope, b"Subject: x\r\n\r\nhello\r\n").await;
            drop(smtp);
            sent
        };
        tokio::join!(sending, server)
    }

    const HELLO: &str = "250-mail.example.com\r\n250-AUTH LOGIN PLAIN\r\n250 SIZE 1000000";

    #[tokio::test]
    async fn a_conversation_in_order() {
        let replies = &["220 hi", HELLO, "235 ok", "250 ok", "250 ok", "250 ok", "354 go on", "250 taken", "221 bye"];
        let (sent, got) = talk(replies, true, Security::None).await;
        assert_eq!(sent, Ok(()));
        let expected = [
            "EHLO [127.0.0.1]",
            "AUTH PLAIN AG1lAGh1c2g=",
            "MAIL FROM:<from@example.com>",
            "RCPT TO:<a@example.com>",
            "RCPT TO:<b@example.com>",
            "DATA",
            "Subject: x",
            "",
            "hello",
            ".",
            "QUIT",
        ];
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn refusals_of_the_mail_are_final_and_others_are_not() {
        let replies = &["220 hi", HELLO, "250 ok", "550-5.1.1 no such\r\n550 5.1.1 user", "550 nor this"];
        let (sent, _) = talk(replies, false, Security::None).await;
        assert_eq!(sent, Err(Failure::refused("the mail server says 550 5.1.1 no such 5.1.1 user")));
        // The others get it.
        let replies = &["220 hi", HELLO, "250 ok", "550 no such user", "250 ok", "354 go on", "250 taken", "221 bye"];
        let (sent, got) = talk(replies, false, Security::None).await;
        assert_eq!((sent, &*got[2], &*got[3]), (Ok(()), "RCPT TO:<a@example.com>", "RCPT TO:<b@example.com>"));
        for (replies, says) in [
            (&["220 hi", HELLO, "250 ok", "450 busy"][..], "450 busy"),
            // Nobody gets it twice: one who may be reached later holds the mail back.
            (&["220 hi", HELLO, "250 ok", "250 ok", "450 busy"][..], "450 busy"),
            (&["220 hi", HELLO, "530 log in first"][..], "530 log in first"),
            (&["554 go away"][..], "554 go away"),
            (&["what?"][..], "no SMTP"),
            (&[][..], "hung up"),
        ] {
            let (sent, _) = talk(replies, false, Security::None).await;
            assert!(matches!(&sent, Err(Failure::Again { reason, .. }) if reason.contains(says)), "{sent:?}");
        }
    }

    #[tokio::test]
    async fn a_password_is_not_sent_without_encryption_unless_told() {
        let (sent, got) = talk(&["220 hi", HELLO], true, Security::Required).await;
        assert!(matches!(&sent, Err(Failure::Again { reason, .. }) if reason.contains("no STARTTLS")), "{sent:?}");
        assert_eq!(got, ["EHLO [127.0.0.1]"]);
    }

    #[tokio::test]
    async fn what_comes_before_encryption_is_not_read_after_it() {
        let replies = &["220 hi", "250-mail.example.com\r\n250 STARTTLS", "220 go\r\n250 injected"];
        let (sent, _) = talk(replies, false, Security::Offered).await;
        assert!(matches!(&sent, Err(Failure::Again { reason, .. }) if reason.contains("between")), "{sent:?}");
    }
}
