//! `[sinks.NAME]` and `[[notify]]`: where messages go, and which news.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use url::Url;

use super::{
    problem::Complaint,
    section::{Section, choose, meant},
    tree::Value,
    words::{notify, sink},
};
use crate::{
    deliver::{
        EmailSink, KafkaSink, Mailbox, Mailer, Secret, Security, SigningKey, SinkOptions, SmtpServer, Template,
        TemplateError, WebhookSink,
    },
    news::{EventKind, Rule, matches},
};

const LONGEST_NAME: usize = 60;
const LONGEST_TOPIC: usize = 249;
/// Headers that Millpond sets.
const OWN_HEADERS: &[&str] =
    &["idempotency-key", "webhook-id", "webhook-timestamp", "webhook-signature", "content-length", "host"];

#[derive(Clone, Copy)]
enum Type {
    Kafka,
    Webhook,
    Email,
}

/// All sinks, by name; those with problems are left out.
pub(super) fn sinks(root: &Section, dir: &Path) -> BTreeMap<String, SinkOptions> {
    let Some(section) = root.table("sinks") else { return BTreeMap::new() };
    let names = section.table.entries.iter().map(|entry| entry.key.as_str());
    names.filter_map(|name| Some((name.to_owned(), sink(&section, name, dir)?))).collect()
}

fn sink(sinks: &Section, name: &str, dir: &Path) -> Option<SinkOptions> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    let named = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(legal);
    if !named || name.len() > LONGEST_NAME {
        // The name is a folder of the lake.
        let complaint = Complaint::new(format!("`{name}` is not a sink's name"));
        sinks.complain(name, complaint.hint("a letter, then letters, digits, `_` and `-`, all lower case"));
        return None;
    }
    let peeked = sinks.table(name)?;
    peeked.require("type", "kafka, webhook or email");
    let types = [("kafka", Type::Kafka), ("webhook", Type::Webhook), ("email", Type::Email)];
    match peeked.choice("type", &types, &[])? {
        Type::Kafka => kafka(&sinks.section(name, &sink::KAFKA)?).map(SinkOptions::Kafka),
        Type::Webhook => webhook(&sinks.section(name, &sink::WEBHOOK)?).map(SinkOptions::Webhook),
        Type::Email => email(&sinks.section(name, &sink::EMAIL)?, dir).map(SinkOptions::Email),
    }
}

fn kafka(section: &Section) -> Option<KafkaSink> {
    section.require("topic", "the topic that gets the messages");
    let topic = section.read("topic", |text| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match !text.is_empty() && text.len() <= LONGEST_TOPIC && text.chars().all(legal) {
            true => Ok(text.to_owned()),
            false => Err(Complaint::new(format!("`{text}` is not the name of a topic"))
                .hint("letters, digits, `.`, `_` and `-`")),
        }
    });
    let send_resolved = send_resolved(section);
    Some(KafkaSink { topic: topic?, send_resolved: send_resolved? })
}

fn webhook(section: &Section) -> Option<WebhookSink> {
    section.require("url", "where to post, such as \"https://hooks.example.com/fleet\"");
    let url = section.read("url", webhook_url);
    let headers = headers(section);
    let body = optional(section, "body", Template::parse);
    let key = optional(section, "secret", |text| SigningKey::parse(text).map_err(Complaint::new));
    let (url, origin) = url?;
    let send_resolved = send_resolved(section);
    Some(WebhookSink { url, origin, headers: headers?, body: body?, key: key?, send_resolved: send_resolved? })
}

fn webhook_url(text: &str) -> Result<(Template, String), Complaint> {
    let wrong =
        |why: &str| Complaint::new(format!("`{text}` {why}")).hint("such as \"https://hooks.example.com/fleet\"");
    let template = Template::parse(text)?;
    let start = template.start();
    let url = Url::parse(start).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| wrong("is not the address of a web server"))?;
    // What a record holds must not choose the server.
    let after_host = start.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?']));
    if !template.is_plain() && !after_host {
        return Err(wrong("has a place in its host").hint("places such as {car_id} stand behind the host"));
    }
    let origin = url.origin().ascii_serialization();
    Ok((template, origin))
}

