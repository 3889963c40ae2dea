use super::*;
use crate::query::parse;

fn of(sql: &str) -> (String, bool) {
    let mut statement = parse::parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}")).statement;
    let own = asks(&statement);
    rewrite(&mut statement);
    (statement.to_string(), own)
}

#[test]
fn statements_of_people_keep_their_words() {
    for sql in [
        "SELECT a, b AS c FROM t WHERE x = 1",
        "SELECT * FROM system.tables",
        "SELECT (SELECT b FROM u WHERE u.a = t.a) AS x FROM t",
    ] {
        assert_eq!(of(sql), (sql.to_owned(), false));
    }
    assert_eq!(of("SELECT count(*), sum(a) FROM t").0, "SELECT count(*) AS \"count\", sum(a) AS \"sum\" FROM t");
    assert_eq!(of("SELECT 1").0, "SELECT 1 AS \"?column?\"");
    assert_eq!(of("SELECT a FROM t WHERE a LIKE '50/%/_' ESCAPE '/'").0, "SELECT a FROM t WHERE a LIKE '50\\%\\_'");
    assert_eq!(of("SELECT 1, 2").0, "SELECT 1 AS \"?column?\", 2 AS \"?column?\u{1}2\"");
}

#[test]
fn statements_of_tools_can_be_planned() {
    let cases = [
        ("SELECT c.oid FROM pg_catalog.pg_class c", r#"SELECT c.oid FROM "pg_catalog"."pg_class" c"#),
        ("SELECT oid FROM pg_class", r#"SELECT oid FROM "pg_catalog"."pg_class" AS "pg_class""#),
        (
            "SELECT a FROM information_schema.tables",
            r#"SELECT a FROM "pg_catalog"."information_schema.tables" AS "tables""#,
        ),
        (
            "SELECT a FROM pg_class WHERE relname OPERATOR(pg_catalog.~) '^(x)$' COLLATE pg_catalog.default",
            r#"SELECT a FROM "pg_catalog"."pg_class" AS "pg_class" WHERE relname ~ '^(x)$'"#,
        ),
        ("SELECT 'x'::pg_catalog.regclass AS a", "SELECT pg_regclass('x') AS a"),
        ("SELECT oid::regclass::text AS a FROM t", "SELECT pg_regclass_text(oid) AS a FROM t"),
        ("SELECT 'c'::pg_catalog.\"char\" AS a", "SELECT 'c'::TEXT AS a"),
        ("SELECT current_user AS a", "SELECT current_user() AS a"),
        (
            "SELECT (SELECT d.x FROM pg_type d WHERE d.y = a.y) AS z FROM pg_attribute a",
            r#"SELECT (SELECT max(d.x) FROM "pg_catalog"."pg_type" d WHERE d.y = a.y) AS z FROM "pg_catalog"."pg_attribute" a"#,
        ),
        (
            "SELECT (SELECT d.x FROM pg_attrdef d WHERE a.y) AS z FROM pg_attribute a WHERE EXISTS (SELECT 1 FROM pg_enum)",
            r#"SELECT CAST(NULL AS TEXT) AS z FROM "pg_catalog"."pg_attribute" a WHERE false"#,
        ),
        (
            "SELECT ARRAY(SELECT x FROM pg_type ORDER BY 1) AS z",
            r#"SELECT (SELECT array_agg(x) FROM "pg_catalog"."pg_type" AS "pg_type") AS z"#,
        ),
        (
            "SELECT unnest(conkey) AS a, generate_subscripts(conkey, 1) AS b FROM pg_constraint",
            r#"SELECT unnest(conkey) AS a, unnest(range(1, array_upper(conkey, 1) + 1)) AS b FROM "pg_catalog"."pg_constraint" AS "pg_constraint""#,
        ),
        (
            "SELECT i.indkey[a.attnum - 1] AS k FROM pg_index i, pg_attribute a",
            r#"SELECT i.indkey[(a.attnum - 1) + 1] AS k FROM "pg_catalog"."pg_index" i, "pg_catalog"."pg_attribute" a"#,
        ),
        (
            "SELECT i AS a FROM ((SELECT conkey, generate_series(1, 2) AS i FROM pg_constraint WHERE contype = 'f' AND true) r JOIN pg_class c ON c.oid = r.x) ORDER BY i",
            r#"SELECT CAST(NULL AS TEXT) AS "a" WHERE false"#,
        ),
    ];
    for (sql, wanted) in cases {
        assert_eq!(of(sql), (wanted.to_owned(), true));
    }
}
