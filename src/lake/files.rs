//! Files that are no part of the lake: those that reference tables are read from, and that are imported.

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use glob::{MatchOptions, Pattern};
use object_store::buffered::{BufReader, BufWriter};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::store::{Location, S3Options, Stores, reason};
use crate::decode::{FileError, as_written};
use crate::error::{Error, Kind, Result};
use crate::schema::{conform, derive_name};

/// `*` stands for no slash, and hidden files are an editor's business.
const MATCH: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Rows of Parquet that are read at once.
const PARQUET_ROWS: usize = 8 * 1024;
/// What is read or copied at once.
const COPY_BYTES: usize = 1 << 20;

/// The files that a url names.
#[derive(Debug)]
pub struct SourceFiles {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Folder(String),
    Bucket { stores: Stores, bucket: String, below: ObjectPath, pattern: Pattern },
}

/// A file, as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its path, or its key in the bucket.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// What changes with it: the time it was written, or its etag.
    pub mark: String,
    /// When it was written, in seconds since 1970.
    #[serde(default)]
    pub modified_s: i64,
}

impl SourceFiles {
    /// The files of `url`: an absolute path or `s3://bucket/key`, with `*` and the like in it.
    pub async fn open(url: &str, s3: &S3Options) -> Result<Self> {
        let Some(rest) = url.strip_prefix("s3://") else { return Ok(Self { place: Place::Folder(url.to_owned()) }) };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let pattern =
            Pattern::new(key).map_err(|error| Error::new(Kind::Usage, format!("url: is no pattern: {}", error.msg)))?;
        let literal = &key[..key.find(['*', '?', '[']).unwrap_or(key.len())];
        let below = ObjectPath::from(literal.rsplit_once('/').map_or("", |(folder, _)| folder));
        let location = Location::Bucket { bucket: bucket.to_owned(), prefix: String::new() };
        let stores = Stores::open(&location, s3).await?;
        Ok(Self { place: Place::Bucket { stores, bucket: bucket.to_owned(), below, pattern } })
    }

    /// What is there now, by path.
    pub async fn list(&self) -> Result<Vec<SourceFile>> {
        let mut files = match &self.place {
            Place::Folder(pattern) => {
                let pattern = pattern.clone();
                blocking(move || folder(&pattern)).await?
            }
            Place::Bucket { stores, below, pattern, .. } => {
                let listed: Vec<_> = stores
                    .data()
                    .list(Some(below))
                    .try_collect()
                    .await
                    .map_err(|error| stores.explain("list the files", error))?;
                let is_meant = |path: &ObjectPath| pattern.matches_with(path.as_ref(), MATCH);
                let listed = listed.into_iter().filter(|found| is_meant(&found.location));
                listed.map(of_bucket).collect()
            }
        };
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// What is in a file.
    pub async fn read(&self, file: &SourceFile) -> Result<Bytes> {
        match &self.place {
            Place::Folder(_) => {
                let path = file.path.clone();
                blocking(move || std::fs::read(&path).map(Bytes::from).map_err(|error| unreadable(&path, error))).await
            }
            Place::Bucket { stores, .. } => {
                let read = async { stores.data().get(&ObjectPath::from(file.path.as_str())).await?.bytes().await };
                read.await.map_err(|error| stores.explain(&format!("read {}", self.shown(file)), error))
            }
        }
    }

    /// What is in a file, as it comes.
    pub async fn stream(&self, file: &SourceFile) -> Result<BoxStream<'static, Result<Bytes>>> {
        if let Place::Folder(_) = self.place {
            let path = file.path.clone();
            let opened = tokio::fs::File::open(&path).await.map_err(|error| unreadable(&path, error))?;
            let pieces = stream::try_unfold((opened, path), async |(mut opened, path)| {
                let mut piece = BytesMut::with_capacity(COPY_BYTES);
                let read = opened.read_buf(&mut piece).await.map_err(|error| unreadable(&path, error))?;
                Ok((read > 0).then(|| (piece.freeze(), (opened, path))))
            });
            return Ok(pieces.boxed());
        }
        let (store, path) = self.object(file)?;
        let shown = self.shown(file);
        let fault = move |error| unread(&shown, error);
        let found = store.get(&path).await.map_err(&fault)?;
        Ok(found.into_stream().map_err(fault).boxed())
    }

