//! Avro schemas, parsed into a form in which every name is resolved ([Avro 1.12](https://avro.apache.org/docs/1.12.0/specification/)).
//!
//! Names, aliases and defaults are not checked: the registry has done that, and the writer's schema alone decides
//! how bytes are read. An unknown or ill-fitting logical type is ignored, as the specification asks.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Form, Outline, SchemaText, Shape};
use crate::schema::{Observed, push_json_string};

/// Digits of a decimal at most.
const MAX_PRECISION: u64 = 1_000;

/// A schema; types name each other by their place in `nodes`.
#[derive(Debug)]
pub(super) struct Avro {
    pub nodes: Vec<Node>,
    pub root: usize,
}

/// A type.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    /// Symbols as JSON strings.
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<Field>),
    /// Days since 1970.
    Date,
    /// Time of day in so many nanoseconds per unit, as an int or a long.
    Time(i64),
    /// Units of so many nanoseconds since 1970; a local one is of no zone.
    Timestamp {
        unit_ns: i64,
        local: bool,
    },
    /// A timestamp as text.
    TimestampText,
    /// The unscaled value, in a fixed of so many bytes or in bytes.
    Decimal {
        fixed: Option<usize>,
        scale: usize,
    },
    /// A record of a scale and an unscaled value, both in that order.
    VariableDecimal,
    /// So many bits in bytes, the lowest first.
    Bits(usize),
    /// A UUID in 16 bytes.
    Uuid,
    /// Months, days and milliseconds in 12 bytes.
    Duration,
}

/// A field of a record.
#[derive(Debug, Clone)]
pub(super) struct Field {
    name: String,
    /// The name as a JSON object's key, with its colon.
    pub key: String,
    pub node: usize,
}

/// Reads a schema and those it refers to.
pub(super) fn parse(schema: &SchemaText) -> Result<Shape, String> {
    let mut parser = Parser::default();
    for (name, text) in &schema.references {
        parser.text(text).map_err(|error| format!("the referenced schema `{name}`: {error}"))?;
    }
    let root = parser.text(&schema.text)?;
    let avro = Avro { nodes: parser.nodes, root };
    let mut outline = Outline::new();
    avro.outline(root, &mut outline, &mut Vec::new());
    Ok(Shape { leaves: outline.leaves, form: Form::Avro(avro) })
}

impl Avro {
    /// Reports the fields of the type `at`; `around` holds the records it is part of.
    fn outline(&self, at: usize, outline: &mut Outline, around: &mut Vec<usize>) {
        match (self.scalar(at), &self.nodes[at]) {
            (Some(kinds), _) => outline.leaf(kinds),
            (_, Node::Array(item)) if outline.path.is_empty() => self.outline(*item, outline, around),
            (_, Node::Array(item)) => outline.array(self.scalar(*item)),
            (_, Node::Union(branches)) => branches.iter().for_each(|branch| self.outline(*branch, outline, around)),
            // A type that holds itself has no last field: what values it has is found in the messages.
            (_, Node::Record(_)) if around.contains(&at) => {}
            (_, Node::Record(fields)) => {
                if outline.object() {
                    around.push(at);
                    for field in fields {
                        outline.member(&field.name, |outline| self.outline(field.node, outline, around));
                    }
                    around.pop();
                }
            }
            (None, _) => {
                outline.object();
            }
        }
    }

    /// The kinds of the type `at`, if it holds nothing but scalars.
    fn scalar(&self, at: usize) -> Option<Observed> {
        Some(match &self.nodes[at] {
            Node::Null => Observed::default(),
            Node::Boolean => Observed::BOOLEAN,
            Node::Int | Node::Long => Observed::INTEGER,
            Node::Float | Node::Double => Observed::REAL,
            Node::Date => Observed::DATE,
            Node::Timestamp { .. } | Node::TimestampText => Observed::TIMESTAMP,
            Node::Union(branches) => {
                let mut branches = branches.iter();
                return branches.try_fold(Observed::default(), |all, branch| Some(all.and(self.scalar(*branch)?)));
            }
            Node::Array(_) | Node::Map(_) | Node::Record(_) => return None,
            _ => Observed::STRING,
        })
    }
}

