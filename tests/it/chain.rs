//! The real chain: a database, Debezium in Kafka Connect, Kafka, Millpond, MinIO. Whatever happens on the way, at rest
//! the source tables and ours hold the same rows.

use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::rig::{Connect, Database, Kafka, Lake, Maker, Millpond, Minio, Project, credentials, python, wait_until};
use crate::sql::Client;

/// For changes to come all the way; the Java processes have had little time to warm up.
const SOON: Duration = Duration::from_secs(120);

/// A column to compare: what it is in the database and in ours, as text, and in DuckDB.
struct Compared {
    theirs: String,
    ours: String,
    outside: String,
}

fn plain(name: &str, maker: Maker) -> Compared {
    let text = format!("CAST({name} AS VARCHAR)");
    let theirs = match maker {
        Maker::PostgreSql => text.clone(),
        Maker::MariaDb => format!("CAST({name} AS CHAR)"),
    };
    Compared { theirs, ours: text.clone(), outside: text }
}

/// In microseconds since 1970.
fn time(name: &str, maker: Maker) -> Compared {
    let theirs = match maker {
        Maker::PostgreSql => format!("CAST(CAST(extract(epoch FROM {name}) * 1000000 AS BIGINT) AS VARCHAR)"),
        Maker::MariaDb => format!("CAST(CAST(unix_timestamp({name}) * 1000000 AS SIGNED) AS CHAR)"),
    };
    let ours = format!("CAST(arrow_cast({name}, 'Int64') AS VARCHAR)");
    Compared { theirs, ours, outside: format!("CAST(epoch_us({name}) AS VARCHAR)") }
}

/// Rows of a table as lines of text, one way for each who reads them.
fn lines(table: &str, key: &str, columns: &[Compared], pick: fn(&Compared) -> &String) -> String {
    let cells: Vec<String> = columns.iter().map(|column| format!("coalesce({}, 'null')", pick(column))).collect();
    format!("SELECT concat_ws('|', {}) AS line FROM {table} ORDER BY {key}", cells.join(", "))
}

struct Chain {
    database: Database,
    minio: &'static Minio,
    project: Project,
    random: StdRng,
    /// Which column of a car holds its plate by now, and whether the columns of later versions are there.
    plate: &'static str,
    evolved: bool,
}

impl Chain {
    async fn start(maker: Maker, name: &str, connect: &str) -> (Self, Connect) {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        println!("{name}: SEED={seed}");
        let (database, kafka, minio) = tokio::join!(Database::start(maker), Kafka::shared(), Minio::shared());
        let (flag, time) = match maker {
            Maker::PostgreSql => ("boolean", "timestamptz"),
            Maker::MariaDb => ("tinyint(1)", "timestamp(6) NULL"),
        };
        database.run(&format!(
            "CREATE TABLE carinfo (car_id int PRIMARY KEY, plate varchar(40) NOT NULL, model text, price decimal(10,2), \
             odo double precision, is_ev {flag}, reg_date date, made {time}, note text)"
        ));
        database.run("CREATE TABLE deviceinfo (device_id bigint PRIMARY KEY, car_id int, fw varchar(20))");
        let prefix = Kafka::name(name);
        let space = if maker == Maker::PostgreSql { "public" } else { "fleet" };
        let mirror = |table: &str, key: &str, more: &str| {
            format!(
                "kind = \"mirror\"\ntopic = \"{prefix}.{space}.{table}\"\nformat = \"debezium-json\"\nkey = [\"{key}\"]\n{more}"
            )
        };
        // Without schemas in the messages a number of days is a number.
        let types = match maker {
            Maker::PostgreSql => "",
            Maker::MariaDb => "columns.reg_date.type = \"date\"\ncolumns.made.type = \"timestamp\"\n",
        };
        let state = "kind = \"latest\"\nkey = [\"car_id\"]\n[sources.carinfo]\non_delete = \"drop_row\"\n\
            [sources.deviceinfo]\nprefix = \"device_\"\n";
        let project = Project::new(kafka.brokers(), Lake::on(minio, name))
            .commit_interval("300ms")
            .schema("carinfo", &mirror("carinfo", "car_id", types))
            .schema("deviceinfo", &mirror("deviceinfo", "device_id", ""))
            .schema("car_state", state);
        let random = StdRng::seed_from_u64(seed);
        let mut chain = Self { database, minio, project, random, plate: "plate", evolved: false };
        chain.work(60);
        let connect = Connect::start(&chain.database, &kafka.brokers(), &prefix, connect).await;
        (chain, connect)
    }

