//! PostgreSQL's catalogs of the tables that a statement could read: rows for `pg_catalog` and `information_schema`.
//!
//! Numbers of tables are made of their names, so they are the same in every statement and after every restart. Tables with
//! one row per key have a primary key, comments are those of the columns, and a table of `system` is a view to tools.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use arrow::error::ArrowError;

use super::pg_type::{self, ALL, ColumnType};
use super::rows::{Cell, Row, TABLEOID, batch, row};
use super::tables::TABLES;
use crate::query::activity::{Activity, Peer};
use crate::query::{CATALOG, PUBLIC, SYSTEM};
use crate::schema::DESCRIPTION_KEY;

/// Numbers of PostgreSQL's own things.
const CATALOG_SCHEMA: i64 = 11;
const PUBLIC_SCHEMA: i64 = 2_200;
const OWNER: i64 = 10;
const DATABASE: i64 = 16_384;
/// Numbers from here on are of what users made.
const FIRST: u32 = 16_400;
/// What PostgreSQL's catalogs are called by `regclass`.
const OWN: [(&str, i64); 10] = [
    ("pg_type", 1_247),
    ("pg_attribute", 1_249),
    ("pg_proc", 1_255),
    ("pg_class", 1_259),
    ("pg_authid", 1_260),
    ("pg_database", 1_262),
    ("pg_constraint", 2_606),
    ("pg_description", 2_609),
    ("pg_namespace", 2_615),
    ("pg_rewrite", 2_618),
];

/// Catalogs that have rows.
const FILLED: &[&str] = &[
    "pg_am",
    "pg_attribute",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_database",
    "pg_description",
    "pg_index",
    "pg_indexes",
    "pg_language",
    "pg_namespace",
    "pg_proc",
    "pg_roles",
    "pg_settings",
    "pg_stat_activity",
    "pg_stat_user_tables",
    "pg_tables",
    "pg_tablespace",
    "pg_type",
    "pg_user",
    "pg_views",
];

/// A table or view, as tools are told.
#[derive(Debug, Clone)]
pub(in crate::query) struct Relation {
    /// Its number.
    pub(super) oid: i64,
    pub(super) schema: String,
    pub(super) name: String,
    is_view: bool,
    columns: SchemaRef,
    /// Numbers of its key columns from 1.
    key: Vec<i16>,
    /// The SQL of a view.
    definition: Option<String>,
    rows: Option<usize>,
}

/// What a statement could read.
#[derive(Debug, Default)]
pub(in crate::query) struct PgCatalog {
    relations: Vec<Relation>,
    schemas: BTreeMap<String, i64>,
    user: String,
    settings: Vec<(String, String)>,
    /// Sessions of the same user over the PostgreSQL wire.
    peers: Vec<Peer>,
    activity: Option<Arc<Activity>>,
}

/// What is told of a table.
pub(in crate::query) struct Told {
    pub(in crate::query) schema: String,
    pub(in crate::query) name: String,
    pub(in crate::query) is_view: bool,
    pub(in crate::query) columns: SchemaRef,
    pub(in crate::query) key: Vec<String>,
    pub(in crate::query) definition: Option<String>,
    pub(in crate::query) rows: Option<usize>,
}

/// Whether there is such a catalog; its name is that in `pg_catalog`, or begins with `information_schema.`.
pub(super) fn has(name: &str) -> bool {
    TABLES.iter().any(|(known, _)| *known == name)
}

/// Whether a catalog has no rows here, whatever there is.
pub(super) fn is_empty(name: &str) -> bool {
    has(name) && !FILLED.contains(&name)
}

impl PgCatalog {
    pub(in crate::query) fn new(
        tables: Vec<Told>,
        schemas: impl IntoIterator<Item = String>,
        user: &str,
        settings: Vec<(String, String)>,
    ) -> Self {
        let mut taken = std::collections::HashSet::new();
        let mut number = |name: &str| {
            let mut oid = hash(name);
            while !taken.insert(oid) {
                oid = oid.checked_add(1).unwrap_or(FIRST);
            }
            i64::from(oid)
        };
        let mut known = BTreeMap::from([("pg_catalog".to_owned(), CATALOG_SCHEMA), (PUBLIC.to_owned(), PUBLIC_SCHEMA)]);
        for schema in schemas {
            let oid = number(&schema);
            known.entry(schema).or_insert(oid);
        }
        let relations = tables.into_iter().map(|told| {
            let oid = number(&format!("{}.{}", told.schema, told.name));
            let place = |name: &String| told.columns.fields().iter().position(|field| field.name() == name);
            let key = told.key.iter().filter_map(place).map(|at| at as i16 + 1).collect();
            let Told { schema, name, is_view, columns, definition, rows, .. } = told;
            Relation { oid, schema, name, is_view, columns, key, definition, rows }
        });
        Self { relations: relations.collect(), schemas: known, user: user.to_owned(), settings, ..Self::default() }
    }

