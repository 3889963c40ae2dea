//! What a query writes to the disk: files of all queries' folder and bound, and a bound of its own within that.

use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder};
use datafusion::execution::spill_file::{SpillFile, SpillWriter, TempFileFactory};
use futures::Stream;

/// How the error begins of a query that has used up its own bound.
pub(super) const OF_ONE: &str = "the disk space of one query";

/// Files of `of_all` for one query, of `most` bytes together.
pub(super) fn of_query(of_all: &Arc<DiskManager>, most: u64) -> Arc<DiskManager> {
    let files = Files { of_all: Arc::clone(of_all), room: Arc::new(Room { most, used: AtomicU64::new(0) }) };
    let built = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(files)).build();
    // It opens nothing, and does not fail.
    built.map_or_else(|_| Arc::clone(of_all), Arc::new)
}

struct Files {
    of_all: Arc<DiskManager>,
    room: Arc<Room>,
}

struct Room {
    most: u64,
    used: AtomicU64,
}

impl Room {
    fn take(&self, bytes: u64) -> io::Result<()> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.most {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(io::Error::other(format!("{OF_ONE}, {} bytes, is used up", self.most)));
        }
        Ok(())
    }
}

impl TempFileFactory for Files {
    fn create_temp_file(&self, description: &str) -> Result<Arc<dyn SpillFile>> {
        let file = self.of_all.create_tmp_file(description)?;
        Ok(Arc::new(Counted { file, bytes: Arc::default(), room: Arc::clone(&self.room) }))
    }
}

/// A file whose bytes are given back with it.
struct Counted {
    file: Arc<dyn SpillFile>,
    bytes: Arc<AtomicU64>,
    room: Arc<Room>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl SpillFile for Counted {
    fn path(&self) -> Option<&Path> {
        self.file.path()
    }

    fn size(&self) -> Option<u64> {
        self.file.size()
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        self.file.read_stream()
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        let (bytes, room) = (Arc::clone(&self.bytes), Arc::clone(&self.room));
        Ok(Box::new(Counting { writer: self.file.open_writer()?, bytes, room }))
    }
}

struct Counting {
    writer: Box<dyn SpillWriter>,
    bytes: Arc<AtomicU64>,
    room: Arc<Room>,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room.take(bytes.len() as u64)?;
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.writer.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl SpillWriter for Counting {
    fn finish(&mut self) -> Result<()> {
        self.writer.finish()
    }
}
