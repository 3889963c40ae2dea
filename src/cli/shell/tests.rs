//! The shell against a server and against a session: the same text comes out.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

use super::format::render;
use super::*;
use crate::error::Kind;
use crate::query::tests::{Fixture, service};
use crate::serve::{Accounts, Flight};
use crate::task::Shutdown;

async fn text(target: &mut dyn Target, sql: &str, format: Format) -> Result<String> {
    let mut out = Vec::new();
    execute(target, sql, format, &mut out).await.unwrap()?;
    Ok(String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn local_and_remote_write_the_same() {
    let service = service(&Fixture::fleet());
    let flight = Flight::bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
    let (url, shutdown) = (format!("grpc://{}", flight.address()), Shutdown::new());
    let server =
        crate::task::spawn("server", flight.run(service.clone(), Accounts::new(None).unwrap(), None, shutdown.clone()));
    let mut local = Local::new(service.session());
    let mut remote = Remote::connect(&url).await.unwrap();

    let sql = "SELECT car_id, speed, gear, tags FROM telemetry ORDER BY gear LIMIT 2";
    let expected = [
        (
            Format::Table,
            " car_id │ speed │ gear │ tags\n────────┼───────┼──────┼────────────\n a      │   0.0 │    0 │ [t0, NULL]\n b      │  NULL │    1 │ [t1, NULL]\n",
        ),
        (Format::Csv, "car_id,speed,gear,tags\na,0.0,0,\"[t0, ]\"\nb,,1,\"[t1, ]\"\n"),
        (
            Format::Json,
            "[{\"car_id\":\"a\",\"speed\":0.0,\"gear\":0,\"tags\":[\"t0\",null]},{\"car_id\":\"b\",\"speed\":null,\"gear\":1,\"tags\":[\"t1\",null]}]\n",
        ),
        (
            Format::Ndjson,
            "{\"car_id\":\"a\",\"speed\":0.0,\"gear\":0,\"tags\":[\"t0\",null]}\n{\"car_id\":\"b\",\"speed\":null,\"gear\":1,\"tags\":[\"t1\",null]}\n",
        ),
    ];
    let none = [
        (Format::Table, " car_id\n────────\n"),
        (Format::Csv, "car_id\n"),
        (Format::Json, "[]\n"),
        (Format::Ndjson, ""),
    ];
    let targets: [&mut dyn Target; 2] = [&mut local, &mut remote];
    for target in targets {
        for (format, expected) in expected {
            assert_eq!(text(target, sql, format).await.unwrap(), expected);
        }
        for (format, expected) in none {
            assert_eq!(text(target, "SELECT car_id FROM telemetry WHERE false", format).await.unwrap(), expected);
        }
        assert_eq!(text(target, "SET timezone = 'Asia/Seoul'", Format::Table).await.unwrap(), "");
        assert!(text(target, "SHOW timezone", Format::Csv).await.unwrap().contains("Asia/Seoul"));
        let error = text(target, "SELECT * FROM telemtry", Format::Csv).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().ends_with("hint: did you mean telemetry?"), "{error}");
        assert_eq!(text(target, "DROP TABLE telemetry", Format::Csv).await.unwrap_err().kind(), Kind::Denied);
    }
    shutdown.cancel();
    server.await.unwrap().unwrap();
    assert_eq!(Remote::connect(&url).await.err().unwrap().kind(), Kind::Unavailable);
    assert_eq!(Remote::connect("nonsense").await.err().unwrap().kind(), Kind::Usage);
}

#[tokio::test]
async fn a_server_that_is_gone_is_named_and_found_again() {
    let service = service(&Fixture::fleet());
    let flight = Flight::bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
    let (address, shutdown) = (flight.address(), Shutdown::new());
    let server =
        crate::task::spawn("server", flight.run(service.clone(), Accounts::new(None).unwrap(), None, shutdown.clone()));
    let url = format!("grpc://{address}");
    let mut remote = Remote::connect(&url).await.unwrap();
    assert_eq!(text(&mut remote, "SELECT 1 AS n", Format::Csv).await.unwrap(), "n\n1\n");
    shutdown.cancel();
    server.await.unwrap().unwrap();
    let error = text(&mut remote, "SELECT 1 AS n", Format::Csv).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(error.message(), format!("the server at {url} is gone"));
    assert!(!error.to_string().contains("transport error"), "{error}");

    let flight = Flight::bind(address, false).await.unwrap();
    let server = crate::task::spawn("server", flight.run(service, Accounts::new(None).unwrap(), None, Shutdown::new()));
    assert_eq!(text(&mut remote, "SELECT 2 AS n", Format::Csv).await.unwrap(), "n\n2\n");
    server.abort();
}

#[tokio::test]
async fn a_script_stops_at_its_first_error() {
    let target = || Box::new(Local::new(service(&Fixture::fleet()).session()));
    let script = tempfile::NamedTempFile::new().unwrap();
    for (text, expected) in [
        ("SELECT 1; -- ;\nSET timezone = 'UTC'; SELECT ';'", ExitCode::SUCCESS),
        ("SELECT 1; SELECT nope; SELECT 2;", ExitCode::FAILURE),
        ("SELECT 'open", ExitCode::FAILURE),
        ("", ExitCode::SUCCESS),
    ] {
        std::fs::write(script.path(), text).unwrap();
        let args = SqlArgs { file: Some(script.path().into()), format: Format::Csv, ..SqlArgs::default() };
        assert_eq!(run(args, target()).await.unwrap(), expected, "{text}");
    }
    let two = SqlArgs { command: vec!["SELECT 1; SELECT 2".into()], ..SqlArgs::default() };
    assert_eq!(run(two, target()).await.unwrap(), ExitCode::FAILURE);
    let missing = SqlArgs { file: Some("/nonexistent/x.sql".into()), ..SqlArgs::default() };
    assert!(run(missing, target()).await.is_err());
}

#[test]
fn wide_tables_are_cut_and_control_characters_do_not_reach_the_terminal() {
    let wide = "x".repeat(200);
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int32Array::from(vec![Some(7), None]))),
        ("이름", Arc::new(StringArray::from(vec!["한국어", "a\nb\x1b[31m"]))),
        ("wide", Arc::new(StringArray::from(vec![wide.as_str(), ""]))),
        ("bytes", Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..], b""]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let schema = batch.schema();
    let full = render(&schema, std::slice::from_ref(&batch), None).unwrap();
    assert!(full.contains(&wide) && full.contains("NULL") && full.contains("00ff"));
    for width in 20..120 {
        let text = render(&schema, std::slice::from_ref(&batch), Some(width)).unwrap();
        for line in text.lines().filter(|line| !line.contains("not shown")) {
            assert!(unicode_width::UnicodeWidthStr::width(line) <= width, "{width}: {line}");
            assert!(!line.contains(char::is_control));
        }
    }
    let many: Vec<Field> = (0..40).map(|i| Field::new(format!("column_{i}"), DataType::Int32, true)).collect();
    let text = render(&Schema::new(many), &[], Some(80)).unwrap();
    assert!(text.contains("not shown for want of width: column_") && text.contains(" more\n"), "{text}");
}
