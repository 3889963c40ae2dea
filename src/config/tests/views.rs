//! `queries/<name>.sql`.

use super::{assert_problems, load};

#[test]
fn a_view_keeps_its_line_numbers() {
    let file = "-- who is where\r\n--! kind = \"view\"\n\nSELECT car_id -- the car\nFROM telemetry\n";
    let views = load(&[("queries/where_is.sql", file)]).unwrap().views;
    assert_eq!(views.len(), 1);
    assert_eq!(views[0].name, "where_is");
    assert_eq!(views[0].sql, "-- who is where\n\n\nSELECT car_id -- the car\nFROM telemetry\n");
    assert!(views[0].file.ends_with("queries/where_is.sql"));
}

#[test]
fn a_view_says_what_its_columns_are() {
    let file = "--! kind = \"view\"\n--! columns = { a = \"the first\", b = \"the other\" }\nSELECT 1 AS a, 2 AS b\n";
    let views = load(&[("queries/v.sql", file)]).unwrap().views;
    let known: Vec<(&str, &str)> = views[0].columns.iter().map(|(name, said)| (name.as_str(), said.as_str())).collect();
    assert_eq!(known, [("a", "the first"), ("b", "the other")]);
}

#[test]
fn mistakes() {
    for (file, expected) in [
        ("SELECT 1", vec![":1:1: kind: is missing\n  hint: the file begins with the line: --! kind = \"view\""]),
        (
            "--! kind = \"tabel\"\n--! every = \"1h\"\nSELECT 1",
            vec![":1:12: kind: `tabel` is not known here\n  hint: did you mean `table`?"],
        ),
        (
            "--! kind = \"stream\"\n--! mode = \"upsert\"\n--! for = \"1s\"\nSELECT 1",
            vec![
                ":2:12: mode: needs `key`: the columns that say whose a row is\n  hint: key = [\"car_id\"]",
                ":3:5: for: unknown key\n  hint: known here: kind, key, mode, table, to",
            ],
        ),
        (
            "--! kind = \"alert\"\n--! for = \"30s\"\nSELECT 1",
            vec![":1:1: key: is missing\n  hint: the columns that tell its alerts apart, such as [\"car_id\"]"],
        ),
        (
            "--! kind = \"alert\"\n--! key = []\n--! for = \"soon\"\n--! to = [\"ops\"]\n--! message = \"{\"\nSELECT 1",
            vec![
                ":2:11: key: is empty\n  hint: name one column at least",
                ":3:11: for: `soon` is not a duration\n  hint: a whole number and a unit: ms, s, m, h or d, as in \"250ms\" or \"10m\"",
                ":4:11: to: there is no sink `ops`\n  hint: say where it is: [sinks.ops] in millpond.toml",
                ":5:15: message: the `{` at character 1 begins no name such as {car_id}; `{{` writes a brace",
            ],
        ),
        (
            "--! kind = \"alert\"\n--! key = \"a\"\n--! once = true\n--! for = \"1s\"\nSELECT 1",
            vec![":4:11: for: does not go with `once`: an event does not last"],
        ),
        (
            "--! kind = \"alert\"\n--! key = \"a\"\n--! expect = \"SELECT 1\"\n--! storm_limit = \"5\"\nSELECT 1",
            vec![":3:14: expect: says nothing without `absent_for`"],
        ),
        (
            "--! kind = \"alert\"\n--! key = \"a\"\n--! storm_limit = \"0/1m\"\n--! description = \"one\"\nSELECT 1",
            vec![
                ":3:19: storm_limit: `0/1m` is not a limit\n  hint: alerts and a time, such as \"100/1m\"",
                ":4:5: description: `description` is not in this version of Millpond",
            ],
        ),
        (
            "\n--! kind = \"veiw\"\nSELECT 1",
            vec![":2:12: kind: `veiw` is not known here\n  hint: did you mean `view`?"],
        ),
        (
            "--! kind = \"view\"\n  --!  knid = 1\nSELECT 1",
            vec![":2:8: knid: unknown key\n  hint: did you mean `kind`?"],
        ),
        (
            "--! kind = \"view\"\nSELECT 1\n --! x = 1",
            vec![":3:2: an option below the SQL\n  hint: `--!` lines stand at the head of the file"],
        ),
        (
            "--! kind = \"view\"\n--! columns = { a = 1 }\nSELECT 1 AS a",
            vec![":2:21: columns.a: expected a text, found a number"],
        ),
        ("--! kind = \"view\"\n-- nothing\n;\n", vec![": holds no SQL"]),
        (
            "--! kind = \"view\"\n--! description = \"${x}\"\nSELECT 1",
            vec![":2:5: description: `description` is not in this version of Millpond"],
        ),
    ] {
        let expected: Vec<String> = expected.iter().map(|problem| format!("queries/v.sql{problem}")).collect();
        assert_problems(&[("queries/v.sql", file)], &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn a_view_has_no_tables_name() {
    assert_problems(
        &[
            ("schemas/v.toml", "kind = \"events\"\ntopic = \"t\"\n"),
            ("queries/v.sql", "--! kind = \"view\"\nSELECT 1\n"),
        ],
        &["queries/v.sql: there is a table of this name: schemas/v.toml\n  hint: rename one of the two files"],
    );
}
