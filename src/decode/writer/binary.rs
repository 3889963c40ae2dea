//! Avro's binary form as JSON text. Every length and count is held against the bytes that are left, or against the
//! text written, before anything is allocated for it: corrupt bytes are a fault, never a panic or a full memory.

use super::{
    MAX_TEXT_BYTES,
    avro::{Avro, Node},
    text,
};
use crate::decode::{
    Reason,
    scan::{Fault, MAX_OPEN},
};

/// Bytes before the value: what is said about places counts from the payload's beginning.
const HEADER_BYTES: usize = 5;

/// Writes the one value that `bytes` hold.
pub(super) fn write_json(schema: &Avro, bytes: &[u8], out: &mut String) -> Result<(), Fault> {
    let mut reader = Reader { schema, bytes, at: 0, out };
    reader.value(schema.root, 0)?;
    match bytes.len() - reader.at {
        0 => Ok(()),
        left => Err(reader.fault(format!("the value is over, {left} bytes are left"))),
    }
}

struct Reader<'a> {
    schema: &'a Avro,
    bytes: &'a [u8],
    at: usize,
    out: &'a mut String,
}

impl<'a> Reader<'a> {
    fn fault(&self, what: impl std::fmt::Display) -> Fault {
        Fault { reason: Reason::NotAvro, message: format!("{what} at byte {}", self.at + HEADER_BYTES) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        match self.bytes[self.at..].get(..count) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(self.fault(format!("{count} bytes are due, {} are left", self.bytes.len() - self.at))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.fault("bytes are missing"))
    }

    /// A zigzag varint.
    fn long(&mut self) -> Result<i64, Fault> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(self.fault("a number of more than 64 bits"))
    }

