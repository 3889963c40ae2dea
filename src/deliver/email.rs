//! A mail per message: composed here, handed to an SMTP server or written as a file.
//!
//! Values cannot add a header, a line or a recipient: subjects are one line, and each recipient is exactly one address
//! after its values are filled in.

use std::path::Path;
use std::time::SystemTime;

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message as Mail};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::channel::Failure;
use super::message::Message;
use super::options::{EmailSink, Mailer};
use super::smtp::Smtp;
use super::template::{Escape, Template};
use crate::error::Result;

/// The longest subject, in characters.
const SUBJECT_CHARS: usize = 200;

/// A way to mailboxes.
pub struct Email {
    options: EmailSink,
    smtp: Option<Smtp>,
}

impl Email {
    pub(super) fn open(options: &EmailSink) -> Result<Self> {
        let smtp = match &options.mailer {
            Mailer::Smtp(server) => Some(Smtp::new(server.clone())?),
            Mailer::Folder(_) => None,
        };
        Ok(Self { options: options.clone(), smtp })
    }

    pub(super) async fn deliver(&self, message: &Message) -> std::result::Result<(), Failure> {
        let mail = compose(&self.options, message)?;
        match (&self.options.mailer, &self.smtp) {
            (Mailer::Folder(folder), _) => write(folder, message, &mail.formatted()).await,
            (Mailer::Smtp(_), Some(smtp)) => smtp.send(mail.envelope(), &mail.formatted()).await,
            (Mailer::Smtp(_), None) => Err(Failure::again("there is no connection to the mail server")),
        }
    }
}

fn compose(options: &EmailSink, message: &Message) -> std::result::Result<Mail, Failure> {
    let subject = options.subject.render(&message.payload, Escape::Line);
    let id = format!("<{}@{}>", digest(&message.id), options.from.email.domain());
    let mut builder = Mail::builder()
        .from(options.from.clone())
        .subject(subject.chars().take(SUBJECT_CHARS).collect::<String>())
        .message_id(Some(id))
        .date(SystemTime::from(message.at))
        .header(ContentType::TEXT_PLAIN)
        // So that no absent person's mailbox answers.
        .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into()));
    let (mut taken, mut refused) = (0, None);
    for recipient in &options.recipients {
        match address(recipient, message) {
            Ok(address) => {
                builder = builder.to(address);
                taken += 1;
            }
            Err(failure) => refused = refused.or(Some(failure)),
        }
    }
    if let Some(failure) = refused {
        if taken == 0 {
            return Err(failure);
        }
        warn!(id = message.id, reason = failure.reason(), "mail goes to the other recipients only");
    }
    builder.body(body(options, message)).map_err(|error| Failure::refused(format!("no mail can be made: {error}")))
}

fn address(recipient: &Template, message: &Message) -> std::result::Result<Mailbox, Failure> {
    if let Some(name) = recipient.missing(&message.payload) {
        return Err(Failure::refused(format!("no recipient: the message has no value for {{{name}}}")));
    }
    let text = recipient.render(&message.payload, Escape::Line);
    text.parse().map_err(|_| Failure::refused(format!("no recipient: `{text}` is not one mail address")))
}

fn body(options: &EmailSink, message: &Message) -> String {
    if let Some(body) = &options.body {
        return body.render(&message.payload, Escape::Text);
    }
    let text = message.payload.get("message").and_then(|text| text.as_str()).unwrap_or_default();
    let payload = serde_json::to_string_pretty(&message.payload).unwrap_or_default();
    format!("{text}\n\n{payload}\n")
}

/// The same name for the same message, so that a repetition replaces its file.
async fn write(folder: &Path, message: &Message, mail: &[u8]) -> std::result::Result<(), Failure> {
    let name = format!("{}-{}", message.at.format("%Y%m%dT%H%M%S%3fZ"), digest(&message.id));
    let (part, whole) = (folder.join(format!(".{name}.part")), folder.join(format!("{name}.eml")));
    let written = async {
        tokio::fs::create_dir_all(folder).await?;
        tokio::fs::write(&part, mail).await?;
        tokio::fs::rename(&part, &whole).await
    };
    written.await.map_err(|error| Failure::again(format!("{} cannot be written: {error}", whole.display())))
}

