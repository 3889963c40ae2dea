//! A server and arrow-flight's own client in one process.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, Schema};
use arrow::util::pretty::pretty_format_batches;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo, CommandStatementQuery, ProstMessageExt, SqlInfo,
};
use arrow_flight::{Action, CancelFlightInfoRequest, FlightData, FlightDescriptor, FlightInfo, IpcMessage, Ticket};
use futures::TryStreamExt;
use prost::Message;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::query::tests::{Fixture, service, telemetry};
use crate::serve::Accounts;

type Client = FlightSqlServiceClient<Channel>;

struct Server {
    fixture: Arc<Fixture>,
    address: SocketAddr,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Server {
    async fn start() -> Self {
        let fixture = Fixture::fleet();
        let flight = Flight::bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
        let (address, shutdown) = (flight.address(), Shutdown::new());
        let task = crate::task::spawn(
            "server",
            flight.run(service(&fixture), Accounts::new(None).unwrap(), None, shutdown.clone()),
        );
        Self { fixture, address, shutdown, task }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    async fn client(&self) -> Client {
        FlightSqlServiceClient::new(self.channel().await)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn fetch(client: &mut Client, info: FlightInfo) -> std::result::Result<Vec<RecordBatch>, FlightError> {
    assert_eq!(info.endpoint.len(), 1);
    assert!(info.endpoint[0].location.is_empty());
    let stream = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await?;
    let announced = info.try_decode_schema().unwrap();
    let batches: Vec<RecordBatch> = stream.try_collect().await?;
    for batch in &batches {
        assert_eq!(batch.schema().as_ref(), &announced);
    }
    Ok(batches)
}

async fn ask(client: &mut Client, sql: &str) -> std::result::Result<Vec<RecordBatch>, FlightError> {
    let info = client.execute(sql.to_owned(), None).await?;
    fetch(client, info).await
}

fn number(batches: &[RecordBatch]) -> i64 {
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

fn texts(batches: &[RecordBatch], column: usize) -> Vec<String> {
    batches.iter().flat_map(|b| b.column(column).as_string::<i32>().iter().map(|v| v.unwrap().to_owned())).collect()
}

fn code(error: &FlightError) -> Code {
    let FlightError::Tonic(status) = error else { panic!("{error}") };
    status.code()
}

#[tokio::test]
async fn statements_make_a_round_trip() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.handshake("anyone", "anything").await.unwrap();
    assert!(client.token().is_some());
    let batches =
        ask(&mut client, "SELECT car_id, speed, event_time, tags FROM telemetry ORDER BY event_time").await.unwrap();
    let text = pretty_format_batches(&batches).unwrap().to_string();
    assert!(text.contains("| a      | 3.0   | 2026-11-22T00:02:00Z | [t2, ]"), "{text}");
    assert!(ask(&mut client, "SELECT * FROM telemetry WHERE false").await.unwrap().iter().all(|b| b.num_rows() == 0));

    // A ticket shows the rows of its planning, a second statement those of now. Read to its end it is spent.
    let info = client.execute("SELECT count(*) FROM telemetry".into(), None).await.unwrap();
    server.fixture.put("public", "telemetry", telemetry(0..10));
    assert_eq!(number(&fetch(&mut client, info.clone()).await.unwrap()), 3);
    let spent = info.endpoint[0].ticket.clone().unwrap();
    assert_eq!(code(&client.do_get(spent).await.err().unwrap()), Code::NotFound);
    assert_eq!(number(&ask(&mut client, "SELECT count(*) FROM telemetry").await.unwrap()), 10);
    server.stop().await;
}

#[tokio::test]
async fn messages_are_small_and_complete() {
    let server = Server::start().await;
    let mut client = server.client().await;
    // 24 MB in rows of 1 kB; arrow-flight's client refuses messages over 4 MiB by itself.
    let sql = "SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 24000)";
    let info = client.execute(sql.into(), None).await.unwrap();
    let mut raw = FlightServiceClient::new(server.channel().await);
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let messages: Vec<FlightData> = raw.do_get(ticket).await.unwrap().into_inner().try_collect().await.unwrap();
    let largest = messages.iter().map(|m| m.data_body.len() + m.data_header.len()).max().unwrap();
    assert!((1 << 19..=2 << 20).contains(&largest), "{largest}");
    let batches = ask(&mut client, sql).await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 24_000);
    server.stop().await;
}

#[tokio::test]
async fn prepared_statements_bind_by_position() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut statement =
        client.prepare("SELECT count(*) FROM telemetry WHERE car_id = ? AND gear >= ?".into(), None).await.unwrap();
    let parameters = statement.parameter_schema().unwrap().clone();
    assert_eq!(parameters.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["$1", "$2"]);
    // As ADBC names them.
    let row = |car: &str, gear: i64| {
        let columns: [(&str, ArrayRef); 2] =
            [("0", Arc::new(StringArray::from(vec![car]))), ("1", Arc::new(Int64Array::from(vec![gear])))];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    for (car, gear, expected) in [("a", 0, 2), ("a", 1, 1), ("b", 0, 1), ("zz", 0, 0)] {
        statement.set_parameters(row(car, gear)).unwrap();
        let info = statement.execute().await.unwrap();
        assert_eq!(number(&fetch(&mut client, info).await.unwrap()), expected, "{car} {gear}");
    }
    server.fixture.put("public", "telemetry", telemetry(0..10));
    let info = statement.execute().await.unwrap();
    assert_eq!(number(&fetch(&mut client, info).await.unwrap()), 0);
    let two = arrow::compute::concat_batches(&row("a", 0).schema(), &[row("a", 0), row("b", 0)]).unwrap();
    statement.set_parameters(two).unwrap();
    assert_eq!(code(&statement.execute().await.unwrap_err()), Code::InvalidArgument);
    statement.clone().close().await.unwrap();
    statement.set_parameters(row("a", 0)).unwrap();
    assert_eq!(code(&statement.execute().await.unwrap_err()), Code::NotFound);

    let twelve = (1..=12).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ");
    let mut statement = client.prepare(format!("SELECT concat_ws(',', {twelve})"), None).await.unwrap();
    let columns =
        (1..=12).map(|n| (format!("{}", n - 1), Arc::new(StringArray::from(vec![n.to_string()])) as ArrayRef));
    statement.set_parameters(RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    let info = statement.execute().await.unwrap();
    assert_eq!(texts(&fetch(&mut client, info).await.unwrap(), 0), ["1,2,3,4,5,6,7,8,9,10,11,12"]);
    server.stop().await;
}

#[tokio::test]
async fn metadata_is_filled_and_patterns_are_escaped() {
    let server = Server::start().await;
    server.fixture.view("a_b", "SELECT car_id FROM telemetry");
    server.fixture.put("public", "axb", telemetry(0..1));
    let mut client = server.client().await;
    let info = client.get_catalogs().await.unwrap();
    assert_eq!(texts(&fetch(&mut client, info).await.unwrap(), 0), ["millpond"]);
    let info = client.get_db_schemas(CommandGetDbSchemas::default()).await.unwrap();
    assert_eq!(texts(&fetch(&mut client, info).await.unwrap(), 1), ["information_schema", "public", "system"]);
    let info = client.get_table_types().await.unwrap();
    assert_eq!(texts(&fetch(&mut client, info).await.unwrap(), 0), ["SYSTEM TABLE", "TABLE", "VIEW"]);

    let all = CommandGetTables { db_schema_filter_pattern: Some("public".into()), ..CommandGetTables::default() };
    let cases = [
        (all.clone(), vec!["a_b", "axb", "carinfo", "telemetry"]),
        (CommandGetTables { catalog: Some(String::new()), ..all.clone() }, vec!["a_b", "axb", "carinfo", "telemetry"]),
        (
            CommandGetTables { catalog: Some("millpond".into()), ..all.clone() },
            vec!["a_b", "axb", "carinfo", "telemetry"],
        ),
        (CommandGetTables { catalog: Some("other".into()), ..all.clone() }, vec![]),
        (CommandGetTables { table_name_filter_pattern: Some("a_b".into()), ..all.clone() }, vec!["a_b", "axb"]),
        (CommandGetTables { table_name_filter_pattern: Some("a\\_b".into()), ..all.clone() }, vec!["a_b"]),
        (CommandGetTables { table_name_filter_pattern: Some("%info".into()), ..all.clone() }, vec!["carinfo"]),
        (CommandGetTables { table_types: vec!["VIEW".into()], ..all.clone() }, vec!["a_b"]),
        (
            CommandGetTables { db_schema_filter_pattern: Some("sys%".into()), ..CommandGetTables::default() },
            vec!["ingest", "running_queries", "sessions"],
        ),
    ];
    for (request, expected) in cases {
        let info = client.get_tables(request.clone()).await.unwrap();
        assert_eq!(texts(&fetch(&mut client, info).await.unwrap(), 2), expected, "{request:?}");
    }
    let every = client.get_tables(CommandGetTables::default()).await.unwrap();
    assert!(texts(&fetch(&mut client, every).await.unwrap(), 2).len() > 5);

    // The schema in the metadata is that of the rows.
    let request = CommandGetTables { include_schema: true, table_name_filter_pattern: Some("carinfo".into()), ..all };
    let info = client.get_tables(request).await.unwrap();
    let batches = fetch(&mut client, info).await.unwrap();
    let bytes = batches[0].column(4).as_binary::<i32>().value(0).to_vec();
    let described = Schema::try_from(IpcMessage(bytes.into())).unwrap();
    let rows = client.execute("SELECT * FROM carinfo".into(), None).await.unwrap();
    assert_eq!(described, rows.try_decode_schema().unwrap());

    let table = || "telemetry".to_owned();
    let keys = [
        client.get_primary_keys(CommandGetPrimaryKeys { table: table(), ..Default::default() }).await.unwrap(),
        client.get_exported_keys(CommandGetExportedKeys { table: table(), ..Default::default() }).await.unwrap(),
        client.get_imported_keys(CommandGetImportedKeys { table: table(), ..Default::default() }).await.unwrap(),
        client
            .get_cross_reference(CommandGetCrossReference {
                pk_table: table(),
                fk_table: table(),
                ..Default::default()
            })
            .await
            .unwrap(),
    ];
    for (info, columns) in keys.into_iter().zip([6, 13, 13, 13]) {
        assert_eq!(info.clone().try_decode_schema().unwrap().fields().len(), columns);
        assert_eq!(fetch(&mut client, info).await.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    }
    let asked = CommandGetPrimaryKeys { table: "carinfo".into(), db_schema: Some("public".into()), catalog: None };
    let info = client.get_primary_keys(asked.clone()).await.unwrap();
    let text = pretty_format_batches(&fetch(&mut client, info).await.unwrap()).unwrap().to_string();
    assert!(
        text.contains("| millpond     | public         | carinfo    | car_id      |          | 1            |"),
        "{text}"
    );
    let elsewhere = CommandGetPrimaryKeys { db_schema: Some("system".into()), ..asked };
    let info = client.get_primary_keys(elsewhere).await.unwrap();
    assert_eq!(fetch(&mut client, info).await.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    server.stop().await;
}

#[tokio::test]
async fn the_server_describes_itself() {
    let server = Server::start().await;
    let mut client = server.client().await;
    // What flightsql-dbapi asks for: name, Arrow version, read-only, quote.
    let wanted = vec![
        SqlInfo::FlightSqlServerName,
        SqlInfo::FlightSqlServerArrowVersion,
        SqlInfo::FlightSqlServerReadOnly,
        SqlInfo::SqlIdentifierQuoteChar,
    ];
    let info = client.get_sql_info(wanted).await.unwrap();
    let text = pretty_format_batches(&fetch(&mut client, info).await.unwrap()).unwrap().to_string();
    for part in ["Millpond", arrow::ARROW_VERSION, "bool_value=true", "string_value=\""] {
        assert!(text.contains(part), "{text}\nlacks {part}");
    }
    let info = client.get_sql_info(Vec::new()).await.unwrap();
    let all: usize = fetch(&mut client, info).await.unwrap().iter().map(RecordBatch::num_rows).sum();
    // All but the two Substrait versions that a server without Substrait leaves out.
    assert_eq!(all, 12 - 2 + 2 + (576 - 500 + 1));
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: None }).await.unwrap();
    assert!(fetch(&mut client, info).await.unwrap()[0].num_rows() > 10);

    let mut raw = FlightServiceClient::new(server.channel().await);
    let sql = CommandStatementQuery { query: "SELECT * FROM carinfo".into(), transaction_id: None };
    for command in [sql.as_any(), CommandGetCatalogs {}.as_any()] {
        let descriptor = FlightDescriptor::new_cmd(command.encode_to_vec());
        let schema = Schema::try_from(raw.get_schema(descriptor.clone()).await.unwrap().into_inner()).unwrap();
        let polled = raw.poll_flight_info(descriptor.clone()).await.unwrap().into_inner().info.unwrap();
        let info = raw.get_flight_info(descriptor).await.unwrap().into_inner();
        assert_eq!(schema, info.try_decode_schema().unwrap());
        assert_eq!(schema, polled.try_decode_schema().unwrap());
    }
    assert!(
        raw.list_flights(arrow_flight::Criteria::default())
            .await
            .unwrap()
            .into_inner()
            .message()
            .await
            .unwrap()
            .is_none()
    );
    server.stop().await;
}

#[tokio::test]
async fn writes_and_wrong_requests_are_refused_with_the_right_code() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (sql, expected) in [
        ("SELEC 1", Code::InvalidArgument),
        ("SELECT nope FROM telemetry", Code::InvalidArgument),
        ("SELECT * FROM nope", Code::NotFound),
        ("DELETE FROM telemetry", Code::PermissionDenied),
        ("COPY telemetry TO 'x.parquet'", Code::PermissionDenied),
        ("SELECT ?", Code::InvalidArgument),
    ] {
        assert_eq!(code(&client.execute(sql.into(), None).await.unwrap_err()), expected, "{sql}");
    }
    for (sql, expected) in
        [("INSERT INTO carinfo VALUES ('x', 'y')", Code::PermissionDenied), ("SELECT 1", Code::InvalidArgument)]
    {
        assert_eq!(code(&client.execute_update(sql.into(), None).await.unwrap_err()), expected, "{sql}");
    }
    let forged = Ticket::new(
        arrow_flight::sql::TicketStatementQuery { statement_handle: "0".repeat(32).into() }.as_any().encode_to_vec(),
    );
    assert_eq!(code(&client.do_get(forged).await.err().unwrap()), Code::NotFound);
    assert_eq!(code(&client.do_get(Ticket::new("x")).await.err().unwrap()), Code::InvalidArgument);
    assert_eq!(code(&client.begin_transaction().await.unwrap_err()), Code::Unimplemented);
    let error = client.execute("SELECT 1 / (gear - gear) FROM telemetry".into(), None).await;
    let error = match error {
        Ok(info) => fetch(&mut client, info).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(code(&error), Code::InvalidArgument);
    assert!(error.to_string().contains("division by zero"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn a_session_belongs_to_its_token_or_connection() {
    let server = Server::start().await;
    let (mut one, mut other) = (server.client().await, server.client().await);
    assert_eq!(one.execute_update("SET timezone = 'Asia/Seoul'".into(), None).await.unwrap(), 0);
    let zone = "SELECT arrow_typeof(now())";
    assert!(texts(&ask(&mut one, zone).await.unwrap(), 0)[0].contains("Asia/Seoul"));
    assert!(texts(&ask(&mut other, zone).await.unwrap(), 0)[0].contains("UTC"));

    // SetSessionOptions { "timezone": "Europe/Paris", "nothing": "x", "catalog": "millpond" }, by the bytes of the protocol.
    let entry = |name: &str, value: &str| {
        let mut inner = vec![0x0a, value.len() as u8];
        inner.extend(value.as_bytes());
        let mut pair = vec![0x0a, name.len() as u8];
        pair.extend(name.as_bytes());
        pair.extend([0x12, inner.len() as u8]);
        pair.extend(inner);
        [vec![0x0a, pair.len() as u8], pair].concat()
    };
    let body = [entry("timezone", "Europe/Paris"), entry("nothing", "x"), entry("catalog", "millpond")].concat();
    let mut answers = other.do_action(Action::new("SetSessionOptions", body)).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap().body;
    assert_eq!(answer.to_vec(), [&[0x0a, 13, 0x0a, 7][..], b"nothing", &[0x12, 2, 0x08, 1]].concat());
    assert!(texts(&ask(&mut other, zone).await.unwrap(), 0)[0].contains("Europe/Paris"));
    other.do_action(Action::new("CloseSession", "")).await.unwrap();
    assert!(texts(&ask(&mut other, zone).await.unwrap(), 0)[0].contains("UTC"));
    assert!(texts(&ask(&mut one, zone).await.unwrap(), 0)[0].contains("Asia/Seoul"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_statement_is_cancelled_by_its_info() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let info = client.execute("SELECT value FROM generate_series(1, 1000000000000)".into(), None).await.unwrap();
    let mut rows = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    assert!(rows.try_next().await.unwrap().is_some());
    let cancel = || Action::new("CancelFlightInfo", CancelFlightInfoRequest::new(info.clone()).encode_to_vec());
    client.do_action(cancel()).await.unwrap();
    let end = loop {
        match rows.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended as if it were complete"),
            Err(error) => break error,
        }
    };
    assert_eq!(code(&end), Code::Cancelled);
    assert_eq!(code(&client.do_action(cancel()).await.unwrap_err()), Code::NotFound);
    server.stop().await;
}
