//! The contract of an events table, as written in `schemas/<table>.toml` (parsed by `config`).

use std::time::Duration;

use chrono_tz::Tz;

use super::{FileFormat, change, names::derive};

/// Everything a person declared about one events table.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    /// Table name.
    pub table: String,
    /// Stem of the file that declares it: the table's name, unless Millpond made that up.
    pub file: String,
    /// Topics that feed the table, at least one.
    pub topics: Vec<String>,
    /// How payloads are written.
    pub format: Format,
    /// Where the first run begins.
    pub start: Start,
    /// Key columns; they come first in the table.
    pub key: Vec<String>,
    /// Where `event_time` comes from; the broker's timestamp if `None`.
    pub time: Option<EventTime>,
    /// A path prefix that names leave out (`"vehicle."`), as path parts.
    pub strip: Vec<String>,
    /// What happens to a path no column knows.
    pub on_new_field: OnNewField,
    /// What happens to a value that does not fit its column.
    pub on_type_conflict: OnTypeConflict,
    /// Declared columns, in file order.
    pub columns: Vec<ColumnContract>,
    /// Payload paths whose values are left out, with everything below them (`drop = true`).
    pub dropped: Vec<Vec<String>>,
    /// Declared arrays, in file order.
    pub arrays: Vec<ArrayContract>,
    /// Which of a topic's records are the table's: those that meet all conditions.
    pub matches: Vec<Match>,
    /// Topics of which the table is, by name, the first: a record that nobody can read is its dead letter, and a
    /// counted skip for the topic's other tables that have `match`.
    pub first_of: Vec<String>,
    /// True if strings that read as timestamps make a timestamp column.
    pub infer_timestamps: bool,
    /// True if every record is also kept as it came, in a table of its own.
    pub raw: bool,
    /// Files of a full load that a mirror begins with.
    pub load: Option<FullLoad>,
    /// Overrides `[lake] commit_interval`.
    pub commit_interval: Option<Duration>,
    /// Rows of days that ended longer ago go; `None` keeps all.
    pub retention: Option<Duration>,
    /// Rules look at times so far behind the newest event: what is older has come by then, or is late.
    pub allowed_lateness: Duration,
    /// The project's zone: days of `_day`, and timestamps without a zone.
    pub timezone: Tz,
}

/// `[load]`: what a database held when its stream of changes began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullLoad {
    /// Where its files are: an absolute path or `s3://bucket/key`, with patterns.
    pub url: String,
    /// What is in them; what their names say if `None`.
    pub format: Option<FileFormat>,
    /// How often it is looked for new ones.
    pub poll: Duration,
}

impl ArrayShape {
    /// True if arrays are read as an object, so that its members get columns.
    pub fn is_object(&self) -> bool {
        matches!(self, Self::Pivot { .. } | Self::First)
    }
}

/// `format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON text.
    Json,
    /// Avro in the Confluent wire format: a schema's id stands before each value.
    Avro,
    /// Protobuf in the Confluent wire format.
    Protobuf,
    /// Debezium's changes as JSON.
    DebeziumJson,
    /// Debezium's changes as Avro in the Confluent wire format.
    DebeziumAvro,
    /// AWS DMS's changes as JSON.
    DmsJson,
}

impl Format {
    /// True if payloads can be read only with schemas of a registry.
    pub fn needs_registry(self) -> bool {
        matches!(self, Self::Avro | Self::Protobuf | Self::DebeziumAvro)
    }

    /// True if payloads are changes of a database's rows.
    pub fn is_change(self) -> bool {
        matches!(self, Self::DebeziumJson | Self::DebeziumAvro | Self::DmsJson)
    }
}

/// `allowed_lateness` where a contract does not say it.
pub const ALLOWED_LATENESS: Duration = Duration::from_secs(2);

impl Contract {
    /// The contract of a JSON topic's table that declares nothing.
    pub fn undeclared(table: &str, topic: &str) -> Self {
        Self {
            table: table.to_owned(),
            file: table.to_owned(),
            topics: vec![topic.to_owned()],
            format: Format::Json,
            start: Start::Earliest,
            key: Vec::new(),
            time: None,
            strip: Vec::new(),
            on_new_field: OnNewField::Add,
            on_type_conflict: OnTypeConflict::Widen,
            columns: Vec::new(),
            dropped: Vec::new(),
            arrays: Vec::new(),
            matches: Vec::new(),
            first_of: Vec::new(),
            infer_timestamps: false,
            raw: false,
            load: None,
            commit_interval: None,
            retention: None,
            allowed_lateness: ALLOWED_LATENESS,
            timezone: Tz::UTC,
        }
    }

