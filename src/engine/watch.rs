//! Notices what stalls, and tells the news: a topic that is not read, a lake that takes no rows, a sink that takes no
//! messages. It looks at the same facts as `system.ingest` and `system.sinks`, once a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::catalog::EngineCatalog;
use crate::news::{Event, News, Trouble, TroubleWith};
use crate::source::ReaderState;
use crate::task::Shutdown;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);
/// A topic whose brokers do not answer for so long is news.
const SOURCE_PATIENCE: Duration = Duration::from_secs(10);
/// So is a sink that takes nothing for so long.
const SINK_PATIENCE: Duration = Duration::from_secs(30);
/// So are rows that wait for a commit for so long beyond the commit interval …
const LAKE_PATIENCE: Duration = Duration::from_secs(30);
/// … or for so long, if what waits fills half of its memory.
const FULL_LAKE_PATIENCE: Duration = Duration::from_secs(5);

/// What is watched.
pub struct Watch {
    /// The facts.
    pub catalog: Arc<EngineCatalog>,
    /// Who is told.
    pub news: News,
    /// `[lake] commit_interval`.
    pub commit_interval: Duration,
}

/// Something that does not work at this moment.
#[derive(Debug, Clone)]
struct Finding {
    with: TroubleWith,
    tables: Vec<String>,
    reason: String,
    /// How long it may last before it is news.
    patience: Duration,
}

/// What does not work since when, and whether it was told.
#[derive(Debug, Default)]
struct Troubles {
    standing: Vec<Standing>,
}

#[derive(Debug)]
struct Standing {
    finding: Finding,
    since: Instant,
    at: DateTime<Utc>,
    told: bool,
}

impl Watch {
    /// Looks until stopped.
    pub async fn run(self, stop: Shutdown) {
        let mut troubles = Troubles::default();
        // Per table: commits so far, and since when rows have waited for the next one.
        let mut waiting: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let now = Instant::now();
            let mut findings = self.topics();
            findings.extend(self.lake(&mut waiting, now));
            findings.extend(self.sinks());
            for event in troubles.follow(findings, now, Utc::now()) {
                self.news.tell(event);
            }
        }
    }

    fn topics(&self) -> Vec<Finding> {
        let fed = self.catalog.fed();
        let mut topics: BTreeMap<&String, Vec<String>> = BTreeMap::new();
        for contract in &fed.contracts {
            contract.topics.iter().for_each(|topic| topics.entry(topic).or_default().push(contract.table.clone()));
        }
        let readers = self.catalog.readers.read();
        let waiting = self.catalog.waiting.read();
        let finding = |(topic, tables): (&String, Vec<String>)| {
            let (tables, reason, patience) = match readers.get(topic) {
                None => (tables, waiting.clone()?, SOURCE_PATIENCE),
                Some((_, status)) => {
                    let status = status();
                    // A table that is behind has a reader of its own, and troubles of its own.
                    let mut troubled = tables.iter().filter_map(|table| {
                        let reader = status.of(table)?;
                        let reason = || reader.error.clone().unwrap_or_else(|| reader.state.to_string());
                        match reader.state {
                            ReaderState::Unreachable => Some((table, reason(), SOURCE_PATIENCE)),
                            ReaderState::Stopped => Some((table, reason(), Duration::ZERO)),
                            ReaderState::Connecting
                            | ReaderState::WaitingForTopic
                            | ReaderState::Reading
                            | ReaderState::CatchingUp
                            | ReaderState::Paused
                            | ReaderState::Closed => None,
                        }
                    });
                    let (first, reason, patience) = troubled.next()?;
                    (
                        std::iter::once(first).chain(troubled.map(|(table, ..)| table)).cloned().collect(),
                        reason,
                        patience,
                    )
                }
            };
            Some(Finding { with: TroubleWith::Topic(topic.clone()), tables, reason, patience })
        };
        topics.into_iter().filter_map(finding).collect()
    }

    fn lake(&self, waiting: &mut BTreeMap<String, (u64, Instant)>, now: Instant) -> Option<Finding> {
        let budget = &self.catalog.ingest_budget;
        let is_half_full = budget.used_bytes() >= budget.limit_bytes() / 2;
        let patience = if is_half_full { FULL_LAKE_PATIENCE } else { LAKE_PATIENCE };
        let mut stalled = Vec::new();
        let (mut rows, mut longest) = (0, Duration::ZERO);
        let fed = self.catalog.fed();
        let intervals = fed.contracts.iter().filter_map(|contract| contract.commit_interval);
        let interval = intervals.max().unwrap_or_default().max(self.commit_interval);
        for (name, live) in &fed.tables {
            // Stream queries count no commits, but their tables get versions like all others.
            let view = live.pin();
            let (commits, hot_rows) = (view.table_version().unwrap_or(0), view.hot_rows());
            let (at, since) = *waiting.entry(name.clone()).or_insert((commits, now));
            if hot_rows == 0 || at != commits {
                waiting.insert(name.clone(), (commits, now));
            } else if now - since >= interval + patience {
                stalled.push(name.clone());
                (rows, longest) = (rows + hot_rows, longest.max(now - since));
            }
        }
        let seconds = longest.as_secs();
        (!stalled.is_empty()).then(|| Finding {
            with: TroubleWith::Lake,
            tables: stalled,
            reason: format!("{rows} rows have waited for a commit, the first for {seconds} s"),
            patience: Duration::ZERO,
        })
    }

    fn sinks(&self) -> Vec<Finding> {
        let statuses = self.catalog.sinks.statuses().into_iter();
        let failing = statuses.filter(|sink| sink.counters.failing_since.is_some());
        let finding = |sink: crate::deliver::SinkStatus| Finding {
            with: TroubleWith::Sink(sink.name),
            tables: Vec::new(),
            reason: format!(
                "{}; {} messages wait",
                sink.counters.last_error.unwrap_or_default(),
                sink.counters.pending
            ),
            patience: SINK_PATIENCE,
        };
        failing.map(finding).collect()
    }
}

