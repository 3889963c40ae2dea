//! The files in `tests/slt`, in process.

use std::path::Path;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

use super::*;
use crate::error::Error;

struct Db(Session);

#[async_trait]
impl AsyncDB for Db {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> std::result::Result<DBOutput<DefaultColumnType>, Error> {
        let rows = self.0.query(sql).await?.run().await?;
        let types = vec![DefaultColumnType::Any; rows.schema().fields().len()];
        if types.is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        let batches = rows.collect().await?;
        Ok(DBOutput::Rows { types, rows: batches.iter().flat_map(cells).collect() })
    }

    async fn shutdown(&mut self) {}
}

fn cells(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let texts: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    let cell = |text: String| if text.is_empty() { "(empty)".to_owned() } else { text };
    (0..batch.num_rows()).map(|row| texts.iter().map(|text| cell(text.value(row).to_string())).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slt_files_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let service = service(&Fixture::fleet());
        let mut runner = Runner::new(|| async { Ok(Db(service.session())) });
        if let Err(error) = runner.run_file_async(&file).await {
            panic!("{}", error.display(false));
        }
    }
}
