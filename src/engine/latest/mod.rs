//! Keeps the rows of mirrors and latest tables: in memory, following the tables they come from (`follower`), and on the
//! lake (`writer`), where they are read back from at the next start. Those of a reference table come from files
//! (`reference`).

mod by_hand;
mod follower;
mod lookup;
mod reference;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use self::by_hand::ByHand;
pub use self::lookup::lookup;

pub use self::follower::Seen;

use self::follower::{Follower, Known, StateRecord};
use self::writer::{Flushed, Source, StatesManifest, Writer};
use super::catalog::EngineCatalog;
use super::lanes::has_seen;
use super::stream_queries;
use crate::error::{Error, Kind, Result};
use crate::lake::{FLUSH, Lake, LatestFiles, S3Options, SourceState};
use crate::latest::{LatestError, LatestTable, Merged, Part, ReferenceRows, Relation, Rows, Wanted};
use crate::query::Service;
use crate::schema::{Contract, Latest, Merge, OnDelete, Reference};
use crate::stream::StreamQuery;
use crate::task::Shutdown;

/// Pause before the lake is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked whether rows are put together.
const SOON: Duration = Duration::from_millis(50);

/// A table with one row per key.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The rows.
    pub rows: Arc<dyn Rows>,
    /// The SQL of the table, if `rows` are not all of it.
    pub derived: Option<String>,
    /// What it was declared as.
    declared: Declared,
    /// The states that rows are made of.
    states: Vec<State>,
    /// The rows of files, if they are.
    files: Option<Arc<ReferenceRows>>,
    /// What the lake has of it.
    pub flushed: Arc<Mutex<Option<Flushed>>>,
    stop: Shutdown,
    /// Ends what keeps it when nobody holds the table any more.
    _alive: Arc<DropGuard>,
}

/// A state, the table it is kept from, and how far.
#[derive(Debug, Clone)]
struct State {
    table: Arc<LatestTable>,
    source: String,
    /// The columns of that table that name keys of the rows.
    key: Vec<String>,
    seen: Shown,
}

/// How far a state has come, for those who wait.
type Shown = Arc<watch::Sender<Option<Seen>>>;

/// A table that rows are kept from.
#[derive(Debug, Clone)]
pub struct Followed {
    /// Its name.
    pub source: String,
    /// Its columns that name keys of the rows.
    pub key: Vec<String>,
    seen: Shown,
}

impl Followed {
    /// Up to where its records are in the rows; `None` until all that was there is read.
    pub fn taken_in(&self) -> Option<Seen> {
        self.seen.borrow().clone()
    }

    /// Tells when more is.
    pub fn subscribe(&self) -> watch::Receiver<Option<Seen>> {
        self.seen.subscribe()
    }
}

impl State {
    fn new(table: &Arc<LatestTable>, source: &str, key: &[String]) -> Self {
        let (table, source, key) = (Arc::clone(table), source.to_owned(), key.to_vec());
        Self { table, source, key, seen: Arc::new(watch::Sender::new(None)) }
    }

    /// Whether all is taken in that its table has.
    fn is_up_to_date(&self, catalog: &EngineCatalog) -> bool {
        let Some(view) = catalog.fed().tables.get(&self.source).map(|live| live.pin()) else { return true };
        let seen = self.seen.borrow();
        let Some(seen) = seen.as_ref() else { return false };
        view.positions.iter().all(|(lane, end)| has_seen(&seen.positions, lane, *end))
            && view.hot.iter().all(|hot| has_seen(&seen.positions, &hot.lane, hot.end))
    }

    /// What was written down of it, if it is kept from the same table in the same way.
    fn known(&self, files: &LatestFiles, manifest: &StatesManifest) -> Option<Known> {
        let is_same = |source: &&SourceState<StateRecord>| {
            source.table == self.source && source.state.wanted == *self.table.wanted()
        };
        let source = manifest.sources.iter().find(is_same)?.clone();
        Some(Known { reader: files.sidecars(), source })
    }

    fn is_seen(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let seen = self.seen.borrow();
        let positions = seen.iter().flat_map(|seen| &seen.positions);
        let lanes = positions.filter(|(lane, _)| *lane.topic == *topic && lane.partition == partition);
        lanes.max_by_key(|(lane, _)| lane.incarnation).is_some_and(|(_, end)| *end > offset)
    }
}

/// What a table was declared as: another declaration makes another table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Declared {
    Mirror { key: Vec<String> },
    Latest { spec: Latest, mirrors: Vec<Option<Vec<String>>> },
    Reference(Reference),
}

/// Tables with one row per key, by name.
pub type KeptTables = BTreeMap<String, Kept>;

