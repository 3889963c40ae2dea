//! The decoder: records in, a batch out.

use std::{
    borrow::Cow,
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
    change::{self, Changes, Outcome},
    draft::{Draft, Origin, sample},
    fit::{observe, observe_misfit},
    plan::Plan,
    raw::RawRows,
    rows::Rows,
    scan::{Cursor, EXACT, Fault, Kind},
    trie::PAYLOAD,
    walk::{self, Row},
    writer::{self, Shape},
};
use crate::schema::{Contract, Found, Observed, SchemaVersion, fixed};

/// More new paths than this are not reported per batch; their values are rescued all the same.
const MAX_FOUND: usize = 2_000;

/// Memory that is kept for the text of the next record that is not JSON.
const KEPT_TEXT_BYTES: usize = 1 << 20;

/// Why a record gave no rows although nothing is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Skip {
    /// The payload is null.
    Tombstone,
    /// The payload is an array without elements.
    EmptyArray,
    /// It tells of no row: a heartbeat, a mark of a transaction, a change of tables, a message for people.
    Control,
    /// `match` says that it is not the table's, or it cannot be read and is another table's dead letter.
    NotMatched,
}

impl Skip {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Skip::Tombstone => "tombstone",
            Skip::EmptyArray => "empty_array",
            Skip::Control => "control",
            Skip::NotMatched => "not_matched",
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
    /// Rows of the child tables, in the order of [`Decoder::with_children`].
    pub children: Vec<Child>,
    /// The records as they came, all but those that `match` leaves out; `None` unless the contract wants them.
    pub raw: Option<RecordBatch>,
}

impl Decoded {
    /// All that was decoded for child tables, parents before their children, as in [`Contract::family`].
    pub fn descendants(&self) -> Vec<&Child> {
        self.children.iter().flat_map(Child::family).collect()
    }
}

/// Rows of a child table, from the same records: each has the `_offset` and `_row` of the row around it.
#[derive(Debug)]
pub struct Child {
    /// Rows in offset order, in the Arrow form of the child's schema version.
    pub rows: RecordBatch,
    /// Paths, from the element on, that no column knows.
    pub found: Vec<Found>,
    /// Such paths with values that a column of theirs could not hold.
    pub misfits: Vec<Found>,
    /// Number of values that went to `_rescued`.
    pub rescued: u64,
    /// Rows of the child's own children.
    pub children: Vec<Child>,
}

impl Child {
    fn family(&self) -> Vec<&Child> {
        std::iter::once(self).chain(self.children.iter().flat_map(Child::family)).collect()
    }
}

/// Decodes records of one table with one schema version. Reusable; it learns the messages' layout.
#[derive(Debug)]
pub struct Decoder {
    contract: Arc<Contract>,
    plan: Plan,
    row: Row,
    key_row: Row,
    draft: Draft,
    rows: Rows,
    finds: Finds,
    misfits: Finds,
    rescued: u64,
    /// Reads payloads that are changes of a database's rows.
    changes: Option<Changes>,
    texts: Texts,
    children: Vec<Decoder>,
}

/// Texts that a payload in another format becomes, kept for their memory.
#[derive(Debug, Default)]
struct Texts {
    /// A payload as JSON.
    json: String,
    /// A message key as JSON.
    key: String,
    /// A change in the form that all formats share.
    change: String,
}

impl Texts {
    /// One large record must not be paid for until the process ends.
    fn shrink(&mut self) {
        for text in [&mut self.json, &mut self.key, &mut self.change] {
            text.clear();
            text.shrink_to(KEPT_TEXT_BYTES);
        }
    }
}

/// What became of a record.
enum Fate {
    Rows,
    Skipped(Skip),
    Dead(Fault),
}

impl Decoder {
    /// A decoder for `version` of the table with `contract`; arrays that are declared children are values like any other.
    pub fn new(contract: Arc<Contract>, version: Arc<SchemaVersion>) -> Self {
        let plan = Plan::new(&contract, version);
        let (row, key_row) = (Row::new(plan.sources.len()), Row::new(plan.sources.len()));
        let (draft, rows) = (Draft::default(), Rows::new(&plan.version));
        let (finds, misfits, changes) = (Finds::default(), Finds::default(), Changes::new(&contract));
        let (texts, children) = (Texts::default(), Vec::new());
        Self { contract, plan, row, key_row, draft, rows, finds, misfits, rescued: 0, changes, texts, children }
    }

    /// Gives the elements of `child` arrays to decoders of their tables: one for each of [`Contract::children`].
    #[must_use]
    pub fn with_children(mut self, children: Vec<Decoder>) -> Self {
        self.plan.split_off(&self.contract);
        self.children = children;
        self
    }

