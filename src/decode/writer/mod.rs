//! Payloads in the Confluent wire format as JSON text, which the decoder then reads like any other: names,
//! flattening, rescue and dead letters are the same for every format.
//!
//! ```text
//! 0 │ id of the writer schema, 4 bytes │ Protobuf only: which message of the schema │ the value
//! ```
//!
//! | Avro | Protobuf | JSON text | column |
//! |---|---|---|---|
//! | boolean | bool | `true` | boolean |
//! | int, long | int32 … sfixed64 | `1` | bigint |
//! | float, double | float, double | always with a fraction or an exponent; `"NaN"`, `"Infinity"` | double |
//! | string, enum, uuid | string, enum | `"text"` | string |
//! | bytes, fixed | bytes | `"base64"` | string |
//! | decimal | | `"12.50"`, all its digits | string |
//! | timestamp-…, local-timestamp-… | Timestamp | RFC 3339, to the microsecond in Avro; local ones without a zone | timestamp |
//! | date | | `"2024-03-01"` | date |
//! | time-…, duration | Duration | `"12:34:56.5"`, `"P1M2DT3.5S"`; `"3.500s"` | string |
//! | array | repeated, ListValue | `[…]` | a list, if of scalars of one kind; else json |
//! | record, map | message, map, Struct | `{…}` | one per member |
//! | union | oneof | the value as it is | of all its branches' kinds |
//!
//! A float is written with the fewest digits that read back as the same float. The schema also says which columns
//! there are: its fields are reported like paths that were found, before any value was seen ([`Leaf`]).

mod avro;
mod binary;
mod protobuf;
pub(super) mod text;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use prost_reflect::MessageDescriptor;

use super::{Reason, scan::Fault, walk::MAX_LEVELS};
use crate::schema::{Format, Observed, Path};

/// JSON text of one record at most: a corrupt count must not fill the memory.
const MAX_TEXT_BYTES: usize = 256 << 20;
/// Fields of a schema that are looked at for columns.
const MAX_FIELDS: usize = 10_000;

/// A schema as a registry tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaText {
    /// The registry's word: `AVRO`, `PROTOBUF` or another.
    pub kind: String,
    /// The schema itself.
    pub text: String,
    /// Name and text of the schemas it refers to, each before those that refer to it.
    pub references: Vec<(String, String)>,
}

/// What a registry says about one schema id, prepared for reading.
#[derive(Debug)]
pub struct WriterSchema(Known);

#[derive(Debug)]
enum Known {
    Avro(Shape),
    /// By the message's index in the file, and in each message around it.
    Protobuf(HashMap<Vec<usize>, Shape>),
    /// A kind of schema that no format of a table reads.
    Other(String),
    Unknown,
}

impl WriterSchema {
    /// Prepares a schema. An error says what in its text cannot be read.
    pub fn parse(schema: &SchemaText) -> Result<Self, String> {
        Ok(Self(match schema.kind.as_str() {
            "AVRO" => Known::Avro(avro::parse(schema)?),
            "PROTOBUF" => Known::Protobuf(protobuf::parse(schema)?),
            other => Known::Other(other.to_owned()),
        }))
    }

    /// What is known of an id that the registry does not have: its payloads are dead letters.
    pub fn unknown() -> Self {
        Self(Known::Unknown)
    }

    fn kind(&self) -> &str {
        match &self.0 {
            Known::Avro(_) => "AVRO",
            Known::Protobuf(_) => "PROTOBUF",
            Known::Other(kind) => kind,
            Known::Unknown => "unknown",
        }
    }
}

/// The schemas that payloads name, by id. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct WriterSchemas(Arc<HashMap<u32, Arc<WriterSchema>>>);

impl FromIterator<(u32, Arc<WriterSchema>)> for WriterSchemas {
    fn from_iter<I: IntoIterator<Item = (u32, Arc<WriterSchema>)>>(schemas: I) -> Self {
        Self(Arc::new(schemas.into_iter().collect()))
    }
}