impl Kept {
    fn new(rows: Arc<dyn Rows>, declared: Declared, states: Vec<State>) -> Self {
        let stop = Shutdown::new();
        let alive = Arc::new(stop.clone().drop_guard());
        let derived = match &declared {
            Declared::Mirror { .. } | Declared::Reference(_) => None,
            Declared::Latest { spec, .. } => spec.derived_sql(),
        };
        Self { rows, derived, declared, states, files: None, flushed: Arc::default(), stop, _alive: alive }
    }

    /// The same again, with nothing in it yet.
    fn anew(&self, contracts: &[Arc<Contract>]) -> Self {
        match &self.declared {
            Declared::Mirror { key } => {
                let (name, source) = (self.rows.name(), self.states.first().map_or("", |state| &state.source));
                Self::mirror(name, source, key)
            }
            Declared::Latest { spec, .. } => Self::latest(spec, contracts, self.declared.clone()),
            Declared::Reference(spec) => Self::reference(spec),
        }
    }

    /// Whether its rows come from files: none of them is ever newer than another.
    pub fn is_reference(&self) -> bool {
        self.files.is_some()
    }

    /// The tables that its rows are kept from.
    pub fn followed(&self) -> Vec<Followed> {
        let followed = |State { source, key, seen, .. }: &State| Followed {
            source: source.clone(),
            key: key.clone(),
            seen: Arc::clone(seen),
        };
        self.states.iter().map(followed).collect()
    }

    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self.declared {
            Declared::Mirror { .. } => "mirror",
            Declared::Latest { .. } => "latest",
            Declared::Reference(_) => "reference",
        }
    }

    fn reference(spec: &Reference) -> Self {
        let rows = Arc::new(ReferenceRows::new(&spec.table, &spec.key));
        let kept = Self::new(Arc::clone(&rows) as Arc<dyn Rows>, Declared::Reference(spec.clone()), Vec::new());
        Self { files: Some(rows), ..kept }
    }

    fn mirror(name: &str, source: &str, key: &[String]) -> Self {
        let table = Arc::new(LatestTable::new(name, Wanted::mirror(key)));
        let states = vec![State::new(&table, source, key)];
        Self::new(table, Declared::Mirror { key: key.to_vec() }, states)
    }

    fn latest(spec: &Latest, contracts: &[Arc<Contract>], declared: Declared) -> Self {
        let mut states = Vec::new();
        let mut parts = Vec::new();
        for source in &spec.sources {
            let Some(contract) = contracts.iter().find(|contract| contract.file == source.table) else { continue };
            let of_changes = contract.format.is_change();
            let is_own_key = |column: &String| source.key.contains(column);
            let is_foreign =
                of_changes && !(contract.key.len() == source.key.len() && contract.key.iter().all(is_own_key));
            let wanted = Wanted {
                key: if is_foreign { contract.key.clone() } else { source.key.clone() },
                foreign: if is_foreign { source.key.clone() } else { Vec::new() },
                columns: source.columns.clone(),
                of_changes,
                last_non_null: source.merge == Merge::LastNonNull,
                ignores_deletes: source.on_delete == OnDelete::Ignore,
            };
            let table = Arc::new(LatestTable::new(&spec.table, wanted));
            states.push(State::new(&table, &contract.table, &source.key));
            parts.push(Part {
                table,
                key: source.key.clone(),
                relation: match source.list_column() {
                    Some(column) => Relation::List(column),
                    None if is_foreign => Relation::Newest,
                    None => Relation::Own,
                },
                prefix: source.prefix.clone(),
                drops: source.on_delete == OnDelete::DropRow,
            });
        }
        Self::new(Arc::new(Merged::new(&spec.merged_name(), &spec.key, parts)), declared, states)
    }
}

/// The tables with one row per key that these declare; those of `before` that are declared the same go on.
pub fn kept(
    contracts: &[Arc<Contract>],
    latest: &[Latest],
    references: &[Reference],
    before: &KeptTables,
) -> KeptTables {
    let mut now = KeptTables::new();
    let mut keep = |name: &str, declared: Declared, make: &dyn Fn(Declared) -> Kept| {
        let known = before.get(name).filter(|kept| kept.declared == declared).cloned();
        now.insert(name.to_owned(), known.unwrap_or_else(|| make(declared)));
    };
    for contract in contracts.iter().filter(|contract| contract.format.is_change()) {
        keep(&contract.file, Declared::Mirror { key: contract.key.clone() }, &|_| {
            Kept::mirror(&contract.file, &contract.table, &contract.key)
        });
    }
    for spec in latest {
        let key = |contract: &Arc<Contract>| contract.format.is_change().then(|| contract.key.clone());
        let of = |table: &String| contracts.iter().find(|contract| contract.file == *table).and_then(key);
        let mirrors = spec.sources.iter().map(|source| of(&source.table)).collect();
        let declared = Declared::Latest { spec: spec.clone(), mirrors };
        keep(&spec.table, declared, &|declared| Kept::latest(spec, contracts, declared));
    }
    for spec in references {
        keep(&spec.table, Declared::Reference(spec.clone()), &|_| Kept::reference(spec));
    }
    now
}