    fn int(&mut self) -> Result<i32, Fault> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| self.fault(format!("{value} is no int")))
    }

    fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.long()?;
        match usize::try_from(length) {
            Ok(length) => self.take(length),
            Err(_) => Err(self.fault(format!("a length of {length}"))),
        }
    }

    fn string(&mut self) -> Result<(), Fault> {
        let bytes = self.sized()?;
        let string = std::str::from_utf8(bytes).map_err(|_| self.fault("a string that is not UTF-8"))?;
        text::push_string(self.out, string);
        Ok(())
    }

    /// An index into a list of `length`.
    fn index(&mut self, length: usize, what: &str) -> Result<usize, Fault> {
        let index = self.long()?;
        let found = usize::try_from(index).ok().filter(|index| *index < length);
        found.ok_or_else(|| self.fault(format!("{what} {index} of {length}")))
    }

    /// Writes the value here, of the type `at`, with `open` containers around it.
    fn value(&mut self, at: usize, open: usize) -> Result<(), Fault> {
        if self.out.len() > MAX_TEXT_BYTES {
            let message = format!("the record's text exceeds {} MiB", MAX_TEXT_BYTES >> 20);
            return Err(Fault { reason: Reason::TooLarge, message });
        }
        let schema = self.schema;
        match &schema.nodes[at] {
            Node::Null => self.out.push_str("null"),
            Node::Boolean => match self.array()? {
                [0] => self.out.push_str("false"),
                [1] => self.out.push_str("true"),
                [byte] => return Err(self.fault(format!("a boolean of {byte}"))),
            },
            Node::Int => {
                let value = self.int()?;
                text::push_integer(self.out, value);
            }
            Node::Long => {
                let value = self.long()?;
                text::push_integer(self.out, value);
            }
            Node::Float => {
                let value = f32::from_le_bytes(self.array()?);
                text::push_real(self.out, value, value.into());
            }
            Node::Double => {
                let value = f64::from_le_bytes(self.array()?);
                text::push_real(self.out, value, value);
            }
            Node::Bytes => {
                let bytes = self.sized()?;
                text::push_base64(self.out, bytes);
            }
            Node::String | Node::TimestampText => self.string()?,
            Node::Fixed(size) => {
                let bytes = self.take(*size)?;
                text::push_base64(self.out, bytes);
            }
            Node::Enum(symbols) => {
                let symbol = self.index(symbols.len(), "symbol")?;
                self.out.push_str(&symbols[symbol]);
            }
            Node::Union(branches) => {
                let branch = self.index(branches.len(), "branch")?;
                // A union may not hold unions, but a schema that says so must not overflow the stack either.
                let open = self.enter(open)?;
                return self.value(branches[branch], open);
            }
            Node::Array(item) => {
                let open = self.enter(open)?;
                return self.blocks(['[', ']'], |reader| reader.value(*item, open));
            }
            Node::Map(value) => {
                let open = self.enter(open)?;
                return self.blocks(['{', '}'], |reader| {
                    reader.string()?;
                    reader.out.push(':');
                    reader.value(*value, open)
                });
            }
            Node::Record(fields) => {
                let open = self.enter(open)?;
                let mut separator = '{';
                for field in fields {
                    self.out.push(std::mem::replace(&mut separator, ','));
                    self.out.push_str(&field.key);
                    self.value(field.node, open)?;
                }
                self.out.push_str(if fields.is_empty() { "{}" } else { "}" });
            }
            Node::Date => {
                let days = self.int()?;
                text::push_date(self.out, days);
            }
            Node::Time(unit_ns) => {
                let value = self.long()?;
                text::push_time(self.out, value, *unit_ns);
            }
            Node::Timestamp { unit_ns, local } => {
                let value = self.long()?;
                text::push_timestamp(self.out, value, *unit_ns, *local);
            }
            Node::Decimal { fixed, scale } => {
                let unscaled = match fixed {
                    Some(size) => self.take(*size)?,
                    None => self.sized()?,
                };
                if unscaled.len() > text::MAX_DECIMAL_BYTES {
                    return Err(self.fault(format!("a decimal of {} bytes", unscaled.len())));
                }
                text::push_decimal(self.out, unscaled, *scale);
            }
            Node::VariableDecimal => {
                let scale = self.int()?;
                let unscaled = self.sized()?;
                match usize::try_from(scale) {
                    Ok(scale) if scale < 1_000 && unscaled.len() <= text::MAX_DECIMAL_BYTES => {
                        text::push_decimal(self.out, unscaled, scale);
                    }
                    _ => return Err(self.fault(format!("a decimal of {} bytes and scale {scale}", unscaled.len()))),
                }
            }
            Node::Bits(length) => {
                let bytes = self.sized()?;
                text::push_bits(self.out, bytes, *length);
            }
            Node::Uuid => {
                let bytes = self.array()?;
                text::push_string(self.out, &uuid::Uuid::from_bytes(bytes).to_string());
            }
            Node::Duration => {
                let bytes: [u8; 12] = self.array()?;
                text::push_duration(self.out, bytes);
            }
        }
        Ok(())
    }

    fn enter(&self, open: usize) -> Result<usize, Fault> {
        if open >= MAX_OPEN {
            let message = format!("more than {MAX_OPEN} nested values at byte {}", self.at + HEADER_BYTES);
            return Err(Fault { reason: Reason::TooDeep, message });
        }
        Ok(open + 1)
    }

    /// The blocks of an array or a map: a count and so many items each, until a count of 0. A negative count is
    /// followed by the block's length in bytes, which only a reader that skips needs.
    fn blocks(
        &mut self,
        [before, after]: [char; 2],
        item: impl Fn(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.out.push(before);
        let mut first = true;
        loop {
            let count = self.long()?;
            if count < 0 {
                self.long()?;
            }
            if count == 0 {
                self.out.push(after);
                return Ok(());
            }
            for _ in 0..count.unsigned_abs() {
                if !std::mem::take(&mut first) {
                    self.out.push(',');
                }
                item(self)?;
            }
        }
    }
}