    /// The same with the sessions of its user.
    pub(in crate::query) fn among(self, activity: &Arc<Activity>) -> Self {
        Self { peers: activity.peers(&self.user), activity: Some(Arc::clone(activity)), ..self }
    }

    /// Cancels what a session of the same user does; false if there is no such session.
    pub(super) fn cancel(&self, process: i64) -> bool {
        let process = u32::try_from(process).ok();
        let known = self.activity.as_ref().zip(process);
        known.is_some_and(|(activity, process)| activity.cancel(process, &self.user))
    }

    /// The schema that names without one are of.
    pub(super) fn schema(&self) -> String {
        let path = self.setting("search_path").unwrap_or_default();
        let mut named = search_path(&path).into_iter();
        named.find(|schema| self.schemas.contains_key(schema)).unwrap_or_else(|| PUBLIC.to_owned())
    }

    /// The rows of a catalog; `None` if there is none of that name.
    pub(in crate::query) fn table(&self, name: &str) -> Option<Result<RecordBatch, ArrowError>> {
        let (_, columns) = TABLES.iter().find(|(known, _)| *known == name)?;
        let mut rows = self.rows(name);
        let own = OWN.iter().find(|(known, _)| *known == name).map_or(0, |(_, oid)| *oid);
        rows.iter_mut().for_each(|row| drop(row.insert(TABLEOID, Cell::Int(own))));
        Some(batch(columns, &rows))
    }

    /// The relation of a name that may be qualified and quoted.
    pub(super) fn relation(&self, name: &str) -> Option<i64> {
        let parts = parts(name);
        let (schema, name) = match &parts[..] {
            [name] => (None, name),
            [schema, name] | [_, schema, name] => (Some(schema), name),
            _ => return None,
        };
        if schema.is_none_or(|schema| schema == "pg_catalog")
            && let Some((_, oid)) = OWN.iter().find(|(known, _)| known == name)
        {
            return Some(*oid);
        }
        let schema = schema.map_or(PUBLIC, String::as_str);
        self.relations.iter().find(|known| known.name == *name && known.schema == schema).map(|known| known.oid)
    }

    /// The name of a relation as `regclass` shows it.
    pub(super) fn name_of(&self, oid: i64) -> Option<String> {
        if let Some((name, _)) = OWN.iter().find(|(_, known)| *known == oid) {
            return Some((*name).to_owned());
        }
        if let Some(table) = self.relations.iter().find(|known| known.key_oid() == oid && !known.key.is_empty()) {
            return Some(quoted(&table.key_name()));
        }
        let found = self.by_oid(oid)?;
        let name = quoted(&found.name);
        Some(if found.schema == PUBLIC { name } else { format!("{}.{name}", quoted(&found.schema)) })
    }

    pub(super) fn by_oid(&self, oid: i64) -> Option<&Relation> {
        self.relations.iter().find(|known| known.oid == oid)
    }

    /// What is written about a relation's column; 0 is the relation itself.
    pub(super) fn comment(&self, oid: i64, column: i64) -> Option<String> {
        let field = usize::try_from(column).ok()?.checked_sub(1)?;
        self.by_oid(oid)?.columns.fields().get(field)?.metadata().get(DESCRIPTION_KEY).cloned()
    }

    /// The SQL of a view.
    pub(super) fn definition(&self, oid: i64) -> Option<String> {
        self.by_oid(oid)?.definition.clone()
    }

