//! Keeps the rows of mirrors and latest tables: follows the tables they come from, from what the lake holds on.
//!
//! A follower pins its table's View whenever that changes and takes in the hot batches it has not seen. What was committed
//! before it could look (all of it, at the start) is read with SQL like anybody else would. A state takes in the same
//! change twice without harm, so the two need not meet exactly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio_util::sync::DropGuard;
use tracing::{info, warn};

use super::catalog::EngineCatalog;
use super::dead_letters::literal;
use crate::error::{Error, Kind, Result};
use crate::lake::{LiveView, Positions, TopicPartition, View};
use crate::latest::{LatestError, LatestTable, Merged, Part, Rows, Shape, Wanted};
use crate::query::Service;
use crate::schema::{Contract, Latest, LogicalColumn, Merge, OnDelete, change, fixed, quoted_name};
use crate::serve::Lookup;
use crate::task::Shutdown;

/// Pause before the lake is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// Pause before a table that is not there yet is looked for again.
const SOON: Duration = Duration::from_millis(200);

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
    stop: Shutdown,
    /// Ends the followers when nobody holds the table any more.
    _alive: Arc<DropGuard>,
}

/// A state, the table it is kept from, and how far.
#[derive(Debug, Clone)]
struct State {
    table: Arc<LatestTable>,
    source: String,
    seen: Arc<Mutex<Option<Positions>>>,
}

impl State {
    fn new(table: &Arc<LatestTable>, source: &str) -> Self {
        Self { table: Arc::clone(table), source: source.to_owned(), seen: Arc::default() }
    }

    fn is_seen(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let seen = self.seen.lock();
        let lanes = seen.iter().flatten().filter(|(lane, _)| *lane.topic == *topic && lane.partition == partition);
        lanes.max_by_key(|(lane, _)| lane.incarnation).is_some_and(|(_, end)| *end > offset)
    }
}

/// What a table was declared as: another declaration makes another table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Declared {
    Mirror { key: Vec<String> },
    Latest { spec: Latest, mirrors: Vec<Option<Vec<String>>> },
}

/// Tables with one row per key, by name.
pub type KeptTables = BTreeMap<String, Kept>;

impl Kept {
    fn new(rows: Arc<dyn Rows>, declared: Declared, states: Vec<State>) -> Self {
        let stop = Shutdown::new();
        let alive = Arc::new(stop.clone().drop_guard());
        let derived = match &declared {
            Declared::Mirror { .. } => None,
            Declared::Latest { spec, .. } => spec.derived_sql(),
        };
        Self { rows, derived, declared, states, stop, _alive: alive }
    }

    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self.declared {
            Declared::Mirror { .. } => "mirror",
            Declared::Latest { .. } => "latest",
        }
    }

    fn mirror(contract: &Contract) -> Self {
        let table = Arc::new(LatestTable::new(&contract.file, Wanted::mirror(&contract.key)));
        let states = vec![State::new(&table, &contract.table)];
        Self::new(table, Declared::Mirror { key: contract.key.clone() }, states)
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
            };
            let table = Arc::new(LatestTable::new(&spec.table, wanted));
            states.push(State::new(&table, &contract.table));
            parts.push(Part {
                table,
                key: source.key.clone(),
                is_foreign,
                prefix: source.prefix.clone(),
                drops: source.on_delete == OnDelete::DropRow,
            });
        }
        Self::new(Arc::new(Merged::new(&spec.merged_name(), &spec.key, parts)), declared, states)
    }
}

/// The tables with one row per key that these declare; those of `before` that are declared the same go on.
pub fn kept(contracts: &[Arc<Contract>], latest: &[Latest], before: &KeptTables) -> KeptTables {
    let mut now = KeptTables::new();
    let mut keep = |name: &str, declared: Declared, make: &dyn Fn(Declared) -> Kept| {
        let known = before.get(name).filter(|kept| kept.declared == declared).cloned();
        now.insert(name.to_owned(), known.unwrap_or_else(|| make(declared)));
    };
    for contract in contracts.iter().filter(|contract| contract.format.is_change()) {
        keep(&contract.file, Declared::Mirror { key: contract.key.clone() }, &|_| Kept::mirror(contract));
    }
    for spec in latest {
        let key = |contract: &Arc<Contract>| contract.format.is_change().then(|| contract.key.clone());
        let of = |table: &String| contracts.iter().find(|contract| contract.file == *table).and_then(key);
        let mirrors = spec.sources.iter().map(|source| of(&source.table)).collect();
        let declared = Declared::Latest { spec: spec.clone(), mirrors };
        keep(&spec.table, declared, &|declared| Kept::latest(spec, contracts, declared));
    }
    now
}

/// Keeps tables with one row per key.
pub struct Keeper {
    /// Where they are shown, and the tables they come from.
    pub catalog: Arc<EngineCatalog>,
    /// Reads what the lake holds.
    pub service: Service,
}