    /// What is declared about the column `name`.
    pub fn column(&self, name: &str) -> Option<&ColumnContract> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// What is declared about the array at a payload path.
    pub fn array(&self, path: &[String]) -> Option<&ArrayShape> {
        self.arrays.iter().find(|array| array.path == path).map(|array| &array.shape)
    }

    /// The contracts of the tables that hold this one's `child` arrays, in the order of `arrays`. Their paths begin
    /// at the element, and arrays declared inside of it are arrays of its table, children too.
    pub fn children(&self) -> Vec<Contract> {
        self.child_arrays().map(|child| self.child(child)).collect()
    }

    /// The contracts of its own table and of all that hold `child` arrays, parents before their children.
    pub fn family(&self) -> Vec<Contract> {
        let children = self.children();
        std::iter::once(self.clone()).chain(children.iter().flat_map(Contract::family)).collect()
    }

    /// The contract of the changes of a database's table, from what is declared about its rows: paths begin at a row.
    #[must_use]
    pub fn into_changes(mut self) -> Self {
        let after = || change::AFTER.to_owned();
        for column in &mut self.columns {
            if let Some(Path::Value(parts)) = &mut column.path {
                parts.insert(0, after());
            }
        }
        self.dropped.iter_mut().for_each(|path| path.insert(0, after()));
        self.columns.extend(change::columns());
        let path = Path::Value(vec![change::TIME_PATH.to_owned()]);
        Self {
            table: change::table_of(&self.table),
            strip: vec![after()],
            time: Some(EventTime { path, format: TimeFormat::Rfc3339 }),
            ..self
        }
    }

    /// Name of the table that keeps records as they came, if there is one.
    pub fn raw_table(&self) -> Option<String> {
        self.raw.then(|| format!("{}__raw", self.table))
    }

    /// The declared arrays of [`Self::children`]: `child` arrays that lie in no other one.
    pub(crate) fn child_arrays(&self) -> impl Iterator<Item = &ArrayContract> {
        let children = || self.arrays.iter().filter(|array| array.shape == ArrayShape::Child);
        let inside = |path: &[String], other: &[String]| path.len() > other.len() && path.starts_with(other);
        children().filter(move |child| !children().any(|other| inside(&child.path, &other.path)))
    }

    fn child(&self, child: &ArrayContract) -> Contract {
        let inside = |path: &[String]| path.strip_prefix(child.path.as_slice()).map(<[String]>::to_vec);
        let arrays = self.arrays.iter().filter(|array| array.path.len() > child.path.len());
        let level = 1 + self.columns.iter().filter(|column| matches!(column.path, Some(Path::Index(_)))).count();
        Contract {
            table: format!("{}__{}", self.table, derive(&child.path, &self.strip)),
            key: Vec::new(),
            time: None,
            strip: Vec::new(),
            columns: (1..=level).filter_map(|level| u8::try_from(level).ok()).map(index_column).collect(),
            dropped: self.dropped.iter().filter_map(|path| inside(path)).filter(|path| !path.is_empty()).collect(),
            arrays: arrays
                .filter_map(|array| Some(ArrayContract { path: inside(&array.path)?, ..array.clone() }))
                .collect(),
            matches: Vec::new(),
            raw: false,
            ..self.clone()
        }
    }
}

fn index_column(level: u8) -> ColumnContract {
    let (path, kind) = (Some(Path::Index(level)), Some(ColumnType::Int64));
    ColumnContract { name: format!("_index_{level}"), path, kind, ..ColumnContract::default() }
}

/// `start = "earliest" | "latest" | "<RFC 3339 timestamp>"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest record Kafka still has.
    Earliest,
    /// Only records that arrive after the first start.
    Latest,
    /// The first record at or after this time, in milliseconds since 1970.
    At(i64),
}

/// `time = { path = …, format = … }`.
#[derive(Debug, Clone, PartialEq)]
pub struct EventTime {
    /// Where the value stands.
    pub path: Path,
    /// How it is written.
    pub format: TimeFormat,
}

/// How a timestamp is written in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339 text.
    Rfc3339,
    /// A number of seconds since 1970 (fractions allowed).
    UnixSeconds,
    /// A number of milliseconds since 1970.
    UnixMillis,
    /// A number of microseconds since 1970.
    UnixMicros,
    /// A pattern of Java's DateTimeFormatter, such as `EEE MMM dd HH:mm:ss z yyyy`.
    Pattern(String),
}

