//! The time of a stream: how far its events have come. Pure; the wall clock is given.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::life::Micros;

/// An event is not believed to be later than its record by more than this.
const FUTURE: Micros = 60_000_000;
/// A lane to which nothing came for so long is idle: its time follows the wall, so far behind.
const IDLE: Micros = 500_000;
/// A lane that is read to its end does not hold the others up by more than this.
const BEHIND: Micros = 60_000_000;

/// The clock of a stream that comes in several lanes: partitions of topics. Which rows are late is decided by the lane
/// that they come in and the times of its records, so that it is the same whenever the lane is read.
#[derive(Debug, Clone)]
pub struct Clock<L> {
    lateness: Micros,
    lanes: BTreeMap<L, Lane>,
    /// Those that are read to their ends, as of when.
    at_end: BTreeSet<L>,
    wall: Micros,
    now: Micros,
}

/// How far a lane has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// The time of its newest event, or of the wall while it was idle.
    pub newest: Micros,
    /// When the broker got its newest record.
    pub recorded: Micros,
}

/// The time of an event that says `at`, in a record that the broker got at `recorded`: one that claims to be of the
/// future is of the time of its record.
pub fn believed(at: Micros, recorded: Option<Micros>) -> Micros {
    match recorded {
        Some(recorded) if at > recorded.saturating_add(FUTURE) => recorded,
        _ => at,
    }
}

impl<L: Ord + Clone> Clock<L> {
    /// A clock that trails the newest events by `lateness`.
    pub fn new(lateness: Micros) -> Self {
        Self { lateness, lanes: BTreeMap::new(), at_end: BTreeSet::new(), wall: Micros::MIN, now: Micros::MIN }
    }

    /// It trails them by so much from now on.
    pub fn trail(&mut self, lateness: Micros) {
        self.lateness = lateness;
    }

    /// Events come next in a lane: when each happened, and when the broker got its record. Says of each if it is in time.
    pub fn take(&mut self, lane: &L, events: impl IntoIterator<Item = (Micros, Micros)>) -> Vec<bool> {
        let mut known = self.lanes.get(lane).copied();
        let lateness = self.lateness;
        let take = |(at, recorded)| known.get_or_insert(Lane { newest: at, recorded }).take(at, recorded, lateness);
        let in_time = events.into_iter().map(take).collect();
        if let Some(known) = known {
            self.lanes.insert(lane.clone(), known);
        }
        in_time
    }

    /// All that these lanes had at this time was taken.
    pub fn reach<'a>(&mut self, lanes: impl IntoIterator<Item = (&'a L, Micros)>)
    where
        L: 'a,
    {
        self.at_end.clear();
        for (lane, at) in lanes {
            let unused = Lane { newest: Micros::MIN, recorded: Micros::MIN };
            self.lanes.entry(lane.clone()).or_insert(unused).follow(at);
            self.at_end.insert(lane.clone());
            self.wall = self.wall.max(at);
        }
    }

    /// The time until which all is known; it never goes back. A lane of `lanes` of which nothing is known holds it.
    pub fn now<'a>(&mut self, lanes: impl IntoIterator<Item = &'a L>) -> Micros
    where
        L: 'a,
    {
        // One that is not idle, and not read to its end, is waited for however old its events are.
        let is_used = |lane: &&Lane| self.wall.saturating_sub(lane.recorded) <= BEHIND;
        let fastest = self.lanes.values().filter(is_used).map(|lane| lane.newest).max();
        let behind = fastest.map_or(Micros::MIN, |fastest| fastest.min(self.wall).saturating_sub(BEHIND));
        let newest = |lane: &L| {
            let newest = self.lanes.get(lane)?.newest;
            Some(if self.at_end.contains(lane) { newest.max(behind) } else { newest })
        };
        let slowest = lanes.into_iter().map(newest).collect::<Option<Vec<_>>>();
        if let Some(slowest) = slowest.and_then(|lanes| lanes.into_iter().min()) {
            // What is exactly so late is in time.
            self.now = self.now.max(slowest.saturating_sub(self.lateness).saturating_sub(1));
        }
        self.now
    }

    /// Whether time may not be able to go on without this lane: nothing is known of it, or it is not further ahead than
    /// others may be behind.
    pub fn waits_for(&self, lane: &L) -> bool {
        let reach = self.now.saturating_add(1).saturating_add(self.lateness).saturating_add(BEHIND);
        self.lanes.get(lane).is_none_or(|lane| lane.newest <= reach)
    }

    /// How far its lanes have come.
    pub fn lanes(&self) -> &BTreeMap<L, Lane> {
        &self.lanes
    }

    /// A lane has come so far.
    pub fn restore(&mut self, lane: L, at: Lane) {
        self.lanes.insert(lane, at);
    }
}

