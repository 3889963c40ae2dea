//! Rows that a client sends become rows of a table as those of a file do: they are written down first, as a file of this
//! host that is gone afterwards, and then taken in with one commit. So what is wrong with the last row leaves nothing behind.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::AsyncArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use tempfile::TempPath;

use super::{File, Importer, MadeTable, Request, Trouble, is_known, unreadable};
use crate::error::{Error, Kind, Result};
use crate::lake::{S3Options, SourceFiles};
use crate::schema::{FileFormat, ImportMode, Imported};
use crate::serve::{Ingest, Sent, Takes, There};
use crate::task;

/// Rows that are kept in memory until they are written down.
const GROUP_ROWS: usize = 64 * 1024;
/// Most bytes of one request, as they lie on the disk.
const MOST_BYTES: u64 = 16 << 30;

impl Importer {
    /// As the doors see it.
    pub fn takes(self) -> Takes {
        Arc::new(move |asked, rows| {
            let importer = self.clone();
            Box::pin(async move { importer.take_sent(&asked, rows).await })
        })
    }

    /// Takes in what is sent, all of it or nothing; how many rows were taken in. None are if the table has this request's.
    async fn take_sent(&self, asked: &Ingest, mut rows: Sent) -> Result<u64> {
        let spec = self.declared(&asked.table)?;
        let mode = mode(asked.there, &spec);
        let identity = asked.id.as_ref().map(|id| format!("sent\0{}\0{id}", spec.table));
        if self.has(asked.there, &spec.table, identity.as_deref()).await? {
            // Who sends them waits until they are read.
            while rows.try_next().await?.is_some() {}
            return Ok(0);
        }
        // Behind all other work, like what is read of files.
        let written = task::spawn_behind("ingest-write", write(rows)).await;
        let path = written.map_err(|error| Error::new(Kind::Internal, "rows could not be taken").because(error))??;
        let file = file(&path, identity.clone(), &self.s3).await?;
        let turn = self.turn(&spec.table).await;
        if asked.there == There::Fail {
            // Somebody else may have made it meanwhile.
            self.has(asked.there, &spec.table, identity.as_deref()).await?;
        }
        let (urls, table) = (Vec::new(), spec.table.clone());
        let request = Request { table, urls, mode: Some(mode), skip_broken: false, dry_run: false };
        let told = &mut |_| {};
        let taken = self.take(&turn, &spec, mode, vec![file], &request, Trouble::Stop, told).await;
        Ok(taken?.0.rows)
    }

    /// Whether the table has this request's rows. An error if a table is to be made that has others already.
    async fn has(&self, there: There, table: &str, identity: Option<&str>) -> Result<bool> {
        if there != There::Fail && identity.is_none() {
            return Ok(false);
        }
        let found = MadeTable::open(&self.lake, table).await.map_err(unreadable)?;
        let Some(found) = found else { return Ok(false) };
        let is_done = identity.is_some_and(|identity| is_known(&found, identity));
        if there == There::Fail && !is_done && found.has_pieces() {
            let hint = "append to it, or replace its rows";
            return Err(Error::new(Kind::Refused, format!("table {table} is there already")).hint(hint));
        }
        Ok(is_done)
    }
}

/// What rows do to those that a table has. Of a table whose rows take each other's place, new ones do so, too.
fn mode(there: There, spec: &Imported) -> ImportMode {
    match there {
        There::Replace => ImportMode::Replace,
        There::Append | There::Fail if spec.mode == ImportMode::Upsert => ImportMode::Upsert,
        There::Append | There::Fail => ImportMode::Append,
    }
}

/// The file at `path`, under the name that errors call it by.
async fn file(path: &TempPath, identity: Option<String>, s3: &S3Options) -> Result<File> {
    let place = path.to_str().ok_or_else(|| Error::new(Kind::Internal, "the temporary folder has no usable name"))?;
    let source = Arc::new(SourceFiles::open(&glob::Pattern::escape(place), s3).await?);
    let found = source.list().await?.into_iter().next();
    let file = found.ok_or_else(|| Error::new(Kind::Unavailable, "what was sent is gone from the temporary folder"))?;
    Ok(File { source, file, shown: "the rows sent".to_owned(), format: Some(FileFormat::Parquet), identity })
}

fn full(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Unavailable, "the temporary folder cannot be written to").because(cause)
}

/// Writes what is sent into a temporary file.
async fn write(mut rows: Sent) -> Result<TempPath> {
    let wrong = |error: ParquetError| match error {
        ParquetError::External(error) => full(error),
        other => Error::new(Kind::Usage, format!("the rows sent cannot be taken: {other}")),
    };
    let (file, path) = tempfile::NamedTempFile::with_prefix("millpond-ingest-").map_err(full)?.into_parts();
    let Some(first) = rows.try_next().await? else { return Err(Error::new(Kind::Usage, "no rows were sent")) };
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(GROUP_ROWS)).build();
    let file = tokio::fs::File::from_std(file);
    let mut writer = AsyncArrowWriter::try_new(file, first.schema(), Some(properties)).map_err(wrong)?;
    let mut rows = stream::iter([Ok(first)]).chain(rows);
    while let Some(batch) = rows.try_next().await? {
        writer.write(&batch).await.map_err(wrong)?;
        if writer.bytes_written() as u64 > MOST_BYTES {
            let message = format!("more than {} GiB in one request", MOST_BYTES >> 30);
            return Err(Error::new(Kind::Exhausted, message).hint("send the rows in parts"));
        }
    }
    writer.close().await.map_err(wrong)?;
    Ok(path)
}
