//! The files of a full load become changes of a mirror, older than all that its stream tells.
//!
//! What a database holds when its stream of changes begins is often exported as files first. Their rows are handed to the task
//! that feeds the mirror's changes as if they came from a partition −1 of a topic that has the file's name: so each comes once,
//! by a position in the commit that has it, and of two changes of one key the one from Kafka is newer, whichever came first.
//!
//! Offsets of a file begin at when it was written: a newer file tells newer rows, and one of the same name comes again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use arrow::json::writer::{LineDelimited, WriterBuilder};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::rows::read;
use super::{File, Place, broken, list};
use crate::decode::{FULL_LOAD, Fitter, Record, RecordsBuilder, WRITTEN_KEY};
use crate::engine::lanes::end;
use crate::error::{Error, Kind, Result};
use crate::lake::{LiveView, Positions, S3Options, TopicPartition};
use crate::schema::{Contract, FullLoad, Path, SchemaVersion, change};
use crate::source::Delivery;
use crate::task::{Budget, Shutdown};

/// So many rows of a file have an offset of their own; the last says that there are no more.
const MOST_ROWS: i64 = 1 << 31;

/// Loads a mirror from files.
pub struct Load {
    /// The mirror.
    pub contract: Arc<Contract>,
    /// Its changes.
    pub live: Arc<LiveView>,
    /// The newest columns of its changes, if there are any yet.
    pub version: Box<dyn Fn() -> Option<Arc<SchemaVersion>> + Send + Sync>,
    /// Who feeds them.
    pub sender: mpsc::Sender<Delivery>,
    /// How buckets are reached.
    pub s3: S3Options,
    /// What rows on their way are charged to.
    pub budget: Budget,
    /// Ends it.
    pub stop: Shutdown,
}

impl Load {
    /// Takes in what is there and what comes, until stopped.
    pub async fn run(self) {
        if let Some(load) = self.contract.load.clone() {
            let stop = self.stop.clone();
            stop.run_until_cancelled(self.follow(&load)).await;
        }
    }

    async fn follow(&self, load: &FullLoad) {
        let table = &self.contract.table;
        let (mut place, mut told) = (Place::default(), None);
        // What is handed out may not have been looked at yet.
        let mut handed = Positions::new();
        loop {
            let listed = list(std::slice::from_ref(&load.url), &self.s3).await;
            let trouble = match listed {
                Err(error) => Some(error),
                Ok(files) => {
                    let mut trouble = None;
                    for file in place.settled(files) {
                        match self.take(load, &file, &mut handed).await {
                            Ok(0) => {}
                            Ok(rows) => info!(table, file = file.shown, rows, "full load: file is taken in"),
                            Err(error) => {
                                // It stays broken until it is written anew.
                                if error.kind() == Kind::Usage {
                                    place.broken.insert(file.file);
                                }
                                trouble = Some(error);
                            }
                        }
                    }
                    trouble
                }
            };
            let text = trouble.map(|error| error.to_string());
            if let Some(reason) = text.as_ref().filter(|_| text != told) {
                warn!(table, reason, "full load: file not taken in, trying again");
            }
            told = text;
            tokio::time::sleep(load.poll).await;
        }
    }

