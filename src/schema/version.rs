//! A numbered schema version of a table, and how its successor is made.

use std::collections::{HashMap, HashSet};

use super::widen::{is_superseded, widen};
use super::{ArrayShape, ColumnContract, ColumnType, Contract, Found, Observed, OnNewField, Path, names};

/// More columns than this are not added to a table: further paths are rescued.
pub const MAX_COLUMNS: usize = 1_000;

/// A path whose text is longer stays in `_rescued`: somebody uses data as keys.
const MAX_PATH_BYTES: usize = 1_000;

/// Names of the columns every events table has.
pub mod fixed {
    /// When it happened: timestamp(µs, UTC), never null.
    pub const EVENT_TIME: &str = "event_time";
    /// Topic name, string.
    pub const TOPIC: &str = "_topic";
    /// Which life of the topic, int.
    pub const INCARNATION: &str = "_incarnation";
    /// Kafka partition, int.
    pub const PARTITION: &str = "_partition";
    /// Kafka offset, long.
    pub const OFFSET: &str = "_offset";
    /// Index of the row within its record, int.
    pub const ROW: &str = "_row";
    /// The broker's timestamp: timestamp(µs, UTC).
    pub const TIMESTAMP: &str = "_timestamp";
    /// Number of the schema version that decoded the row, int.
    pub const SCHEMA_VERSION: &str = "_schema_version";
    /// JSON object of values that fitted no column, by path; null if none. String.
    pub const RESCUED: &str = "_rescued";
    /// Partition column of the Delta table: date.
    pub const DAY: &str = "_day";
    /// All of them in the order of the Arrow form.
    pub const ALL: [&str; 10] =
        [EVENT_TIME, TOPIC, INCARNATION, PARTITION, OFFSET, ROW, TIMESTAMP, SCHEMA_VERSION, RESCUED, DAY];
}

/// A column of a schema version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Column name.
    pub name: String,
    /// Where values come from.
    pub path: Path,
    /// Type of its values.
    pub kind: ColumnType,
    /// The column it succeeds: all values that come later are here, and people see both as one column of that name.
    pub widens: Option<String>,
    /// Of a bigint column: every integer so far is a double, too (within ±2⁵³).
    pub exact: bool,
    /// What the contract says about it, for people.
    pub description: Option<String>,
}

impl Column {
    /// A column that succeeds none, without values.
    pub fn new(name: String, path: Path, kind: ColumnType) -> Self {
        Self { name, path, kind, widens: None, exact: kind == ColumnType::Int64, description: None }
    }

    /// The name under which people see it.
    pub fn logical(&self) -> &str {
        self.widens.as_deref().unwrap_or(&self.name)
    }
}

/// One accepted form of a table's rows. The Arrow form has the key columns first, then `event_time`, the
/// other [`fixed`] columns with `_day` last, then the remaining columns in the order they were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaVersion {
    /// 1, 2, 3 …
    pub number: u32,
    /// How many of `columns` are key columns (they lead).
    pub keys: usize,
    /// The user's columns without the fixed ones.
    pub columns: Vec<Column>,
}

impl SchemaVersion {
    /// Version 0: what a table has before its first record, the declared columns that need none to be known.
    pub fn declared(contract: &Contract) -> Self {
        let columns = super::infer::known(contract);
        let keys = columns.iter().take_while(|column| contract.key.contains(&column.name)).count();
        Self { number: 0, keys, columns }
    }

    /// Version 1: the declared columns (keys first, then in file order), then what was found, in order of
    /// first appearance by partition and offset. `on_new_field` does not speak about the first version.
    pub fn first(contract: &Contract, found: &[Found]) -> Self {
        let mut columns = Vec::new();
        let mut names = Names::new(&columns);
        grow(&mut columns, &mut names, contract, &merged(found), true);
        Self { number: 1, keys: contract.key.len(), columns }
    }

    /// The successor that also holds what was found and what the contract declares by now, or `None` if that
    /// adds nothing. The order of `found` does not matter: columns are appended in order of first appearance.
    /// A find at a column's path is what that column could not hold: it may get a successor.
    /// A declared column that names no path is bound to the first path whose derived name is its own.
    pub fn evolve(&self, contract: &Contract, found: &[Found]) -> Option<Self> {
        let mut columns = self.columns.clone();
        let finds = merged(found);
        widen(&mut columns, self.keys, contract, &finds);
        let mut names = Names::new(&columns);
        grow(&mut columns, &mut names, contract, &finds, contract.on_new_field == OnNewField::Add);
        (columns != self.columns).then(|| Self { number: self.number + 1, keys: self.keys, columns })
    }

    /// True if a later column took over from the one at `at`: it gets no more values.
    pub fn is_superseded(&self, at: usize) -> bool {
        is_superseded(&self.columns, at)
    }

