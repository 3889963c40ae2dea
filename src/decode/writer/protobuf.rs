//! Protobuf: `.proto` text compiled in the process, messages as JSON by the
//! [canonical mapping](https://protobuf.dev/programming-guides/json/), with two differences: integers of 64 bits are
//! numbers, and names are those of the `.proto` file. A field without presence that is not set has its default.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use protox::file::{File, FileResolver, GoogleFileResolver};

use super::{Form, MAX_TEXT_BYTES, Outline, SchemaText, Shape};
use crate::{
    decode::{Reason, scan::Fault},
    schema::Observed,
};

/// The name under which the schema itself is compiled; no reference has it.
const MAIN: &str = "-.proto";
/// Messages inside each other, at most, that a payload may point at.
const MAX_INDEXES: usize = 64;

/// Reads a schema and the files it imports.
pub(super) fn parse(schema: &SchemaText) -> Result<HashMap<Vec<usize>, Shape>, String> {
    let mut texts: HashMap<String, String> = BUILT_IN.iter().map(|(n, text)| ((*n).into(), (*text).into())).collect();
    texts.extend(schema.references.iter().cloned());
    texts.insert(MAIN.to_owned(), schema.text.clone());
    let mut compiler = protox::Compiler::with_file_resolver(Files { texts, google: GoogleFileResolver::new() });
    compiler.open_file(MAIN).map_err(|error| said(&error))?;
    let file = compiler.descriptor_pool().get_file_by_name(MAIN).ok_or("the file has no descriptor")?;
    let mut messages = HashMap::new();
    collect(file.messages(), &mut Vec::new(), &mut messages);
    Ok(messages)
}

/// An error without the name we gave the file.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text.replace(MAIN, "the schema")
}

/// Every message of a file by its index. Maps are messages to the compiler alone, so they are not counted: writers
/// count what stands in the `.proto` file.
fn collect(
    messages: impl Iterator<Item = MessageDescriptor>,
    index: &mut Vec<usize>,
    into: &mut HashMap<Vec<usize>, Shape>,
) {
    for (at, message) in messages.filter(|message| !message.is_map_entry()).enumerate() {
        index.push(at);
        let mut outline = Outline::new();
        fields(&message, &mut outline, &mut Vec::new());
        collect(message.child_messages(), index, into);
        into.insert(index.clone(), Shape { leaves: outline.leaves, form: Form::Protobuf(message) });
        index.pop();
    }
}

/// Reports the fields of a message; `around` holds the messages it is part of.
fn fields(message: &MessageDescriptor, outline: &mut Outline, around: &mut Vec<MessageDescriptor>) {
    // A message that holds itself has no last field: what values it has is found in the payloads.
    if around.contains(message) || !outline.object() {
        return;
    }
    around.push(message.clone());
    for field in message.fields() {
        outline.member(field.name(), |outline| {
            if field.is_map() {
                outline.object();
            } else if field.is_list() {
                outline.array(scalar(&field.kind()));
            } else {
                value(&field.kind(), outline, around);
            }
        });
    }
    around.pop();
}

fn value(kind: &Kind, outline: &mut Outline, around: &mut Vec<MessageDescriptor>) {
    match (scalar(kind), kind) {
        (Some(kinds), _) => outline.leaf(kinds),
        (None, Kind::Message(message)) => match message.full_name() {
            "google.protobuf.ListValue" => outline.array(None),
            // Their members are data.
            "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.Any" | "google.protobuf.Empty" => {
                outline.object();
            }
            _ => fields(message, outline, around),
        },
        (None, _) => {}
    }
}

/// The kinds of a type that is one scalar in JSON.
fn scalar(kind: &Kind) -> Option<Observed> {
    Some(match kind {
        Kind::Bool => Observed::BOOLEAN,
        Kind::Float | Kind::Double => Observed::REAL,
        Kind::Enum(kind) if kind.full_name() == "google.protobuf.NullValue" => Observed::default(),
        Kind::String | Kind::Bytes | Kind::Enum(_) => Observed::STRING,
        Kind::Message(message) => match message.full_name().strip_prefix("google.protobuf.")? {
            "Timestamp" => Observed::TIMESTAMP,
            "BoolValue" => Observed::BOOLEAN,
            "Int32Value" | "Int64Value" | "UInt32Value" | "UInt64Value" => Observed::INTEGER,
            "FloatValue" | "DoubleValue" => Observed::REAL,
            "StringValue" | "BytesValue" | "Duration" | "FieldMask" => Observed::STRING,
            _ => return None,
        },
        _ => Observed::INTEGER,
    })
}

/// The message that the indexes before the value name, and the value. A count of 0 stands for the first message.
pub(super) fn message<'a, 'b>(
    messages: &'a HashMap<Vec<usize>, Shape>,
    mut bytes: &'b [u8],
) -> Result<(&'a Shape, &'b [u8]), String> {
    let cut = || "the payload ends within the message's index".to_owned();
    let count = index(&mut bytes).ok_or_else(cut)?;
    if count > MAX_INDEXES {
        return Err(format!("a message's index of {count} parts"));
    }
    let mut path = Vec::new();
    for _ in 0..count {
        path.push(index(&mut bytes).ok_or_else(cut)?);
    }
    if path.is_empty() {
        path.push(0);
    }
    match messages.get(&path) {
        Some(shape) => Ok((shape, bytes)),
        None => Err(format!("the schema has no message with the index {path:?}")),
    }
}

/// A zigzag varint that is not negative.
fn index(bytes: &mut &[u8]) -> Option<usize> {
    let value = prost::decode_length_delimiter(bytes).ok()?;
    (value & 1 == 0).then_some(value >> 1)
}

/// Writes the message that `bytes` hold.
pub(super) fn write_json(message: &MessageDescriptor, bytes: &[u8], out: &mut String) -> Result<(), Fault> {
    let refuse = |message: String| Fault { reason: Reason::NotProtobuf, message };
    let name = message.full_name();
    let message = DynamicMessage::decode(message.clone(), bytes)
        .map_err(|error| refuse(format!("not a message of the type `{name}`: {error}")))?;
    let options =
        SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true).skip_default_fields(false);
    let mut json = std::mem::take(out).into_bytes();
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)
        .map_err(|error| refuse(format!("a message of the type `{name}` that JSON cannot show: {error}")))?;
    if json.len() > MAX_TEXT_BYTES {
        let message = format!("the record's text exceeds {} MiB", MAX_TEXT_BYTES >> 20);
        return Err(Fault { reason: Reason::TooLarge, message });
    }
    *out = String::from_utf8(json).map_err(|error| refuse(error.to_string()))?;
    Ok(())
}

/// Files that a registry hands out: the schema, what it refers to, and what everybody has.
struct Files {
    texts: HashMap<String, String>,
    google: GoogleFileResolver,
}

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.texts.get(name) {
            Some(text) => File::from_source(name, text),
            None => self.google.open_file(name),
        }
    }
}

/// What Confluent's registry lets every schema import without a reference.
const BUILT_IN: [(&str, &str); 2] = [
    (
        "confluent/meta.proto",
        "syntax = \"proto3\";
         package confluent;
         import \"google/protobuf/descriptor.proto\";
         message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; }
         extend google.protobuf.FileOptions { Meta file_meta = 1088; }
         extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
         extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
         extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
         extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }",
    ),
    (
        "confluent/type/decimal.proto",
        "syntax = \"proto3\";
         package confluent.type;
         message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }",
    ),
];