fn digest(id: &str) -> String {
    Sha256::digest(id).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::message::{MessageKind, tests::message};
    use super::*;

    fn options(recipients: &[&str], subject: &str, mailer: Mailer) -> EmailSink {
        EmailSink {
            mailer,
            from: "Millpond <millpond@example.com>".parse().unwrap(),
            recipients: recipients.iter().map(|text| Template::parse(text).unwrap()).collect(),
            subject: Template::parse(subject).unwrap(),
            body: None,
            send_resolved: true,
        }
    }

    fn composed(recipients: &[&str], subject: &str, values: &[(&str, &str)]) -> std::result::Result<String, Failure> {
        let mut message = message("alert/1", MessageKind::Alert);
        message.payload.extend(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        let options = options(recipients, subject, Mailer::Folder("unused".into()));
        compose(&options, &message).map(|mail| String::from_utf8(mail.formatted()).unwrap())
    }

    fn headers(mail: &str) -> Vec<&str> {
        mail.split("\r\n\r\n").next().unwrap().lines().collect()
    }

    #[test]
    fn a_mail_says_who_what_and_when_and_has_the_message_s_own_id() {
        let mail = composed(&["{customer}", "Ops <ops@example.com>"], "{message}", &[("customer", "kim@example.com")]);
        let mail = mail.unwrap();
        for line in [
            "From: Millpond <millpond@example.com>",
            "To: kim@example.com, Ops <ops@example.com>",
            "Subject: alert/1 happened",
            "Date: Sun, 22 Nov 2026 12:00:00 +0000",
            "Auto-Submitted: auto-generated",
        ] {
            assert!(headers(&mail).contains(&line), "{line}\n{mail}");
        }
        let id = headers(&mail).into_iter().find(|line| line.starts_with("Message-ID: ")).unwrap().to_owned();
        assert!(id.ends_with("@example.com>"), "{id}");
        assert!(composed(&["a@b.c"], "x", &[]).unwrap().contains(&id), "the same for the same message");
        assert!(mail.contains("\"count\": 3"), "{mail}");
    }

    #[test]
    fn values_add_no_header_and_no_recipient() {
        let evil = "x\r\nBcc: evil@example.com\r\n\r\nbody";
        let mail = composed(&["kim@example.com"], "{text}", &[("text", evil)]).unwrap();
        assert!(!headers(&mail).iter().any(|line| line.starts_with("Bcc")), "{mail}");
        for address in [
            "kim@example.com, evil@example.com",
            "kim@example.com\r\nBcc: evil@example.com",
            "Kim\nBcc: evil@example.com <kim@example.com>\nX: y",
            "kim",
            "",
            "null",
        ] {
            let refused = composed(&["{to}"], "x", &[("to", address)]);
            assert!(matches!(&refused, Err(Failure::Refused { .. })), "{address}: {refused:?}");
        }
        let missing = composed(&["{nobody}"], "x", &[]).unwrap_err();
        assert_eq!(missing, Failure::refused("no recipient: the message has no value for {nobody}"));
        // Who can be reached is.
        let mail = composed(&["{nobody}", "kim@example.com", "{to}"], "x", &[("to", "no address")]).unwrap();
        assert!(headers(&mail).contains(&"To: kim@example.com"), "{mail}");
    }

    #[tokio::test]
    async fn a_folder_gets_one_file_per_message_however_often_it_is_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = dir.path().join("outbox");
        let email = Email::open(&options(&["kim@example.com"], "{message}", Mailer::Folder(outbox.clone()))).unwrap();
        for id in ["a", "b", "a"] {
            email.deliver(&message(id, MessageKind::Alert)).await.unwrap();
        }
        let files: Vec<_> = std::fs::read_dir(outbox).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 2, "{files:?}");
        for file in files {
            assert!(file.extension().unwrap() == "eml" && std::fs::read_to_string(file).unwrap().contains("happened"));
        }
    }
}
