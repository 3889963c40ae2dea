//! The task that runs the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use chrono::Utc;
use futures::future::select_all;
use parking_lot::MutexGuard;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::Streams;
use super::heard::Newest;
use super::journal::Journal;
use super::restore::{Restored, restore};
use super::source::{Place, Source, Taken};
use super::state::{self, place, positions, state};
use super::warm::Warming;
use super::work::{Ends, Feed, Stream, Work, ends, fingerprints};
use crate::deliver::{Message, Sinks};
use crate::engine::catalog::EngineCatalog;
use crate::error::{Error, Kind};
use crate::lake::{Lake, Positions};
use crate::query::Service;
use crate::stream::{Batch, Micros, Order, PositionState, Proof, Row, Rule, State, Told, Transition, message};
use crate::task::{self, Shutdown};

/// How often the time of a stream is looked at …
const TICK: Duration = Duration::from_millis(20);
/// … and while no rows come.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is looked whether rules must be planned anew, and what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the keys are asked for that a rule expects.
const EXPECT_EVERY: Duration = Duration::from_secs(60);
/// How often all that is known is written down.
const STATE_EVERY: Duration = Duration::from_secs(10);

/// What runs rules.
#[derive(Clone)]
pub struct Runner {
    /// The rules.
    pub streams: Arc<Streams>,
    /// What they read.
    pub catalog: Arc<EngineCatalog>,
    /// Plans them.
    pub service: Service,
    /// Who is told.
    pub sinks: Sinks,
    /// Where all is written down.
    pub lake: Lake,
    /// How often `system.alerts` is committed.
    pub commit_interval: Duration,
    /// Gives up waiting for the store.
    pub abort: Shutdown,
    /// Who ends the process when another writer is at work.
    pub failed: mpsc::Sender<Error>,
}

/// What it has at hand.
struct Desk {
    streams: BTreeMap<Feed, Stream>,
    journal: Arc<Journal>,
    /// What was known before the start, until a rule or a stream takes it.
    known: State,
    told: BTreeMap<String, Vec<Told>>,
    /// The last state that was written, the transitions that the one before it knew, and who writes the next one.
    epoch: u64,
    covered: u64,
    written_at: Option<Instant>,
    writing: Option<JoinHandle<u64>>,
}

/// What rules have not looked at yet of a stream.
#[derive(Default)]
struct Missed {
    /// The next of what they have missed.
    read: Vec<Part>,
    /// By rule: which of it.
    of: BTreeMap<String, usize>,
}

/// Rows that rules have missed, and where those begin that are left, if some are.
type Part = (Vec<Batch>, Option<Positions>);

impl Missed {
    fn by(&self, rule: &str) -> Option<&Part> {
        self.of.get(rule).map(|at| &self.read[*at])
    }
}

/// Those of a rule's sinks that are told of a transition.
pub(super) fn sinks_of<'a>(rule: &'a Rule, message: &Message, sinks: &Sinks) -> Vec<&'a String> {
    let is_over = message.payload.get("state").is_some_and(|state| state == "resolved");
    rule.to.iter().filter(|sink| !is_over || sinks.sends_resolved(sink)).collect()
}