    /// Random changes, one transaction for every few.
    fn work(&mut self, statements: usize) {
        let mut left = statements;
        while left > 0 {
            let together = self.random.random_range(1..=8).min(left);
            left -= together;
            let statements: Vec<String> = (0..together).map(|_| self.statement()).collect();
            self.database.run(&format!("BEGIN; {}; COMMIT", statements.join("; ")));
        }
    }

    fn statement(&mut self) -> String {
        let maker = self.database.maker;
        let random = &mut self.random;
        let (car, other, device) = (random.random_range(1..40), random.random_range(1..60), random.random_range(1..30));
        let number: u32 = random.random_range(0..1_000_000);
        let or_null =
            |random: &mut StdRng, value: String| if random.random_bool(0.2) { "NULL".to_owned() } else { value };
        let into = |table: &str, columns: &str, values: &str| match maker {
            Maker::PostgreSql => format!("INSERT INTO {table} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING"),
            Maker::MariaDb => format!("INSERT IGNORE INTO {table} ({columns}) VALUES ({values})"),
        };
        let plate = self.plate;
        match random.random_range(0..14) {
            0..=2 => {
                let price = or_null(random, format!("{}.{:02}", number, number % 100));
                let odo = or_null(random, format!("{number}.5"));
                let date = or_null(random, format!("'2026-{:02}-{:02}'", number % 12 + 1, number % 28 + 1));
                let flag = or_null(random, if maker == Maker::MariaDb { "1" } else { "true" }.to_owned());
                // Long enough for PostgreSQL to leave it out of what it tells of an update.
                let long: String =
                    (0..random.random_range(0..40)).map(|at| format!("{:08x}", number ^ (at * 2_654_435))).collect();
                let note = or_null(random, format!("'{}'", long.repeat(40)));
                let made = or_null(random, format!("'2026-03-04 05:06:{:02}.{:06}'", number % 60, number));
                let columns = format!("car_id, {plate}, price, odo, is_ev, reg_date, note, made");
                into(
                    "carinfo",
                    &columns,
                    &format!("{car}, '{car}가 {number}', {price}, {odo}, {flag}, {date}, {note}, {made}"),
                )
            }
            3..=5 => format!("UPDATE carinfo SET {plate} = '새 {number}', odo = {number}.5 WHERE car_id = {car}"),
            6 => format!(
                "UPDATE carinfo SET price = NULL, reg_date = '2027-01-0{}' WHERE car_id = {car}",
                number % 9 + 1
            ),
            7 => format!("DELETE FROM carinfo WHERE car_id = {car}"),
            8 => format!(
                "UPDATE carinfo SET car_id = {other} WHERE car_id = {car} AND NOT EXISTS (SELECT 1 FROM (SELECT car_id FROM carinfo) c WHERE c.car_id = {other})"
            ),
            9 | 10 => into("deviceinfo", "device_id, car_id, fw", &format!("{device}, {car}, '1.{number}'")),
            11 | 12 => format!("UPDATE deviceinfo SET car_id = {other}, fw = '2.{number}' WHERE device_id = {device}"),
            _ => format!("DELETE FROM deviceinfo WHERE device_id = {device}"),
        }
    }

    /// The columns of a table that are compared, its key first.
    fn columns(&self, table: &str) -> Vec<Compared> {
        let maker = self.database.maker;
        let mut names = match table {
            "carinfo" => vec!["car_id", self.plate, "price", "odo", "is_ev", "reg_date", "note"],
            _ => vec!["device_id", "car_id", "fw"],
        };
        if self.evolved && table == "carinfo" {
            names.push("color");
        }
        let mut columns: Vec<Compared> = names.into_iter().map(|name| plain(name, maker)).collect();
        if table == "carinfo" {
            columns.push(time("made", maker));
        }
        columns
    }

