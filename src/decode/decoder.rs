//! The decoder: records in, a batch out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::{
    array::{AsArray, PrimitiveArray, RecordBatch},
    compute::{max, min},
    datatypes::Int64Type,
    error::ArrowError,
};

use super::{
    DeadLetter, Reason, Record, Records,
    draft::{Draft, sample},
    fit::{EXACT, observe, observe_misfit},
    plan::Plan,
    rows::Rows,
    scan::{Cursor, Fault, Kind},
    trie::PAYLOAD,
    walk::{self, Row},
};
use crate::schema::{Contract, Found, Observed, SchemaVersion, fixed};

/// More new paths than this are not reported per batch; their values are rescued all the same.
const MAX_FOUND: usize = 2_000;

/// Why a record gave no rows although nothing is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Skip {
    /// The payload is null.
    Tombstone,
    /// The payload is an array without elements.
    EmptyArray,
}

impl Skip {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Skip::Tombstone => "tombstone",
            Skip::EmptyArray => "empty_array",
        }
    }
}

/// What records became. Records = distinct `_offset` in `rows` + `dead` + the sum of `skipped`.
#[derive(Debug)]
pub struct Decoded {
    /// Rows in offset order, in the Arrow form of the schema version.
    pub rows: RecordBatch,
    /// Records that could not become rows, in offset order.
    pub dead: Vec<DeadLetter>,
    /// Number of records that were left out for a good reason.
    pub skipped: BTreeMap<Skip, u64>,
    /// Payload paths that no column knows, in order of first appearance. Records that could be read but were
    /// refused (a key is missing) count too: the new column may be what they lacked.
    pub found: Vec<Found>,
    /// Payload paths with values that a column of theirs could not hold, in order of first appearance; and those
    /// of bigint columns that got their first integer beyond ±2⁵³ ([`Observed::LONG`]).
    pub misfits: Vec<Found>,
    /// Number of values that went to `_rescued`.
    pub rescued: u64,
}

/// Decodes records of one table with one schema version. Reusable; it learns the messages' layout.
#[derive(Debug)]
pub struct Decoder {
    plan: Plan,
    row: Row,
    key_row: Row,
    draft: Draft,
}

#[derive(Default)]
struct Outcome {
    dead: Vec<DeadLetter>,
    skipped: BTreeMap<Skip, u64>,
    found: Finds,
    misfits: Finds,
    rescued: u64,
}

impl Decoder {
    /// A decoder for `version` of the table with `contract`.
    pub fn new(contract: Arc<Contract>, version: Arc<SchemaVersion>) -> Self {
        let plan = Plan::new(&contract, version);
        let (row, key_row) = (Row::new(plan.sources.len()), Row::new(plan.sources.len()));
        Self { plan, row, key_row, draft: Draft::default() }
    }

    /// The schema version that rows get.
    pub fn version(&self) -> &Arc<SchemaVersion> {
        &self.plan.version
    }

    /// Decodes all records. An error is a fault of Millpond, never of the data.
    pub fn decode(&mut self, records: &Records) -> Result<Decoded, ArrowError> {
        let version = self.plan.version.clone();
        let mut rows = Rows::new(&version);
        let Outcome { dead, skipped, found, mut misfits, rescued } = self.run(records, Some(&mut rows));
        let rows = rows.finish(&version, records)?;
        beyond_doubles(&version, &rows, records, &mut misfits);
        Ok(Decoded { rows, dead, skipped, found: found.list, misfits: misfits.list, rescued })
    }

    /// What decoding would find, without making rows.
    pub(crate) fn look(&mut self, records: &Records) -> Vec<Found> {
        self.run(records, None).found.list
    }

    fn run(&mut self, records: &Records, mut rows: Option<&mut Rows>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut text_bytes = 0_usize;
        for record in records.iter() {
            let Some(payload) = record.payload else {
                *outcome.skipped.entry(Skip::Tombstone).or_default() += 1;
                continue;
            };
            match self.record(&record, payload, records, &mut outcome, text_bytes) {
                Ok(_) if self.draft.len() == 0 => *outcome.skipped.entry(Skip::EmptyArray).or_default() += 1,
                Ok(text) => {
                    text_bytes += self.draft.text_bytes(&records.topic);
                    outcome.rescued += self.draft.rescued;
                    if let Some(rows) = rows.as_deref_mut() {
                        self.draft.commit(&self.plan, rows, &record, text);
                    }
                }
                Err(fault) => outcome.dead.push(DeadLetter::new(records, &record, fault, self.plan.version.number)),
            }
        }
        outcome
    }