impl Runner {
    /// Runs until stopped; what has come by then is evaluated, told and written down.
    pub async fn run(self, stop: Shutdown) {
        let rules = self.streams.rules.borrow().clone();
        let restored = restore(&self.lake, &self.sinks, &rules, self.catalog.embedded);
        let Restored { journal, log, epoch, state: known, told } = match stop.run_until_cancelled(restored).await {
            None => return,
            Some(Ok(restored)) => restored,
            Some(Err(error)) => return drop(self.failed.send(error).await),
        };
        *self.streams.silences.lock() = known.silences.clone();
        let journal = Arc::new(journal);
        let _ = self.streams.journal.set(Arc::clone(&journal));
        let finish = Shutdown::new();
        let (of_journal, of_log, interval) = (Arc::clone(&journal), Arc::clone(&journal), self.commit_interval);
        let (end, abort, failed) = (finish.clone(), self.abort.clone(), self.failed.clone());
        let write = task::spawn("alert-journal", async move { of_journal.write(end, abort, failed).await });
        let (end, abort, failed) = (finish.clone(), self.abort.clone(), self.failed.clone());
        let log = task::spawn("alert-log", async move { of_log.log(log, interval, end, abort, failed).await });
        let streams = BTreeMap::new();
        let mut desk = Desk { streams, journal, known, told, epoch, covered: 0, written_at: None, writing: None };
        self.work(&mut desk, &stop).await;
        finish.cancel();
        let _ = tokio::join!(write, log);
        if let Some(writing) = desk.writing.take() {
            let _ = writing.await;
        }
        self.write(&mut desk, true);
        if let Some(writing) = desk.writing.take() {
            let _ = writing.await;
        }
    }

    /// Runs what is due of rules that run on a schedule, and hears what they have found.
    fn run_scheduled(&self, desk: &Desk) {
        let mut all = self.streams.work.lock();
        for work in all.values_mut() {
            let Some(mut scheduled) = work.scheduled.take() else { continue };
            let mut told = Vec::new();
            for told in std::mem::take(&mut work.told).iter().filter_map(Told::transition) {
                scheduled.ran(told.at);
                work.evaluation.adopt(&told);
            }
            let rule = Arc::clone(work.evaluation.rule());
            if let Some((at, found, took)) = scheduled.found() {
                let heard = found.and_then(|rows| {
                    work.load.add(rows.num_rows(), took);
                    work.evaluation.take_all(&rows, at.timestamp_micros(), &mut told)
                });
                scheduled.heard(&rule.name, heard.err());
            }
            scheduled.run(&rule, Utc::now(), &self.service);
            (work.scheduled, work.since, work.is_new) = (Some(scheduled), None, false);
            self.tell(&desk.journal, work, None, &told, None);
        }
    }

    async fn work(&self, desk: &mut Desk, stop: &Shutdown) {
        let mut rules = self.streams.rules.subscribe();
        let mut is_edited = true;
        let mut planned_at = Instant::now();
        loop {
            if is_edited {
                let rules = rules.borrow_and_update().clone();
                self.take_over(rules, desk);
            }
            if is_edited || planned_at.elapsed() >= RETRY {
                planned_at = Instant::now();
                self.plan(desk).await;
                self.expect(desk).await;
            }
            self.keep(desk, stop).await;
            self.run_scheduled(desk);
            self.step(desk).await;
            if stop.is_cancelled() {
                return;
            }
            let changed = async {
                let streams = desk.streams.values_mut();
                let waits: Vec<_> = streams.map(|stream| Box::pin(stream.source.changed())).collect();
                if waits.is_empty() {
                    return std::future::pending().await;
                }
                select_all(waits).await;
            };
            is_edited = tokio::select! {
                () = stop.cancelled() => false,
                edited = rules.changed() => edited.is_ok(),
                () = changed => false,
                () = tokio::time::sleep(LOOK) => false,
            };
        }
    }

    /// Writes down what is known when that is due. The first time it waits for it: from then on a start knows since when
    /// to look for what was told.
    async fn keep(&self, desk: &mut Desk, stop: &Shutdown) {
        let is_first = desk.written_at.is_none();
        if let Some(writing) = desk.writing.take_if(|writing| writing.is_finished()) {
            desk.covered = writing.await.unwrap_or(desk.covered);
        }
        if desk.writing.is_none() && desk.written_at.is_none_or(|at| at.elapsed() >= STATE_EVERY) {
            self.write(desk, false);
        }
        if let Some(writing) = desk.writing.as_mut().filter(|_| is_first) {
            let _ = stop.run_until_cancelled(writing).await;
            desk.writing = None;
        }
    }