    /// The rows of a Parquet file, as they are read; names are those that SQL takes without quotes.
    pub async fn parquet(&self, file: &SourceFile) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (store, location) = self.object(file)?;
        let shown = self.shown(file);
        // What the store says is no fault of the file.
        let fault = move |error: ParquetError| {
            let kind = if matches!(error, ParquetError::External(_)) { Kind::Unavailable } else { Kind::Usage };
            Error::new(kind, format!("{shown}: {error}"))
        };
        let (size, last_modified) = (file.bytes, chrono::DateTime::UNIX_EPOCH);
        let meta = ObjectMeta { location, last_modified, size, e_tag: None, version: None };
        let builder = ParquetRecordBatchStreamBuilder::new(BufReader::new(store, &meta)).await.map_err(&fault)?;
        let rows = builder.with_batch_size(PARQUET_ROWS).build().map_err(&fault)?;
        let renamed = |batch: RecordBatch| {
            let written: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
            as_written(&named(&batch)?, written)
        };
        Ok(rows.map(move |batch| renamed(batch.map_err(&fault)?).map_err(|error| fault(error.into()))).boxed())
    }

    /// Whether it is what it was.
    pub async fn is_still(&self, was: &SourceFile) -> Result<bool> {
        match &self.place {
            Place::Folder(_) => {
                let path = was.path.clone();
                let now = blocking(move || file(Path::new(&path))).await?;
                Ok(now.as_ref() == Some(was))
            }
            Place::Bucket { stores, .. } => {
                let found = stores.data().head(&ObjectPath::from(was.path.as_str())).await;
                Ok(of_bucket(found.map_err(|error| unread(&self.shown(was), error))?) == *was)
            }
        }
    }

    fn object(&self, file: &SourceFile) -> Result<(Arc<dyn ObjectStore>, ObjectPath)> {
        Ok(match &self.place {
            Place::Folder(_) => {
                let path = ObjectPath::from_absolute_path(&file.path)
                    .map_err(|error| Error::new(Kind::Usage, format!("{} is no path", file.path)).because(error))?;
                (Arc::new(LocalFileSystem::new()) as _, path)
            }
            Place::Bucket { stores, .. } => (Arc::clone(stores.data()), ObjectPath::from(file.path.as_str())),
        })
    }

    /// A file as people would name it.
    pub fn shown(&self, file: &SourceFile) -> String {
        match &self.place {
            Place::Folder(_) => file.path.clone(),
            Place::Bucket { bucket, .. } => format!("s3://{bucket}/{}", file.path),
        }
    }
}

/// Puts the file at `path` to `url`, `s3://bucket/key`; over what is there only if that is wanted.
pub async fn upload(path: &Path, url: &str, s3: &S3Options, over: bool) -> Result<()> {
    let named = url.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
    let Some((bucket, key)) = named.filter(|(bucket, key)| bucket.len() > 2 && !key.is_empty()) else {
        let error = Error::new(Kind::Usage, format!("`{url}` names no file"));
        return Err(error.hint("a path, or s3://bucket/key"));
    };
    let location = Location::Bucket { bucket: bucket.to_owned(), prefix: String::new() };
    let stores = Stores::open(&location, s3).await?;
    let key = ObjectPath::from(key);
    match stores.data().head(&key).await {
        Ok(_) if !over => {
            return Err(Error::new(Kind::Usage, format!("{url} is there already")).hint("--force replaces it"));
        }
        Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(stores.explain(&format!("look at {url}"), error)),
    }
    let mut file = tokio::fs::File::open(path).await.map_err(|error| unreadable(&path.display().to_string(), error))?;
    let mut object = BufWriter::new(Arc::clone(stores.data()), key);
    let copied = async {
        tokio::io::copy_buf(&mut tokio::io::BufReader::with_capacity(COPY_BYTES, &mut file), &mut object).await?;
        object.shutdown().await
    };
    let copied: std::io::Result<()> = copied.await;
    copied.map_err(|error| Error::new(Kind::Unavailable, format!("{url} cannot be written")).because(error))
}

fn folder(pattern: &str) -> Result<Vec<SourceFile>> {
    let paths = glob::glob_with(pattern, MATCH)
        .map_err(|error| Error::new(Kind::Usage, format!("url: is no pattern: {}", error.msg)))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| unreadable(&error.path().display().to_string(), error.into()))?;
        files.extend(file(&path)?);
    }
    Ok(files)
}

fn of_bucket(found: ObjectMeta) -> SourceFile {
    SourceFile {
        path: found.location.to_string(),
        bytes: found.size,
        mark: found.e_tag.unwrap_or_else(|| found.last_modified.to_rfc3339()),
        modified_s: found.last_modified.timestamp(),
    }
}

/// A folder is no file; nor is what was deleted a moment ago. However it is reached, a file has one name.
fn file(path: &Path) -> Result<Option<SourceFile>> {
    let shown = path.display().to_string();
    let found = match std::fs::canonicalize(path).and_then(|path| Ok((std::fs::metadata(&path)?, path))) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&shown, error)),
    };
    let (found, path) = found;
    let modified = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let mark = format!("{}.{:09}", modified.as_secs(), modified.subsec_nanos());
    Ok(found.is_file().then(|| SourceFile {
        path: path.display().to_string(),
        bytes: found.len(),
        mark,
        modified_s: modified.as_secs().cast_signed(),
    }))
}

