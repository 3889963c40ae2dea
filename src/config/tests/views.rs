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
fn mistakes() {
    for (file, expected) in [
        ("SELECT 1", vec![":1:1: kind: is missing\n  hint: the file begins with the line: --! kind = \"view\""]),
        (
            "--! kind = \"alert\"\n--! for = \"30s\"\nSELECT 1",
            vec![":1:12: kind: `alert` is not in this version of Millpond"],
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
