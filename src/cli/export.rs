//! `millpond export`: the rows of a statement become a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use flate2::write::GzEncoder;
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::place::Where;
use super::shell::{Format, Results, write_rows};
use crate::decode::Packing;
use crate::error::{Error, Kind, Result};
use crate::lake::upload;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond export telemetry telemetry.parquet\n  \
    millpond export \"SELECT * FROM telemetry WHERE _day = '2026-11-20'\" day.csv.gz\n  \
    millpond export \"SELECT * FROM at_version('prices', 12)\" s3://exports/prices.ndjson.zst --force")]
pub(super) struct ExportArgs {
    /// A statement, or the name of a table
    sql: String,
    /// Where to: a file, or s3://bucket/key
    #[arg(value_name = "FILE")]
    file: String,
    /// What is written [default: what the file's name says]
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum FileFormat {
    /// Parquet (.parquet)
    Parquet,
    /// Comma-separated values, the names of the columns first (.csv)
    Csv,
    /// One JSON object per line (.ndjson, .jsonl)
    Ndjson,
    /// One JSON array of objects (.json)
    Json,
}

impl FileFormat {
    fn of_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "parquet" => Some(Self::Parquet),
            "csv" => Some(Self::Csv),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

pub(super) async fn run(args: ExportArgs) -> Result<ExitCode> {
    let (packing, name) = Packing::of_name(&args.file);
    let format = args.format.or_else(|| FileFormat::of_name(name)).ok_or_else(|| {
        Error::new(Kind::Usage, format!("`{}` does not say what is to be written", args.file))
            .hint("end it in .parquet, .csv, .ndjson or .json, or say --format")
    })?;
    if format == FileFormat::Parquet && packing != Packing::None {
        return Err(Error::new(Kind::Usage, "Parquet is packed inside: leave out .gz or .zst"));
    }
    let is_name = !args.sql.trim().contains(char::is_whitespace);
    let sql = if is_name { format!("SELECT * FROM {}", args.sql) } else { args.sql.clone() };
    // Beside its place, so that it is there as a whole or not at all; a bucket gets it from here.
    let local = (!args.file.contains("://")).then(|| PathBuf::from(&args.file));
    if let Some(path) = local.as_ref().filter(|path| path.exists() && !args.force) {
        return Err(Error::new(Kind::Usage, format!("{} is there already", path.display())).hint("--force replaces it"));
    }
    let beside = local.as_deref().and_then(Path::file_name).map_or("export".into(), |name| name.to_string_lossy());
    let part = format!(".{beside}.{}.part", std::process::id());
    let part = match local.as_deref().map(Path::parent) {
        Some(Some(folder)) => folder.join(part),
        _ => std::env::temp_dir().join(part),
    };
    let mut target = args.place.target().await?;
    let results = target.query(&sql).await?;
    let written = async {
        let rows = write(results, format, packing, &part).await?;
        let bytes = part.metadata().map_err(|error| unwritable(&part, error))?.len();
        match &local {
            Some(path) => std::fs::rename(&part, path).map_err(|error| unwritable(path, error))?,
            None => upload(&part, &args.file, &args.place.s3()?, args.force).await?,
        }
        Ok((rows, bytes))
    };
    let written: Result<(usize, u64)> = written.await;
    if written.is_err() || local.is_none() {
        // It may not be there.
        let _ = std::fs::remove_file(&part);
    }
    let (rows, bytes) = written?;
    say!("{}: {rows} rows, {}", args.file, indicatif::HumanBytes(bytes));
    Ok(ExitCode::SUCCESS)
}

fn unwritable(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Unavailable, format!("{} cannot be written", path.display())).because(error)
}

/// Writes all rows to `path`; how many there were.
async fn write(results: Results, format: FileFormat, packing: Packing, path: &Path) -> Result<usize> {
    let fault = |error: io::Error| unwritable(path, error);
    let mut file = BufWriter::new(File::create(path).map_err(fault)?);
    let format = match format {
        FileFormat::Parquet => {
            let rows = write_parquet(results, &mut file, path).await?;
            file.into_inner().map_err(|error| fault(error.into_error()))?.sync_all().map_err(fault)?;
            return Ok(rows);
        }
        FileFormat::Csv => Format::Csv,
        FileFormat::Ndjson => Format::Ndjson,
        FileFormat::Json => Format::Json,
    };
    let rows = match packing {
        Packing::None => write_rows(results, format, false, &mut file).await.map_err(fault)??,
        Packing::Gzip => {
            let mut packed = GzEncoder::new(&mut file, flate2::Compression::default());
            let rows = write_rows(results, format, false, &mut packed).await.map_err(fault)??;
            packed.finish().map_err(fault)?;
            rows
        }
        Packing::Zstd => {
            let mut packed = ZstdEncoder::new(&mut file, 3).map_err(fault)?;
            let rows = write_rows(results, format, false, &mut packed).await.map_err(fault)??;
            packed.finish().map_err(fault)?;
            rows
        }
    };
    file.flush().map_err(fault)?;
    file.into_inner().map_err(|error| fault(error.into_error()))?.sync_all().map_err(fault)?;
    Ok(rows)
}

async fn write_parquet(results: Results, file: &mut (impl Write + Send), path: &Path) -> Result<usize> {
    let fault = |error: parquet::errors::ParquetError| unwritable(path, error);
    let (schema, mut batches) = results;
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default());
    let properties = WriterProperties::builder().set_compression(zstd).build();
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(fault)?;
    let mut rows = 0;
    while let Some(batch) = batches.next().await.transpose()? {
        rows += batch.num_rows();
        writer.write(&batch).map_err(fault)?;
    }
    writer.close().map_err(fault)?;
    Ok(rows)
}
