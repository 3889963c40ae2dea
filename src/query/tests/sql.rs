//! Statements that must work: rows, types, sessions, views, errors that help.

use arrow::datatypes::{DataType, Field, TimeUnit};

use super::*;
use crate::error::Kind;

/// Statement, and its rows with blanks taken out.
const WORKS: &[(&str, &str)] = &[
    ("SELECT count(*) FROM telemetry", "|3|"),
    ("SELECT car_id, speed FROM telemetry ORDER BY event_time DESC LIMIT 2", "|a|3.0|\n|b||"),
    ("SELECT t.car_id FROM telemetry t JOIN carinfo c USING (car_id) WHERE plate_no IS NOT NULL AND gear > 0", "|a|"),
    ("SELECT event_time FROM telemetry WHERE event_time < TIMESTAMP '2026-11-22T00:01:00Z'", "|2026-11-22T00:00:00Z|"),
    ("SELECT count(*) FROM telemetry WHERE event_time >= '2026-11-22T00:01:00Z'", "|2|"),
    ("SELECT count(*) FROM telemetry WHERE event_time > now() - INTERVAL '100 years'", "|3|"),
    ("SELECT count(*) FROM telemetry WHERE event_time < now() + INTERVAL '100 years'", "|3|"),
    ("SELECT date_trunc('hour', event_time) AS h, count(*) FROM telemetry GROUP BY h", "|2026-11-22T00:00:00Z|3|"),
    ("SELECT car_id FROM millpond.public.telemetry GROUP BY car_id ORDER BY 1", "|a|\n|b|"),
    ("SELECT topic FROM system.ingest", "|fleet.telemetry|"),
    ("SELECT tags FROM telemetry WHERE gear = 2", "|[t2,]|"),
    ("SELECT plate_no FROM carinfo ORDER BY plate_no NULLS LAST", "|12가3456|\n||"),
    ("SELECT value FROM generate_series(1, 3)", "|1|\n|2|\n|3|"),
    ("WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT sum(i) FROM n", "|6|"),
    ("SELECT car_id FROM telemetry EXCEPT SELECT 'b'", "|a|"),
    ("SELECT max(gear) OVER (PARTITION BY car_id) FROM telemetry ORDER BY 1", "|1|\n|2|\n|2|"),
    ("VALUES (1, 'x')", "|1|x|"),
    ("SELECT (SELECT count(*) FROM carinfo) WHERE EXISTS (SELECT 1 FROM carinfo WHERE car_id = 'a')", "|2|"),
    ("SELECT 1;", "|1|"),
    ("DESCRIBE carinfo", "|car_id|string|NO|\n|plate_no|string|YES|"),
    ("SHOW timezone", "|timezone|UTC|"),
    ("SHOW ALL", "|result_cache|on|\n|statement_timeout|600000ms|\n|timezone|UTC|\n|wait_for||"),
    (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1",
        "|carinfo|\n|telemetry|",
    ),
];