    /// Waits until both tables hold what the database's do.
    async fn agrees(&self, millpond: &Millpond, when: &str) {
        for (table, key) in [("carinfo", "car_id"), ("deviceinfo", "device_id")] {
            let columns = self.columns(table);
            let theirs = self.database.run(&lines(table, key, &columns, |column| &column.theirs));
            let ours = lines(table, key, &columns, |column| &column.ours);
            let url = millpond.project().flight_sql();
            let last = std::sync::Mutex::new(Vec::new());
            let what = format!("{table} agrees {when}");
            let same = wait_until(&what, SOON, async || {
                let output = millpond.project().run(&["sql", "--url", &url, "--format", "ndjson", "-c", &ours]).await;
                let line = |line: &str| {
                    serde_json::from_str::<serde_json::Value>(line).ok()?["line"].as_str().map(str::to_owned)
                };
                let found: Vec<String> = output.stdout.lines().filter_map(line).collect();
                let is_same = output.code == Some(0) && found == theirs;
                *last.lock().unwrap() = found;
                is_same.then_some(())
            });
            let late = tokio::time::timeout(SOON - Duration::from_secs(5), same).await.is_err();
            if late {
                let found = last.into_inner().unwrap();
                let cut = |line: &&String| line.chars().take(160).collect::<String>();
                let missing: Vec<_> =
                    theirs.iter().filter(|line| !found.contains(line)).map(|line| cut(&line)).collect();
                let more: Vec<_> = found.iter().filter(|line| !theirs.contains(line)).map(|line| cut(&line)).collect();
                panic!("{table} does not agree {when}:\nonly in the database: {missing:#?}\nonly in ours: {more:#?}");
            }
        }
        println!("agrees {when}");
    }

    /// Waits until outsiders see the same in the lake.
    async fn agrees_outside(&self) {
        let mut env: Vec<(&str, String)> = credentials().into();
        env.push(("AWS_ENDPOINT_URL", self.minio.endpoint()));
        for (table, key) in [("carinfo", "car_id"), ("deviceinfo", "device_id")] {
            let columns = self.columns(table);
            let theirs = self.database.run(&lines(table, key, &columns, |column| &column.theirs));
            let sql = lines("t", key, &columns, |column| &column.outside);
            wait_until(&format!("{table} agrees in the lake"), SOON, async || {
                let found = python::duckdb(&self.project.table_url(table), &sql, &env).await.ok()?;
                let found: Vec<&str> = found.iter().filter_map(|row| row["line"].as_str()).collect();
                (found == theirs).then_some(())
            })
            .await;
        }
    }