fn unread(shown: &str, error: object_store::Error) -> Error {
    Error::new(Kind::Unavailable, format!("{shown} cannot be read")).because(reason(&error))
}

fn unreadable(path: &str, error: std::io::Error) -> Error {
    Error::new(Kind::Unavailable, format!("{path} cannot be read")).because(error)
}

/// The rows of Parquet files, given with their names; a column that a file does not have is null in its rows.
pub fn rows_of_parquet(files: &[(String, Bytes)]) -> std::result::Result<RecordBatch, FileError> {
    let mut batches = Vec::new();
    for (file, bytes) in files {
        let fault = |reason| FileError::File { file: file.clone(), line: None, reason };
        batches.extend(parquet(bytes).map_err(fault)?);
    }
    together(&batches)
}

fn parquet(bytes: &Bytes) -> std::result::Result<Vec<RecordBatch>, String> {
    let fault = |error: ParquetError| error.to_string();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).map_err(fault)?.build().map_err(fault)?;
    let batches = reader.collect::<std::result::Result<Vec<_>, _>>();
    let batches = batches.and_then(|batches| batches.iter().map(named).collect());
    batches.map_err(|error| error.to_string())
}

/// The same rows with names that SQL takes without quotes.
fn named(batch: &RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
    let field =
        |field: &Arc<Field>| Field::new(derive_name(&[field.name().clone()], &[]), field.data_type().clone(), true);
    let schema = Schema::new(batch.schema().fields().iter().map(field).collect::<Vec<_>>());
    let mut names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ArrowError::SchemaError(format!("two columns are named {}", pair[0])));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(schema), batch.columns().to_vec(), &options)
}

fn together(batches: &[RecordBatch]) -> std::result::Result<RecordBatch, FileError> {
    let mut fields: Vec<Arc<Field>> = Vec::new();
    for field in batches.iter().flat_map(|batch| batch.schema().fields().to_vec()) {
        match fields.iter_mut().find(|known| known.name() == field.name()) {
            Some(known) if known.data_type() != field.data_type() => {
                *known = Arc::new(Field::new(field.name(), DataType::Utf8, true));
            }
            Some(_) => {}
            None => fields.push(field),
        }
    }
    let schema = Arc::new(Schema::new(fields));
    let batches = batches.iter().map(|batch| conform(batch, &schema)).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::new(Kind::Internal, "files were not looked at").because(error)))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[tokio::test]
    async fn a_pattern_names_files_and_what_changes_has_another_mark() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b.csv", "a.csv", ".hidden.csv", "c.json"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::fs::create_dir(at("d.csv")).unwrap();
        let url = format!("{}/*.csv", folder.path().display());
        let files = SourceFiles::open(&url, &S3Options::default()).await.unwrap();
        let names = |files: &[SourceFile]| -> Vec<String> {
            files.iter().map(|file| file.path.rsplit_once('/').unwrap().1.to_owned()).collect()
        };
        let listed = files.list().await.unwrap();
        assert_eq!(names(&listed), ["a.csv", "b.csv"]);
        assert_eq!(files.read(&listed[1]).await.unwrap(), "b.csv");
        std::fs::write(at("a.csv"), "longer").unwrap();
        let again = files.list().await.unwrap();
        assert_ne!(again[0], listed[0]);
        assert_eq!(again[1], listed[1]);

        let none = SourceFiles::open("/nowhere/*.csv", &S3Options::default()).await.unwrap();
        assert_eq!(none.list().await.unwrap(), []);
    }

    #[test]
    fn parquet_files_of_several_types_are_read_together() {
        let file = |rows: &RecordBatch| {
            let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
            writer.write(rows).unwrap();
            Bytes::from(writer.into_inner().unwrap())
        };
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let first = RecordBatch::try_from_iter([("Id", ids)]).unwrap();
        let second = RecordBatch::try_from_iter([("Id", Arc::clone(&texts)), ("name", texts)]).unwrap();
        let broken = [("a".to_owned(), Bytes::from("PAR1"))];
        assert!(rows_of_parquet(&broken).unwrap_err().to_string().starts_with("a: "));
        let files = [("a".to_owned(), file(&first)), ("b".to_owned(), file(&second))];
        let rows = rows_of_parquet(&files).unwrap();
        assert_eq!(
            rows.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
            ["id", "name"]
        );
        assert_eq!(rows.num_rows(), 3);
        assert_eq!(rows.column(0).data_type(), &DataType::Utf8);
    }
}
