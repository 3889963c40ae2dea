//! Accounts, roles and TLS, through every door.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::rig::python::{self, Output};
use crate::rig::{Kafka, Lake, Millpond, Project, wait_until};

const SHOWN: Duration = Duration::from_secs(60);
const CARS: usize = 10;
const READINGS: usize = 100;

const ROLES: &str = r#"
[roles.analyst]
tables = ["telemetry", "moving", "system.tables"]
filter = { telemetry = "car_id IN ('car-1', 'car-2')" }
mask = { telemetry = ["speed"], moving = ["n"] }
statement_timeout = "20s"
queries = 2

[roles.dashboards]
tables = ["moving"]

[roles.clerk]
rights = "writer"
tables = ["notes", "ranks"]
[roles.clerk.filter]
ranks = "rank < 3"
"#;

/// A project with TLS, accounts of every kind of login, and readings of ten cars.
async fn fleet() -> (Millpond, PathBuf) {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("access-telemetry", 1).await;
    let telemetry = "key = [\"car_id\"]\n[columns.speed]\ntype = \"double\"\n";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("300ms")
        .toml("tls = { cert = \"server.pem\", key = \"server.key\" }\n")
        .events("telemetry", &topic, telemetry)
        .schema("car_state", "kind = \"latest\"\nkey = [\"car_id\"]\n[sources.telemetry]\n")
        .schema("notes", "kind = \"reference\"\nmode = \"append\"\n")
        .schema("ranks", "kind = \"reference\"\nmode = \"append\"\n")
        .query("moving", "--! kind = \"view\"\nSELECT car_id, n FROM telemetry WHERE n >= 50");
    let ca = certificate(&project);
    std::fs::write(project.dir().join("access.toml"), ROLES).unwrap();
    // Writes the project's file.
    let checked = project.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    for (name, role, login) in [
        ("root", "admin", "scram"),
        ("ann", "analyst", "scram"),
        ("old", "analyst", "md5"),
        ("quick", "analyst", "password"),
        ("board", "dashboards", "scram"),
        ("clerk", "clerk", "scram"),
    ] {
        let output = add_user(&project, name, role, login).await;
        assert_eq!(
            (output.code, output.stdout),
            (Some(0), format!("{name}: added with role {role}\n")),
            "{}",
            output.stderr
        );
    }
    kafka.send(
        &topic,
        (0..READINGS).map(|n| {
            let text = format!(r#"{{"car_id":"car-{}","n":{n},"speed":{n}.5}}"#, n % CARS);
            (None, Some(text.into_bytes()))
        }),
    );
    let project = project
        .env("SSL_CERT_FILE", ca.to_str().unwrap())
        .env("MILLPOND_USER", "root")
        .env("MILLPOND_PASSWORD", "secret of root");
    let millpond = Millpond::start(&project);
    let seen = async || {
        let rows = psql(&millpond, "root", &["-c", "SELECT count(*) FROM telemetry"]).await.stdout;
        let cars = psql(&millpond, "root", &["-c", "SELECT count(*) FROM car_state"]).await.stdout;
        (rows.trim() == READINGS.to_string() && cars.trim() == CARS.to_string()).then_some(())
    };
    wait_until("all readings can be seen", SHOWN, seen).await;
    (millpond, ca)
}

/// Puts a certificate for this machine into the project's folder; the file that says it can be trusted.
pub fn certificate(project: &Project) -> PathBuf {
    let (cert, key) = crate::rig::certificate();
    std::fs::copy(key, project.dir().join("server.key")).unwrap();
    std::fs::copy(cert, project.dir().join("server.pem")).unwrap();
    project.dir().join("server.pem")
}

/// Adds an account; its password is `secret of <name>`.
pub async fn add_user(project: &Project, name: &str, role: &str, login: &str) -> Output {
    let mut command = Command::new("sh");
    let millpond = crate::rig::executable();
    let line = format!(
        "printf 'secret of {name}\\n' | {} user add {name} --role {role} --login {login} --project {}",
        millpond.display(),
        project.dir().display()
    );
    command.args(["-c", &line]);
    Output::of(command).await
}

async fn psql_with(millpond: &Millpond, user: &str, env: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new("psql");
    let port = millpond.project().postgres().to_string();
    command.args([
        "-X",
        "-At",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-U",
        user,
        "-d",
        "millpond",
        "-v",
        "VERBOSITY=verbose",
    ]);
    command.args(arguments).env("PGPASSWORD", format!("secret of {user}"));
    command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", millpond.project().dir().join("server.pem"));
    command.envs(env.iter().copied());
    Output::of(command).await
}

/// A session that stays open.
struct Talk {
    process: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Talk {
    fn new(millpond: &Millpond, user: &str) -> Self {
        let mut command = Command::new("psql");
        let port = millpond.project().postgres().to_string();
        command.args(["-X", "-At", "-h", "127.0.0.1", "-p", &port, "-U", user, "-d", "millpond"]);
        command.env("PGPASSWORD", format!("secret of {user}")).env("PGSSLMODE", "require");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (asked, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, asked, answers }
    }

    /// The first line that is answered; nothing if the session is over.
    fn ask(&mut self, sql: &str) -> String {
        let _ = writeln!(self.asked, "{sql};");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn psql(millpond: &Millpond, user: &str, arguments: &[&str]) -> Output {
    psql_with(millpond, user, &[], arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_sees_exactly_its_rows_and_columns_through_every_door() {
    let (millpond, ca) = fleet().await;
    let told = async |user: &str, sql: &str| {
        let output = psql(&millpond, user, &["-c", sql]).await;
        if output.code == Some(0) { output.stdout.trim().to_owned() } else { output.stderr }
    };
    for user in ["ann", "old", "quick"] {
        assert_eq!(
            told(user, "SELECT count(*), count(speed), min(car_id), max(car_id) FROM telemetry").await,
            "20|0|car-1|car-2"
        );
        assert_eq!(told(user, "SELECT current_user").await, user);
    }
    // A view shows what its reader may see, and can be read without its tables.
    assert_eq!(told("ann", "SELECT count(*), count(n) FROM moving").await, "10|0", "a view can be masked, too");
    assert_eq!(told("board", "SELECT count(*) FROM moving").await, "50");
    assert_eq!(told("root", "SELECT count(*), count(speed) FROM telemetry").await, "100|100");
    // Conditions that are pushed down, and those that are not.
    assert_eq!(told("ann", "SELECT count(*) FROM telemetry WHERE car_id = 'car-3'").await, "0");
    assert_eq!(told("ann", "SELECT count(*) FROM telemetry WHERE n < 50 AND car_id LIKE '%2'").await, "5");
    assert_eq!(told("ann", "SELECT count(*) FROM telemetry WHERE speed > 0").await, "0");
    assert_eq!(told("ann", "SELECT count(*) FROM at_time('telemetry', now()) WHERE n >= 0").await, "20");
    for denied in [
        "SELECT * FROM car_state",
        "SELECT * FROM public.car_state",
        "SELECT * FROM millpond.public.car_state",
        "SELECT (SELECT max(n) FROM car_state)",
        "WITH x AS (SELECT * FROM car_state) SELECT * FROM x",
        "SELECT * FROM telemetry JOIN car_state USING (car_id)",
        "SELECT n FROM telemetry UNION SELECT n FROM car_state",
        "EXPLAIN SELECT * FROM car_state",
        "DESCRIBE car_state",
        "SELECT * FROM system.sessions",
        "SELECT * FROM at_time('car_state', now())",
        "SUBSCRIBE SELECT * FROM telemetry",
        "COPY car_state TO STDOUT",
    ] {
        let refusal = told("ann", denied).await;
        assert!(refusal.contains("42501") && refusal.contains("permission denied for table"), "{denied}: {refusal}");
    }
    // An error tells nothing of rows that must not be seen.
    for leak in [
        "SELECT count(*) FROM telemetry WHERE car_id::bigint = 1",
        "SELECT sum(1 / (n - 3)) FROM telemetry",
        "SELECT count(*) FROM telemetry WHERE CASE WHEN car_id = 'car-3' THEN 1 / 0 ELSE 1 END = 1",
    ] {
        let found = told("ann", leak).await;
        assert!(!found.contains("car-3") && !found.contains("division"), "{leak}: {found}");
    }
    let explained = told("ann", "EXPLAIN VERBOSE SELECT n FROM telemetry WHERE n IS NOT NULL").await;
    assert!(explained.contains("Barrier") && !explained.contains("Max="), "{explained}");
    // Catalogs list what can be read.
    assert_eq!(
        told("ann", "SELECT relname FROM pg_class WHERE relnamespace = 2200 ORDER BY 1").await,
        "moving\ntelemetry"
    );
    assert_eq!(
        told("ann", "SELECT table_name FROM information_schema.tables ORDER BY 1").await,
        "moving\ntables\ntelemetry"
    );
    let unknown = told("ann", "SELECT * FROM telemetri").await;
    assert!(unknown.contains("telemetry") && !unknown.contains("car_state"), "{unknown}");

    let (flight, http) = (millpond.project().flight_sql().replace("grpc", "grpc+tls"), millpond.project().http());
    let ca_file = ca.to_str().unwrap();
    let adbc = async |user: &str, password: &str, sql: &str| {
        let output = python::run("adbc_secure.py", &[&flight, ca_file, user, password, sql], &[]).await;
        if output.code == Some(0) { output.stdout.trim().to_owned() } else { output.stderr }
    };
    assert_eq!(
        adbc("ann", "secret of ann", "SELECT count(*) AS n, count(speed) AS s FROM telemetry").await,
        r#"{"n": 20, "s": 0}"#
    );
    assert!(
        adbc("ann", "secret of ann", "SELECT * FROM car_state").await.contains("permission denied for table car_state")
    );
    for (user, password) in [("ann", "wrong"), ("nobody", "secret of ann"), ("", "")] {
        let refused = adbc(user, password, "SELECT 1").await;
        assert!(refused.contains("UNAUTHENTICATED") || refused.contains("Unauthenticated"), "{user}: {refused}");
    }

    // Rows are taken from who may write, into tables of which nothing is held back.
    let ingest = async |user: &str, table: &str| {
        let (rows, password) = (r#"[{"rank": 1}]"#, format!("secret of {user}"));
        let arguments = [flight.as_str(), table, "append", rows, "", ca_file, user, &password];
        let sent = python::run("adbc_ingest.py", &arguments, &[]).await;
        if sent.code == Some(0) { sent.stdout.trim().to_owned() } else { sent.stderr }
    };
    assert_eq!(ingest("clerk", "notes").await, "1");
    assert_eq!(ingest("root", "ranks").await, "1");
    for (user, table, why) in [
        ("clerk", "ranks", "permission denied for table ranks"),
        ("clerk", "telemetry", "permission denied for table telemetry"),
        ("ann", "notes", "rights = \"writer\""),
        ("board", "notes", "rights = \"writer\""),
    ] {
        let refused = ingest(user, table).await;
        assert!(refused.contains(why), "{user} {table}: {refused}");
    }
    assert_eq!(told("root", "SELECT (SELECT count(*) FROM notes), (SELECT count(*) FROM ranks)").await, "1|1");

    let client = reqwest::Client::builder()
        .add_root_certificate(reqwest::Certificate::from_pem(&std::fs::read(&ca).unwrap()).unwrap())
        .build()
        .unwrap();
    let get = async |path: &str, user: Option<&str>| {
        let mut request = client.get(format!("{}{path}", http.replace("http:", "https:")));
        if let Some(user) = user {
            request = request.basic_auth(user, Some(format!("secret of {user}")));
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(get("/healthz", None).await, 200);
    assert_eq!(get("/metrics", None).await, 401);
    assert_eq!(get("/metrics", Some("ann")).await, 200);
    assert_eq!(get("/v1/latest/car_state/car-1", Some("ann")).await, 403);
    assert_eq!(get("/v1/latest/car_state/car-1", Some("nobody")).await, 401);
    assert_eq!(get("/v1/latest/car_state/car-1", Some("root")).await, 200);

    // The shell, and what changes something.
    let secured = millpond.project().flight_sql().replace("grpc://", "grpcs://");
    let run = async |user: &str, arguments: &[&str]| {
        let mut command = millpond.project().command(arguments);
        command.env("MILLPOND_USER", user).env("MILLPOND_PASSWORD", format!("secret of {user}"));
        Output::of(command).await
    };
    let shown =
        run("ann", &["sql", "--url", &secured, "--format", "csv", "-c", "SELECT count(*) AS n FROM telemetry"]).await;
    assert_eq!(shown.stdout, "n\n20\n", "{}", shown.stderr);
    let refused = run("ann", &["ingest", "pause", "telemetry", "--url", &secured]).await;
    assert!(refused.stderr.contains("needs a role with rights"), "{}", refused.stderr);
    let done = run("root", &["ingest", "pause", "telemetry", "--url", &secured]).await;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let wrong = run("eve", &["sql", "--url", &secured, "-c", "SELECT 1"]).await;
    assert!(wrong.stderr.contains("user name or password is wrong"), "{}", wrong.stderr);
    let log = millpond.process().log();
    assert!(!log.contains("secret of"), "no password is in the log");
    assert!(log.contains("came in") && log.contains("refused"), "who came in is");
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_without_tls_and_the_right_password() {
    let (millpond, _) = fleet().await;
    for mode in ["disable", "allow"] {
        let plain = psql_with(&millpond, "ann", &[("PGSSLMODE", mode)], &["-c", "SELECT 1"]).await;
        let wanted = if mode == "disable" { "speaks TLS only" } else { "1" };
        assert!(
            format!("{}{}", plain.stdout, plain.stderr).contains(wanted),
            "{mode}: {}{}",
            plain.stdout,
            plain.stderr
        );
    }
    for user in ["ann", "old", "quick", "nobody"] {
        let wrong = psql_with(&millpond, user, &[("PGPASSWORD", "a wrong one")], &["-c", "SELECT 1"]).await;
        assert!(
            wrong.stderr.contains(&format!("password authentication failed for user \"{user}\"")),
            "{user}: {}",
            wrong.stderr
        );
    }
    // An account that is taken away loses its sessions; one that comes may come in; a certificate is renewed while it runs.
    let (mut goes, mut stays) = (Talk::new(&millpond, "board"), Talk::new(&millpond, "ann"));
    assert_eq!((goes.ask("SELECT 'before'").as_str(), stays.ask("SELECT 'before'").as_str()), ("before", "before"));
    let removed = millpond.project().run(&["user", "remove", "board", "--project", "."]).await;
    assert_eq!((removed.code, removed.stdout.as_str()), (Some(0), "board: removed\n"), "{}", removed.stderr);
    wait_until("the account is gone", SHOWN, async || {
        let refused = psql(&millpond, "board", &["-c", "SELECT 1"]).await;
        refused.stderr.contains("password authentication failed").then_some(())
    })
    .await;
    assert_eq!(goes.ask("SELECT 'after'"), "", "its session is over");
    assert_eq!(add_user(millpond.project(), "new", "reader", "scram").await.code, Some(0));
    wait_until("the new account is known", SHOWN, async || {
        let output = psql(&millpond, "new", &["-c", "SELECT count(*) FROM telemetry"]).await;
        (output.stdout.trim() == "100").then_some(())
    })
    .await;
    assert_eq!(stays.ask("SELECT 'after'"), "after", "others keep theirs");
    let unknown = add_user(millpond.project(), "eve", "analist", "scram").await;
    assert!(
        unknown.stderr.contains("there is no role `analist`\n  hint: did you mean `analyst`?"),
        "{}",
        unknown.stderr
    );
    let old = std::fs::read(millpond.project().dir().join("server.pem")).unwrap();
    certificate(millpond.project());
    wait_until("the new certificate is shown", SHOWN, async || {
        // verify-full trusts the new file only.
        (psql(&millpond, "ann", &["-c", "SELECT 1"]).await.code == Some(0)).then_some(())
    })
    .await;
    let before = millpond.project().dir().join("before.pem");
    std::fs::write(&before, old).unwrap();
    let stale = psql_with(&millpond, "ann", &[("PGSSLROOTCERT", before.to_str().unwrap())], &["-c", "SELECT 1"]).await;
    assert!(stale.stderr.contains("certificate verify failed"), "{}", stale.stderr);
    assert_eq!(millpond.stop().await, Some(0));
}

/// An authority, a client's certificate, and one of a server that ended in 2020 and one that is good.
const CERTIFICATES: &str = r"
set -e
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=authority -keyout ca.key -out ca.pem
openssl req -newkey rsa:2048 -nodes -subj /CN=ann -keyout client.key -out client.csr
echo subjectAltName=DNS:ann >client.ext
openssl x509 -req -days 30 -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile client.ext -out client.pem
openssl req -newkey rsa:2048 -nodes -subj /CN=server -addext subjectAltName=IP:127.0.0.1 -keyout server.key -out server.csr
printf '[ca]\ndefault_ca=d\n[d]\ndatabase=known\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n' >ca.cnf
printf 'unique_subject=no\ncopy_extensions=copy\n[p]\ncommonName=supplied\n' >>ca.cnf
touch known
echo 01 >serial
for dates in expired:20200102000000Z valid:20400101000000Z; do
    openssl ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key -in server.csr -out ${dates%:*}.pem \
        -startdate 20200101000000Z -enddate ${dates#*:}
done
cp expired.pem server.pem
chmod 600 *.key
";

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_told_and_clients_show_one_where_that_is_asked() {
    let tls = "tls = { cert = \"server.pem\", key = \"server.key\", client_ca = \"ca.pem\" }\n";
    let project = Project::new("embedded", Lake::Local).toml(tls);
    let mut command = Command::new("sh");
    command.args(["-c", CERTIFICATES]).current_dir(project.dir());
    let made = Output::of(command).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    std::fs::write(project.dir().join("access.toml"), "").unwrap();
    assert_eq!(project.run(&["check"]).await.code, Some(0));
    assert_eq!(add_user(&project, "ann", "reader", "scram").await.code, Some(0));
    let path = |name: &str| project.dir().join(name).display().to_string();
    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let shown = [("PGSSLROOTCERT", ca.as_str()), ("PGSSLCERT", &cert), ("PGSSLKEY", &key)];
    let careless = [shown.as_slice(), &[("PGSSLMODE", "require"), ("PGSSLROOTCERT", "")]].concat();
    let millpond = Millpond::start(&project);
    wait_until("who does not check the certificate comes in", SHOWN, async || {
        let answer = psql_with(&millpond, "ann", &careless, &["-c", "SELECT 1"]).await;
        (answer.stdout == "1\n").then_some(())
    })
    .await;
    let refused = psql_with(&millpond, "ann", &shown, &["-c", "SELECT 1"]).await;
    assert!(refused.stderr.contains("certificate verify failed"), "{}", refused.stderr);
    let log = millpond.process().log();
    assert!(log.contains("certificate has expired, clients that check it do not connect"), "{log}");

    std::fs::copy(path("valid.pem"), path("server.pem")).unwrap();
    wait_until("the new certificate is shown", SHOWN, async || {
        let answer = psql_with(&millpond, "ann", &shown, &["-c", "SELECT 1"]).await;
        (answer.stdout == "1\n").then_some(())
    })
    .await;
    // Who shows none does not come in, nor who shows one that the authority did not sign, whatever the password.
    let none = psql_with(&millpond, "ann", &shown[..1], &["-c", "SELECT 1"]).await;
    assert_ne!(none.code, Some(0), "{}", none.stdout);
    let (stranger, own_key) = crate::rig::certificate();
    let (own_cert, own_key) = (stranger.display().to_string(), own_key.display().to_string());
    let foreign = [shown[0], ("PGSSLCERT", own_cert.as_str()), ("PGSSLKEY", own_key.as_str())];
    let foreign = psql_with(&millpond, "ann", &foreign, &["-c", "SELECT 1"]).await;
    assert_ne!(foreign.code, Some(0), "{}", foreign.stdout);
    let mut curl = Command::new("curl");
    let url = project.http().replace("http://", "https://") + "/readyz";
    curl.args(["-sS", "--cacert", &ca, &url]);
    let closed = Output::of(curl).await;
    assert!(closed.code != Some(0) && closed.stdout.is_empty(), "{}", closed.stdout);
    assert_eq!(millpond.stop().await, Some(0));
}
