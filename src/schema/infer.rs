//! The first schema version of a table, from its contract and the first window of records.

use std::sync::Arc;

use super::ColumnContract;
use super::{Column, ColumnType, Contract, Found, OnTypeConflict, Path, SchemaVersion, version::declared};
use crate::decode::{Decoder, Records};

/// Version 1: declared columns with their declared types, then every payload path of the window with the
/// narrowest type that keeps its values ([`super::Observed::column_type`]). Records that do not decode say
/// nothing; the order of `windows` does not matter. A declared column without a type that was not seen, or
/// that lies inside a declared `json` column, becomes a string, which takes every scalar.
pub fn infer_first(contract: &Contract, windows: &[&Records]) -> SchemaVersion {
    SchemaVersion::first(contract, &family_finds(contract, windows)[0])
}

/// What the first window holds that the contract does not settle, for the table and all that hold its `child` arrays,
/// in the order of [`Contract::family`]: the input of [`SchemaVersion::first`].
pub fn family_finds(contract: &Contract, windows: &[&Records]) -> Vec<Vec<Found>> {
    let mut decoder = prober(contract);
    let mut finds: Vec<Vec<Found>> = vec![Vec::new(); contract.family().len()];
    for window in windows {
        finds.iter_mut().zip(decoder.look(window)).for_each(|(all, found)| all.extend(found));
    }
    finds
}

/// A decoder with the columns whose type is known already: what is left over is what must be inferred.
fn prober(contract: &Contract) -> Decoder {
    let known = known(contract);
    let untyped =
        |path: &Path| contract.columns.iter().any(|column| column.path.as_ref() == Some(path) && column.kind.is_none());
    let probe = Contract {
        key: Vec::new(),
        raw: false,
        time: contract.time.clone().filter(|time| !untyped(&time.path)),
        on_type_conflict: OnTypeConflict::Rescue,
        ..contract.clone()
    };
    let children = contract.children().iter().map(prober).collect();
    let version = SchemaVersion { number: 0, keys: 0, columns: known };
    Decoder::new(Arc::new(probe), Arc::new(version)).with_children(children)
}

/// The declared columns whose path and type need no record to be known, keys first.
pub(super) fn known(contract: &Contract) -> Vec<Column> {
    let column = |column: ColumnContract| {
        let path = column.path?;
        let from_payload = matches!(path, Path::Value(_));
        let kind = if from_payload { column.kind? } else { column.kind.unwrap_or(ColumnType::String) };
        Some(Column { description: column.description, ..Column::new(column.name, path, kind) })
    };
    declared(contract).into_iter().filter_map(column).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        decode::tests::records,
        schema::{ColumnContract, EventTime, TimeFormat},
    };

    /// A contract that declares nothing.
    pub(crate) fn contract() -> Contract {
        Contract { on_type_conflict: OnTypeConflict::Rescue, ..Contract::undeclared("telemetry", "fleet.telemetry") }
    }

    fn column(name: &str, path: &str, kind: impl Into<Option<ColumnType>>) -> ColumnContract {
        let (path, kind) = (Some(path.parse().unwrap()), kind.into());
        ColumnContract { name: name.into(), path, kind, ..ColumnContract::default() }
    }

    fn shape(version: &SchemaVersion) -> Vec<(String, String, &'static str)> {
        let one = |column: &Column| (column.name.clone(), column.path.to_string(), column.kind.word());
        version.columns.iter().map(one).collect()
    }

    fn expect(columns: &[(&str, &str, &'static str)]) -> Vec<(String, String, &'static str)> {
        columns.iter().map(|(name, path, kind)| ((*name).into(), (*path).into(), *kind)).collect()
    }

    #[test]
    fn types_come_from_the_whole_window() {
        let first = records(
            0,
            &[
                r#"{"id":1,"v":{"speed":3,"Temp":1,"ok":true,"tags":["a"]},"big":1,"text":"x","never":null}"#,
                r#"not json, says nothing"#,
                r#"{"id":2,"v":{"speed":3.5,"Temp":2,"ok":"yes","deep":{"a":1}},"big":18446744073709551615}"#,
            ],
        );
        let second = records(10, &[r#"{"v":{"Temp":1e3},"late":false}"#]);
        let expected = expect(&[
            ("id", "id", "bigint"),
            ("v_speed", "v.speed", "double"),
            ("v_temp", "v.Temp", "double"),
            ("v_ok", "v.ok", "string"),
            ("v_tags", "v.tags", "string[]"),
            ("big", "big", "string"),
            ("text", "text", "string"),
            ("v_deep_a", "v.deep.a", "bigint"),
            ("late", "late", "boolean"),
        ]);
        assert_eq!(shape(&infer_first(&contract(), &[&first, &second])), expected);
        assert_eq!(shape(&infer_first(&contract(), &[&second, &first])), expected);
    }

    #[test]
    fn the_contract_wins() {
        let mut contract = contract();
        contract.key = vec!["car".into()];
        contract.strip = vec!["v".into()];
        contract.time = Some(EventTime { path: "at".parse().unwrap(), format: TimeFormat::UnixMillis });
        contract.columns = vec![
            column("speed_kmh", "v.speed", ColumnType::Double),
            column("car", "$key", None),
            column("whole", "v.door", ColumnType::Json),
            column("window", "v.door.window", ColumnType::Int64),
            column("unseen", "nowhere", None),
            column("sent", "$timestamp", None),
        ];
        let window = records(0, &[r#"{"at":1,"v":{"speed":3,"door":{"open":true,"window":7},"mode":"x"}}"#]);
        let version = infer_first(&contract, &[&window]);
        assert_eq!((version.number, version.keys), (1, 1));
        let expected = expect(&[
            ("car", "$key", "string"),
            ("speed_kmh", "v.speed", "double"),
            ("whole", "v.door", "json"),
            ("window", "v.door.window", "bigint"),
            ("unseen", "nowhere", "string"),
            ("sent", "$timestamp", "timestamp"),
            ("mode", "v.mode", "string"),
        ]);
        assert_eq!(shape(&version), expected);
        // `time` is a column of its own once declared.
        contract.columns = vec![column("sent_ms", "at", None)];
        assert_eq!(shape(&infer_first(&contract, &[&window]))[1], expect(&[("sent_ms", "at", "bigint")])[0]);
    }
}
