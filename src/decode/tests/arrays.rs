//! Arrays: lists, and what a contract makes of them.

use super::*;
use crate::schema::{Found, infer_first, tests::contract};

fn with_arrays(arrays: &[(&str, ArrayShape)]) -> Contract {
    let array = |(path, shape): &(&str, ArrayShape)| {
        let Path::Value(path) = path.parse().unwrap() else { panic!("{path}") };
        ArrayContract { path, shape: shape.clone() }
    };
    Contract { arrays: arrays.iter().map(array).collect(), ..contract() }
}

fn pivot(by: &str, value: Option<&str>) -> ArrayShape {
    ArrayShape::Pivot { by: by.into(), value: value.map(str::to_owned) }
}

/// The rows of payloads that decide the types themselves.
fn rows(contract: &Contract, payloads: &[&str]) -> Vec<Vec<(String, String)>> {
    let records = records(0, payloads);
    let decoded = decode(contract, &infer_first(contract, &[&records]), &records);
    assert!(decoded.dead.is_empty(), "{:?}", decoded.dead);
    users_cells(&decoded.rows)
}

#[test]
fn arrays_of_scalars_of_one_kind_are_lists() {
    let payload =
        r#"{"i":[1,null,2],"d":[1,2.5],"b":[true],"s":["a","b"],"mixed":[1,"a"],"objects":[{"a":1}],"empty":[]}"#;
    let first = infer_first(&contract(), &[&records(0, &[payload])]);
    let kinds: Vec<&str> = first.columns.iter().map(|column| column.kind.word()).collect();
    assert_eq!(kinds, ["bigint[]", "double[]", "boolean[]", "string[]", "json", "json"]);
    let expected = cells(&[
        ("_rescued", r#"{"empty":[]}"#),
        ("b", "[true]"),
        ("d", "[1.0;2.5]"),
        ("i", "[1;null;2]"),
        ("mixed", r#"[1,"a"]"#),
        ("objects", r#"[{"a":1}]"#),
        ("s", "[a;b]"),
    ]);
    assert_eq!(rows(&contract(), &[payload]), [expected]);
}

#[test]
fn a_list_with_a_misfit_is_rescued_whole() {
    let version = version(0, &[column("l", "l", ColumnType::List(Element::Int64))]);
    for (payload, expected) in [
        (r#"{"l":[1, 2]}"#, &[("l", "[1;2]")][..]),
        (r#"{"l":[]}"#, &[("l", "[]")]),
        (r#"{"l":null}"#, &[]),
        (r#"{"l":[1, 2.5, 3]}"#, &[("_rescued", r#"{"l":[1,2.5,3]}"#)]),
        (r#"{"l":[1, [2]]}"#, &[("_rescued", r#"{"l":[1,[2]]}"#)]),
        (r#"{"l":1}"#, &[("_rescued", r#"{"l":1}"#)]),
    ] {
        assert_eq!(only_row(&decode(&contract(), &version, &records(0, &[payload]))), cells(expected), "{payload}");
    }
    // In one batch: values before and behind the misfit stand where they belong.
    let batch = decode(&contract(), &version, &records(0, &[r#"{"l":[1]}"#, r#"{"l":["x"]}"#, "{}", r#"{"l":[2,3]}"#]));
    let lists: Vec<Option<String>> = (0..4).map(|row| cell(&batch.rows["l"], row)).collect();
    assert_eq!(lists, [Some("[1]".into()), None, None, Some("[2;3]".into())]);
}

#[test]
fn a_json_column_of_old_takes_arrays_as_before() {
    let version = version(0, &[column("tags", "tags", ColumnType::Json)]);
    let decoded = decode(&contract(), &version, &records(0, &[r#"{"tags":[ "a", "b" ]}"#]));
    assert_eq!(only_row(&decoded), cells(&[("tags", r#"["a","b"]"#)]));
    assert_eq!((decoded.found.len(), version.evolve(&contract(), &decoded.found)), (0, None));
}

#[test]
fn a_pivot_reads_an_array_as_an_object() {
    let contract = with_arrays(&[("v.sensors", pivot("name", Some("value")))]);
    let payload = r#"{"v":{"sensors":[
        {"name":"Oil","value":3.5,"unit":"bar"},
        {"value":{"x":1,"y":2},"name":"gyro"},
        {"name":7,"value":true},
        {"name":"Oil","value":4.5},
        {"name":"the odd.one","value":"text"},
        {"name":"nothing"}]}}"#;
    let expected = cells(&[
        ("v_sensors_7", "true"),
        ("v_sensors_gyro_x", "1"),
        ("v_sensors_gyro_y", "2"),
        ("v_sensors_oil", "4.5"),
        ("v_sensors_oil_unit", "bar"),
        ("v_sensors_the_odd_one", "text"),
    ]);
    assert_eq!(rows(&contract, &[payload]), [expected]);
    // Without `value` all other members stand below the name.
    let contract = with_arrays(&[("sensors", pivot("name", None))]);
    let payload = r#"{"sensors":[{"name":"oil","v":3.1,"at":{"ms":5}},{"name":"fuel","v":0.5}]}"#;
    let expected = cells(&[("sensors_fuel_v", "0.5"), ("sensors_oil_at_ms", "5"), ("sensors_oil_v", "3.1")]);
    assert_eq!(rows(&contract, &[payload]), [expected]);
}

#[test]
fn a_new_name_in_a_pivot_is_a_new_field() {
    let contract = with_arrays(&[("s", pivot("n", Some("v")))]);
    let first = infer_first(&contract, &[&records(0, &[r#"{"s":[{"n":"a","v":1}]}"#])]);
    let later = records(1, &[r#"{"s":[{"n":"b","v":true},{"n":"a","v":2}]}"#]);
    let before = decode(&contract, &first, &later);
    assert_eq!(only_row(&before), cells(&[("_rescued", r#"{"s.b":true}"#), ("s_a", "2")]));
    let second = first.evolve(&contract, &before.found).unwrap();
    assert_eq!(only_row(&decode(&contract, &second, &later)), cells(&[("s_a", "2"), ("s_b", "true")]));
}

#[test]
fn an_array_that_cannot_be_pivoted_is_rescued_whole() {
    let contract = with_arrays(&[("s", pivot("n", Some("v")))]);
    for array in [r#"[{"n":"a","v":1},{"v":2}]"#, r#"[{"n":null}]"#, r#"[{"n":{}}]"#, "[1]", "[[]]"] {
        let payload = format!("{{\"s\":{array}}}");
        let decoded = decode(&contract, &version(0, &[]), &records(0, &[&payload]));
        assert_eq!(only_row(&decoded), cells(&[("_rescued", &payload)]));
        assert!(decoded.found.is_empty());
        let strict = Contract { on_type_conflict: OnTypeConflict::DeadLetter, ..contract.clone() };
        let dead = decode(&strict, &version(0, &[]), &records(0, &[&payload])).dead;
        assert_eq!(
            (dead[0].reason, dead[0].message.as_str()),
            (Reason::Misfit, format!("`s` cannot be pivoted: {array}").as_str())
        );
    }
    assert_eq!(rows(&contract, &[r#"{"s":[]}"#, r#"{"s":null}"#]), [vec![], vec![]]);
    // What is no array is what it is.
    assert_eq!(rows(&contract, &[r#"{"s":{"a":1}}"#]), [cells(&[("s_a", "1")])]);
}

#[test]
fn the_first_element_stands_for_the_array() {
    let contract = with_arrays(&[("a", ArrayShape::First)]);
    let payloads = [r#"{"a":[{"x":1},{"x":2}],"b":0}"#, r#"{"a":[]}"#, r#"{"a":{"x":3}}"#, r#"{"a":[7,8]}"#];
    let expected = [cells(&[("a_x", "1"), ("b", "0")]), vec![], cells(&[("a_x", "3")]), cells(&[("a", "7")])];
    assert_eq!(rows(&contract, &payloads), expected);
}

#[test]
fn declared_lists_and_json() {
    let contract = with_arrays(&[("l", ArrayShape::List), ("j", ArrayShape::Json)]);
    let expected = cells(&[("j", "[1]"), ("l", "[1;a;null]")]);
    assert_eq!(rows(&contract, &[r#"{"l":[1,"a",null],"j":[1]}"#]), [expected]);
}

/// A decoder of a table and its children, each with what it has found in `records`.
fn family(contract: &Contract, records: &Records) -> Decoder {
    fn evolved(contract: &Contract, found: Vec<Found>, children: Vec<Child>) -> Decoder {
        let version = SchemaVersion::declared(contract);
        let version = version.evolve(contract, &found).unwrap_or(version);
        let children = contract
            .children()
            .into_iter()
            .zip(children)
            .map(|(contract, child)| evolved(&contract, child.found, child.children));
        Decoder::new(Arc::new(contract.clone()), Arc::new(version)).with_children(children.collect())
    }
    fn empty(contract: &Contract) -> Decoder {
        let children = contract.children().iter().map(empty).collect();
        Decoder::new(Arc::new(contract.clone()), Arc::new(SchemaVersion::declared(contract))).with_children(children)
    }
    let seen = empty(contract).decode(records).unwrap();
    evolved(contract, seen.found, seen.children)
}

#[test]
fn elements_of_a_child_are_rows_of_their_own_table() {
    let contract = with_arrays(&[
        ("trip.legs", ArrayShape::Child),
        ("trip.legs.stops", ArrayShape::Child),
        ("trip.legs.tags", ArrayShape::First),
    ]);
    let tables: Vec<String> = contract.children().iter().map(|child| child.table.clone()).collect();
    assert_eq!(tables, ["telemetry__trip_legs"]);
    let contract =
        Contract { time: Some(EventTime { path: "at".parse().unwrap(), format: TimeFormat::UnixSeconds }), ..contract };
    let payloads = [
        r#"[{"id":1},{"id":2,"at":1709251200,"trip":{"legs":[{"km":1.5,"stops":[5,{"name":"x"}],"tags":["t"]},{"km":2.5},null]}}]"#,
        r#"{"id":3,"trip":{"legs":[]}}"#,
        r#"{"id":4,"trip":{"legs":[{"km":"#,
    ];
    let records = records(7, &payloads);
    let decoded = family(&contract, &records).decode(&records).unwrap();
    assert_eq!(users_cells(&decoded.rows), [cells(&[("id", "1")]), cells(&[("id", "2")]), cells(&[("id", "3")])]);
    assert_eq!((decoded.dead.len(), decoded.found.len(), decoded.rescued), (1, 0, 0));
    let [legs] = decoded.children.as_slice() else { panic!("{:?}", decoded.children) };
    let expected = [
        cells(&[("_index_1", "0"), ("km", "1.5"), ("tags", "t")]),
        cells(&[("_index_1", "1"), ("km", "2.5")]),
        cells(&[("_index_1", "2")]),
    ];
    assert_eq!(users_cells(&legs.rows), expected);
    for (offset, row, cells) in rows_of(&legs.rows) {
        assert_eq!((offset, row, cells[fixed::EVENT_TIME].as_str()), (7, 1, "1709251200000000"));
    }
    let [stops] = legs.children.as_slice() else { panic!("{:?}", legs.children) };
    let expected = [
        cells(&[("_index_1", "0"), ("_index_2", "0"), ("value", "5")]),
        cells(&[("_index_1", "0"), ("_index_2", "1"), ("name", "x")]),
    ];
    assert_eq!(users_cells(&stops.rows), expected);
    let names: Vec<String> = contract.children()[0].children().iter().map(|child| child.table.clone()).collect();
    assert_eq!(names, ["telemetry__trip_legs__stops"]);
}

#[test]
fn a_record_with_a_bad_child_is_a_dead_letter_as_a_whole() {
    let contract =
        Contract { on_type_conflict: OnTypeConflict::DeadLetter, ..with_arrays(&[("l", ArrayShape::Child)]) };
    let good = records(0, &[r#"{"a":1,"l":[{"x":1}]}"#]);
    let mut decoder = family(&contract, &good);
    let both = records(0, &[r#"{"a":1,"l":[{"x":1}]}"#, r#"{"a":2,"l":[{"x":1},{"x":"text"}]}"#]);
    let decoded = decoder.decode(&both).unwrap();
    assert_eq!((decoded.rows.num_rows(), decoded.children[0].rows.num_rows(), decoded.dead.len()), (1, 1, 1));
    assert_eq!(decoded.dead[0].message, "`x` does not fit column `x` (bigint): \"text\"");
    // Without decoders for children the array is a value like any other, as in a table from before it was a child.
    let records = records(0, &[r#"{"l":[{"x":1}]}"#]);
    let before = infer_first(&Contract { arrays: vec![], ..contract.clone() }, &[&records]);
    let decoded = decode(&contract, &before, &records);
    assert_eq!(users_cells(&decoded.rows), [cells(&[("l", r#"[{"x":1}]"#)])]);
}