impl Keeper {
    /// Keeps what these declare from now on.
    pub fn keep(&self, contracts: &[Arc<Contract>], latest: &[Latest]) {
        let before = self.catalog.kept.load_full();
        let now = kept(contracts, latest, &before);
        for (name, kept) in now.iter().filter(|(name, kept)| before.get(*name).is_none_or(|old| !old.is(kept))) {
            info!(table = name, kind = kept.kind(), "rows are put together");
            for state in &kept.states {
                let follower = self.follower(state);
                let stop = kept.stop.clone();
                crate::task::spawn("latest", async move { follower.run(stop).await });
            }
        }
        self.catalog.kept.store(Arc::new(now));
    }

    /// Reads the rows once, of all that the catalog shows.
    pub async fn load(&self) -> Result<()> {
        for kept in self.catalog.kept.load_full().values() {
            for state in &kept.states {
                self.follower(state).look().await?;
            }
        }
        Ok(())
    }

    fn follower(&self, state: &State) -> Follower {
        let State { table, source, seen } = state.clone();
        let (catalog, service) = (Arc::clone(&self.catalog), self.service.clone());
        Follower { table, source, catalog, service, columns: None, seen: None, shown: seen, retries: 0 }
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

/// Rows by key, keys written as text.
pub fn lookup(catalog: Arc<EngineCatalog>, service: Service) -> Lookup {
    Arc::new(move |table, keys| {
        let (kept, service) = (catalog.kept.load().get(&table).cloned(), service.clone());
        Box::pin(async move {
            let Some(kept) = kept else { return Ok(None) };
            let names = kept.rows.key();
            if let Some(key) = keys.iter().find(|key| key.len() != names.len()) {
                let message = format!("the key of {table} is {}: {} parts are given", names.join(", "), key.len());
                return Err(Error::new(Kind::Usage, message));
            }
            let column =
                |at: usize| Arc::new(StringArray::from_iter_values(keys.iter().map(|key| &key[at]))) as ArrayRef;
            let columns: Vec<ArrayRef> = (0..names.len()).map(column).collect();
            let found = kept.rows.get(&columns)?.unwrap_or_else(|| RecordBatch::new_empty(kept.rows.schema()));
            if kept.derived.is_none() || found.num_rows() == 0 {
                return Ok(Some(found));
            }
            derived(&service, &table, names, &found).await.map(Some)
        })
    })
}

/// The rows of a table with derived columns that have the keys of `found`.
async fn derived(service: &Service, table: &str, key: &[String], found: &RecordBatch) -> Result<RecordBatch> {
    let broken = |error: arrow::error::ArrowError| broken(error.into());
    let mut keys = Vec::new();
    for row in 0..found.num_rows() {
        let equal = |(at, name): (usize, &String)| {
            let column = found.column(at);
            let value = array_value_to_string(column, row)?;
            Ok(format!("{} = arrow_cast({}, '{}')", quoted_name(name), literal(&value), column.data_type()))
        };
        let equal = key.iter().enumerate().map(equal).collect::<std::result::Result<Vec<_>, _>>().map_err(broken)?;
        keys.push(format!("({})", equal.join(" AND ")));
    }
    let sql = format!("SELECT * FROM public.{} WHERE {}", quoted_name(table), keys.join(" OR "));
    let rows = service.session().query(&sql).await?.run().await?;
    let schema = rows.schema();
    concat_batches(&schema, &rows.collect().await?).map_err(broken)
}

/// Keeps one state from one table.
struct Follower {
    table: Arc<LatestTable>,
    source: String,
    catalog: Arc<EngineCatalog>,
    service: Service,
    /// The table's columns, as of this schema: those that the state needs.
    columns: Option<(SchemaRef, Vec<LogicalColumn>)>,
    /// Where the state stands; nothing until all that was there is read.
    seen: Option<Positions>,
    /// The same, for those who wait.
    shown: Arc<Mutex<Option<Positions>>>,
    /// The View's retries that are taken in.
    retries: u64,
}

impl Follower {
    /// The table that the state is kept from, once it is there.
    async fn source(&self) -> Arc<LiveView> {
        loop {
            if let Some(live) = self.catalog.fed().tables.get(&self.source) {
                return Arc::clone(live);
            }
            tokio::time::sleep(SOON).await;
        }
    }

    async fn run(mut self, stop: Shutdown) {
        let source = tokio::select! {
            () = stop.cancelled() => return,
            source = self.source() => source,
        };
        let mut changed = source.subscribe();
        while self.table.stopped().is_none() {
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.look() => looked,
            };
            let pause = async {
                match &looked {
                    Ok(()) => changed.changed().await.unwrap_or(()),
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
            match &looked {
                Err(error) if error.kind() == Kind::Internal => {
                    warn!(table = self.table.name(), error = %error, "rows are not kept any more");
                    self.table.stop(error.to_string());
                }
                Err(error) => warn!(table = self.table.name(), error = %error, "rows not read, trying again"),
                Ok(()) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = pause => {}
            }
        }
    }

    /// Takes in what has come.
    async fn look(&mut self) -> Result<()> {
        let view = self.source().await.pin();
        if !self.shape(&view.schema)? {
            // Nothing was ever read: there is no key yet.
            self.table.loaded();
            return Ok(());
        }
        match &self.seen {
            None => {
                self.read(&view, None).await?;
                self.table.loaded();
                let stats = self.table.stats();
                info!(table = self.table.name(), rows = stats.rows, bytes = stats.bytes, "rows are kept");
            }
            Some(_) if view.retries > self.retries => self.read(&view, None).await?,
            Some(seen) => {
                let behind =
                    |(lane, position): (&TopicPartition, &i64)| seen.get(lane).is_none_or(|seen| seen < position);
                let behind: Vec<_> =
                    view.positions.iter().filter(|at| behind(*at)).map(|(lane, _)| lane.clone()).collect();
                if !behind.is_empty() {
                    self.read(&view, Some(behind)).await?;
                }
            }
        }
        let mut seen = self.seen.take().unwrap_or_default();
        for hot in &view.hot {
            if seen.get(&hot.lane).is_none_or(|seen| *seen < hot.end) {
                self.take_in(&hot.rows)?;
                seen.insert(hot.lane.clone(), hot.end);
            }
        }
        for (lane, position) in &view.positions {
            let at = seen.entry(lane.clone()).or_insert(*position);
            *at = (*at).max(*position);
        }
        *self.shown.lock() = Some(seen.clone());
        (self.seen, self.retries) = (Some(seen), view.retries);
        Ok(())
    }

    /// Gives the state the columns that its table has by now; false if the table has no key yet.
    fn shape(&mut self, schema: &SchemaRef) -> Result<bool> {
        if self.columns.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, schema)) {
            return Ok(true);
        }
        let Some(shape) = Shape::of(schema, self.table.wanted()) else { return Ok(false) };
        let needed = shape.needed();
        let columns = LogicalColumn::all(schema).into_iter().filter(|column| needed.contains(&column.name.as_str()));
        self.columns = Some((Arc::clone(schema), columns.collect()));
        self.table.evolve(shape).map_err(broken)?;
        Ok(true)
    }

    fn take_in(&self, rows: &RecordBatch) -> Result<()> {
        let Some((_, columns)) = self.columns.as_ref().filter(|_| rows.num_rows() > 0) else { return Ok(()) };
        let columns = columns.iter().map(|column| Ok((column.name.clone(), column.of_batch(rows)?, true)));
        let columns =
            columns.collect::<Result<Vec<_>, arrow::error::ArrowError>>().map_err(|error| broken(error.into()))?;
        let rows = RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| broken(error.into()))?;
        self.apply(&rows)
    }