    /// Reads one record into the draft; returns its text.
    fn record<'a>(
        &mut self,
        record: &Record<'a>,
        payload: &'a [u8],
        records: &Records,
        outcome: &mut Outcome,
        text_bytes: usize,
    ) -> Result<&'a str, Fault> {
        self.draft.begin(&mut self.plan, &mut self.key_row, record, records);
        let text = std::str::from_utf8(payload).map_err(|error| Fault {
            reason: Reason::NotUtf8,
            message: format!("the payload is not UTF-8 at byte {}", error.valid_up_to()),
        })?;
        self.payload(text)?;
        for (path, slot) in &self.draft.unknown {
            outcome.found.add(path, records, (record.offset, slot.start), |find| {
                find.see(observe(*slot, text), || sample(slot.raw(text)));
            });
        }
        for (at, slot) in &self.draft.misfits {
            let source = &self.plan.sources[*at as usize];
            outcome.misfits.add(&source.text, records, (record.offset, slot.start), |find| {
                let observed = observe_misfit(&source.columns, *slot, text, self.plan.zone);
                find.see(observed, || sample(slot.raw(text)));
            });
        }
        if self.draft.len() > 0
            && let Some(refusal) = self.draft.refusal.take()
        {
            return Err(refusal);
        }
        if i32::try_from(text_bytes.saturating_add(self.draft.text_bytes(&records.topic))).is_err() {
            let message = "the batch's text would exceed 2 GiB with this record's rows".to_owned();
            return Err(Fault { reason: Reason::TooLarge, message });
        }
        Ok(text)
    }

    /// An object, several objects, or an array of objects.
    fn payload(&mut self, text: &str) -> Result<(), Fault> {
        let mut cursor = Cursor::new(text);
        match cursor.peek() {
            b'{' => loop {
                self.object(&mut cursor, 0)?;
                cursor.skip_space();
                match cursor.peek() {
                    b'{' => {}
                    _ if cursor.at_end() => return Ok(()),
                    _ => return Err(cursor.expected("the end or another object")),
                }
            },
            b'[' => {
                cursor.enter(1)?;
                let mut more = cursor.peek() != b']' || cursor.next_element()?;
                while more {
                    if cursor.peek() != b'{' {
                        let at = cursor.position();
                        let value = cursor.value(1)?;
                        return Err(not_an_object(value.kind, "an element of the array", at));
                    }
                    self.object(&mut cursor, 1)?;
                    more = cursor.next_element()?;
                }
                cursor.skip_space();
                if cursor.at_end() { Ok(()) } else { Err(cursor.expected("the end")) }
            }
            _ if cursor.at_end() => Err(Fault { reason: Reason::NotJson, message: "the payload is empty".to_owned() }),
            _ => {
                let at = cursor.position();
                let value = cursor.scalar()?;
                cursor.skip_space();
                Err(if cursor.at_end() {
                    not_an_object(value.kind, "the payload", at)
                } else {
                    cursor.expected("the end")
                })
            }
        }
    }

    fn object(&mut self, cursor: &mut Cursor<'_>, open: usize) -> Result<(), Fault> {
        self.row.clear();
        walk::object(cursor, &mut self.plan.trie, PAYLOAD, &mut self.row, open, false)?;
        self.draft.add(&self.plan, &mut self.row, cursor.text);
        Ok(())
    }
}

fn not_an_object(kind: Kind, what: &str, at: usize) -> Fault {
    let kind = match kind {
        Kind::Absent | Kind::Null => "null",
        Kind::True | Kind::False => "a boolean",
        Kind::Integer | Kind::Real => "a number",
        Kind::Text | Kind::Escaped => "a string",
        Kind::Nested => "an array",
    };
    Fault { reason: Reason::NotAnObject, message: format!("{what} is {kind}, not an object, at byte {at}") }
}

/// Reports the first integers beyond ±2⁵³ of bigint columns that had none.
fn beyond_doubles(version: &SchemaVersion, rows: &RecordBatch, records: &Records, misfits: &mut Finds) {
    let beyond = |value: i64| value.unsigned_abs() > EXACT;
    for column in version.columns.iter().filter(|column| column.exact) {
        let Some(values) = rows.column_by_name(&column.name).and_then(|array| array.as_primitive_opt::<Int64Type>())
        else {
            continue;
        };
        let all_within = |values: &PrimitiveArray<Int64Type>| {
            max(values).is_none_or(|value| !beyond(value)) && min(values).is_none_or(|value| !beyond(value))
        };
        if all_within(values) {
            continue;
        }
        let first = values.iter().position(|value| value.is_some_and(beyond));
        let offsets = rows.column_by_name(fixed::OFFSET).and_then(|array| array.as_primitive_opt::<Int64Type>());
        if let (Some(row), Some(offsets)) = (first, offsets) {
            misfits.add(&column.path.to_string(), records, (offsets.value(row), 0), |find| {
                find.see(Observed::LONG, || values.value(row).to_string());
            });
        }
    }
}

/// Finds of a batch, one per path.
#[derive(Default)]
struct Finds {
    list: Vec<Found>,
    by_path: HashMap<String, usize>,
}

impl Finds {
    fn add(&mut self, text: &str, records: &Records, place: (i64, u32), update: impl FnOnce(&mut Found)) {
        if let Some(at) = self.by_path.get(text) {
            update(&mut self.list[*at]);
        } else if self.list.len() < MAX_FOUND
            && let Ok(path) = text.parse()
        {
            let (offset, at_byte) = place;
            let mut find = Found {
                path,
                topic: Arc::clone(&records.topic),
                observed: Observed::default(),
                partition: records.partition,
                offset,
                at_byte,
                rows: 0,
                sample: String::new(),
            };
            update(&mut find);
            self.by_path.insert(text.to_owned(), self.list.len());
            self.list.push(find);
        }
    }
}
