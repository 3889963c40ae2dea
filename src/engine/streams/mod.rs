//! Runs the project's rules: follows the tables that they read (`source`), evaluates them (`runner`), and hands what they
//! raise to the sinks. One thread for all of them; nothing of it waits for a commit.
//!
//! A rule that cannot be planned waits until it can: it is tried again when a table has other columns, or comes. What is
//! known of its keys it keeps meanwhile. Every few seconds all that is known is written down (`state`), and what is told
//! at once (`journal`), so that a restart (`restore`) goes on where this process was.

mod ask;
mod follow;
mod heard;
mod journal;
mod restore;
mod runner;
mod scheduled;
mod source;
mod state;
mod status;
mod warm;
mod work;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::ask::{Act, Explained, Explanation, Request, explain, silence};
pub use self::follow::follow;
pub use self::heard::{Named, Newest};
pub use self::journal::{ALERTS, alerts_schema, until_written};
pub use self::runner::Runner;
pub use self::source::{Place, Source};
pub use self::state::{place, stream_state};
pub use self::status::{active, active_schema, queries, queries_schema};
pub use self::warm::{FAR, Warming};
pub use self::work::{Latency, Load, Stream, ends, fingerprint, fingerprints};

use self::journal::Journal;
use self::work::{Feed, Progress, Work};
use super::catalog::EngineCatalog;
use super::latest::Kept;
use crate::deliver::Message;
use crate::error::{Error, Kind, Result};
use crate::lake::Snapshot;
use crate::query::Service;
use crate::stream::{Key, Plan, Rule, Silence, StreamQuery};
use crate::task;

/// The rules of a running project.
#[derive(Default)]
pub struct Streams {
    rules: watch::Sender<Vec<Rule>>,
    /// By name.
    work: Mutex<BTreeMap<String, Work>>,
    /// How each stream gets on.
    progress: Mutex<BTreeMap<Feed, Progress>>,
    silences: Mutex<Vec<Silence>>,
    journal: OnceLock<Arc<Journal>>,
    /// What was committed of `system.alerts`, where no rule runs.
    committed: ArcSwapOption<Snapshot>,
}

/// A committed part of `system.alerts`, and the rows above it.
type Shown = (Option<Arc<Snapshot>>, std::result::Result<RecordBatch, ArrowError>);

impl Streams {
    /// These are the rules from now on.
    pub fn take_over(&self, rules: Vec<Rule>) {
        task::replace(&self.rules, rules);
    }

    /// `system.alerts`; nothing if there is no such table yet.
    pub fn alerts(&self) -> Option<Shown> {
        let committed = || Some((Some(self.committed.load_full()?), Ok(RecordBatch::new_empty(alerts_schema()))));
        self.journal.get().map(|journal| journal.shown()).or_else(committed)
    }

    /// The newest messages about alerts, the newest first.
    pub fn recent(&self) -> Vec<Message> {
        self.journal.get().map(|journal| journal.recent()).unwrap_or_default()
    }

    /// Until when nobody is told of a key of a rule.
    fn silenced_until(&self, rule: &str, key: &Key) -> Option<DateTime<Utc>> {
        let silences = self.silences.lock();
        let silences = silences.iter().filter(|silence| silence.is_of(rule, key)).map(|silence| silence.until);
        silences.max().filter(|until| *until > Utc::now())
    }

    /// The files of `system.alerts` are others now, with the same rows.
    pub fn rewritten(&self, snapshot: Arc<Snapshot>) {
        if let Some(journal) = self.journal.get() {
            journal.rewritten(snapshot);
        }
    }

    /// No rule runs here; this is what was committed of `system.alerts`.
    pub fn show(&self, committed: Arc<Snapshot>) {
        self.committed.store(Some(committed));
    }
}

/// Whether a query cannot be planned only because a column did not come yet: before the first record of every table not
/// all are known, and the table of a stream query is there when that is planned.
pub fn waits_for_columns(error: &Error, catalog: &EngineCatalog) -> bool {
    let is_missing = |query: &StreamQuery| error.headline() == format!("table `{}` does not exist", query.table());
    if catalog.stream_queries.wanted().iter().any(is_missing) {
        return true;
    }
    let is_of_columns = error.message().contains("does not exist") || error.message().starts_with("key:");
    let is_unread = |kept: &Kept| kept.is_reference() && kept.rows.schema().fields().is_empty();
    let is_young = || {
        catalog.fed().tables.values().any(|live| live.pin().schema_version == 0)
            || catalog.kept.load().values().any(is_unread)
    };
    error.kind() == Kind::Query && is_of_columns && is_young()
}

/// Why nobody can follow the rows of files.
pub(super) fn no_stream(reference: &Kept) -> Error {
    let message = format!("{} is a reference table: all of its rows come at once", reference.rows.name());
    Error::new(Kind::Query, message).hint("the first table of FROM is the stream; JOIN this one to look rows up")
}

/// How `rule` is run, or why it cannot be.
pub async fn plan(rule: &Rule, service: &Service, catalog: &EngineCatalog) -> Result<Plan> {
    let query = service.session().continuous(&rule.sql, rule.resolve_when.as_deref()).await?;
    let (kept, fed) = (catalog.kept.load(), catalog.fed());
    let stream = query.stream();
    let kept = kept.values().find(|kept| kept.rows.name() == stream);
    if let Some(reference) = kept.filter(|kept| kept.is_reference()) {
        return Err(no_stream(reference));
    }
    if kept.is_none() && !fed.tables.contains_key(stream) {
        let hint =
            "the first table of FROM is the stream: an events table, a __changes table, a mirror or a latest table";
        return Err(Error::new(Kind::Query, format!("{stream} is no stream")).hint(hint));
    }
    let key = kept.map(|kept| kept.rows.key().to_vec());
    let contract = fed.contracts.iter().find(|contract| contract.table == stream);
    let known = contract.map_or_else(Vec::new, |contract| contract.key.clone());
    Plan::of(rule, query, key.as_deref(), &known)
}
