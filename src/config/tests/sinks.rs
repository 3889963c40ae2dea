//! `[sinks.NAME]` and `[[notify]]`.

use super::{assert_problems, load, load_with};
use crate::{
    config::LoadOptions,
    deliver::{Mailer, Security, SinkOptions},
    news::EventKind,
};

const TABLE: (&str, &str) = ("schemas/telemetry.toml", "kind = \"events\"\ntopic = \"t\"");

fn problems(millpond_toml: &str, expected: &[&str]) {
    assert_problems(&[("millpond.toml", millpond_toml), TABLE], expected);
}

#[test]
fn sinks_of_every_kind_and_who_is_told() {
    let text = r#"
        [sinks.outlier]
        type = "kafka"
        topic = "fleet.outlier"
        [sinks.ops]
        type = "webhook"
        url = "https://hooks.example.com:8443/a/{table}"
        headers = { X-Table = "{table}" }
        body = '{{"text": "{message}"}}'
        secret = "hush"
        [sinks.customer]
        type = "email"
        smtp = "file:./outbox"
        from = "Millpond <millpond@example.com>"
        recipients = ["{customer_email}", "ops@example.com"]
        [[notify]]
        to = ["ops"]
        [[notify]]
        on = ["dead_letter"]
        tables = ["tele*"]
        to = ["ops", "outlier"]
    "#;
    let project = load(&[("millpond.toml", text), TABLE]).unwrap();
    let shown: Vec<String> = project.config.sinks.iter().map(|(name, sink)| format!("{name}: {sink:?}")).collect();
    let outbox = project.dir.join("outbox");
    assert_eq!(
        shown,
        [
            format!("customer: email {}", outbox.display()),
            "ops: webhook https://hooks.example.com:8443".into(),
            "outlier: kafka topic fleet.outlier".into(),
        ]
    );
    let SinkOptions::Email(email) = &project.config.sinks["customer"] else { panic!("no e-mail") };
    assert!(email.mailer == Mailer::Folder(outbox) && email.recipients.len() == 2);
    let notify = &project.config.notify;
    assert_eq!((notify[0].on.clone(), notify[0].tables.clone()), (None, None));
    assert_eq!(notify[1].on, Some(vec![EventKind::DeadLetter]));
    assert_eq!(notify[1].to, ["ops", "outlier"]);
}

#[test]
fn encryption_follows_the_credentials() {
    let security = |lines: &str| {
        let text = format!("[sinks.x]\ntype = \"email\"\nfrom = \"a@b.c\"\nrecipients = \"a@b.c\"\n{lines}");
        let project = load(&[("millpond.toml", &text)]).unwrap();
        let SinkOptions::Email(email) = &project.config.sinks["x"] else { panic!("no e-mail") };
        let Mailer::Smtp(server) = &email.mailer else { panic!("no server") };
        server.security
    };
    let user = "smtp = \"smtp://mail\"\nuser = \"u\"\npassword = \"p\"\n";
    assert_eq!(security("smtp = \"smtp://mail\""), Security::Offered);
    assert_eq!(security(user), Security::Required);
    assert_eq!(security(&format!("{user}tls = \"none\"")), Security::None);
    assert_eq!(security("smtp = \"smtps://mail\""), Security::Implicit);
}

#[test]
fn each_mistake_is_named_with_its_place() {
    problems(
        r#"[sinks.Ops]
type = "kafka"
[sinks.a]
topic = "t"
[sinks.b]
type = "webhok"
[sinks.c]
type = "kafka"
topic = "no topic"
url = "http://x/"
[sinks.d]
type = "webhook"
url = "https://{host}/x"
body = "{ }"
headers = { "Idempotency-Key" = "x", "X Y" = "z" }
[sinks.e]
type = "webhook"
url = "ftp://x/"
secret = ""
"#,
        &[
            "millpond.toml:1:8: sinks.Ops: `Ops` is not a sink's name\n  hint: a letter, then letters, digits, `_` and `-`, all lower case",
            "millpond.toml:3:8: sinks.a.type: is missing\n  hint: kafka, webhook or email",
            "millpond.toml:6:8: sinks.b.type: `webhok` is not known here\n  hint: did you mean `webhook`?",
            "millpond.toml:9:9: sinks.c.topic: `no topic` is not the name of a topic\n  hint: letters, digits, `.`, `_` and `-`",
            "millpond.toml:10:1: sinks.c.url: unknown key\n  hint: known here: type, topic, send_resolved",
            "millpond.toml:13:7: sinks.d.url: `https://{host}/x` is not the address of a web server\n  hint: such as \"https://hooks.example.com/fleet\"",
            "millpond.toml:14:8: sinks.d.body: the `{` at character 1 begins no name such as {car_id}; `{{` writes a brace",
            "millpond.toml:15:13: sinks.d.headers.Idempotency-Key: is set by Millpond",
            "millpond.toml:15:38: sinks.d.headers.\"X Y\": is not the name of a header",
            "millpond.toml:18:7: sinks.e.url: `ftp://x/` is not the address of a web server\n  hint: such as \"https://hooks.example.com/fleet\"",
            "millpond.toml:19:10: sinks.e.secret: is empty",
        ],
    );
}