    fn apply(&self, rows: &RecordBatch) -> Result<()> {
        self.table.apply(rows).map_err(broken)?;
        let (bytes, limit) = (self.catalog.kept_bytes(), self.catalog.latest_bytes);
        if bytes > limit {
            let reason = format!(
                "mirrors and latest tables take {} MiB and may take {} MiB, a share of limits.memory in millpond.toml: \
                 raise it and start again",
                bytes >> 20,
                limit >> 20
            );
            warn!(table = self.table.name(), reason, "rows are not kept any more");
            self.table.stop(reason);
        }
        Ok(())
    }

    /// Reads rows from the lake: all, or those of lanes from where the state stands on.
    async fn read(&self, view: &View, lanes: Option<Vec<TopicPartition>>) -> Result<()> {
        let table = format!("public.{}", quoted_name(&view.table));
        let session = self.service.session();
        session.set("statement_timeout", "0")?;
        if lanes.is_none() && self.table.wanted().of_changes {
            let sql = format!(
                "SELECT {epoch} FROM {table} WHERE {epoch} IS NOT NULL GROUP BY {epoch} ORDER BY min({at}), {epoch}",
                epoch = change::EPOCH,
                at = fixed::TIMESTAMP
            );
            for batch in session.query(&sql).await?.run().await?.collect().await? {
                self.table.meet(batch.column(0).as_string::<i32>().iter().flatten());
            }
        }
        let columns = self.columns.iter().flat_map(|(_, columns)| columns);
        let columns: Vec<String> = columns.map(|column| quoted_name(&column.name)).collect();
        let mut sql = format!("SELECT {} FROM {table}", columns.join(", "));
        if let (Some(lanes), Some(seen)) = (lanes, &self.seen) {
            let lane = |lane: &TopicPartition| {
                format!(
                    "({} = {} AND {} = {} AND {} = {} AND {} >= {})",
                    fixed::TOPIC,
                    literal(&lane.topic),
                    fixed::INCARNATION,
                    lane.incarnation,
                    fixed::PARTITION,
                    lane.partition,
                    fixed::OFFSET,
                    seen.get(lane).copied().unwrap_or(0)
                )
            };
            sql.push_str(" WHERE ");
            sql.push_str(&lanes.iter().map(lane).collect::<Vec<_>>().join(" OR "));
        }
        let mut rows = session.query(&sql).await?.run().await?;
        while let Some(batch) = rows.try_next().await? {
            self.apply(&batch)?;
        }
        Ok(())
    }
}

fn broken(error: LatestError) -> Error {
    Error::new(Kind::Internal, "rows cannot be put together").because(error)
}