    async fn run(mut self, connect: Connect) {
        let millpond = Millpond::serve(&self.project).await;
        self.work(100);
        self.agrees(&millpond, "after a snapshot and changes").await;
        millpond.kill();
        self.work(60);
        let millpond = Millpond::serve(&self.project).await;
        self.agrees(&millpond, "after Millpond was killed").await;
        connect.stop();
        self.work(60);
        connect.restart().await;
        self.work(40);
        self.agrees(&millpond, "after the connector was killed").await;

        self.database.run("ALTER TABLE carinfo ADD COLUMN color varchar(20)");
        self.database.run("ALTER TABLE carinfo DROP COLUMN model");
        match self.database.maker {
            Maker::PostgreSql => self.database.run("ALTER TABLE carinfo ALTER COLUMN car_id TYPE bigint; ALTER TABLE carinfo RENAME COLUMN plate TO plate_no"),
            Maker::MariaDb => self.database.run("ALTER TABLE carinfo MODIFY car_id bigint; ALTER TABLE carinfo RENAME COLUMN plate TO plate_no"),
        };
        (self.plate, self.evolved) = ("plate_no", true);
        // What a rename did to rows that nobody touches, no message says.
        self.database.run("UPDATE carinfo SET color = 'red'");
        self.work(60);
        self.agrees(&millpond, "after its tables were altered").await;
        self.database.run("TRUNCATE TABLE deviceinfo");
        self.work(40);
        self.agrees(&millpond, "after a table was emptied").await;

        // What happens while nobody follows the log is in no message; only a new snapshot can tell.
        connect.stop();
        connect.forget();
        if self.database.maker == Maker::PostgreSql {
            let drop = "SELECT pg_drop_replication_slot('millpond') FROM pg_replication_slots WHERE NOT active";
            wait_until("the slot is dropped", SOON, async || (!self.database.run(drop).is_empty()).then_some(())).await;
        }
        self.work(120);
        self.database.run("DELETE FROM carinfo WHERE car_id % 3 = 0");
        self.database.run("DELETE FROM deviceinfo WHERE device_id % 3 = 0");
        connect.restart().await;
        self.work(40);
        self.agrees(&millpond, "after a new snapshot").await;
        assert_eq!(millpond.number("SELECT count(*) AS n FROM system.dead_letters").await, Some(0));
        let cars = self.database.run("SELECT count(*) FROM carinfo")[0].parse().ok();
        let state = "SELECT count(*) AS n FROM car_state WHERE plate_no IS NOT NULL";
        assert_eq!(millpond.number(state).await, cars, "one row per car, put together from both");
        assert_eq!(millpond.stop().await, Some(0));
        self.agrees_outside().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_agree_with_postgresql_whatever_happens_on_the_way() {
    // With schemas in the messages: types come from them.
    let schemas = "value.converter=org.apache.kafka.connect.json.JsonConverter\nvalue.converter.schemas.enable=true\n";
    let (chain, connect) = Chain::start(Maker::PostgreSql, "chain-postgres", schemas).await;
    chain.run(connect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_agree_with_mariadb_whatever_happens_on_the_way() {
    let (chain, connect) = Chain::start(Maker::MariaDb, "chain-mariadb", "decimal.handling.mode=string\n").await;
    chain.run(connect).await;
}

/// Transactions whose way is measured.
const TRANSACTIONS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[ignore = "a measurement of a minute; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_from_a_commit_in_postgresql_to_car_state() {
    let schemas = "value.converter=org.apache.kafka.connect.json.JsonConverter\nvalue.converter.schemas.enable=true\n";
    let (chain, _connect) = Chain::start(Maker::PostgreSql, "chain-latency", schemas).await;
    let millpond = Millpond::serve(&chain.project).await;
    chain.database.run("INSERT INTO carinfo (car_id, plate, odo) VALUES (1000, 'x', 0)");
    let arrived = "SELECT count(*) AS n FROM car_state WHERE car_id = 1000";
    wait_until("the car is there", SOON, async || millpond.number(arrived).await.filter(|found| *found == 1)).await;
    let client = Client::connect(&chain.project.flight_sql()).await;
    let mut look = client.prepare("SELECT CAST(odo AS BIGINT) FROM car_state WHERE car_id = 1000").await;
    // A statement at a time, each a transaction of its own; the first ones warm everybody up.
    let change = |at| format!("SELECT pg_sleep_for('50ms');\nUPDATE carinfo SET odo = {at} WHERE car_id = 1000;\n");
    let changes: String = (1..=TRANSACTIONS).map(change).collect();
    let mut changing = chain.database.script(&changes);
    let mut seen_us = vec![None; TRANSACTIONS + 1];
    let began = std::time::Instant::now();
    while seen_us[TRANSACTIONS].is_none() && began.elapsed() < SOON {
        let found = client.fetch(look.execute().await.unwrap()).await.unwrap();
        let now_us = chrono::Utc::now().timestamp_micros();
        let odo = found[0].column(0).as_primitive::<Int64Type>().value(0) as usize;
        // What comes in one batch is seen as the last of it.
        seen_us[..=odo].iter_mut().for_each(|seen_us| _ = seen_us.get_or_insert(now_us));
    }
    assert!(changing.wait().unwrap().success());
    let sql = "SELECT CAST(odo AS BIGINT), arrow_cast(_source_time, 'Int64'), arrow_cast(_timestamp, 'Int64') \
               FROM carinfo__changes WHERE car_id = 1000 AND _op = 'u'";
    let (mut whole, mut debezium) = (Vec::new(), Vec::new());
    for row in client.numbers(sql).await.unwrap() {
        let [odo, committed_us, produced_us] = row[..] else { unreachable!() };
        let Some(seen_us) = seen_us[odo as usize].filter(|_| odo > TRANSACTIONS as i64 / 4) else { continue };
        whole.push(seen_us - committed_us);
        debezium.push(produced_us - committed_us);
    }
    assert!(whole.len() > TRANSACTIONS / 2);
    for (name, mut took) in [("seen in car_state", whole), ("in Kafka, Debezium's share", debezium)] {
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
        println!("{name}: p50 {:.1} ms, p99 {:.1} ms after the commit ({} changes)", at(0.5), at(0.99), took.len());
    }
    assert_eq!(millpond.stop().await, Some(0));
}