impl Lane {
    fn take(&mut self, at: Micros, recorded: Micros, lateness: Micros) -> bool {
        self.follow(recorded);
        self.recorded = self.recorded.max(recorded);
        let in_time = at >= self.newest.saturating_sub(lateness);
        self.newest = self.newest.max(at);
        in_time
    }

    /// The wall says `at`, and nothing has come since the last record.
    fn follow(&mut self, at: Micros) {
        if at.saturating_sub(self.recorded) > IDLE {
            self.newest = self.newest.max(at - IDLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_slowest_lane_is_the_time_and_it_never_goes_back() {
        let mut clock = Clock::new(2);
        assert_eq!(clock.now(&["a"]), Micros::MIN);
        clock.take(&"a", [(100, 0)]);
        assert_eq!(clock.now(&["a", "b"]), Micros::MIN, "nothing is known of b");
        assert_eq!(clock.now(&["a"]), 97);
        clock.take(&"b", [(50, 0)]);
        assert_eq!(clock.now(&["a", "b"]), 97, "b came later");
        assert_eq!(clock.take(&"a", [(70, 0), (98, 0)]), [false, true]);
        clock.take(&"b", [(120, 0)]);
        assert_eq!(clock.now(&["a", "b"]), 97);
        clock.take(&"a", [(110, 0)]);
        assert_eq!(clock.now(&["a", "b"]), 107);
        assert_eq!(clock.now(&[]), 107);
    }

    #[test]
    fn what_claims_to_be_of_the_future_is_of_the_time_of_its_record() {
        let year = 365 * 86_400_000_000;
        assert_eq!(believed(year, Some(1_000)), 1_000);
        assert_eq!(believed(1_000 + FUTURE, Some(1_000)), 1_000 + FUTURE);
        assert_eq!(believed(500, Some(1_000)), 500);
        assert_eq!(believed(year, None), year);
    }

    #[test]
    fn an_idle_lane_follows_the_wall_and_a_busy_one_its_events() {
        let (second, day) = (1_000_000, 86_400_000_000);
        let mut clock = Clock::new(0);
        // Events of yesterday, one record after the other.
        let yesterday = (0..10).map(|at| (at * 100_000, day + at * 100_000));
        assert_eq!(clock.take(&"a", yesterday), [true; 10]);
        clock.reach([(&"a", day + second)]);
        assert_eq!(clock.now(&["a"]), 899_999, "the last record came 0.1 s ago");
        clock.reach([(&"a", day + 10 * second)]);
        assert_eq!(clock.now(&["a"]), day + 10 * second - IDLE - 1);
        let now = day + 10 * second;
        assert_eq!(clock.take(&"a", [(second, now), (now, now)]), [false, true]);
    }

    #[test]
    fn a_lane_that_is_read_to_its_end_does_not_hold_others_up_for_ever() {
        let (mut clock, hour) = (Clock::new(0), 3_600_000_000);
        clock.take(&"punctual", [(hour, hour)]);
        clock.take(&"slow", [(0, hour)]);
        assert_eq!(clock.now(&["punctual", "slow"]), -1);
        assert!(clock.waits_for(&"slow") && clock.waits_for(&"new") && !clock.waits_for(&"punctual"));
        clock.reach([(&"slow", hour)]);
        assert_eq!(clock.now(&["punctual", "slow"]), hour - BEHIND - 1);
        assert!(clock.waits_for(&"punctual"), "time trails it");
    }

    proptest! {
        /// Which rows are late does not depend on when a lane is read, nor on what else is known then.
        #[test]
        fn the_same_rows_are_late_whenever_a_lane_is_read(
            rows in prop::collection::vec((0i64..4_000_000, 0i64..1_500_000), 0..40),
            looks in prop::collection::vec(prop::bool::ANY, 40),
        ) {
            let (mut live, mut again) = (Clock::new(1_000_000), Clock::new(1_000_000));
            let mut recorded = 1_000_000_000;
            for ((delay, gap), is_looked_at) in rows.into_iter().zip(looks) {
                recorded += gap;
                if is_looked_at {
                    // The broker had nothing more a moment before.
                    live.reach([(&"a", recorded)]);
                }
                let (at, now) = (recorded - delay, live.now(&["a"]));
                let is_in_time = live.take(&"a", [(at, recorded)])[0];
                // Before the first row nobody knows how far the lane is.
                if !again.lanes().is_empty() {
                    prop_assert_eq!(again.take(&"a", [(at, recorded)])[0], is_in_time);
                    prop_assert!(!is_in_time || at > now, "{} was handed out until {}", at, now);
                } else {
                    again.restore("a", live.lanes()["a"]);
                }
            }
        }
    }
}