    /// The decoder of `contract` with those of its descendants, as in [`Contract::family`]; `versions` are theirs. `None`
    /// if there are too few.
    pub fn of_family(contract: Arc<Contract>, versions: &mut impl Iterator<Item = Arc<SchemaVersion>>) -> Option<Self> {
        let children = contract.children();
        let decoder = Self::new(contract, versions.next()?);
        let children = children.into_iter().map(|child| Self::of_family(Arc::new(child), versions));
        let children = children.collect::<Option<Vec<_>>>()?;
        Some(decoder.with_children(children))
    }

    /// The schema version that rows get.
    pub fn version(&self) -> &Arc<SchemaVersion> {
        &self.plan.version
    }

    /// Decodes all records. An error is a fault of Millpond, never of the data.
    pub fn decode(&mut self, records: &Records) -> Result<Decoded, ArrowError> {
        let mut dead = Vec::new();
        let mut skipped: BTreeMap<Skip, u64> = BTreeMap::new();
        let mut raw = self.contract.raw.then(|| RawRows::new(self.contract.timezone));
        self.read(records, |decoder, record, fate| {
            if let Some(raw) = raw.as_mut().filter(|_| !matches!(fate, Fate::Skipped(Skip::NotMatched))) {
                raw.push(record);
            }
            match fate {
                Fate::Rows => decoder.count_rescued(),
                Fate::Skipped(skip) => *skipped.entry(skip).or_default() += 1,
                Fate::Dead(fault) => dead.push(DeadLetter::new(records, record, fault, decoder.plan.version.number)),
            }
        });
        let raw = raw.map(|raw| raw.finish(records)).transpose()?;
        let Child { rows, found, misfits, rescued, children } = self.finish(records)?;
        Ok(Decoded { rows, dead, skipped, found, misfits, rescued, children, raw })
    }

    /// What decoding would find, without making rows: for this table and all its descendants, parents before their
    /// children.
    pub(crate) fn look(&mut self, records: &Records) -> Vec<Vec<Found>> {
        self.read(records, |_, _, _| {});
        self.clear();
        let mut finds = Vec::new();
        self.take_finds(&mut finds);
        finds
    }

    fn take_finds(&mut self, finds: &mut Vec<Vec<Found>>) {
        self.misfits.take();
        finds.push(self.finds.take());
        self.children.iter_mut().for_each(|child| child.take_finds(finds));
    }