impl TimeFormat {
    /// Reads `format`. Whether a pattern can be read is the decode room's business (`check_time_format`).
    pub fn parse(text: &str) -> Self {
        match text {
            "rfc3339" => Self::Rfc3339,
            "unix_s" => Self::UnixSeconds,
            "unix_ms" => Self::UnixMillis,
            "unix_us" => Self::UnixMicros,
            pattern => Self::Pattern(pattern.to_owned()),
        }
    }
}

/// `on_new_field`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNewField {
    /// A new column, in a new schema version.
    Add,
    /// The value goes to `_rescued`.
    Rescue,
}

/// `on_type_conflict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTypeConflict {
    /// Where a wider type loses nothing, a successor column of it takes the value and all later ones; else as
    /// `Rescue`.
    Widen,
    /// A successor column of strings takes the value and all later ones.
    String,
    /// The value goes to `_rescued`, the column is null.
    Rescue,
    /// The record becomes a dead letter.
    DeadLetter,
}

/// One condition of `match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Where the value stands.
    pub path: Path,
    /// The values that meet it: a string's content, or a number or boolean as JSON writes it.
    pub values: Vec<String>,
}

/// `[arrays."<path>"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayContract {
    /// Where the array stands in the payload.
    pub path: Vec<String>,
    /// What becomes of it.
    pub shape: ArrayShape,
}

/// `as` of a declared array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArrayShape {
    /// A JSON column, whatever it holds.
    Json,
    /// A list column; scalars of several kinds become strings.
    List,
    /// The array is read as an object whose keys are the elements' values of the member `by`. An element's member
    /// `value` stands under that key itself, its other members below it.
    Pivot {
        /// The member that names an element.
        by: String,
        /// The member that is the element's value.
        value: Option<String>,
    },
    /// The first element stands for the array; the others are left out.
    First,
    /// Each element is a row of the table `<table>__<path>`.
    Child,
}

/// `[columns.<name>]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ColumnContract {
    /// Column name.
    pub name: String,
    /// Where its value comes from; `None`: the payload path whose derived name is `name`.
    pub path: Option<Path>,
    /// Declared type; inferred if `None`.
    pub kind: Option<ColumnType>,
    /// How a timestamp is written; RFC 3339 if `None`.
    pub format: Option<TimeFormat>,
    /// The zone of timestamps without one; the project's if `None`.
    pub zone: Option<Tz>,
    /// Digits behind the point of a decimal that Debezium writes as base64.
    pub scale: Option<u8>,
    /// The value of rows that have none or null, as a header would write it: strings as they are, other types as
    /// in JSON.
    pub default: Option<String>,
    /// True if a row without a value, or with one that does not fit, makes its record a dead letter.
    pub not_null: bool,
    /// For people.
    pub description: Option<String>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// Object keys from the payload's root.
    Value(Vec<String>),
    /// `$key`: the message key as text; `$key.path`: inside a JSON key (parts not empty).
    Key(Vec<String>),
    /// `$header.<name>`, as text.
    Header(String),
    /// `$topic`.
    Topic,
    /// `$timestamp`: the broker's timestamp.
    Timestamp,
    /// `$index.<n>`: the place, from 0, of a child row's element in the n-th array around it, from 1 outside.
    Index(u8),
}

/// Types of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// `boolean`
    Boolean,
    /// `bigint`: 64-bit signed
    Int64,
    /// `double`: IEEE 754 64-bit
    Double,
    /// `string`
    String,
    /// `json`: JSON text in a string column (arrays that are no lists, too deep objects)
    Json,
    /// `timestamp`: microseconds, UTC
    Timestamp,
    /// `date`: days since 1970
    Date,
    /// `boolean[]`, `bigint[]`, `double[]`, `string[]`: an array of scalars, nulls allowed
    List(Element),
}

/// Types of a list's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// `boolean`
    Boolean,
    /// `bigint`
    Int64,
    /// `double`
    Double,
    /// `string`
    String,
}

impl Element {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Boolean, Self::Int64, Self::Double, Self::String];

    /// The type of a column that holds one element.
    pub fn column_type(self) -> ColumnType {
        match self {
            Self::Boolean => ColumnType::Boolean,
            Self::Int64 => ColumnType::Int64,
            Self::Double => ColumnType::Double,
            Self::String => ColumnType::String,
        }
    }
}