    fn write(&self, desk: &mut Desk, is_last: bool) {
        desk.written_at = Some(Instant::now());
        let known = state(&self.streams, &desk.streams, desk.journal.last(), is_last);
        desk.epoch += 1;
        let (epoch, covered, journal) = (desk.epoch, desk.covered, Arc::clone(&desk.journal));
        let (abort, failed) = (self.abort.clone(), self.failed.clone());
        let work = async move { state::write(known, epoch, covered, &journal, &abort, &failed).await };
        desk.writing = Some(task::spawn("alert-state", work));
    }

    /// Goes on with these rules. What is known of keys stays, unless their columns are others.
    fn take_over(&self, rules: Vec<Rule>, desk: &mut Desk) {
        let now = Arc::new(ends(&self.catalog));
        let mut all = self.streams.work.lock();
        let mut known = std::mem::take(&mut *all);
        // Rules from before the start that are gone must end their alerts, too.
        for (name, before) in std::mem::take(&mut desk.known.rules) {
            let rule = rules.iter().find(|rule| rule.name == name).cloned();
            let rule = Rule { key: before.key, ..rule.unwrap_or_else(|| Rule::gone(&name)) };
            let mut work = Work::new(rule, before.instances, before.stream);
            work.evaluation.restore_kept(before.kept);
            if let (Some(scheduled), Some(ran_at)) = (&mut work.scheduled, before.ran_at) {
                scheduled.ran(ran_at);
            }
            let since = |since: BTreeMap<String, Vec<PositionState>>| {
                Arc::new(since.iter().map(|(table, states)| (table.clone(), positions(states))).collect())
            };
            work.since = before.since.map(since);
            work.told = desk.told.remove(&name).unwrap_or_default();
            known.entry(name).or_insert(work);
        }
        for rule in rules {
            let name = rule.name.clone();
            let work = match known.remove(&name) {
                Some(work) if **work.evaluation.rule() == rule => work,
                Some(mut before) => {
                    if before.evaluation.rule().key != rule.key {
                        info!(rule = name, "the rule's key is another: it begins anew");
                        self.end(&mut before, desk, "the rule's key is another");
                    }
                    let passed = before.feed().and_then(|feed| desk.streams.get(&feed)?.order.passed());
                    let kept = before.evaluation.kept_state(passed);
                    let known = before.evaluation.life().instances();
                    let known = known.map(|(key, instance)| (Arc::clone(key), instance.clone()));
                    let mut work = Work::new(rule, known, before.stream.clone());
                    work.evaluation.restore_kept(kept);
                    (work.told, work.since) = (before.told, before.since);
                    if let (Some(scheduled), Some(before)) = (&mut work.scheduled, &before.scheduled) {
                        scheduled.ran(before.ran_at().timestamp_micros());
                    }
                    work
                }
                None => {
                    let mut work = Work::new(rule, [], None);
                    work.since = Some(Arc::clone(&now));
                    work.told = desk.told.remove(&name).unwrap_or_default();
                    work
                }
            };
            all.insert(name, work);
        }
        for (rule, mut work) in known {
            info!(rule, "the rule is gone");
            self.end(&mut work, desk, "the rule is gone");
        }
    }

    /// All alerts of a rule are over.
    fn end(&self, work: &mut Work, desk: &Desk, reason: &str) {
        for told in std::mem::take(&mut work.told).iter().filter_map(Told::transition) {
            work.evaluation.adopt(&told);
        }
        let stream = work.feed().and_then(|feed| desk.streams.get(&feed));
        let at = stream.map(|stream| stream.clock).filter(|clock| *clock > Micros::MIN);
        let mut told = Vec::new();
        work.evaluation.end(at.unwrap_or_else(|| Utc::now().timestamp_micros()), &mut told);
        self.tell(&desk.journal, work, stream.map(|stream| &stream.source), &told, Some(reason));
    }