#[test]
fn a_host_is_not_chosen_by_a_record() {
    problems(
        "[sinks.a]\ntype = \"webhook\"\nurl = \"https://x{host}.example.com/\"\n",
        &[
            "millpond.toml:3:7: sinks.a.url: `https://x{host}.example.com/` has a place in its host\n  hint: places such as {car_id} stand behind the host",
        ],
    );
}

#[test]
fn mistakes_of_mail() {
    let email = |lines: &str, expected: &str| {
        problems(&format!("[sinks.m]\ntype = \"email\"\n{lines}\n"), &[expected]);
    };
    let rest = "from = \"a@b.c\"\nrecipients = \"a@b.c\"\n";
    email(
        &format!("{rest}smtp = \"mail:25\""),
        "millpond.toml:5:8: sinks.m.smtp: `mail:25` is neither smtp:// nor smtps://\n  hint: such as \"smtp://127.0.0.1:25\", \"smtps://mail.example.com\" or \"file:./outbox\"",
    );
    email(
        &format!("{rest}smtp = \"smtp://mail\"\nuser = \"u\""),
        "millpond.toml:6:8: sinks.m.user: means nothing without `password`",
    );
    email(
        &format!("{rest}smtp = \"file:./outbox\"\ntls = \"none\""),
        "millpond.toml:6:7: sinks.m.tls: means nothing for a folder",
    );
    email(
        "from = \"millpond\"\nrecipients = \"a@b.c\"\nsmtp = \"smtp://mail\"",
        "millpond.toml:3:8: sinks.m.from: `millpond` is not a mail address",
    );
    email(
        "from = \"a@b.c\"\nrecipients = [\"{to}\", \"a@b.c, d@e.f\"]\nsmtp = \"smtp://mail\"",
        "millpond.toml:4:23: sinks.m.recipients: `a@b.c, d@e.f` is not one mail address\n  hint: several are a list: [\"a@x\", \"b@x\"]",
    );
}

#[test]
fn rules_name_sinks_tables_and_news_that_exist() {
    let sink = "[sinks.ops]\ntype = \"kafka\"\ntopic = \"t\"\n";
    problems(
        &format!(
            "{sink}[[notify]]\non = [\"schema_changes\"]\ntables = [\"telemetri\", \"x*\"]\nto = [\"opps\"]\n[[notify]]\non = []\nfrom = 1\n"
        ),
        &[
            "millpond.toml:5:7: notify.on: `schema_changes` is not known here\n  hint: did you mean `schema_change`?",
            "millpond.toml:6:11: notify.tables: no table is called `telemetri`\n  hint: did you mean `telemetry`?",
            "millpond.toml:6:24: notify.tables: no table is called `x*`\n  hint: known here: telemetry",
            "millpond.toml:7:7: notify.to: there is no sink `opps`\n  hint: did you mean `ops`?",
            "millpond.toml:8:1: notify.to: is missing\n  hint: the sinks that are told",
            "millpond.toml:9:6: notify.on: is empty",
            "millpond.toml:10:1: notify.from: unknown key\n  hint: known here: on, tables, to",
        ],
    );
    problems("[notify]\nto = [\"ops\"]\n", &["millpond.toml:1:2: notify: expected [[notify]], found a table"]);
}

#[test]
fn secrets_are_not_shown() {
    let text = "[sinks.a]\ntype = \"webhook\"\nurl = \"${HOOK}\"\nsecret = \"${KEY}\"\n[sinks.b]\ntype = \"webhook\"\nurl = \"${BAD}\"\n";
    let vars = [("HOOK", "https://x/hush"), ("KEY", "hush"), ("BAD", "hush")];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let problems = load_with(&[("millpond.toml", text)], &LoadOptions { vars, ..LoadOptions::default() }).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "millpond.toml:7:7: sinks.b.url: `${BAD}` is not the address of a web server\n  hint: such as \"https://hooks.example.com/fleet\""
    );
    assert!(!format!("{problems:?}").contains("hush"));
}