fn headers(section: &Section) -> Option<BTreeMap<String, Template>> {
    if !section.has("headers") {
        return Some(BTreeMap::new());
    }
    let table = section.table("headers")?;
    let mut headers = BTreeMap::new();
    let mut all_fine = true;
    for entry in &table.table.entries {
        let name = entry.key.as_str();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || !name.chars().all(legal) {
            table.report(&entry.place, name, Complaint::new("is not the name of a header"));
            all_fine = false;
        } else if OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            table.report(&entry.place, name, Complaint::new("is set by Millpond"));
            all_fine = false;
        } else if let Some(template) = table.read(name, Template::parse) {
            headers.insert(name.to_owned(), template);
        } else {
            all_fine = false;
        }
    }
    all_fine.then_some(headers)
}

fn email(section: &Section, dir: &Path) -> Option<EmailSink> {
    section.require("smtp", "the mail server, such as \"smtps://mail.example.com\", or a folder: \"file:./outbox\"");
    section.require("from", "the sender, such as \"Millpond <millpond@example.com>\"");
    section.require("recipients", "an address, a list of them, or a column that holds one: \"{customer_email}\"");
    let mailer = mailer(section, dir);
    let from = section
        .read("from", |text| text.parse().map_err(|_| Complaint::new(format!("`{text}` is not a mail address"))));
    let recipients = recipients(section);
    let subject = match section.has("subject") {
        true => section.read("subject", Template::parse),
        false => Template::parse("{message}").ok(),
    };
    let body = optional(section, "body", Template::parse);
    let send_resolved = send_resolved(section);
    Some(EmailSink {
        mailer: mailer?,
        from: from?,
        recipients: recipients?,
        subject: subject?,
        body: body?,
        send_resolved: send_resolved?,
    })
}

fn mailer(section: &Section, dir: &Path) -> Option<Mailer> {
    let modes = [("required", Security::Required), ("offered", Security::Offered), ("none", Security::None)];
    let security = optional(section, "tls", |text| choose(text, &modes, &[]));
    let user = optional(section, "user", |text| Ok::<_, Complaint>(text.to_owned()));
    let password = optional(section, "password", |text| Ok::<_, Complaint>(Secret::new(text)));
    for (key, other) in [("user", "password"), ("password", "user")] {
        if section.has(key) && !section.has(other) {
            section.complain(key, Complaint::new(format!("means nothing without `{other}`")));
            return None;
        }
    }
    let (security, credentials) = (security?, user?.zip(password?));
    let mailer = section.read("smtp", |text| match text.strip_prefix("file:") {
        Some("") => Err(Complaint::new("names no folder").hint("such as \"file:./outbox\"")),
        Some(folder) => Ok(Mailer::Folder(clean(&dir.join(folder.strip_prefix("//").unwrap_or(folder))))),
        None => SmtpServer::parse(text, credentials, security).map(Mailer::Smtp).map_err(|why| {
            Complaint::new(format!("`{text}` {why}"))
                .hint("such as \"smtp://127.0.0.1:25\", \"smtps://mail.example.com\" or \"file:./outbox\"")
        }),
    })?;
    let without = match &mailer {
        Mailer::Folder(_) => Some(("a folder", &["user", "tls"][..])),
        Mailer::Smtp(SmtpServer { security: Security::Implicit, .. }) => Some(("smtps://", &["tls"][..])),
        Mailer::Smtp(_) => None,
    };
    if let Some((what, keys)) = without
        && let Some(key) = keys.iter().find(|key| section.has(key))
    {
        section.complain(key, Complaint::new(format!("means nothing for {what}")));
        return None;
    }
    Some(mailer)
}