    /// Plans rules that are not planned yet, or whose tables are not what they were; follows the streams that are read.
    async fn plan(&self, desk: &mut Desk) {
        let tables = fingerprints(&self.catalog);
        let unplanned: Vec<Arc<Rule>> = {
            let work = self.streams.work.lock();
            let is_due = |work: &&Work| work.scheduled.is_none() && work.planned_with != work.tables(&tables);
            work.values().filter(is_due).map(|work| Arc::clone(work.evaluation.rule())).collect()
        };
        for rule in unplanned {
            let planned = super::plan(&rule, &self.service, &self.catalog).await;
            let mut all = self.streams.work.lock();
            let Some(work) = all.get_mut(&rule.name) else { continue };
            match (&planned, work.evaluation.plan()) {
                (Err(error), Err(before)) if error.message() == before.message() => {}
                (Err(error), before) => {
                    let reason = error.headline();
                    if super::waits_for_columns(error, &self.catalog) {
                        info!(rule = rule.name, reason, "the rule waits for its columns");
                    } else {
                        let hint = error.hint_text();
                        warn!(rule = rule.name, reason, hint, "the rule does not run");
                    }
                    if before.is_ok() {
                        work.since = Some(Arc::new(ends(&self.catalog)));
                    }
                }
                (Ok(plan), _) => {
                    let (stream, before) = (plan.query().stream(), work.stream.take());
                    info!(rule = rule.name, stream, class = plan.class(&rule), "the rule runs");
                    work.stream = Some(stream.to_owned());
                    if let Some(before) = before.filter(|before| before != stream) {
                        info!(rule = rule.name, before, stream, "the rule's stream is another: it begins anew");
                        self.end(work, desk, "the rule's stream is another");
                        work.is_new = true;
                    }
                }
            }
            work.is_new |= work.evaluation.plan().is_err();
            work.evaluation.replan(planned);
            work.planned_with = work.tables(&tables);
            if work.evaluation.plan().is_ok() {
                for told in std::mem::take(&mut work.told).iter().filter_map(Told::transition) {
                    work.evaluation.adopt(&told);
                }
            }
        }
        self.follow(desk);
    }

    /// Follows the streams that rules read, and no others.
    fn follow(&self, desk: &mut Desk) {
        let read: BTreeSet<Feed> = self.streams.work.lock().values().filter_map(Work::feed).collect();
        let (kept, fed) = (self.catalog.kept.load(), self.catalog.fed());
        let kept_as = |name: &String| kept.values().find(|kept| kept.rows.name() == name);
        desk.streams.retain(|feed, stream| {
            read.contains(feed) && stream.source.is_of(kept_as(&feed.0), fed.tables.get(&feed.0))
        });
        for feed in read {
            if desk.streams.contains_key(&feed) {
                continue;
            }
            let (name, ordered) = &feed;
            let is_known = |known: &mut crate::stream::StreamState| known.table == *name && known.ordered == *ordered;
            let known = desk.known.streams.extract_if(.., is_known).next();
            let source = match kept_as(name) {
                Some(kept) => Source::of_keys(kept, &self.catalog),
                None => fed.tables.get(name).map(|live| {
                    let lateness = ordered.then(|| self.catalog.allowed_lateness(name));
                    let known = known.as_ref().map(|known| place(&known.positions));
                    let place = known.or_else(|| self.missed_since(&feed));
                    Source::of_records(name, live, place, lateness)
                }),
            };
            let Some(source) = source else { continue };
            let mut stream = Stream::new(source);
            if let Some(known) = known {
                stream.order = Order::after(known.passed);
                let newest = known.newest.into_iter().map(|(columns, newest)| (columns, newest.into_iter().collect()));
                stream.newest = Newest(newest.collect());
            }
            desk.streams.insert(feed, stream);
        }
    }

    /// Where a stream in the order of time is followed from whose rules have missed some of it.
    fn missed_since(&self, feed: &Feed) -> Option<Place> {
        if !feed.1 {
            return None;
        }
        let mut all = self.streams.work.lock();
        let is_of = |work: &&mut Work| work.reads(feed) && work.owes();
        let mut next: Option<Positions> = None;
        for since in all.values_mut().filter(is_of).filter_map(|work| work.since.take()) {
            let since = since.get(&feed.0).cloned().unwrap_or_default();
            next = Some(match next {
                None => since,
                Some(mut first) => {
                    first.retain(|lane, _| since.contains_key(lane));
                    first.iter_mut().for_each(|(lane, at)| *at = since[lane].min(*at));
                    first
                }
            });
        }
        next.map(|next| Place { next, lanes: BTreeMap::new() })
    }