impl Troubles {
    /// What began and what is over, now that `findings` is all that does not work.
    fn follow(&mut self, findings: Vec<Finding>, now: Instant, at: DateTime<Utc>) -> Vec<Event> {
        let mut events = Vec::new();
        self.standing.retain(|standing| {
            let stays = findings.iter().any(|finding| finding.with == standing.finding.with);
            if !stays && standing.told {
                events.push(standing.event(true));
            }
            stays
        });
        for finding in findings {
            let index = self.standing.iter().position(|standing| standing.finding.with == finding.with);
            let index = index.unwrap_or_else(|| {
                self.standing.push(Standing { finding: finding.clone(), since: now, at, told: false });
                self.standing.len() - 1
            });
            let Some(standing) = self.standing.get_mut(index) else { continue };
            standing.finding = finding;
            if !standing.told && now - standing.since >= standing.finding.patience {
                standing.told = true;
                events.push(standing.event(false));
            }
        }
        events
    }
}

impl Standing {
    fn event(&self, over: bool) -> Event {
        let Finding { with, tables, reason, .. } = self.finding.clone();
        Event::Trouble(Trouble { with, tables, reason, since: self.at, over })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_when_it_lasts_and_when_a_told_one_is_over() {
        let mut troubles = Troubles::default();
        let (begin, at) = (Instant::now(), Utc::now());
        let finding = |topic: &str, seconds| Finding {
            with: TroubleWith::Topic(topic.into()),
            tables: vec![topic.to_uppercase()],
            reason: "no broker answers".into(),
            patience: Duration::from_secs(seconds),
        };
        let mut look = |second: u64, findings: &[Finding]| -> Vec<String> {
            let events = troubles.follow(findings.to_vec(), begin + Duration::from_secs(second), at);
            let said = |event: &Event| {
                let Event::Trouble(trouble) = event else { panic!("{event:?}") };
                assert_eq!(event.tables(), [event.subject().to_uppercase()]);
                format!("{} {}", event.subject(), if trouble.over { "over" } else { "begun" })
            };
            events.iter().map(said).collect()
        };
        let none = Vec::<String>::new();
        assert_eq!(look(0, &[finding("a", 10), finding("b", 0)]), ["b begun"]);
        assert_eq!(look(9, &[finding("a", 10), finding("b", 0)]), none);
        assert_eq!(look(10, &[finding("a", 10), finding("b", 0)]), ["a begun"]);
        assert_eq!(look(11, &[finding("a", 10)]), ["b over"]);
        assert_eq!(look(12, &[finding("a", 10), finding("c", 10)]), none);
        assert_eq!(look(13, &[]), ["a over"], "c was never told");
        assert_eq!(look(14, &[]), none);
    }
}