/// Keeps tables with one row per key.
#[derive(Clone)]
pub struct Keeper {
    /// Where they are shown, and the tables they come from.
    pub catalog: Arc<EngineCatalog>,
    /// Reads what the lake holds.
    pub service: Service,
    /// Reads files of buckets.
    pub s3: S3Options,
    /// Where they are written to; nothing if another process does that.
    pub writing: Option<Writing>,
}

/// How tables with one row per key are written.
#[derive(Clone)]
pub struct Writing {
    /// Where to.
    pub lake: Lake,
    /// Least time between two flushes.
    pub interval: Duration,
    /// Kafka forgets what was not committed: what a table shows may never come again.
    pub forgetful: bool,
    /// All is taken in that will be: flush, and end.
    pub finish: Shutdown,
    /// Gives up waiting for the store.
    pub abort: Shutdown,
    /// Who ends the process when another writer is at work.
    pub failed: mpsc::Sender<Error>,
    /// Those who write.
    pub writers: TaskTracker,
    /// By table: who writes it. One after the other.
    pub turns: Arc<Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Writing {
    /// Who holds it writes the table `name`.
    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.turns.lock().entry(name.to_owned()).or_default())
    }
}

impl Keeper {
    /// Keeps what these declare from now on.
    pub fn keep(
        &self,
        contracts: &[Arc<Contract>],
        latest: &[Latest],
        references: &[Reference],
        queries: &[StreamQuery],
    ) {
        let before = self.catalog.kept.load_full();
        let (contracts, latest) = stream_queries::kept(queries, contracts.to_vec(), latest.to_vec());
        let now = kept(&contracts, &latest, references, &before);
        for (name, kept) in now.iter().filter(|(name, kept)| before.get(*name).is_none_or(|old| !old.is(kept))) {
            info!(table = name, kind = kept.kind(), "rows are put together");
            self.begin(name, kept, false);
        }
        self.catalog.kept.store(Arc::new(now));
    }

    /// Puts the rows of a table together from the tables they come from, forgetting all that was written down, and then
    /// shows them instead of those that are kept now. How many there are.
    pub async fn replay(&self, table: &str) -> Result<u64> {
        let known = self.catalog.kept.load().get(table).cloned();
        let Some(before) = known else {
            let message = format!("there is no mirror or latest table `{table}`");
            return Err(Error::new(Kind::NotFound, message));
        };
        info!(table, "rows are put together anew");
        let fed = self.catalog.fed();
        let queries = self.catalog.stream_queries.wanted();
        let (contracts, _) = stream_queries::kept(&queries, fed.contracts.clone(), Vec::new());
        let next = before.anew(&contracts);
        self.begin(table, &next, true);
        while next.rows.is_loading() {
            tokio::time::sleep(SOON).await;
        }
        let rows = next.rows.stats().rows;
        self.catalog.kept.rcu(|kept| {
            let mut kept = KeptTables::clone(kept);
            // Its file may have been edited meanwhile.
            if kept.get(table).is_some_and(|kept| kept.is(&before)) {
                kept.insert(table.to_owned(), next.clone());
            }
            kept
        });
        match next.rows.stopped() {
            Some(reason) => Err(Error::new(Kind::Exhausted, reason)),
            None => Ok(rows as u64),
        }
    }

    /// Keeps `kept` from now on; `anew`: nothing that was written down of it counts.
    fn begin(&self, name: &str, kept: &Kept, anew: bool) {
        if let (Some(rows), Declared::Reference(spec)) = (&kept.files, &kept.declared) {
            return reference::begin(self, spec, rows, &kept.flushed, anew, &kept.stop);
        }
        // Whoever holds `kept` keeps it alive, so its tasks hold parts of it.
        let (keeper, name, stop) = (self.clone(), name.to_owned(), kept.stop.clone());
        let (rows, derived, declared) = (Arc::clone(&kept.rows), kept.derived.clone(), format!("{:?}", kept.declared));
        let (states, flushed) = (kept.states.clone(), Arc::clone(&kept.flushed));
        let Some(writing) = self.writing.clone() else { return keeper.follow(&states, None, &stop) };
        if anew {
            keeper.follow(&states, None, &stop);
        }
        let turn = writing.turn(&name);
        let work = writing.writers.clone().track_future(async move {
            let _turn = turn.lock_owned().await;
            let opened = stop.run_until_cancelled(open(&writing.lake, &name)).await;
            let Some((files, manifest)) = opened else { return };
            let manifest = manifest.filter(|manifest| !anew && is_current(&keeper.catalog, &name, manifest));
            if !anew {
                keeper.follow(&states, manifest.as_ref().map(|manifest| (&files, manifest)), &stop);
            }
            let service = keeper.service.clone();
            let catalog = Arc::clone(&keeper.catalog);
            let source = Source { name, rows, derived, declared, states, service, catalog, flushed };
            let writer = Writer::new(source, writing, files, manifest);
            // Whoever follows is none of it: alerts wait for that.
            let _ = crate::task::spawn_behind("latest-flush", writer.run(stop)).await;
        });
        crate::task::spawn("latest-writer", work);
    }