    /// The text of a table's key as `pg_get_constraintdef` and `pg_get_indexdef` give it.
    pub(super) fn key_of(&self, oid: i64) -> Option<(String, String)> {
        let table = self.relations.iter().find(|known| !known.key.is_empty() && (known.key_oid() == oid))?;
        let columns: Vec<String> = table.key_columns().map(|name| quoted(&name)).collect();
        let list = columns.join(", ");
        let index = format!(
            "CREATE UNIQUE INDEX {} ON {}.{} USING btree ({list})",
            quoted(&table.key_name()),
            quoted(&table.schema),
            quoted(&table.name)
        );
        Some((format!("PRIMARY KEY ({list})"), index))
    }

    /// A setting of the session.
    pub(super) fn setting(&self, name: &str) -> Option<String> {
        self.settings.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    }

    fn schema_oid(&self, name: &str) -> i64 {
        self.schemas.get(name).copied().unwrap_or(PUBLIC_SCHEMA)
    }

    fn rows(&self, name: &str) -> Vec<Row> {
        let with_key = || self.relations.iter().filter(|table| !table.key.is_empty());
        let views = || self.relations.iter().filter(|table| table.is_view);
        match name {
            "pg_am" => vec![
                row! { oid: 2_i64, amname: "heap", amtype: "t" },
                row! { oid: 403_i64, amname: "btree", amtype: "i" },
            ],
            "pg_class" => {
                let tables = self.relations.iter().map(|table| self.class(table));
                tables.chain(with_key().map(|table| self.key_class(table))).collect()
            }
            "pg_attribute" => {
                self.relations.iter().flat_map(attributes).chain(with_key().flat_map(key_attributes)).collect()
            }
            "pg_namespace" => {
                let schema = |(name, oid): (&String, &i64)| row! { oid: *oid, nspname: name.as_str(), nspowner: OWNER };
                self.schemas.iter().map(schema).collect()
            }
            "pg_type" => ALL.iter().flat_map(types).collect(),
            "pg_proc" => type_functions(),
            "pg_index" => with_key().map(index).collect(),
            "pg_stat_activity" => {
                let one = |peer: &Peer| {
                    row! {
                        datid: DATABASE, datname: CATALOG, pid: i64::from(peer.process), usesysid: OWNER,
                        usename: self.user.as_str(), backend_start: peer.started_at.timestamp_micros(),
                        query_start: peer.query_started_at.map(|at| at.timestamp_micros()),
                        state: if peer.sql.is_some() { "active" } else { "idle" },
                        query: peer.sql.clone().unwrap_or_default(), backend_type: "client backend"
                    }
                };
                self.peers.iter().map(one).collect()
            }
            "pg_indexes" => {
                let one = |table: &Relation| {
                    let definition = self.key_of(table.key_oid()).map(|(_, index)| index);
                    row! {
                        schemaname: table.schema.as_str(), tablename: table.name.as_str(), indexname: table.key_name(),
                        indexdef: definition
                    }
                };
                with_key().map(one).collect()
            }
            "pg_constraint" => {
                let one = |table: &Relation| {
                    row! {
                        oid: table.key_oid(), conname: table.key_name(), connamespace: self.schema_oid(&table.schema),
                        contype: "p", convalidated: true, conrelid: table.oid, conindid: table.key_oid(),
                        confupdtype: " ", confdeltype: " ", confmatchtype: " ", conislocal: true,
                        conkey: ints(&table.key)
                    }
                };
                with_key().map(one).collect()
            }
            "pg_description" => self.relations.iter().flat_map(descriptions).collect(),
            "pg_database" => vec![row! {
                oid: DATABASE, datname: CATALOG, datdba: OWNER, encoding: 6_i64, datlocprovider: "c", datallowconn: true,
                datconnlimit: -1_i64, dattablespace: 1_663_i64, datcollate: "C", datctype: "C"
            }],
            "pg_roles" => vec![row! {
                oid: OWNER, rolname: self.user.as_str(), rolinherit: true, rolcanlogin: true, rolconnlimit: -1_i64,
                rolpassword: "********"
            }],
            "pg_user" => vec![row! { usename: self.user.as_str(), usesysid: OWNER, passwd: "********" }],
            "pg_tablespace" => vec![row! { oid: 1_663_i64, spcname: "pg_default", spcowner: OWNER }],
            "pg_collation" => vec![row! {
                oid: 100_i64, collname: "default", collnamespace: CATALOG_SCHEMA, collowner: OWNER, collprovider: "d",
                collisdeterministic: true, collencoding: -1_i64
            }],
            "pg_language" => vec![row! { oid: 14_i64, lanname: "sql", lanowner: OWNER, lanpltrusted: true }],
            "pg_settings" => {
                let one = |(name, value): &(String, String)| {
                    row! {
                        name: name.as_str(), setting: value.as_str(), category: "Millpond", short_desc: "", context: "user",
                        vartype: "string", source: "session", boot_val: value.as_str(), reset_val: value.as_str()
                    }
                };
                self.settings.iter().map(one).collect()
            }
            "pg_stat_user_tables" => {
                let one = |table: &Relation| {
                    let rows = table.rows.unwrap_or(0) as i64;
                    row! { relid: table.oid, schemaname: table.schema.as_str(), relname: table.name.as_str(), n_live_tup: rows }
                };
                self.relations.iter().filter(|table| !table.is_view).map(one).collect()
            }
            "pg_tables" => {
                let one = |table: &Relation| {
                    row! {
                        schemaname: table.schema.as_str(), tablename: table.name.as_str(), tableowner: self.user.as_str(),
                        hasindexes: !table.key.is_empty()
                    }
                };
                self.relations.iter().filter(|table| !table.is_view).map(one).collect()
            }
            "pg_views" => {
                let one = |table: &Relation| {
                    row! {
                        schemaname: table.schema.as_str(), viewname: table.name.as_str(), viewowner: self.user.as_str(),
                        definition: table.definition.clone().unwrap_or_default()
                    }
                };
                views().map(one).collect()
            }
            "information_schema.schemata" => {
                let one = |name: &String| {
                    row! { catalog_name: CATALOG, schema_name: name.as_str(), schema_owner: self.user.as_str() }
                };
                self.schemas.keys().map(one).collect()
            }
            "information_schema.tables" => {
                let one = |table: &Relation| {
                    row! {
                        table_catalog: CATALOG, table_schema: table.schema.as_str(), table_name: table.name.as_str(),
                        table_type: if table.is_view { "VIEW" } else { "BASE TABLE" }, is_insertable_into: "NO", is_typed: "NO"
                    }
                };
                self.relations.iter().map(one).collect()
            }
            "information_schema.views" => {
                let one = |table: &Relation| {
                    row! {
                        table_catalog: CATALOG, table_schema: table.schema.as_str(), table_name: table.name.as_str(),
                        view_definition: table.definition.clone().unwrap_or_default(), check_option: "NONE",
                        is_updatable: "NO", is_insertable_into: "NO", is_trigger_updatable: "NO", is_trigger_deletable: "NO",
                        is_trigger_insertable_into: "NO"
                    }
                };
                views().map(one).collect()
            }
            "information_schema.columns" => self.relations.iter().flat_map(columns).collect(),
            "information_schema.table_constraints" => {
                let one = |table: &Relation| {
                    row! {
                        constraint_catalog: CATALOG, constraint_schema: table.schema.as_str(),
                        constraint_name: table.key_name(), table_catalog: CATALOG, table_schema: table.schema.as_str(),
                        table_name: table.name.as_str(), constraint_type: "PRIMARY KEY", is_deferrable: "NO",
                        initially_deferred: "NO", enforced: "YES"
                    }
                };
                with_key().map(one).collect()
            }
            "information_schema.key_column_usage" => with_key().flat_map(key_columns).collect(),
            "information_schema.constraint_column_usage" => {
                let mut rows: Vec<Row> = with_key().flat_map(key_columns).collect();
                rows.iter_mut().for_each(|row| drop(row.remove("ordinal_position")));
                rows
            }
            "information_schema.table_privileges" => {
                let one = |table: &Relation| {
                    row! {
                        grantor: CATALOG, grantee: self.user.as_str(), table_catalog: CATALOG,
                        table_schema: table.schema.as_str(), table_name: table.name.as_str(), privilege_type: "SELECT",
                        is_grantable: "NO", with_hierarchy: "NO"
                    }
                };
                self.relations.iter().map(one).collect()
            }
            "information_schema.character_sets" => vec![row! { character_set_name: "UTF8" }],
            _ => Vec::new(),
        }
    }

