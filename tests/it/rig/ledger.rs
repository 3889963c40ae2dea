//! What was sent, and what outside readers find of it.

use std::fmt::Write;

use serde_json::Value;

use super::kafka::Sent;
use super::minio::{Minio, credentials};
use super::{folder, python};

/// Every record that must be in a table exactly once.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    rows: Vec<Sent>,
    key_column: Option<String>,
    hash_column: Option<String>,
}

/// What one reader found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `deltalake` or `duckdb`.
    pub reader: String,
    /// Rows in the table.
    pub rows: u64,
    /// Records without a row.
    pub lost: u64,
    /// Rows more than one with the same identity (topic, incarnation, partition, offset, row).
    pub doubled: u64,
    /// Rows of records that were never sent.
    pub extra: u64,
    /// Rows whose key or hash is not what was sent.
    pub changed: u64,
    /// A few of them, for people.
    pub examples: Vec<String>,
}

impl Ledger {
    /// Also compares the record's key with this column.
    pub fn key_column(mut self, column: &str) -> Self {
        self.key_column = Some(column.to_owned());
        self
    }

    /// Also compares the payload's `hash` field, which is text, with this column.
    pub fn hash_column(mut self, column: &str) -> Self {
        self.hash_column = Some(column.to_owned());
        self
    }

    /// Adds what a broker acknowledged.
    pub fn add(&mut self, sent: impl IntoIterator<Item = Sent>) {
        self.rows.extend(sent);
    }

    /// Records in it.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Compares the table at `url` as deltalake-Python and DuckDB read it; `minio` is where `s3://` is.
    pub async fn compare(&self, url: &str, minio: Option<&Minio>) -> Vec<Report> {
        let file = folder("ledger").join("ledger.csv");
        std::fs::write(&file, self.csv()).unwrap();
        let mut arguments = vec![file.to_str().unwrap(), url];
        for (option, column) in [("--key-column", &self.key_column), ("--hash-column", &self.hash_column)] {
            if let Some(column) = column {
                arguments.extend([option, column]);
            }
        }
        let mut env = credentials().to_vec();
        env.extend(minio.map(|minio| ("AWS_ENDPOINT_URL", minio.endpoint())));
        let output = python::run("ledger.py", &arguments, &env).await;
        let answer: Option<Value> = serde_json::from_str(&output.stdout).ok();
        let reports = answer.as_ref().and_then(Value::as_array);
        reports.unwrap_or_else(|| panic!("ledger.py failed:\n{}", output.stderr)).iter().map(Report::read).collect()
    }

    /// Panics unless both readers find every record exactly once and nothing else.
    pub async fn assert_exact(&self, url: &str, minio: Option<&Minio>) {
        let reports = self.compare(url, minio).await;
        assert_eq!(reports.len(), 2, "{reports:#?}");
        assert!(reports.iter().all(Report::is_exact), "{url} against {} records: {reports:#?}", self.len());
    }

    fn csv(&self) -> String {
        let mut text = String::from("topic,partition,offset,key,hash\n");
        for sent in &self.rows {
            let Sent { topic, partition, offset, .. } = sent;
            let key = sent.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default().replace('"', "\"\"");
            let hash = self.hash_column.as_ref().and_then(|_| hash(sent)).unwrap_or_default();
            writeln!(text, "{topic},{partition},{offset},\"{key}\",{hash}").unwrap();
        }
        text
    }
}

/// The `hash` field of a JSON payload.
fn hash(sent: &Sent) -> Option<String> {
    let payload: Value = serde_json::from_slice(sent.payload.as_deref()?).ok()?;
    Some(payload.get("hash")?.as_str()?.to_owned())
}

impl Report {
    /// Nothing lost, doubled, foreign or changed.
    pub fn is_exact(&self) -> bool {
        self.lost + self.doubled + self.extra + self.changed == 0
    }

    fn read(value: &Value) -> Self {
        let number = |name: &str| value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"));
        Self {
            reader: value["reader"].as_str().unwrap().to_owned(),
            rows: number("rows"),
            lost: number("lost"),
            doubled: number("doubled"),
            extra: number("extra"),
            changed: number("changed"),
            examples: value["examples"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one.as_str().unwrap().to_owned())
                .collect(),
        }
    }
}