    /// Follows the tables that `states` are kept from, from where `known` ends.
    fn follow(&self, states: &[State], known: Option<(&LatestFiles, &StatesManifest)>, stop: &Shutdown) {
        for state in states {
            let known = known.and_then(|(files, manifest)| state.known(files, manifest));
            let follower = Follower::new(state, self, known);
            let stop = stop.clone();
            crate::task::spawn("latest", async move { follower.run(stop).await });
        }
    }

    /// Gives tables the columns that they have by now, and no rows; reference tables those of files of this host.
    pub async fn shape(&self) -> Result<()> {
        self.read_references(|spec| !spec.url.contains("://")).await;
        let fed = self.catalog.fed();
        for state in self.catalog.kept.load().values().flat_map(|kept| &kept.states) {
            if let Some(live) = fed.tables.get(&state.source) {
                Follower::new(state, self, None).shape(&live.pin().schema)?;
            }
        }
        Ok(())
    }

    /// Reads the rows once, of all that the catalog shows.
    pub async fn load(&self) -> Result<()> {
        let Some(lake) = &self.catalog.lake else { return Ok(()) };
        for (name, kept) in self.catalog.kept.load_full().iter() {
            let known = read(lake, name).await.map_err(super::unreadable)?;
            for state in &kept.states {
                let manifest = known.1.as_ref().filter(|manifest| is_current(&self.catalog, name, manifest));
                let known = manifest.and_then(|manifest| state.known(&known.0, manifest));
                Follower::new(state, self, known).look().await?;
            }
        }
        self.read_references(|_| true).await;
        Ok(())
    }

    async fn read_references(&self, which: impl Fn(&Reference) -> bool) {
        for kept in self.catalog.kept.load_full().values() {
            if let (Some(rows), Declared::Reference(spec)) = (&kept.files, &kept.declared)
                && which(spec)
            {
                reference::read_once(self, spec, rows).await;
            }
        }
    }

    /// All is committed that will be: writes down the rest, however long the store is away, unless that is given up.
    pub async fn finish(&self) {
        let Some(writing) = &self.writing else { return };
        writing.finish.cancel();
        writing.writers.close();
        writing.writers.wait().await;
    }
}

type Opened = (LatestFiles, Option<StatesManifest>);

async fn read(lake: &Lake, name: &str) -> std::result::Result<Opened, crate::lake::TableError> {
    let files = LatestFiles::open(lake, name, FLUSH).await?;
    let manifest = files.manifest().await?;
    Ok((files, manifest))
}

/// False if rows of a source were replaced since a flush: whoever did that may not have lived to see to it.
fn is_current(catalog: &EngineCatalog, name: &str, manifest: &StatesManifest) -> bool {
    let fed = catalog.fed();
    let is_same = |source: &SourceState<StateRecord>| {
        fed.tables.get(&source.table).is_none_or(|live| live.pin().remade == source.remade)
    };
    let is_current = manifest.sources.iter().all(is_same);
    if !is_current {
        info!(table = name, "rows that it comes from were replaced, all is read anew");
    }
    is_current
}

/// The files of a table and what its newest flush says, however long the store is away.
async fn open(lake: &Lake, name: &str) -> Opened {
    loop {
        match read(lake, name).await {
            Ok(opened) => return opened,
            Err(error) => warn!(table = name, error = %error, "table not opened, trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Kept {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rows, &other.rows)
    }

    /// Whether a record that one of `tables` has can be seen here, too, if it is kept from that.
    pub fn is_seen(&self, tables: &[&str], topic: &str, partition: i32, offset: i64) -> bool {
        let states = self.states.iter().filter(|state| tables.contains(&state.source.as_str()));
        states.into_iter().all(|state| state.is_seen(topic, partition, offset))
    }
}

fn broken(error: LatestError) -> Error {
    Error::new(Kind::Internal, "rows cannot be put together").because(error)
}