/// Without `.` in the middle: the path is shown.
fn clean(path: &Path) -> PathBuf {
    path.components().collect()
}

fn recipients(section: &Section) -> Option<Vec<Template>> {
    let recipient = |text: &str| {
        let template = Template::parse(text)?;
        let fine = !template.is_plain() || text.parse::<Mailbox>().is_ok();
        if fine {
            return Ok(template);
        }
        Err(Complaint::new(format!("`{text}` is not one mail address")).hint("several are a list: [\"a@x\", \"b@x\"]"))
    };
    if !matches!(section.node("recipients")?.value, Value::List(_)) {
        return section.read("recipients", recipient).map(|one| vec![one]);
    }
    let mut all = Some(Vec::new());
    let items = section.list("recipients")?;
    if items.is_empty() {
        section.complain("recipients", Complaint::new("is empty"));
        return None;
    }
    for item in items {
        match recipient(item.text) {
            Ok(template) => all.iter_mut().for_each(|all| all.push(template.clone())),
            Err(complaint) => {
                section.report(item.place, "recipients", complaint);
                all = None;
            }
        }
    }
    all
}

/// A value that may be absent; `None` only if it is wrong and was reported.
fn send_resolved(section: &Section) -> Option<bool> {
    if section.has("send_resolved") { section.boolean("send_resolved") } else { Some(true) }
}

fn optional<T, E: Into<Complaint>>(
    section: &Section,
    key: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Option<Option<T>> {
    if section.has(key) { section.read(key, parse).map(Some) } else { Some(None) }
}

impl From<TemplateError> for Complaint {
    fn from(error: TemplateError) -> Self {
        Self::new(error.to_string())
    }
}

/// All `[[notify]]`; `sinks` and `tables` are the names there are.
pub(super) fn notify(root: &Section, sinks: &[&str], tables: &[String]) -> Option<Vec<Rule>> {
    if !root.has("notify") {
        return Some(Vec::new());
    }
    let rules: Vec<Option<Rule>> =
        root.tables("notify", &notify::RULE)?.iter().map(|section| rule(section, sinks, tables)).collect();
    rules.into_iter().collect()
}

fn rule(section: &Section, sinks: &[&str], tables: &[String]) -> Option<Rule> {
    section.require("to", "the sinks that are told");
    let kinds = EventKind::ALL.map(|kind| (kind.word(), kind));
    let on = words(section, "on", |word| choose(word, &kinds, notify::EVENTS_LATER));
    let patterns = words(section, "tables", |pattern| {
        if tables.iter().any(|table| matches(pattern, table)) {
            return Ok(pattern.to_owned());
        }
        let names: Vec<&str> = tables.iter().map(String::as_str).collect();
        Err(Complaint::new(format!("no table is called `{pattern}`")).hint(meant(pattern, &names)))
    });
    let to = words(section, "to", |name| match sinks.contains(&name) {
        true => Ok(name.to_owned()),
        false => Err(Complaint::new(format!("there is no sink `{name}`")).hint(meant(name, sinks))),
    });
    Some(Rule { on: on?, tables: patterns?, to: to?? })
}

/// A list that may be absent but not empty; `None` only if something is wrong and was reported.
fn words<T>(section: &Section, key: &str, read: impl Fn(&str) -> Result<T, Complaint>) -> Option<Option<Vec<T>>> {
    if !section.has(key) {
        return Some(None);
    }
    let items = section.list(key)?;
    if items.is_empty() {
        section.complain(key, Complaint::new("is empty"));
        return None;
    }
    let mut all_fine = true;
    let mut values = Vec::new();
    for item in items {
        match read(item.text) {
            Ok(value) => values.push(value),
            Err(complaint) => {
                section.report(item.place, key, complaint);
                all_fine = false;
            }
        }
    }
    all_fine.then_some(Some(values))
}