    /// The same version with the descriptions that the contract gives by now: they are no change of a table.
    #[must_use]
    pub fn described(mut self, contract: &Contract) -> Self {
        for column in &mut self.columns {
            column.description = contract.column(column.logical()).and_then(|declared| declared.description.clone());
        }
        self
    }
}

/// Names and paths in use.
struct Names {
    names: HashSet<String>,
    paths: HashSet<Path>,
}

impl Names {
    fn new(columns: &[Column]) -> Self {
        let mut names = Self { names: fixed::ALL.map(str::to_owned).into(), paths: HashSet::new() };
        columns.iter().for_each(|column| names.add(column));
        names
    }

    fn add(&mut self, column: &Column) {
        self.names.insert(column.name.to_lowercase());
        self.paths.insert(column.path.clone());
    }
}

/// One find per path, in order of first appearance.
fn merged(found: &[Found]) -> Vec<Found> {
    let mut by_path: HashMap<&Path, Found> = HashMap::new();
    for find in found {
        by_path.entry(&find.path).and_modify(|seen| seen.merge(find)).or_insert_with(|| find.clone());
    }
    let mut finds: Vec<Found> = by_path.into_values().collect();
    finds.sort_by(|a, b| a.place().cmp(&b.place()).then_with(|| a.path.cmp(&b.path)));
    finds
}

fn grow(columns: &mut Vec<Column>, names: &mut Names, contract: &Contract, finds: &[Found], add_found: bool) {
    let derived = |find: &Found| match &find.path {
        Path::Value(parts) => names::derive(parts, &contract.strip),
        _ => String::new(),
    };
    let by_name = |names: &Names, name: &str| {
        finds
            .iter()
            .find(|find| !names.paths.contains(&find.path) && derived(find) == name)
            .map(|find| find.path.clone())
    };

    let declared = declared(contract);
    names.paths.extend(declared.iter().filter_map(|column| column.path.clone()));
    for column in columns.iter_mut().filter(|column| column.path.is_unresolved()) {
        if let Some(path) = by_name(names, &column.name) {
            column.path = path;
            names.add(column);
        }
    }

    for declared in declared {
        if names.names.contains(&declared.name.to_lowercase()) {
            continue;
        }
        let path = declared.path.or_else(|| by_name(names, &declared.name)).unwrap_or_else(Path::unresolved);
        let seen = finds.iter().find(|find| find.path == path);
        let kind = declared.kind.unwrap_or(match &path {
            Path::Timestamp => ColumnType::Timestamp,
            _ => seen.map_or(ColumnType::String, |find| type_of(contract, find)),
        });
        let mut column = Column::new(declared.name, path, kind);
        column.description = declared.description;
        column.exact &= !seen.is_some_and(|find| find.observed.has(Observed::LONG));
        names.add(&column);
        columns.push(column);
    }

    // The path of `time` became `event_time`; it is a column of its own only if declared.
    names.paths.extend(contract.time.as_ref().map(|time| time.path.clone()));
    for find in finds.iter().filter(|find| add_found && !find.kinds().is_undecided()) {
        let text = find.path.to_string();
        if columns.len() >= MAX_COLUMNS || names.paths.contains(&find.path) || text.len() > MAX_PATH_BYTES {
            continue;
        }
        let name = names::unique(&derived(find), &text, |name| names.names.contains(name));
        let mut column = Column::new(name, find.path.clone(), type_of(contract, find));
        column.exact &= !find.observed.has(Observed::LONG);
        names.add(&column);
        columns.push(column);
    }
}

/// The type that the kinds at a path make, as the contract wants its arrays.
fn type_of(contract: &Contract, find: &Found) -> ColumnType {
    let Path::Value(path) = &find.path else { return find.kinds().column_type() };
    match contract.array(path) {
        Some(ArrayShape::Json) => ColumnType::Json,
        Some(ArrayShape::List) => find.kinds().list_type(),
        _ => find.kinds().column_type(),
    }
}