    fn class(&self, table: &Relation) -> Row {
        row! {
            oid: table.oid, relname: table.name.as_str(), relnamespace: self.schema_oid(&table.schema), relowner: OWNER,
            relam: if table.is_view { 0_i64 } else { 2 }, relfilenode: table.oid,
            reltuples: Cell::Float(table.rows.map_or(-1.0, |rows| rows as f64)), relhasindex: !table.key.is_empty(),
            relpersistence: "p", relkind: if table.is_view { "v" } else { "r" },
            relnatts: table.columns.fields().len() as i64, relhasrules: table.is_view, relispopulated: true, relreplident: "d"
        }
    }

    fn key_class(&self, table: &Relation) -> Row {
        row! {
            oid: table.key_oid(), relname: table.key_name(), relnamespace: self.schema_oid(&table.schema), relowner: OWNER,
            relam: 403_i64, relfilenode: table.key_oid(), relpersistence: "p", relkind: "i",
            reltuples: Cell::Float(-1.0), relnatts: table.key.len() as i64, relispopulated: true, relreplident: "n"
        }
    }
}

impl Relation {
    fn key_name(&self) -> String {
        format!("{}_pkey", self.name)
    }

    /// The number of its key, as index and as constraint.
    fn key_oid(&self) -> i64 {
        // The other half of the numbers: those of tables are below.
        self.oid | 1 << 31
    }

