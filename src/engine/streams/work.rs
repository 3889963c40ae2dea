//! What a rule has at hand while it runs, and what a stream has.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{Schema, SchemaRef};
use hdrhistogram::Histogram;

use super::heard::Newest;
use super::scheduled::Scheduled;
use super::source::{Place, Source};
use super::warm::Warming;
use crate::engine::catalog::EngineCatalog;
use crate::engine::lanes;
use crate::error::{Error, Kind};
use crate::lake::{LiveView, Positions};
use crate::query::Continuous;
use crate::stream::{Evaluation, Instance, Key, Micros, Order, Plan, Row, Rule, Storm, Told};

/// Times of so long ago at least are forgotten.
const RECENT: Duration = Duration::from_secs(60);
/// Rows are counted for so long before what they were before that is forgotten.
const A_WHILE: Duration = Duration::from_secs(10);

/// A rule at work.
pub(super) struct Work {
    pub evaluation: Evaluation,
    /// The table that what is known of its keys comes from.
    pub stream: Option<String>,
    /// What was told before the start, until the rule is planned.
    pub told: Vec<Told>,
    /// Fingerprints of the tables that it was planned with, see [`fingerprints`].
    pub planned_with: u64,
    /// What it has raised lately.
    pub storm: Storm,
    /// When the keys that it expects were asked for last.
    pub expected_at: Option<Instant>,
    /// How much it has to do.
    pub load: Load,
    /// It has not seen all rows of its stream yet.
    pub is_new: bool,
    /// When it runs, if it runs on a schedule.
    pub scheduled: Option<Scheduled>,
    /// It learns from history what it needs to look back at.
    pub warming: Option<Warming>,
    /// Where tables stood when it came, or could not be planned any more, until it has looked at what came since.
    pub since: Option<Arc<Ends>>,
}

/// What comes next of each table.
pub type Ends = BTreeMap<String, Positions>;

/// A table that rules read, and whether they look at its rows in the order of their times.
pub(super) type Feed = (String, bool);

impl Work {
    /// A rule that is to be planned, of whose keys this is known, from that stream.
    pub fn new(rule: Rule, known: impl IntoIterator<Item = (Key, Instance<Row>)>, stream: Option<String>) -> Self {
        let unplanned = Error::new(Kind::Unavailable, "the rule is not planned yet");
        let scheduled = rule.schedule.clone().map(Scheduled::new);
        let mut evaluation = Evaluation::new(Arc::new(rule), Err(unplanned));
        evaluation.restore(known);
        Self {
            evaluation,
            stream,
            told: Vec::new(),
            planned_with: 0,
            storm: Storm::default(),
            expected_at: None,
            load: Load::default(),
            is_new: true,
            scheduled,
            warming: None,
            since: None,
        }
    }

    /// The stream that it reads, if it can be planned.
    pub fn feed(&self) -> Option<Feed> {
        let plan = self.evaluation.plan().ok()?;
        Some((plan.query().stream().to_owned(), plan.ordered()))
    }

    /// Whether it reads this stream.
    pub fn reads(&self, (table, ordered): &Feed) -> bool {
        self.evaluation.plan().is_ok_and(|plan| plan.query().stream() == table && plan.ordered() == *ordered)
    }

    /// Whether it has rows of its stream to look at that came before it could be planned.
    pub fn owes(&self) -> bool {
        let looks = |plan: &Plan| !plan.of_keys() && plan.query().memory().is_none();
        self.since.is_some() && self.evaluation.plan().is_ok_and(looks)
    }

    /// The fingerprint of the tables that it reads: of all, if it cannot be planned.
    pub fn tables(&self, all: &BTreeMap<String, u64>) -> u64 {
        fingerprint(self.evaluation.plan().ok().map(Plan::query), all)
    }
}

/// How a stream gets on, for who watches.
pub(super) struct Progress {
    /// How far its time has come.
    pub clock: Micros,
    /// From Kafka to where all rules had looked at a batch.
    pub latency: Latency,
    /// Rows that wait until nothing older can come, and those that came too late for that.
    pub waiting: usize,
    pub late: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { clock: Micros::MIN, latency: Latency::default(), waiting: 0, late: 0 }
    }
}

/// Times of batches, in microseconds: of this minute, and of the one before.
pub struct Latency {
    now: Option<Histogram<u64>>,
    before: Option<Histogram<u64>>,
    since: Instant,
}