    /// Reads the records one by one; `take` gets what became of each while the drafts know it.
    fn read(&mut self, records: &Records, mut take: impl FnMut(&mut Self, &Record<'_>, Fate)) {
        let mut texts = std::mem::take(&mut self.texts);
        let mut announced = Vec::new();
        self.begin_batch(records.len());
        for record in records.iter() {
            let fate = self.record(&record, records, &mut texts, &mut announced);
            if !matches!(fate, Fate::Rows) {
                self.take_back();
            }
            take(self, &record, fate);
        }
        texts.shrink();
        self.texts = texts;
    }

    /// Reads one record into the rows, to be taken back unless that is its fate; its text may be written to `texts`.
    fn record(
        &mut self,
        record: &Record<'_>,
        records: &Records,
        texts: &mut Texts,
        announced: &mut Vec<*const Shape>,
    ) -> Fate {
        self.begin(record, records);
        if record.payload.is_none() && self.changes.is_none() {
            return Fate::Skipped(Skip::Tombstone);
        }
        let wanted = records.are_loaded() || self.plan.selection.wants_record(record, records, &self.key_row);
        let owner = self.owns_unreadable(records);
        if !wanted && !owner {
            return Fate::Skipped(Skip::NotMatched);
        }
        let read = self.text(record, records, texts).and_then(|(text, shape, skip)| {
            let objects = if skip.is_some() { 0 } else { self.payload(text)? };
            Ok((text, shape, skip, objects))
        });
        let (text, shape, skip, objects) = match read {
            Ok(read) if wanted => read,
            Err(fault) if owner || !self.reads_payload() => return Fate::Dead(fault),
            _ => return Fate::Skipped(Skip::NotMatched),
        };
        if let Some(skip) = skip {
            return Fate::Skipped(skip);
        }
        if objects == 0 {
            return Fate::Skipped(Skip::EmptyArray);
        }
        if self.rows.of_record() == 0 {
            return Fate::Skipped(Skip::NotMatched);
        }
        self.announce(shape, announced, record, records);
        self.report(text, record, records);
        if let Some(refusal) = self.refusal() {
            return Fate::Dead(refusal);
        }
        if i32::try_from(self.text_bytes(records)).is_err() {
            let message = "the batch's text would exceed 2 GiB with this record's rows".to_owned();
            return Fate::Dead(Fault { reason: Reason::TooLarge, message });
        }
        Fate::Rows
    }

    /// The JSON text of a record, what its writer declares, and why it is left out, if it is.
    fn text<'t, 's>(
        &mut self,
        record: &Record<'t>,
        records: &'s Records,
        texts: &'t mut Texts,
    ) -> Result<(&'t str, Option<&'s Shape>, Option<Skip>), Fault> {
        if records.are_loaded() && self.changes.is_some() {
            let text = std::str::from_utf8(record.payload.unwrap_or_default());
            let not_text = |error| Fault { reason: Reason::NotJson, message: format!("the row is no text: {error}") };
            return Ok((text.map_err(not_text)?, None, None));
        }
        let Texts { json, key, change } = texts;
        let read = match record.payload {
            Some(payload) => Some(writer::read(self.plan.format, payload, records.schemas(), json)?),
            None => None,
        };
        let Some(changes) = &mut self.changes else {
            return Ok(read.map_or(("", None, Some(Skip::Tombstone)), |(text, shape)| (text, shape, None)));
        };
        let key = change::key_text(self.plan.format, record, records, key);
        change.clear();
        let outcome = changes.read(record, read.map(|(text, _)| text), key, change)?;
        let skip = match outcome {
            Outcome::Change { keyed } => {
                self.draft.keyless = !keyed;
                None
            }
            Outcome::Skipped(skip) => Some(skip),
        };
        Ok((change.as_str(), read.and_then(|(_, shape)| shape), skip))
    }

    /// True if a payload must be read to know whether a record is the table's.
    fn reads_payload(&self) -> bool {
        self.plan.selection.reads_payload() || self.changes.as_ref().is_some_and(Changes::reads_payload)
    }

    /// True if a record that nobody can read is this table's dead letter although `match` may not want it.
    fn owns_unreadable(&self, records: &Records) -> bool {
        self.contract.first_of.iter().any(|topic| **topic == *records.topic)
    }

    /// Forgets the rows.
    fn clear(&mut self) {
        self.rows = Rows::new(&self.plan.version);
        self.children.iter_mut().for_each(Self::clear);
    }

    fn begin_batch(&mut self, records: usize) {
        self.rows.reserve(records);
        self.children.iter_mut().for_each(|child| child.begin_batch(records));
    }

    fn begin(&mut self, record: &Record<'_>, records: &Records) {
        self.rows.begin_record();
        self.draft.begin(&mut self.plan, (&mut self.key_row, &mut self.rows), record, records);
        self.children.iter_mut().for_each(|child| child.begin(record, records));
    }

    /// An object, several objects, or an array of objects; returns how many.
    fn payload(&mut self, text: &str) -> Result<i32, Fault> {
        let mut cursor = Cursor::new(text);
        let mut objects = 0;
        match cursor.peek() {
            b'{' => loop {
                self.object(&mut cursor, 0, objects)?;
                objects += 1;
                cursor.skip_space();
                match cursor.peek() {
                    b'{' => {}
                    _ if cursor.at_end() => return Ok(objects),
                    _ => return Err(cursor.expected("the end or another object")),
                }
            },
            b'[' => {
                cursor.enter(1)?;
                let mut more = cursor.first_element();
                while more {
                    if cursor.peek() != b'{' {
                        let at = cursor.position();
                        let value = cursor.value(1)?;
                        return Err(not_an_object(value.kind, "an element of the array", at));
                    }
                    self.object(&mut cursor, 1, objects)?;
                    objects += 1;
                    more = cursor.next_element()?;
                }
                cursor.skip_space();
                if cursor.at_end() { Ok(objects) } else { Err(cursor.expected("the end")) }
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

    fn object(&mut self, cursor: &mut Cursor<'_>, open: usize, row: i32) -> Result<(), Fault> {
        self.row.clear();
        walk::object(cursor, &mut self.plan.trie, PAYLOAD, (&mut self.row, &mut self.rows), open, false)?;
        if !self.plan.selection.wants_row(&self.row, cursor.text) {
            self.rows.take_back_row();
            return Ok(());
        }
        self.add(cursor.text, Origin { row, event_us: None, indexes: &[] })
    }

    /// Adds the row just read, and its children's.
    fn add(&mut self, text: &str, origin: Origin<'_>) -> Result<(), Fault> {
        let event_us = self.draft.add(&self.plan, (&mut self.row, &mut self.rows), text, origin);
        for (number, slot) in &self.row.arrays {
            let Some(child) = self.children.get_mut(*number as usize) else { continue };
            let mut cursor = Cursor::at(text, slot.start() as usize);
            cursor.enter(1)?;
            let mut more = cursor.first_element();
            let mut indexes = [origin.indexes, &[0]].concat();
            while more {
                child.row.clear();
                walk::element(&mut cursor, &mut child.plan.trie, (&mut child.row, &mut child.rows))?;
                child.add(text, Origin { event_us, indexes: &indexes, ..origin })?;
                indexes[origin.indexes.len()] += 1;
                more = cursor.next_element()?;
            }
        }
        Ok(())
    }

    /// Reports the fields that a writer declares and that have no place yet, whether they have values or not; once
    /// per batch and shape.
    fn announce(
        &mut self,
        shape: Option<&Shape>,
        announced: &mut Vec<*const Shape>,
        record: &Record<'_>,
        records: &Records,
    ) {
        let leaves = match (shape, &self.changes) {
            (Some(shape), _) if announced.iter().any(|known| std::ptr::eq(*known, shape)) => return,
            (Some(shape), changes) => {
                announced.push(shape);
                if changes.is_some() { Cow::Owned(change::leaves_of(shape)) } else { Cow::Borrowed(&*shape.leaves) }
            }
            (None, Some(changes)) => Cow::Borrowed(changes.leaves()),
            (None, None) => return,
        };
        let unplaced = leaves.iter().enumerate().filter(|(_, leaf)| !self.plan.covers(&leaf.path));
        for (at, leaf) in unplaced {
            self.finds.add(&leaf.text, records, (record.offset, at as u32), |find| {
                find.declared = find.declared.and(leaf.kinds);
            });
        }
    }

    /// Reports the values at unknown paths, and those that did not fit.
    fn report(&mut self, text: &str, record: &Record<'_>, records: &Records) {
        let plan = &self.plan;
        // Of files the types are known: what reads as a time is one.
        let infer_timestamps = plan.infer_timestamps || records.are_loaded();
        for (path, slot) in &self.draft.unknown {
            self.finds.add(path, records, (record.offset, slot.start()), |find| {
                find.see(observe(*slot, text, infer_timestamps, plan.zone), || sample(slot.raw(text)));
            });
        }
        for (at, slot) in &self.draft.misfits {
            let source = &plan.sources[*at as usize];
            self.misfits.add(&source.text, records, (record.offset, slot.start()), |find| {
                find.see(observe_misfit(&source.columns, *slot, text, plan.zone), || sample(slot.raw(text)));
            });
        }
        self.children.iter_mut().for_each(|child| child.report(text, record, records));
    }

    fn refusal(&mut self) -> Option<Fault> {
        let children = self.children.iter_mut();
        self.draft.refusal.take().or_else(|| children.into_iter().find_map(Decoder::refusal))
    }

    fn text_bytes(&self, records: &Records) -> usize {
        let children: usize = self.children.iter().map(|child| child.text_bytes(records)).sum();
        self.rows.text_bytes(&records.topic).saturating_add(children)
    }

    /// Takes back the rows of the record.
    fn take_back(&mut self) {
        self.rows.take_back_record();
        self.children.iter_mut().for_each(Decoder::take_back);
    }

    /// Counts what the record's rows rescued.
    fn count_rescued(&mut self) {
        self.rescued += self.draft.rescued;
        self.children.iter_mut().for_each(Decoder::count_rescued);
    }

    fn finish(&mut self, records: &Records) -> Result<Child, ArrowError> {
        let children = self.children.iter_mut().map(|child| child.finish(records)).collect::<Result<_, _>>()?;
        let next = self.rows.like(&self.plan.version);
        let rows = std::mem::replace(&mut self.rows, next);
        let rows = rows.finish(&self.plan.version, &self.plan.schema, records)?;
        beyond_doubles(&self.plan.version, &rows, records, &mut self.misfits);
        Ok(Child {
            children,
            rows,
            found: self.finds.take(),
            misfits: self.misfits.take(),
            rescued: std::mem::take(&mut self.rescued),
        })
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
#[derive(Debug, Default)]
struct Finds {
    list: Vec<Found>,
    by_path: HashMap<String, usize>,
}

impl Finds {
    fn take(&mut self) -> Vec<Found> {
        self.by_path.clear();
        std::mem::take(&mut self.list)
    }

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
                declared: Observed::default(),
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