    fn key_columns(&self) -> impl Iterator<Item = String> {
        self.key.iter().map(|at| self.columns.field(*at as usize - 1).name().clone())
    }
}

fn ints(values: &[i16]) -> Cell {
    Cell::Ints(values.iter().map(|value| i64::from(*value)).collect())
}

/// FNV-1a, within the numbers that tables may have.
fn hash(name: &str) -> u32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    FIRST + hash % ((1 << 31) - FIRST)
}

/// The parts of a name: in small letters unless quoted.
fn parts(name: &str) -> Vec<String> {
    let (mut parts, mut part, mut chars) = (Vec::new(), String::new(), name.trim().chars().peekable());
    while let Some(char) = chars.next() {
        match char {
            '"' => loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => part.push('"'),
                    Some('"') | None => break,
                    Some(char) => part.push(char),
                }
            },
            '.' => parts.push(std::mem::take(&mut part)),
            char => part.extend(char.to_lowercase()),
        }
    }
    parts.push(part);
    parts
}

/// The schemas of a `search_path`.
pub(in crate::query) fn search_path(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().trim_matches('"').to_ascii_lowercase()).collect()
}

/// A name as SQL has it: quoted if it must be.
pub(super) fn quoted(name: &str) -> String {
    let plain = !name.is_empty()
        && !name.starts_with(|char: char| char.is_ascii_digit())
        && name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn attributes(table: &Relation) -> Vec<Row> {
    let one = |(at, field): (usize, &Arc<Field>)| {
        let column_type = ColumnType::of(field);
        let number = at as i16 + 1;
        row! {
            attrelid: table.oid, attname: field.name().as_str(), atttypid: i64::from(column_type.oid()),
            attlen: i64::from(column_type.width()), attnum: i64::from(number), attcacheoff: -1_i64,
            atttypmod: i64::from(column_type.modifier), attndims: i64::from(column_type.is_array),
            attbyval: matches!(column_type.width(), 1..=8), attalign: "i", attstorage: if column_type.width() < 0 { "x" } else { "p" },
            attnotnull: table.key.contains(&number), attislocal: true, attstattarget: -1_i64,
            attcompression: "", attidentity: "", attgenerated: "",
            attcollation: if column_type.item.category == "S" { 100_i64 } else { 0 }
        }
    };
    table.columns.fields().iter().enumerate().map(one).collect()
}

fn key_attributes(table: &Relation) -> Vec<Row> {
    let one = |(at, column): (usize, &i16)| {
        let field = table.columns.field(*column as usize - 1);
        let column_type = ColumnType::of(field);
        row! {
            attrelid: table.key_oid(), attname: field.name().as_str(), atttypid: i64::from(column_type.oid()),
            attlen: i64::from(column_type.width()), attnum: at as i64 + 1, atttypmod: i64::from(column_type.modifier),
            attislocal: true, attstattarget: -1_i64, attcompression: "", attidentity: "", attgenerated: ""
        }
    };
    table.key.iter().enumerate().map(one).collect()
}

fn index(table: &Relation) -> Row {
    let count = table.key.len();
    row! {
        indexrelid: table.key_oid(), indrelid: table.oid, indnatts: count as i64, indnkeyatts: count as i64,
        indisunique: true, indisprimary: true, indimmediate: true, indisvalid: true, indisready: true, indislive: true,
        indkey: ints(&table.key), indcollation: Cell::Ints(vec![0; count]), indclass: Cell::Ints(vec![0; count]),
        indoption: Cell::Ints(vec![0; count])
    }
}

fn descriptions(table: &Relation) -> Vec<Row> {
    let one = |(at, field): (usize, &Arc<Field>)| {
        let text = field.metadata().get(DESCRIPTION_KEY)?;
        Some(row! { objoid: table.oid, classoid: 1_259_i64, objsubid: at as i64 + 1, description: text.as_str() })
    };
    table.columns.fields().iter().enumerate().filter_map(one).collect()
}

fn key_columns(table: &Relation) -> Vec<Row> {
    let one = |(at, name): (usize, String)| {
        row! {
            constraint_catalog: CATALOG, constraint_schema: table.schema.as_str(), constraint_name: table.key_name(),
            table_catalog: CATALOG, table_schema: table.schema.as_str(), table_name: table.name.as_str(), column_name: name,
            ordinal_position: at as i64 + 1
        }
    };
    table.key_columns().enumerate().map(one).collect()
}

fn columns(table: &Relation) -> Vec<Row> {
    let one = |(at, field): (usize, &Arc<Field>)| {
        let column_type = ColumnType::of(field);
        let item = column_type.item;
        let (precision, radix, scale) = match (item.name, column_type.is_array) {
            (_, true) => (None, None, None),
            ("int2", _) => (Some(16), Some(2), Some(0)),
            ("int4", _) => (Some(32), Some(2), Some(0)),
            ("int8", _) => (Some(64), Some(2), Some(0)),
            ("float4", _) => (Some(24), Some(2), None),
            ("float8", _) => (Some(53), Some(2), None),
            ("numeric", _) if column_type.modifier >= 4 => {
                let modifier = i64::from(column_type.modifier) - 4;
                (Some(modifier >> 16), Some(10), Some(modifier & 0xffff))
            }
            ("numeric", _) => (None, Some(10), None),
            _ => (None, None, None),
        };
        let is_time = item.category == "D" && item.name != "date";
        let udt = if column_type.is_array { format!("_{}", item.name) } else { item.name.to_owned() };
        let number = at as i64 + 1;
        row! {
            table_catalog: CATALOG, table_schema: table.schema.as_str(), table_name: table.name.as_str(),
            column_name: field.name().as_str(), ordinal_position: number,
            is_nullable: if table.key.contains(&(number as i16)) { "NO" } else { "YES" },
            data_type: if column_type.is_array { "ARRAY" } else { item.sql_name },
            numeric_precision: precision, numeric_precision_radix: radix, numeric_scale: scale,
            datetime_precision: is_time.then_some(6_i64), udt_catalog: CATALOG, udt_schema: "pg_catalog", udt_name: udt,
            dtd_identifier: number.to_string(), is_self_referencing: "NO", is_identity: "NO", identity_cycle: "NO",
            is_generated: "NEVER", is_updatable: "NO"
        }
    };
    table.columns.fields().iter().enumerate().map(one).collect()
}

/// The name of a function that reads or writes values of a type: drivers know types by these names.
fn type_function(known: &pg_type::PgType, kind: &str) -> String {
    let divided = matches!(known.category, "D" | "T") || matches!(known.name, "json" | "jsonb" | "uuid" | "numeric");
    format!("{}{}{kind}", known.name, if divided { "_" } else { "" })
}

/// The functions that read and write values of types.
fn type_functions() -> Vec<Row> {
    let kinds = ["in", "out", "recv", "send"];
    let own = ALL.iter().flat_map(|known| kinds.map(|kind| type_function(known, kind)));
    let names = own.chain(kinds.map(|kind| format!("array_{kind}")));
    let one = |(at, name): (usize, String)| {
        row! {
            oid: at as i64 + 1, proname: name, pronamespace: CATALOG_SCHEMA, proowner: OWNER, prolang: 12_i64, prokind: "f",
            provolatile: "i", proparallel: "s", pronargs: 1_i64
        }
    };
    names.enumerate().map(one).collect()
}

fn types(known: &pg_type::PgType) -> Vec<Row> {
    let function = |kind: &str| type_function(known, kind);
    let own = row! {
        oid: i64::from(known.oid), typname: known.name, typnamespace: CATALOG_SCHEMA, typowner: OWNER,
        typlen: i64::from(known.len), typbyval: matches!(known.len, 1..=8), typtype: if known.category == "X" { "p" } else { "b" },
        typcategory: known.category, typisdefined: true, typdelim: ",", typarray: i64::from(known.array),
        typinput: function("in"), typoutput: function("out"), typreceive: function("recv"), typsend: function("send"),
        typmodin: "-", typmodout: "-", typanalyze: "-", typsubscript: "-", typalign: "i", typstorage: if known.len < 0 { "x" } else { "p" },
        typtypmod: -1_i64, typcollation: if known.category == "S" { 100_i64 } else { 0 },
        typispreferred: matches!(known.name, "bool" | "text" | "float8" | "timestamptz" | "interval" | "oid")
    };
    let array = row! {
        oid: i64::from(known.array), typname: format!("_{}", known.name), typnamespace: CATALOG_SCHEMA, typowner: OWNER,
        typlen: -1_i64, typtype: "b", typcategory: "A", typisdefined: true, typdelim: ",", typelem: i64::from(known.oid),
        typinput: "array_in", typoutput: "array_out", typreceive: "array_recv", typsend: "array_send", typmodin: "-",
        typmodout: "-", typanalyze: "array_typanalyze", typsubscript: "array_subscript_handler", typalign: "i",
        typstorage: "x", typtypmod: -1_i64
    };
    if known.array == 0 { vec![own] } else { vec![own, array] }
}

/// Schemas that every database has.
pub(in crate::query) fn own_schemas() -> [String; 2] {
    [SYSTEM.to_owned(), "information_schema".to_owned()]
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Schema};

    use super::*;

    fn catalog() -> PgCatalog {
        let columns = Schema::new(vec![
            Field::new("car_id", DataType::Utf8, true),
            Field::new("Speed", DataType::Float64, true)
                .with_metadata([(DESCRIPTION_KEY.to_owned(), "in km/h".to_owned())].into()),
        ]);
        let told = Told {
            schema: PUBLIC.into(),
            name: "car_state".into(),
            is_view: false,
            columns: columns.into(),
            key: vec!["car_id".into()],
            definition: None,
            rows: Some(7),
        };
        PgCatalog::new(vec![told], own_schemas(), "ann", vec![("TimeZone".into(), "UTC".into())])
    }

    #[test]
    fn every_catalog_can_be_read() {
        let catalog = catalog();
        for (name, _) in TABLES {
            let rows = catalog.table(name).unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
            let may_be = !is_empty(name) || name.starts_with("information_schema.");
            assert!(may_be || rows.num_rows() == 0, "{name} is said to be empty");
        }
        assert!(catalog.table("pg_shadow").is_none());
        assert_eq!(catalog.table("pg_attribute").unwrap().unwrap().num_rows(), 3, "two columns and one of the key");
    }

    #[test]
    fn tables_are_found_by_name_and_number() {
        let catalog = catalog();
        let oid = catalog.relation("car_state").unwrap();
        assert_eq!(catalog.relation("public.\"car_state\""), Some(oid));
        assert_eq!(catalog.relation("PUBLIC.Car_State"), Some(oid));
        assert_eq!(catalog.relation("system.car_state"), None);
        assert_eq!(catalog.relation("pg_catalog.pg_class"), Some(1_259));
        assert_eq!(catalog.name_of(oid).as_deref(), Some("car_state"));
        assert_eq!(catalog.name_of(oid | 1 << 31).as_deref(), Some("car_state_pkey"));
        assert_eq!(catalog.comment(oid, 2).as_deref(), Some("in km/h"));
        assert_eq!(catalog.key_of(oid | 1 << 31).unwrap().0, "PRIMARY KEY (car_id)");
        assert_eq!(quoted("Speed"), "\"Speed\"");
        assert_eq!(oid, i64::from(hash("public.car_state")), "numbers do not change");
    }
}