/// Declared columns: the keys in their order (declared in full or by name only), then the others in file order.
/// A `json` column without a path is the payload's key of its name: objects have no derived name to look for.
pub(super) fn declared(contract: &Contract) -> Vec<ColumnContract> {
    let is_key = |column: &&ColumnContract| contract.key.contains(&column.name);
    let keys = contract.key.iter().map(|key| {
        let declared = contract.columns.iter().find(|column| column.name == *key).cloned();
        declared.unwrap_or_else(|| ColumnContract { name: key.clone(), ..ColumnContract::default() })
    });
    let mut all: Vec<ColumnContract> =
        keys.chain(contract.columns.iter().filter(|column| !is_key(column)).cloned()).collect();
    for column in all.iter_mut().filter(|column| column.path.is_none() && column.kind == Some(ColumnType::Json)) {
        column.path = Some(Path::Value(vec![column.name.clone()]));
    }
    all
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::{ArrayContract, OnTypeConflict, infer::tests::contract};

    pub(crate) fn find(path: &str, observed: Observed, offset: i64, at_byte: u32) -> Found {
        let path = path.parse().unwrap();
        let (topic, declared) = ("fleet".into(), Observed::default());
        Found { path, topic, observed, declared, partition: 0, offset, at_byte, rows: 1, sample: String::new() }
    }

    fn names(version: &SchemaVersion) -> Vec<&str> {
        version.columns.iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn keys_lead_then_declared_columns_then_finds_in_order_of_appearance() {
        let mut contract = contract();
        contract.key = vec!["car_id".into()];
        let speed = ColumnContract {
            name: "speed".into(),
            path: Some("v.s".parse().unwrap()),
            kind: Some(ColumnType::Double),
            description: Some("km/h".into()),
            ..ColumnContract::default()
        };
        let named = ColumnContract { name: "door_open".into(), ..ColumnContract::default() };
        contract.columns = vec![speed, named];
        let finds = [
            find("late", Observed::STRING, 9, 0),
            find("v.s", Observed::INTEGER, 1, 5),
            find("Door.IsOpen", Observed::BOOLEAN, 1, 2),
            find("Door.Open", Observed::BOOLEAN, 1, 9),
            find("CarId", Observed::INTEGER, 1, 3),
            find("early", Observed::REAL, 1, 1),
        ];
        let first = SchemaVersion::first(&contract, &finds);
        assert_eq!(names(&first), ["car_id", "speed", "door_open", "early", "door_is_open", "late"]);
        assert_eq!(first.columns[0].path, "CarId".parse().unwrap());
        assert_eq!(first.columns[0].kind, ColumnType::Int64);
        assert_eq!(first.columns[1].kind, ColumnType::Double);
        assert_eq!(first.columns[2].path, "Door.Open".parse().unwrap());
        assert_eq!(first.evolve(&contract, &finds), None);
        // Words about a column are no change of the table.
        assert_eq!(first.columns[1].description.as_deref(), Some("km/h"));
        contract.columns[0].description = None;
        assert_eq!(first.evolve(&contract, &finds), None);
        assert_eq!(first.described(&contract).columns[1].description, None);
    }

    #[test]
    fn arrays_are_lists_or_what_the_contract_says() {
        let mut contract = contract();
        let array = |path: &str, shape| ArrayContract { path: vec![path.into()], shape };
        contract.arrays = vec![array("j", ArrayShape::Json), array("l", ArrayShape::List)];
        let mixed = Observed::list_of(Observed::STRING.and(Observed::REAL));
        let finds = [
            find("plain", Observed::list_of(Observed::REAL), 0, 0),
            find("mixed", mixed, 0, 1),
            find("j", Observed::list_of(Observed::REAL), 0, 2),
            find("l", mixed, 0, 3),
            find("empty", Observed::list_of(Observed::default()), 0, 4),
        ];
        let first = SchemaVersion::first(&contract, &finds);
        let kinds: Vec<_> = first.columns.iter().map(|column| (column.name.as_str(), column.kind.word())).collect();
        assert_eq!(kinds, [("plain", "double[]"), ("mixed", "json"), ("j", "json"), ("l", "string[]")]);
        // A path keeps its column's type, and the empty array waits for its first element.
        let later = [find("mixed", Observed::list_of(Observed::REAL), 1, 0), find("empty", mixed, 1, 1)];
        let second = first.evolve(&contract, &later).unwrap();
        assert_eq!((second.columns[1].kind, second.columns[4].name.as_str()), (ColumnType::Json, "empty"));
    }

    #[test]
    fn a_declared_column_never_seen_exists_and_is_bound_when_its_path_appears() {
        let mut contract = contract();
        contract.key = vec!["car_id".into()];
        let first = SchemaVersion::first(&contract, &[]);
        assert!(first.columns[0].path.is_unresolved());
        let second = first.evolve(&contract, &[find("car.id", Observed::STRING, 1, 0)]).unwrap();
        assert_eq!(second.columns[0].path, "car.id".parse().unwrap());
        // The name is taken now, and names never change.
        let third = second.evolve(&contract, &[find("car_id", Observed::STRING, 2, 0)]).unwrap();
        assert_eq!((third.number, third.columns[0].clone()), (3, second.columns[0].clone()));
        assert!(third.columns[1].name.starts_with("car_id__"), "{}", third.columns[1].name);
    }

    #[test]
    fn what_is_not_wanted_is_not_added() {
        let mut contract = contract();
        let first = SchemaVersion::first(&contract, &[find("a", Observed::REAL, 0, 0)]);
        let long = "k".repeat(MAX_PATH_BYTES + 1);
        assert_eq!(first.evolve(&contract, &[find(&long, Observed::REAL, 0, 0)]), None);
        let many: Vec<Found> = (0..2_000).map(|n| find(&format!("n{n}"), Observed::REAL, n, 0)).collect();
        assert_eq!(first.evolve(&contract, &many).unwrap().columns.len(), MAX_COLUMNS);
        contract.on_new_field = OnNewField::Rescue;
        assert_eq!(first.evolve(&contract, &many), None);
        assert_eq!(names(&SchemaVersion::first(&contract, &many[..2])), ["n0", "n1"]);
    }

    #[test]
    fn a_reserved_name_is_never_given() {
        let found = [
            find("event_time", Observed::STRING, 0, 0),
            find("a.b_c", Observed::STRING, 0, 1),
            find("a_b.c", Observed::STRING, 0, 2),
        ];
        let first = SchemaVersion::first(&contract(), &found);
        assert!(first.columns[0].name.starts_with("event_time__"));
        assert_eq!(first.columns[1].name, "a_b_c");
        assert!(first.columns[2].name.starts_with("a_b_c__"));
    }

    proptest! {
        #[test]
        fn the_same_finds_in_any_order_and_split_make_the_same_version(
            finds in prop::collection::vec(("[a-c]{1,2}(\\.[A-C]{1,2})?", 0..6u8, 0..4i64, 0..4u32), 0..12),
            seed in any::<prop::sample::Index>(),
        ) {
            let contract = contract();
            let finds = found(&finds);
            let turned = turned(&finds, seed);
            let first = SchemaVersion::first(&contract, &finds);
            prop_assert_eq!(&SchemaVersion::first(&contract, &turned), &first);
            let distinct: HashSet<String> = first.columns.iter().map(|column| column.name.to_lowercase()).collect();
            prop_assert_eq!(distinct.len(), first.columns.len());
            prop_assert_eq!(first.evolve(&contract, &finds), None);
        }

        #[test]
        fn misfits_and_new_fields_in_any_order_make_the_same_successor(
            known in prop::collection::vec(("[a-c]{1,2}(\\.[A-C]{1,2})?", 0..7u8, 0..4i64, 0..4u32), 0..8),
            later in prop::collection::vec(("[a-c]{1,2}(\\.[A-C]{1,2})?", 0..7u8, 4..8i64, 0..4u32), 0..8),
            seed in any::<prop::sample::Index>(),
            policy in prop::sample::select(vec![OnTypeConflict::Widen, OnTypeConflict::String, OnTypeConflict::Rescue]),
        ) {
            let contract = Contract { on_type_conflict: policy, ..contract() };
            let first = SchemaVersion::first(&contract, &found(&known));
            let later = found(&later);
            let second = first.evolve(&contract, &later);
            prop_assert_eq!(first.evolve(&contract, &turned(&later, seed)), second.clone());
            let Some(second) = second else { return Ok(()) };
            // A version only grows, looking again soon finds nothing new, and it reads back from the table.
            for (old, new) in first.columns.iter().zip(&second.columns) {
                prop_assert_eq!((&old.name, old.kind, &old.widens), (&new.name, new.kind, &new.widens));
            }
            // (A new double among large integers is a column of strings once these are told as its misfits.)
            let third = second.evolve(&contract, &later);
            prop_assert!(third.is_none() || policy == OnTypeConflict::String);
            prop_assert_eq!(third.and_then(|third| third.evolve(&contract, &later)), None);
            prop_assert_eq!(SchemaVersion::from_arrow(&second.arrow_schema(), 2, 0), Ok(second.clone()));
            // All columns of a path but the newest of each name are out of use.
            let names: HashSet<&str> = second.columns.iter().map(Column::logical).collect();
            let in_use = (0..second.columns.len()).filter(|at| !second.is_superseded(*at)).count();
            prop_assert_eq!(in_use, names.len());
        }
    }

    fn found(finds: &[(String, u8, i64, u32)]) -> Vec<Found> {
        let kinds = [
            Observed::BOOLEAN,
            Observed::INTEGER,
            Observed::BIG_INTEGER,
            Observed::REAL,
            Observed::STRING,
            Observed::NESTED,
            Observed::LONG,
        ];
        finds.iter().map(|(path, kind, offset, at)| find(path, kinds[*kind as usize], *offset, *at)).collect()
    }

    fn turned(finds: &[Found], seed: prop::sample::Index) -> Vec<Found> {
        let mut turned = finds.to_vec();
        if !turned.is_empty() {
            let by = seed.index(turned.len());
            turned.rotate_left(by);
            turned.reverse();
        }
        turned
    }
}