/// The id of the schema that a payload in the wire format names; `None` for any other payload.
pub fn schema_id(payload: &[u8]) -> Option<u32> {
    match payload {
        [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// What one kind of record looks like, and how it is read.
#[derive(Debug)]
pub(super) struct Shape {
    /// Its fields that can be columns, in the schema's order.
    pub leaves: Vec<Leaf>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Avro(avro::Avro),
    Protobuf(MessageDescriptor),
}

/// A field that can be a column. Members of maps are none: their names are data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub path: Vec<String>,
    /// The path as written.
    pub text: String,
    /// What its values may be.
    pub kinds: Observed,
}

impl Leaf {
    pub fn new(path: Vec<String>, kinds: Observed) -> Self {
        let text = Path::Value(path.clone()).to_string();
        Self { path, text, kinds }
    }
}

/// The JSON text of a payload, and what its writer declares. The text may be written to `json`.
pub(super) fn read<'t, 's>(
    format: Format,
    payload: &'t [u8],
    schemas: &'s WriterSchemas,
    json: &'t mut String,
) -> Result<(&'t str, Option<&'s Shape>), Fault> {
    let (name, kind, reason) = match format {
        Format::Json | Format::DebeziumJson | Format::DmsJson => {
            let text = simdutf8::compat::from_utf8(payload).map_err(|error| Fault {
                reason: Reason::NotUtf8,
                message: format!("the payload is not UTF-8 at byte {}", error.valid_up_to()),
            })?;
            return Ok((text, None));
        }
        Format::Avro | Format::DebeziumAvro => ("Avro", "AVRO", Reason::NotAvro),
        Format::Protobuf => ("Protobuf", "PROTOBUF", Reason::NotProtobuf),
    };
    let refuse = |message: String| Fault { reason, message };
    let Some(id) = schema_id(payload) else {
        let found = match payload.first() {
            None => "is empty".to_owned(),
            Some(b'{' | b'[') => "looks like JSON".to_owned(),
            Some(0) => format!("ends after {} bytes", payload.len()),
            Some(byte) => format!("begins with the byte 0x{byte:02x}"),
        };
        let wanted = "a 0 byte and a schema id should lead (Confluent's wire format)";
        return Err(refuse(format!("the payload is not {name} with a schema id: it {found}; {wanted}")));
    };
    let unknown =
        || Fault { reason: Reason::UnknownSchema, message: format!("the schema registry has no schema with id {id}") };
    let schema = schemas.0.get(&id).ok_or_else(unknown)?;
    json.clear();
    let (shape, body) = match (&schema.0, format) {
        (Known::Unknown, _) => return Err(unknown()),
        (Known::Avro(shape), Format::Avro | Format::DebeziumAvro) => (shape, &payload[5..]),
        (Known::Protobuf(messages), Format::Protobuf) => protobuf::message(messages, &payload[5..]).map_err(refuse)?,
        _ => return Err(refuse(format!("schema {id} is of kind {}, not {kind}", schema.kind()))),
    };
    match &shape.form {
        Form::Avro(schema) => binary::write_json(schema, body, json)?,
        Form::Protobuf(message) => protobuf::write_json(message, body, json)?,
    }
    Ok((json, Some(shape)))
}

/// Collects the leaves of a schema, field by field.
struct Outline {
    leaves: Vec<Leaf>,
    path: Vec<String>,
    /// Fields that may still be visited: types that hold each other many times over would have no end.
    left: usize,
}

impl Outline {
    fn new() -> Self {
        Self { leaves: Vec::new(), path: Vec::new(), left: MAX_FIELDS }
    }

    /// A value of these kinds stands here; of none, if it is always null.
    fn leaf(&mut self, kinds: Observed) {
        if !self.path.is_empty() && kinds != Observed::default() {
            self.leaves.push(Leaf::new(self.path.clone(), kinds));
        }
    }

    /// An array stands here, of scalars of these kinds; of `None`, if it may hold arrays or objects.
    fn array(&mut self, elements: Option<Observed>) {
        // Of what is always null no message tells more: it must not wait for a value.
        let scalars = elements.filter(|kinds| *kinds != Observed::default());
        self.leaf(scalars.map_or(Observed::NESTED, Observed::list_of));
    }

    /// An object stands here. False if the walk takes it whole, so that it has no members of its own.
    fn object(&mut self) -> bool {
        let flattened = self.path.len() < MAX_LEVELS;
        if !flattened {
            self.leaf(Observed::NESTED);
        }
        flattened
    }

    /// What `visit` finds stands in the member `name`.
    fn member(&mut self, name: &str, visit: impl FnOnce(&mut Self)) {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.path.push(name.to_owned());
            visit(self);
            self.path.pop();
        }
    }
}