    /// Hands out the rows of a file that the table has not; how many.
    async fn take(&self, load: &FullLoad, file: &File, handed: &mut Positions) -> Result<u64> {
        let topic = file.shown.replace('#', "%23");
        let lane = TopicPartition { topic: topic.into(), incarnation: 0, partition: FULL_LOAD };
        let first = file.file.modified_s.clamp(0, i64::from(u32::MAX)) * MOST_ROWS;
        let last = first + MOST_ROWS - 1;
        let position = end(&self.live.pin()).get(&lane).max(handed.get(&lane)).copied();
        if position.is_some_and(|position| position > last) {
            return Ok(0);
        }
        let mut next = position.unwrap_or(first);
        let (fitter, written) = self.learn(load, file).await?;
        let (mut offset, mut rows) = (first, 0);
        let (mut reader, mut fitter) = (read(file, load.format), fitter);
        while let Some(found) = reader.rows.recv().await {
            let batch = fitter.fit(&found?).map_err(broken)?.ok_or_else(|| changed(file))?;
            let behind = offset + batch.num_rows() as i64;
            if behind > last {
                return Err(Error::new(Kind::Usage, format!("{}: it has too many rows", file.shown)));
            }
            if behind > next {
                let mut records = RecordsBuilder::new(next);
                for (at, row) in self
                    .changes(&batch, &written)?
                    .iter()
                    .enumerate()
                    .skip_while(|(at, _)| offset + (*at as i64) < next)
                {
                    let timestamp_us = file.file.modified_s * 1_000_000;
                    let (offset, payload) = (offset + at as i64, Some(row.as_slice()));
                    records.push(Record { offset, timestamp_us, key: None, payload, headers: &[] });
                    rows += 1;
                }
                self.hand(records, &lane).await?;
                handed.insert(lane.clone(), behind);
                next = behind;
            }
            offset = behind;
        }
        if let Some(error) = reader.failure().await {
            return Err(error);
        }
        if !file.source.is_still(&file.file).await? {
            return Err(changed(file));
        }
        // Nothing more lies in it.
        let mut records = RecordsBuilder::new(next);
        records.cover(last + 1);
        self.hand(records, &lane).await?;
        handed.insert(lane, last + 1);
        Ok(rows)
    }

    /// The types of a file's columns, and what it calls them.
    async fn learn(&self, load: &FullLoad, file: &File) -> Result<(Fitter, BTreeMap<String, String>)> {
        let (mut fitter, mut written) = (Fitter::default(), BTreeMap::new());
        let mut reader = read(file, load.format);
        while let Some(found) = reader.rows.recv().await {
            let found = found?;
            for field in found.batch.schema().fields() {
                let name = field.metadata().get(WRITTEN_KEY).unwrap_or(field.name());
                written.insert(field.name().clone(), name.clone());
            }
            fitter.learn(&found).map_err(broken)?;
        }
        match reader.failure().await {
            Some(error) => Err(error),
            None => Ok((fitter, written)),
        }
    }

    /// Each row as a change in the form of [`crate::decode`].
    fn changes(&self, batch: &RecordBatch, written: &BTreeMap<String, String>) -> Result<Vec<Vec<u8>>> {
        let fields = self.fields();
        let field = |field: &Arc<Field>| {
            let name = fields.get(field.name()).or(written.get(field.name())).unwrap_or(field.name());
            Field::new(name, field.data_type().clone(), true)
        };
        let schema = Schema::new(batch.schema().fields().iter().map(field).collect::<Vec<_>>());
        let rows = RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec()).map_err(broken)?;
        let mut lines = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        lines.write(&rows).and_then(|()| lines.finish()).map_err(broken)?;
        let text = lines.into_inner();
        let change = |line: &[u8]| [br#"{"op":"r","snapshot":"load","after":"#, line, b"}"].concat();
        // Line ends inside of values are escaped.
        Ok(text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(change).collect())
    }

    /// What the stream calls the columns that are known: an export may write them in another case.
    fn fields(&self) -> BTreeMap<String, String> {
        let version = (self.version)();
        let columns = version.iter().flat_map(|version| &version.columns);
        let known = columns.map(|column| (column.logical().to_owned(), &column.path));
        let declared = self.contract.columns.iter();
        let declared = declared.filter_map(|column| Some((column.name.clone(), column.path.as_ref()?)));
        let of_row = |(name, path): (String, &Path)| match path {
            Path::Value(parts) if parts.len() == 2 && parts[0] == change::AFTER => Some((name, parts[1].clone())),
            _ => None,
        };
        known.chain(declared).filter_map(of_row).collect()
    }

    async fn hand(&self, records: RecordsBuilder, lane: &TopicPartition) -> Result<()> {
        let records = records.finish(Arc::clone(&lane.topic), lane.incarnation, lane.partition);
        self.budget.room().await;
        let charge = self.budget.charge(records.size_bytes());
        let delivery = Delivery { records, charge, received_at: Instant::now() };
        self.sender.send(delivery).await.map_err(|_| Error::new(Kind::Unavailable, "the table is not fed any more"))
    }
}

fn changed(file: &File) -> Error {
    Error::new(Kind::Unavailable, format!("{} changes while it is read", file.shown))
}