    /// Takes what has come, evaluates it, and lets time pass.
    async fn step(&self, desk: &mut Desk) {
        let mut all = BTreeMap::new();
        let mut missed: BTreeMap<Feed, Missed> = BTreeMap::new();
        let mut is_other = false;
        for (feed, stream) in &mut desk.streams {
            if stream.trouble.as_ref().is_some_and(|(_, at)| at.elapsed() < RETRY) {
                continue;
            }
            match stream.source.take(&self.service, stream.order.waiting()).await {
                Ok(taken) => {
                    stream.trouble = None;
                    if let Some(batch) = taken.batches.last()
                        && *batch.rows.schema_ref() != stream.schema
                    {
                        stream.schema = batch.rows.schema();
                        is_other = true;
                    }
                    all.insert(feed.clone(), taken);
                    // Where nothing was handed out yet all that has come still will be.
                    if !feed.1 || stream.order.passed().is_some() {
                        let missed_of = self.missed(feed, &stream.source).await;
                        missed.insert(feed.clone(), missed_of);
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if stream.trouble.as_ref().is_none_or(|(before, _)| *before != text) {
                        warn!(stream = feed.0, error = %error, "new rows not read, trying again");
                    }
                    stream.trouble = Some((text, Instant::now()));
                }
            }
        }
        if is_other {
            self.plan(desk).await;
        }
        let Desk { streams, journal, .. } = desk;
        for (feed, stream) in streams {
            let (taken, missed) = (all.remove(feed).unwrap_or_default(), missed.remove(feed).unwrap_or_default());
            if stream.clocked_at.is_none_or(|at| at.elapsed() >= TICK) {
                (stream.clock, stream.clocked_at) = (stream.source.now(&self.catalog), Some(Instant::now()));
            }
            let added = taken.batches.iter().filter(|_| feed.1).try_for_each(|batch| stream.order.add(batch));
            self.warm(journal, feed, stream);
            if let Err(error) = added.and_then(|()| self.evaluate(journal, feed, stream, &taken, &missed)) {
                warn!(stream = feed.0, error = %error, "rows not evaluated");
            }
        }
    }

    /// Rules that look back learn from history what they would have kept, and go on with what has come meanwhile.
    fn warm(&self, journal: &Journal, feed: &Feed, stream: &Stream) {
        let mut all = self.streams.work.lock();
        for work in all.values_mut().filter(|work| feed.1 && work.reads(feed)) {
            if let Some(mut warming) = work.warming.take() {
                let memory = work.evaluation.plan().ok().and_then(|plan| plan.query().memory());
                match warming.learned(memory) {
                    None => {
                        work.warming = Some(warming);
                        continue;
                    }
                    Some((Some(kept), waiting)) => {
                        let rule = &work.evaluation.rule().name;
                        info!(rule, rows = kept.rows(), "the rule has what it looks back at");
                        work.evaluation.warm(kept);
                        for batch in waiting {
                            if let Err(error) = self.take(journal, work, &stream.source, &batch) {
                                warn!(stream = feed.0, error = %error, "rows not evaluated");
                            }
                        }
                    }
                    Some((None, _)) => {}
                }
            }
            if work.evaluation.is_cold(stream.order.passed())
                && let Ok(plan) = work.evaluation.plan()
            {
                work.warming = Warming::start(&work.evaluation.rule().name, plan.shared(), stream, &self.service);
            }
        }
    }

    /// What rules have not looked at of a table that keeps every record, by rule: what came after they did and before
    /// they could be planned; not all at once, it may be much.
    async fn missed(&self, feed: &Feed, source: &Source) -> Missed {
        let since: Vec<_> = {
            let work = self.streams.work.lock();
            let is_of = |work: &&Work| work.reads(feed) && work.owes();
            let since = |work: &Work| Some((work.evaluation.rule().name.clone(), work.since.clone()?));
            work.values().filter(is_of).filter_map(since).collect()
        };
        let mut missed = Missed::default();
        let mut rules: BTreeMap<Positions, Vec<String>> = BTreeMap::new();
        for (rule, since) in since {
            rules.entry(since.get(&feed.0).cloned().unwrap_or_default()).or_default().push(rule);
        }
        for (from, rules) in rules {
            match source.since(&self.service, &from).await {
                Ok(part) => missed.read.push(part),
                Err(error) => {
                    warn!(stream = feed.0, error = %error, "rows not read, trying again");
                    missed.read.push((Vec::new(), Some(from)));
                }
            }
            missed.of.extend(rules.into_iter().map(|rule| (rule, missed.read.len() - 1)));
        }
        missed
    }

    fn evaluate(
        &self,
        journal: &Journal,
        feed: &Feed,
        stream: &mut Stream,
        taken: &Taken,
        missed: &Missed,
    ) -> std::result::Result<(), ArrowError> {
        let mut work = self.streams.work.lock();
        let mut rules: Vec<&mut Work> = work.values_mut().filter(|work| work.reads(feed)).collect();
        rules.iter_mut().for_each(|work| work.evaluation.silence_from(stream.source.silent_from()));
        let is_ordered = feed.1;
        let missed_by = |work: &Work| missed.by(&work.evaluation.rule().name);
        for work in &mut rules {
            for batch in missed_by(work).iter().flat_map(|(batches, _)| batches) {
                self.take(journal, work, &stream.source, batch)?;
            }
        }
        // Those of a stream in the order of time are in its order already.
        for batch in taken.batches.iter().filter(|_| !is_ordered) {
            let mut fresh = BTreeMap::new();
            for work in &mut rules {
                let Ok(plan) = work.evaluation.plan() else { continue };
                if missed_by(work).is_some() {
                    continue;
                }
                if plan.of_keys() || work.evaluation.rule().once {
                    self.take(journal, work, &stream.source, batch)?;
                    continue;
                }
                let entity = plan.entity().to_vec();
                if !fresh.contains_key(&entity) {
                    let rows = stream.newest.fresh(batch, &entity);
                    fresh.insert(entity.clone(), batch.only(&rows)?);
                }
                if let Some(batch) = fresh.get(&entity) {
                    self.take(journal, work, &stream.source, batch)?;
                }
            }
        }
        if is_ordered && let Some(batch) = stream.order.pass(stream.clock)? {
            for work in &mut rules {
                if let Some(warming) = &mut work.warming {
                    warming.waiting.push(batch.clone());
                    continue;
                }
                // What it has missed is older, and what is left of that has these rows, too.
                let is_left = missed_by(work).is_none_or(|(_, left)| left.is_some());
                if !(work.owes() && is_left) {
                    self.take(journal, work, &stream.source, &batch)?;
                }
            }
        }
        for work in rules {
            let looks_back = work.evaluation.plan().is_ok_and(|plan| plan.query().memory().is_some());
            if looks_back && work.warming.is_none() {
                (work.is_new, work.since) = (false, None);
            }
            if let Some((_, left)) = missed_by(work) {
                let since = work.since.take().zip(left.as_ref());
                let since = since.map(|(since, left)| {
                    let mut since = Ends::clone(&since);
                    since.insert(feed.0.clone(), left.clone());
                    Arc::new(since)
                });
                (work.is_new, work.since) = (false, since);
            }
            if taken.is_whole {
                (work.is_new, work.since) = (false, None);
            } else if work.is_new
                && let Ok(Some(whole)) = stream.source.whole()
            {
                (work.is_new, work.since) = (false, None);
                self.take(journal, work, &stream.source, &whole)?;
            }
            let mut told = Vec::new();
            work.evaluation.advance(stream.clock, &mut told);
            self.tell(journal, work, Some(&stream.source), &told, None);
        }
        // Somebody may have waited for a while to look.
        MutexGuard::unlock_fair(work);
        let mut progress = self.streams.progress.lock();
        let progress = progress.entry(feed.clone()).or_default();
        progress.clock = stream.clock;
        (progress.waiting, progress.late) = (stream.order.waiting(), stream.late());
        if let Some(received_at) = taken.received_at {
            progress.latency.took(received_at.elapsed());
        }
        Ok(())
    }

    fn take(
        &self,
        journal: &Journal,
        work: &mut Work,
        source: &Source,
        batch: &Batch,
    ) -> std::result::Result<(), ArrowError> {
        let (mut told, began) = (Vec::new(), Instant::now());
        let taken = work.evaluation.take(batch, &mut told);
        work.load.add(batch.len(), began.elapsed());
        self.tell(journal, work, Some(source), &told, None);
        taken
    }

    /// Tells of transitions; those of a storm together. `Some(reason)` says why they are if it is not because of a row.
    fn tell(
        &self,
        journal: &Journal,
        work: &mut Work,
        source: Option<&Source>,
        told: &[Transition<Row>],
        reason: Option<&str>,
    ) {
        if told.is_empty() && work.evaluation.rule().storm_limit.is_none() {
            return;
        }
        let (rule, now) = (Arc::clone(work.evaluation.rule()), Utc::now());
        for told in told {
            let schema_version = source.map_or(0, |source| source.schema_version(&told.alert.cause.topic));
            let message = message(&rule, told, &Proof { schema_version, now, reason });
            let is_admitted =
                rule.storm_limit.is_none_or(|limit| work.storm.admits(limit, told, now.timestamp_micros()));
            let is_silenced = self.streams.silenced_until(&rule.name, &told.key).is_some();
            let sinks: Vec<String> = match is_admitted && !is_silenced {
                true => sinks_of(&rule, &message, &self.sinks).into_iter().cloned().collect(),
                false => Vec::new(),
            };
            journal.tell(&told.entity, message, &sinks);
        }
        let over = rule.storm_limit.and_then(|limit| work.storm.over(limit, &rule, now.timestamp_micros()));
        if let Some(message) = over {
            rule.to.iter().for_each(|sink| self.sinks.send(sink, message.clone()));
        }
    }

    /// Asks for the keys that rules expect, when that is due.
    async fn expect(&self, desk: &mut Desk) {
        let due: Vec<(String, String)> = {
            let work = self.streams.work.lock();
            let is_due = |work: &&Work| work.expected_at.is_none_or(|at| at.elapsed() >= EXPECT_EVERY);
            let of = |work: &Work| Some((work.evaluation.rule().name.clone(), work.evaluation.rule().expect.clone()?));
            work.values().filter(is_due).filter_map(of).collect()
        };
        for (name, sql) in due {
            let asked = async { self.service.session().query(&sql).await?.run().await?.collect().await };
            let rows = asked.await;
            let mut all = self.streams.work.lock();
            let Some(work) = all.get_mut(&name) else { continue };
            // Before the time of the stream is known nobody can be late.
            let stream = work.feed().and_then(|feed| desk.streams.get(&feed));
            let Some(stream) = stream.filter(|stream| stream.clock > Micros::MIN) else { continue };
            work.expected_at = Some(Instant::now());
            let mut told = Vec::new();
            let expected = rows.and_then(|rows| {
                let Some(first) = rows.first() else { return Ok(()) };
                let rows = concat_batches(&first.schema(), &rows).map_err(|error| {
                    Error::new(Kind::Internal, "the keys that are expected cannot be read").because(error)
                })?;
                work.evaluation.expect(&rows, stream.clock, &mut told)
            });
            if let Err(error) = expected {
                warn!(rule = name, error = %error, "the keys that the rule expects are not known");
            }
            self.tell(&desk.journal, work, Some(&stream.source), &told, None);
        }
    }
}