impl Latency {
    /// A batch took so long.
    pub fn took(&mut self, time: Duration) {
        if self.since.elapsed() >= RECENT {
            self.since = Instant::now();
            self.before = std::mem::replace(&mut self.now, histogram());
        }
        if let Some(now) = &mut self.now {
            // Grows as it must; years do not occur.
            let _ = now.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// The longest time of this share of the newest batches.
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        let mut all = self.now.clone()?;
        if let Some(before) = &self.before {
            all.add(before).ok()?;
        }
        (!all.is_empty()).then(|| all.value_at_quantile(share))
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self { now: histogram(), before: None, since: Instant::now() }
    }
}

/// How much a query has to do.
#[derive(Debug, Clone)]
pub struct Load {
    rows: u64,
    busy: Duration,
    /// Rows since then …
    since: Instant,
    now: u64,
    /// … and of a while before.
    before: (u64, Duration),
}

impl Load {
    /// So many rows took so long.
    pub fn add(&mut self, rows: usize, took: Duration) {
        let passed = self.since.elapsed();
        if passed >= A_WHILE {
            self.before = (self.now, passed);
            (self.now, self.since) = (0, Instant::now());
        }
        self.rows += rows as u64;
        self.now += rows as u64;
        self.busy += took;
    }

    /// Rows per second, of the last 20 s.
    pub fn rows_per_second(&self) -> u64 {
        let seconds = (self.before.1 + self.since.elapsed()).as_secs_f64();
        ((self.now + self.before.0) as f64 / seconds.max(1.0)).round() as u64
    }

    /// The time that a row takes, on average since the start.
    pub fn ns_per_row(&self) -> Option<u64> {
        u64::try_from(self.busy.as_nanos()).ok()?.checked_div(self.rows)
    }
}

impl Default for Load {
    fn default() -> Self {
        Self { rows: 0, busy: Duration::ZERO, since: Instant::now(), now: 0, before: (0, Duration::ZERO) }
    }
}

/// Of times in microseconds, within one percent.
fn histogram() -> Option<Histogram<u64>> {
    Histogram::new(2).ok()
}

/// A table that rules read.
pub struct Stream {
    /// Its new rows, and its time.
    pub source: Source,
    /// Rows that wait until nothing older can come.
    pub order: Order,
    /// When each was heard of last.
    pub newest: Newest,
    /// Its columns when rules were planned.
    pub schema: SchemaRef,
    /// How far its time had come when that was looked at last.
    pub clock: Micros,
    /// When that was.
    pub clocked_at: Option<Instant>,
    /// Why no rows could be read, and when that was.
    pub trouble: Option<(String, Instant)>,
}

impl Stream {
    /// One that nobody has looked at yet.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            order: Order::default(),
            newest: Newest::default(),
            schema: Arc::new(Schema::empty()),
            clock: Micros::MIN,
            clocked_at: None,
            trouble: None,
        }
    }

    /// What comes next of it, rows that wait included; nothing before the first time.
    pub fn place(&self) -> Option<Place> {
        self.source.place(self.order.begins())
    }

    /// Rows that were left out because they were late.
    pub fn late(&self) -> u64 {
        self.source.late() + self.order.late()
    }
}

/// Where all tables stand now.
pub fn ends(catalog: &EngineCatalog) -> Ends {
    let end = |(name, live): (&String, &Arc<LiveView>)| (name.clone(), lanes::end(&live.pin()));
    catalog.fed().tables.iter().map(end).collect()
}

/// What stands for the texts of views among tables.
const VIEWS: &str = "";

/// The fingerprint of the tables that a query reads: of all, if it is not planned.
pub fn fingerprint(query: Option<&Continuous>, all: &BTreeMap<String, u64>) -> u64 {
    let mut hash = DefaultHasher::new();
    match query {
        Some(query) => {
            let look_ups = query.look_ups().into_iter().map(|(table, _)| table);
            let names = look_ups.chain([query.stream().to_owned(), VIEWS.to_owned()]);
            names.for_each(|name| all.get(&name).hash(&mut hash));
        }
        None => all.hash(&mut hash),
    }
    hash.finish()
}

/// Tells the tables that queries may read apart from what they were: their columns, and what keeps their rows.
pub fn fingerprints(catalog: &EngineCatalog) -> BTreeMap<String, u64> {
    let of = |schema: &Schema, rows: Option<*const ()>| {
        let mut hash = DefaultHasher::new();
        (schema.fields(), rows).hash(&mut hash);
        hash.finish()
    };
    let (fed, kept) = (catalog.fed(), catalog.kept.load());
    let tables = fed.tables.iter().map(|(name, live)| (name.clone(), of(&live.pin().schema, None)));
    let rows = kept.values().map(|kept| {
        let address = Arc::as_ptr(&kept.rows).cast::<()>();
        (kept.rows.name().to_owned(), of(&kept.rows.schema(), Some(address)))
    });
    let mut views = DefaultHasher::new();
    catalog.views.read().iter().for_each(|(name, view)| (name, &view.sql).hash(&mut views));
    tables.chain(rows).chain([(VIEWS.to_owned(), views.finish())]).collect()
}