#[derive(Default)]
struct Parser {
    nodes: Vec<Node>,
    /// Named types by their full names.
    names: HashMap<String, usize>,
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<usize, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        self.schema(&value, "")
    }

    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A type; names without a dot are of `namespace`.
    fn schema(&mut self, value: &Value, namespace: &str) -> Result<usize, String> {
        match value {
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) => {
                let branches: Result<_, _> = branches.iter().map(|branch| self.schema(branch, namespace)).collect();
                Ok(self.push(Node::Union(branches?)))
            }
            Value::Object(object) => match object.get("type") {
                Some(Value::String(kind)) => self.complex(kind, object, namespace),
                Some(inner) => self.schema(inner, namespace),
                None => Err("a type without `type`".to_owned()),
            },
            other => Err(format!("`{other}` is no type")),
        }
    }

    fn named(&mut self, name: &str, namespace: &str) -> Result<usize, String> {
        if let Some(node) = primitive(name) {
            return Ok(self.push(node));
        }
        let known = self.names.get(&full_name(name, namespace)).or_else(|| self.names.get(name));
        known.copied().ok_or_else(|| format!("`{name}` is no type, and no schema it refers to defines it"))
    }

    fn complex(&mut self, kind: &str, object: &Map<String, Value>, namespace: &str) -> Result<usize, String> {
        let part = |key: &str| object.get(key).ok_or_else(|| format!("{kind} without `{key}`"));
        let node = match kind {
            "array" => Node::Array(self.schema(part("items")?, namespace)?),
            "map" => Node::Map(self.schema(part("values")?, namespace)?),
            "record" | "error" => return self.record(object, namespace),
            "enum" => {
                let symbols = part("symbols")?.as_array().ok_or("`symbols` of an enum is no list")?;
                let symbols = symbols.iter().map(|symbol| symbol.as_str().map(json_string));
                Node::Enum(symbols.collect::<Option<_>>().ok_or("a symbol of an enum is no text")?)
            }
            "fixed" => {
                let size = part("size")?.as_u64().and_then(|size| usize::try_from(size).ok());
                logical(object, Node::Fixed(size.ok_or("`size` of a fixed is no size")?))
            }
            name => match primitive(name) {
                Some(node) => logical(object, node),
                None => return self.named(name, namespace),
            },
        };
        let at = self.push(node);
        if matches!(kind, "enum" | "fixed") {
            let (name, _) = defined(object, namespace)?;
            self.names.insert(name, at);
        }
        Ok(at)
    }

    fn record(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<usize, String> {
        let (name, namespace) = defined(object, namespace)?;
        // Its own fields may name it.
        let at = self.push(Node::Record(Vec::new()));
        self.names.insert(name.clone(), at);
        if name == "io.debezium.data.VariableScaleDecimal" {
            self.nodes[at] = Node::VariableDecimal;
            return Ok(at);
        }
        let wrong = |what: &str| format!("record `{name}`: {what}");
        let mut fields = Vec::new();
        for field in object.get("fields").and_then(Value::as_array).ok_or_else(|| wrong("has no fields"))? {
            let name = field.get("name").and_then(Value::as_str).ok_or_else(|| wrong("a field without a name"))?;
            let kind = field.get("type").ok_or_else(|| wrong(&format!("field `{name}` has no type")))?;
            let node = self.schema(kind, &namespace)?;
            fields.push(Field { name: name.to_owned(), key: json_string(name) + ":", node });
        }
        self.nodes[at] = Node::Record(fields);
        Ok(at)
    }
}

/// The full name that a definition gives its type, and the namespace inside it.
fn defined(object: &Map<String, Value>, namespace: &str) -> Result<(String, String), String> {
    let name = object.get("name").and_then(Value::as_str).ok_or("a named type without a name")?;
    let namespace = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
    let full = full_name(name, namespace);
    let inside = full.rsplit_once('.').map_or_else(String::new, |(namespace, _)| namespace.to_owned());
    Ok((full, inside))
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn primitive(name: &str) -> Option<Node> {
    Some(match name {
        "null" => Node::Null,
        "boolean" => Node::Boolean,
        "int" => Node::Int,
        "long" => Node::Long,
        "float" => Node::Float,
        "double" => Node::Double,
        "bytes" => Node::Bytes,
        "string" => Node::String,
        _ => return None,
    })
}

/// The type with its logical type, or the meaning that Debezium gives it, if it has one that suits it.
fn logical(object: &Map<String, Value>, base: Node) -> Node {
    let word = |key: &str| object.get(key).and_then(Value::as_str);
    let name = word("logicalType").or_else(|| word("connect.name")).unwrap_or_default();
    let timestamp = |unit_ns, local| Node::Timestamp { unit_ns, local };
    match (name, &base) {
        ("date" | "io.debezium.time.Date", Node::Int) => Node::Date,
        ("time-millis" | "io.debezium.time.Time", Node::Int) => Node::Time(1_000_000),
        ("time-micros" | "io.debezium.time.MicroTime", Node::Long) => Node::Time(1_000),
        ("io.debezium.time.NanoTime", Node::Long) => Node::Time(1),
        ("io.debezium.time.Timestamp", Node::Long) => timestamp(1_000_000, true),
        ("io.debezium.time.MicroTimestamp", Node::Long) => timestamp(1_000, true),
        ("io.debezium.time.NanoTimestamp", Node::Long) => timestamp(1, true),
        ("io.debezium.time.ZonedTimestamp", Node::String) => Node::TimestampText,
        ("io.debezium.data.Bits", Node::Bytes) => {
            let length = object.get("connect.parameters").and_then(|parameters| parameters.get("length"));
            Node::Bits(length.and_then(Value::as_str).and_then(|text| text.parse().ok()).unwrap_or(1))
        }
        ("timestamp-millis", Node::Long) => timestamp(1_000_000, false),
        ("timestamp-micros", Node::Long) => timestamp(1_000, false),
        ("timestamp-nanos", Node::Long) => timestamp(1, false),
        ("local-timestamp-millis", Node::Long) => timestamp(1_000_000, true),
        ("local-timestamp-micros", Node::Long) => timestamp(1_000, true),
        ("local-timestamp-nanos", Node::Long) => timestamp(1, true),
        ("uuid", Node::Fixed(16)) => Node::Uuid,
        ("duration", Node::Fixed(12)) => Node::Duration,
        ("decimal", Node::Bytes | Node::Fixed(_)) => {
            let number = |key: &str| object.get(key).map_or(Some(0), Value::as_u64);
            let fixed = if let Node::Fixed(size) = base { Some(size) } else { None };
            match (number("precision"), number("scale")) {
                (Some(precision @ 1..=MAX_PRECISION), Some(scale)) if scale <= precision => {
                    Node::Decimal { fixed, scale: scale as usize }
                }
                _ => base,
            }
        }
        _ => base,
    }
}

fn json_string(value: &str) -> String {
    let mut json = String::new();
    push_json_string(&mut json, value);
    json
}
