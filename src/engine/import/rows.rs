//! The rows of one file, read beside those who take them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::File;
use crate::decode::{FileReader, FileRows, Packing};
use crate::error::{Error, Kind, Result};
use crate::schema::FileFormat;
use crate::task;

/// Pieces of rows that wait for whoever takes them.
const WAITING: usize = 4;

/// A file that is being read.
pub struct Reader {
    /// Its rows, as they come.
    pub rows: mpsc::Receiver<Result<FileRows>>,
    bytes: Arc<AtomicU64>,
    work: AbortOnDropHandle<()>,
}

impl Reader {
    /// Bytes of the file that were read.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why it ended without an error of the file, if it should not have.
    pub async fn failure(self) -> Option<Error> {
        let failed = |error| Error::new(Kind::Internal, "a file could not be read").because(error);
        self.work.await.err().map(failed)
    }
}

/// Begins to read `file`.
pub fn read(file: &File, format: Option<FileFormat>) -> Reader {
    let (send, rows) = mpsc::channel(WAITING);
    let bytes = Arc::new(AtomicU64::new(0));
    let (file, read) = (file.clone(), Arc::clone(&bytes));
    let work = task::spawn_behind("import-read", async move {
        if let Err(error) = pieces(&file, format, &send, &read).await {
            // Nobody may want it any more.
            let _ = send.send(Err(error)).await;
        }
    });
    Reader { rows, bytes, work: AbortOnDropHandle::new(work) }
}

async fn pieces(
    file: &File,
    format: Option<FileFormat>,
    send: &mpsc::Sender<Result<FileRows>>,
    read: &AtomicU64,
) -> Result<()> {
    let (packing, name) = Packing::of_name(&file.shown);
    let Some(format) = format.or_else(|| FileFormat::of_name(name)) else {
        let message = format!("{}: its name does not say what is in it", file.shown);
        return Err(
            Error::new(Kind::Usage, message).hint("set format = \"csv\", \"json\" or \"parquet\" for the table")
        );
    };
    if format == FileFormat::Parquet {
        let mut rows = file.source.parquet(&file.file).await?;
        while let Some(batch) = rows.next().await {
            if send.send(Ok(FileRows { batch: batch?, is_written: false })).await.is_err() {
                return Ok(());
            }
        }
        return Ok(());
    }
    let wrong = |error: crate::decode::FileError| Error::new(Kind::Usage, error.to_string());
    let mut reader = FileReader::new(&file.shown, format, packing).map_err(wrong)?;
    let mut bytes = file.source.stream(&file.file).await?;
    while let Some(bytes) = bytes.next().await {
        let bytes = bytes?;
        read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        for rows in reader.push(&bytes).map_err(wrong)? {
            if send.send(Ok(rows)).await.is_err() {
                return Ok(());
            }
        }
    }
    for rows in reader.finish().map_err(wrong)? {
        if send.send(Ok(rows)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
