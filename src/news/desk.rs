//! Groups events and limits their rate: one message per kind and subject, soon after the first event, and then at most
//! one a minute with all that happened meanwhile. Pure: time is given.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::event::{Event, EventKind};

/// Events that come so soon after the first are told with it. News must be out within a second.
const GROUP: Duration = Duration::from_millis(300);
/// After a message, the next one of its kind and subject waits for this long.
const QUIET: Duration = Duration::from_secs(60);

/// Events that wait to be told. Its size is bounded by the number of tables, topics and sinks.
#[derive(Debug, Default)]
pub(super) struct Desk {
    stories: BTreeMap<(EventKind, String), Story>,
}

#[derive(Debug, Default)]
struct Story {
    pending: Option<Pending>,
    quiet_until: Option<Instant>,
}

#[derive(Debug)]
struct Pending {
    told: Told,
    due: Instant,
}

/// What one message tells.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub event: Event,
    /// Events that were folded into it.
    pub events: u64,
    /// When the first of them happened.
    pub at: DateTime<Utc>,
}

impl Desk {
    /// Takes an event in.
    pub fn tell(&mut self, event: Event, now: Instant, at: DateTime<Utc>) {
        let story = self.stories.entry((event.kind(), event.subject().to_owned())).or_default();
        match &mut story.pending {
            Some(pending) => {
                pending.told.event.fold(event);
                pending.told.events += 1;
            }
            None => {
                let due = story.quiet_until.map_or(now + GROUP, |quiet| quiet.max(now + GROUP));
                story.pending = Some(Pending { told: Told { event, events: 1, at }, due });
            }
        }
    }

    /// When something is to be told next.
    pub fn next_due(&self) -> Option<Instant> {
        self.stories.values().filter_map(|story| story.pending.as_ref()).map(|pending| pending.due).min()
    }

    /// Takes out what is due.
    pub fn take_due(&mut self, now: Instant) -> Vec<Told> {
        self.take(now, |pending| pending.due <= now)
    }

    /// Takes out everything, due or not.
    pub fn take_all(&mut self, now: Instant) -> Vec<Told> {
        self.take(now, |_| true)
    }

    fn take(&mut self, now: Instant, due: impl Fn(&Pending) -> bool) -> Vec<Told> {
        let mut taken = Vec::new();
        for story in self.stories.values_mut() {
            if let Some(pending) = story.pending.take_if(|pending| due(pending)) {
                story.quiet_until = Some(now + QUIET);
                taken.push(pending.told);
            }
        }
        self.stories.retain(|_, story| story.pending.is_some() || story.quiet_until.is_some_and(|until| until > now));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Change, DeadLetters, RecordAt, SchemaChange};
    use super::*;

    fn change(table: &str, after: u32) -> Event {
        let change = Change {
            change: "add",
            column: format!("column_{after}"),
            column_type: "double".into(),
            path: "a.b".into(),
            first: None,
            sample: None,
        };
        let table = table.to_owned();
        Event::SchemaChange(SchemaChange { table, before: after - 1, after, changes: vec![change], more: 0, rows: 7 })
    }

    fn dead(table: &str, count: u64) -> Event {
        Event::DeadLetters(DeadLetters {
            table: table.into(),
            count,
            reason: "not_json".into(),
            message: "no JSON".into(),
            first: RecordAt { topic: "t".into(), partition: 0, offset: 5 },
        })
    }

    struct Clock(Instant);

    impl Clock {
        fn after(&self, millis: u64) -> Instant {
            self.0 + Duration::from_millis(millis)
        }
    }

    fn told(desk: &mut Desk, now: Instant) -> Vec<(String, u64)> {
        let told = desk.take_due(now).into_iter();
        told.map(|told| (format!("{} {}", told.event.kind().word(), told.event.subject()), told.events)).collect()
    }

    #[test]
    fn what_happens_together_is_told_together_within_a_second() {
        let (mut desk, clock) = (Desk::default(), Clock(Instant::now()));
        desk.tell(change("telemetry", 2), clock.after(0), Utc::now());
        desk.tell(change("telemetry", 3), clock.after(200), Utc::now());
        desk.tell(change("trips", 2), clock.after(250), Utc::now());
        desk.tell(dead("telemetry", 4), clock.after(290), Utc::now());
        assert_eq!(desk.next_due(), Some(clock.after(300)));
        assert_eq!(told(&mut desk, clock.after(299)), []);
        let first = desk.take_due(clock.after(300));
        let Event::SchemaChange(change) = &first[0].event else { panic!("{first:?}") };
        assert_eq!((first.len(), change.before, change.after, change.changes.len()), (1, 1, 3, 2));
        let second = [("schema_change trips".into(), 1), ("dead_letter telemetry".into(), 1)];
        assert_eq!(told(&mut desk, clock.after(590)), second);
        assert_eq!(desk.next_due(), None);
    }

    #[test]
    fn a_flood_is_one_message_a_minute_and_nothing_is_uncounted() {
        let (mut desk, clock) = (Desk::default(), Clock(Instant::now()));
        let (mut messages, mut letters) = (0, 0);
        // Ten minutes of garbage, a hundred batches of seven a second.
        for millis in (0..600_000).step_by(10) {
            desk.tell(dead("noise", 7), clock.after(millis), Utc::now());
            for told in desk.take_due(clock.after(millis)) {
                let Event::DeadLetters(dead) = told.event else { panic!("of another kind") };
                messages += 1;
                letters += dead.count;
            }
        }
        for told in desk.take_all(clock.after(600_000)) {
            let Event::DeadLetters(dead) = told.event else { panic!("of another kind") };
            letters += dead.count;
        }
        assert_eq!((messages, letters), (10, 60_000 * 7));
    }

    #[test]
    fn many_changes_are_named_up_to_a_bound_and_counted_beyond() {
        let (mut desk, clock) = (Desk::default(), Clock(Instant::now()));
        for version in 2..=100 {
            desk.tell(change("telemetry", version), clock.after(0), Utc::now());
        }
        let told = desk.take_all(clock.after(0));
        let Event::SchemaChange(change) = &told[0].event else { panic!("{told:?}") };
        assert_eq!((change.changes.len(), change.more, change.after, told[0].events), (50, 49, 100, 99));
    }

    #[test]
    fn a_story_that_is_over_takes_no_memory() {
        let (mut desk, clock) = (Desk::default(), Clock(Instant::now()));
        desk.tell(dead("noise", 1), clock.after(0), Utc::now());
        assert_eq!(told(&mut desk, clock.after(1_000)).len(), 1);
        assert_eq!(desk.stories.len(), 1);
        desk.take_due(clock.after(70_000));
        assert!(desk.stories.is_empty());
    }
}