#[tokio::test]
async fn queries_answer() {
    let session = service(&Fixture::fleet()).session();
    let mut wrong = Vec::new();
    for (sql, expected) in WORKS {
        match rows(&session, sql).await {
            Ok(found) if found == *expected => {}
            Ok(found) => wrong.push(format!("{sql}\n{found}")),
            Err(error) => wrong.push(format!("{sql}\n{error}")),
        }
    }
    for sql in [
        "EXPLAIN SELECT * FROM telemetry",
        "EXPLAIN ANALYZE SELECT * FROM telemetry",
        "SHOW TABLES",
        "SHOW COLUMNS FROM carinfo",
        "SHOW FUNCTIONS",
        "EXPLAIN FORMAT TREE SELECT 1",
        "DESCRIBE SELECT 1",
    ] {
        match rows(&session, sql).await {
            Ok(found) if !found.is_empty() => {}
            other => wrong.push(format!("{sql}\n{other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_schema_is_in_wire_types_and_equals_that_of_the_rows() {
    let session = service(&Fixture::fleet()).session();
    for sql in [
        "SELECT * FROM telemetry",
        "SELECT * FROM carinfo",
        "SELECT plate_no, count(*), max(car_id), array_agg(car_id), min(arrow_cast('x', 'LargeUtf8')) FROM carinfo GROUP BY 1",
        "SELECT car_id FROM telemetry UNION ALL SELECT 1",
        "SELECT gear FROM telemetry UNION ALL SELECT 1.5",
        "SELECT named_struct('a', car_id, 'b', [car_id]), map(['k'], [car_id]), arrow_cast(1.5, 'Decimal32(3, 1)') FROM carinfo",
        "SELECT * FROM telemetry WHERE false",
        "SELECT NULL, now(), current_date, INTERVAL '1 day'",
        "SELECT arrow_cast(speed, 'Decimal256(40, 2)') FROM telemetry",
        "EXPLAIN SELECT 1",
        "DESCRIBE telemetry",
        "SHOW ALL",
        "SET statement_timeout = 1000",
    ] {
        let statement = session.prepare(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let query = statement.bind(Vec::new()).await.unwrap();
        let rows = query.run().await.unwrap();
        assert_eq!(statement.schema(), query.schema(), "{sql}");
        assert_eq!(rows.schema(), query.schema(), "{sql}");
        for field in query.schema().fields() {
            assert!(is_wire(field), "{sql}: {field}");
        }
        let schema = rows.schema();
        for batch in rows.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}")) {
            assert_eq!(batch.schema(), schema, "{sql}");
        }
    }
}

fn is_wire(field: &Field) -> bool {
    use DataType as T;
    field.is_nullable()
        && match field.data_type() {
            T::List(item) | T::FixedSizeList(item, _) => is_wire(item),
            T::Struct(fields) => fields.iter().all(|field| is_wire(field)),
            T::Map(entries, _) => matches!(entries.data_type(), T::Struct(f) if !f[0].is_nullable() && is_wire(&f[1])),
            T::Utf8View | T::LargeUtf8 | T::BinaryView | T::LargeBinary | T::LargeList(_) => false,
            T::Dictionary(_, _) | T::RunEndEncoded(_, _) | T::Decimal32(_, _) | T::Decimal64(_, _) => false,
            _ => true,
        }
}

#[tokio::test]
async fn parameters_are_typed_bound_by_number_and_see_fresh_rows() {
    let fixture = Fixture::fleet();
    let session = service(&fixture).session();
    let count = session.prepare("SELECT count(*) AS n FROM telemetry WHERE car_id = ? AND gear >= ?").await.unwrap();
    assert_eq!(count.parameters(), [DataType::Utf8, DataType::Int32]);
    let run = async |values: Vec<ScalarValue>| -> Result<i64> {
        let batches = count.run(values).await?.collect().await?;
        Ok(batches[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0))
    };
    assert_eq!(run(vec!["a".into(), 0_i64.into()]).await.unwrap(), 2);
    fixture.put("public", "telemetry", telemetry(0..10));
    assert_eq!(run(vec!["a".into(), 0_i64.into()]).await.unwrap(), 5);
    assert_eq!(run(vec!["a".into(), ScalarValue::Float64(Some(3.5))]).await.unwrap(), 3);
    assert_eq!(run(vec!["a".into(), ScalarValue::Int32(None)]).await.unwrap(), 0);
    assert_eq!(run(vec!["a".into()]).await.unwrap_err().kind(), Kind::Query);

    let many: Vec<String> = (1..=12).map(|n| format!("${n}")).collect();
    let reversed = session.prepare(&format!("SELECT concat_ws(',', {})", many.join(", "))).await.unwrap();
    let batches = reversed.run((1..=12).map(|n| n.to_string().as_str().into()).collect()).await.unwrap();
    let found = pretty_format_batches(&batches.collect().await.unwrap()).unwrap().to_string();
    assert!(found.contains("1,2,3,4,5,6,7,8,9,10,11,12"), "{found}");

    let time = session.prepare("SELECT event_time FROM telemetry WHERE event_time = $1").await.unwrap();
    for (sql, expected) in [
        ("SELECT $1::bigint, $2::date", vec![DataType::Int64, DataType::Date32]),
        ("SELECT car_id FROM telemetry LIMIT $1 OFFSET $2", vec![DataType::Int64, DataType::Int64]),
        ("SELECT value FROM generate_series(1, $1)", vec![DataType::Int64]),
        ("SELECT coalesce($1, gear), nullif(car_id, $2) FROM telemetry", vec![DataType::Int32, DataType::Utf8]),
        ("SELECT greatest(gear, $1, $2) FROM telemetry", vec![DataType::Int32, DataType::Int32]),
        ("SELECT CASE WHEN gear > 1 THEN $1 ELSE gear END FROM telemetry", vec![DataType::Int32]),
        ("SELECT coalesce($1, NULL, $2)", vec![DataType::Utf8, DataType::Utf8]),
        ("SELECT greatest($1, gear, speed) FROM telemetry", vec![DataType::Float64]),
    ] {
        assert_eq!(session.prepare(sql).await.unwrap().parameters(), expected, "{sql}");
    }
    // What the client says is so.
    let declared = vec![Some(DataType::Float64)];
    let half = session.prepare_typed("SELECT coalesce($1, gear) FROM telemetry LIMIT 1", declared).await.unwrap();
    assert_eq!((half.parameters(), half.schema().field(0).data_type()), (&[DataType::Float64][..], &DataType::Float64));
    let series = session.prepare("SELECT sum(value), $2 FROM generate_series($1, 4)").await.unwrap();
    let values = vec![ScalarValue::Int64(Some(3)), ScalarValue::Utf8(Some("x".into()))];
    let sum = series.run(values).await.unwrap().collect().await.unwrap();
    assert_eq!(sum[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0), 7);
    assert_eq!(time.parameters(), [DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))]);
    assert_eq!(session.query("SELECT ?").await.err().unwrap().kind(), Kind::Query);
}

#[tokio::test]
async fn a_bound_query_keeps_the_rows_it_was_planned_on() {
    let fixture = Fixture::fleet();
    let session = service(&fixture).session();
    let query = session.query("SELECT count(*) FROM telemetry").await.unwrap();
    fixture.put("public", "telemetry", telemetry(0..10));
    for _ in 0..2 {
        let batches = query.run().await.unwrap().collect().await.unwrap();
        assert_eq!(batches[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0), 3);
    }
    assert_eq!(rows(&session, "SELECT count(*) FROM telemetry").await.unwrap(), "|10|");
}

#[tokio::test]
async fn sessions_do_not_share_what_they_set() {
    let service = service(&Fixture::fleet());
    let (seoul, other) = (service.session(), service.session());
    for sql in ["SET TIME ZONE 'Asia/Seoul'", "SET statement_timeout TO '30s'", "SET timezone = 'Asia/Seoul'"] {
        assert_eq!(rows(&seoul, sql).await.unwrap(), "");
    }
    assert_eq!(rows(&seoul, "SHOW timezone").await.unwrap(), "|timezone|Asia/Seoul|");
    assert_eq!(
        rows(&other, "SHOW ALL").await.unwrap(),
        "|result_cache|on|\n|statement_timeout|600000ms|\n|timezone|UTC|\n|wait_for||"
    );
    let zone = "SELECT arrow_typeof(now())";
    assert!(rows(&seoul, zone).await.unwrap().contains("Asia/Seoul"));
    assert!(rows(&other, zone).await.unwrap().contains("UTC"));
    rows(&seoul, "RESET timezone").await.unwrap();
    assert!(rows(&seoul, zone).await.unwrap().contains("UTC"));
}

#[tokio::test]
async fn views_are_planned_on_the_statement_s_tables() {
    let fixture = Fixture::fleet();
    fixture.view("fast", "SELECT car_id, speed FROM telemetry WHERE speed > 1");
    fixture.view("fast_named", "SELECT f.*, c.plate_no FROM fast f JOIN carinfo c USING (car_id)");
    fixture.view("chicken", "SELECT * FROM egg");
    fixture.view("egg", "SELECT * FROM chicken");
    fixture.view("broken", "SELECT nothing FROM telemetry");
    fixture.view("writes", "DELETE FROM carinfo");
    fixture.view("open", "SELECT * FROM telemetry WHERE gear = ?");
    let session = service(&fixture).session();
    assert_eq!(rows(&session, "SELECT plate_no, speed FROM fast_named").await.unwrap(), "|12가3456|3.0|");
    assert_eq!(rows(&session, "SELECT count(*) FROM fast, fast f2").await.unwrap(), "|1|");
    let fails = async |sql: &str| session.query(sql).await.err().unwrap();
    let circle = fails("SELECT * FROM chicken").await;
    assert!(circle.to_string().contains("chicken → egg → chicken"), "{circle}");
    assert!(fails("SELECT * FROM broken").await.to_string().contains("in view `broken`"));
    assert_eq!(fails("SELECT * FROM writes").await.kind(), Kind::Query);
    assert_eq!(fails("SELECT * FROM open").await.kind(), Kind::Query);
    let listed = "SELECT table_name FROM information_schema.tables WHERE table_type = 'VIEW' AND table_schema = 'public' ORDER BY 1";
    assert_eq!(rows(&session, listed).await.unwrap(), "|fast|\n|fast_named|");
    let tables = session.tables().await.unwrap();
    let named = |name: &str| tables.iter().find(|table| table.name == name).unwrap();
    assert_eq!((named("fast_named").kind, named("fast_named").columns.fields().len()), ("VIEW", 3));
    assert_eq!((named("broken").kind, named("broken").columns.fields().len()), ("VIEW", 0));
    assert_eq!((named("ingest").schema.as_str(), named("ingest").kind), ("system", "SYSTEM TABLE"));
}

#[tokio::test]
async fn a_view_is_judged_by_what_is_known() {
    let fixture = Fixture::fleet();
    // Name, text, what is wrong in any case, and what once all columns are known: the place.
    let views = [
        ("fine", "SELECT car_id FROM telemetry", None, None),
        ("no_table", "SELECT *\nFROM telemtry", Some((2, 6)), Some((2, 6))),
        ("syntax", "\n\nSELECT car_id FRM telemetry t", Some((3, 19)), Some((3, 19))),
        ("no_column", "SELECT car_id,\n  sped FROM telemetry", None, Some((2, 3))),
    ];
    for (name, sql, ..) in views {
        fixture.view(name, sql);
    }
    fixture.view("writes", "WITH gone AS (DELETE FROM carinfo) SELECT 1");
    fixture.view("types", "SELECT car_id + INTERVAL '1 day' FROM telemetry");
    fixture.view("outer_view", "SELECT * FROM no_column");
    let session = service(&fixture).session();
    let place = async |name: &str, known| session.check_view(name, known).await.err().map(|error| error.place());
    for (name, _, young, known) in views {
        assert_eq!(place(name, false).await, young.map(Some), "{name}");
        assert_eq!(place(name, true).await, known.map(Some), "{name}");
    }
    for (name, young) in [("writes", true), ("types", false), ("outer_view", false)] {
        assert_eq!(session.check_view(name, false).await.is_err(), young, "{name}");
        assert!(session.check_view(name, true).await.is_err(), "{name}");
    }
    let inner = session.check_view("outer_view", true).await.err().unwrap();
    assert!(inner.message().starts_with("in view `no_column`: ") && inner.place().is_none(), "{inner}");
}

/// Statement, kind, and what its message must say.
const FAILS: &[(&str, Kind, &[&str])] = &[
    ("SELECT , FROM telemetry", Kind::Query, &["syntax error", "\n  SELECT , FROM telemetry\n         ^", "^"]),
    ("SELECT 'open", Kind::Query, &["syntax error", "^"]),
    ("SELEC 1", Kind::Query, &["syntax error", "\n  SELEC 1\n  ^"]),
    (
        "SELECT *\nFROM telemtry",
        Kind::NotFound,
        &["table `telemtry` does not exist", "\n  FROM telemtry\n       ^", "did you mean telemetry?"],
    ),
    ("SELECT * FROM system.ingst", Kind::NotFound, &["system.ingst", "did you mean system.ingest?"]),
    ("SELECT * FROM nowhere.x", Kind::NotFound, &["nowhere.x"]),
    (
        "SELECT sped FROM telemetry",
        Kind::Query,
        &["column `sped` does not exist", "\n  SELECT sped FROM telemetry\n         ^", "did you mean speed?"],
    ),
    ("SELECT Speed FROM telemetry WHERE \"Speed\" > 1", Kind::Query, &["column `Speed`", "did you mean speed?"]),
    ("SELECT nofunction(1)", Kind::Query, &["nofunction"]),
    ("SELECT car_id + 1 FROM telemetry", Kind::Query, &[]),
    ("SELECT 1 / 0", Kind::Query, &["division by zero"]),
    ("SELECT CAST('x' AS INT)", Kind::Query, &["'x'"]),
    ("SELECT count(*) FROM telemetry GROUP BY nope", Kind::Query, &["column `nope`"]),
    ("SELECT car_id FROM telemetry, carinfo", Kind::Query, &["car_id"]),
];

#[tokio::test]
async fn errors_say_what_where_and_the_way_out() {
    let session = service(&Fixture::fleet()).session();
    let mut wrong = Vec::new();
    for (sql, kind, parts) in FAILS {
        let error = match rows(&session, sql).await {
            Ok(_) => {
                wrong.push(format!("{sql}\nwas taken"));
                continue;
            }
            Err(error) => error,
        };
        let text = error.to_string();
        let told = parts.iter().all(|part| text.contains(part));
        let raw = ["DataFusion", "planning:", "Backtrace", "ParserError", "Some(", "bug report"];
        if error.kind() != *kind || !told || raw.iter().any(|word| text.contains(word)) {
            wrong.push(format!("{sql}\n{:?} {text}", error.kind()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let deep = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert_eq!(session.query(&deep).await.err().unwrap().kind(), Kind::Query);
}
