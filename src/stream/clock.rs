//! The time of a stream: how far its events have come. Pure; the wall clock is given.

use std::collections::BTreeMap;

use super::life::Micros;

/// An event is not believed to be later than its record by more than this.
const FUTURE: Micros = 60_000_000;

/// The clock of a stream that comes in several lanes: partitions of topics.
#[derive(Debug, Clone)]
pub struct Clock<L> {
    lateness: Micros,
    lanes: BTreeMap<L, Micros>,
    now: Micros,
}

/// The time of an event that says `at`, in a record that the broker got at `recorded`: one that claims to be of the
/// future is of the time of its record.
pub fn believed(at: Micros, recorded: Option<Micros>) -> Micros {
    match recorded {
        Some(recorded) if at > recorded.saturating_add(FUTURE) => recorded,
        _ => at,
    }
}

/// SQL for the same: `time` is the column that an event says, `recorded` that of its record.
pub fn believed_sql(time: &str, recorded: &str) -> String {
    let seconds = FUTURE / 1_000_000;
    format!(
        "CASE WHEN {time} > {recorded} + INTERVAL '{seconds} seconds' THEN {recorded} \
         ELSE coalesce({time}, {recorded}) END"
    )
}

impl<L: Ord + Clone> Clock<L> {
    /// A clock that trails the newest events by `lateness`.
    pub fn new(lateness: Micros) -> Self {
        Self { lateness, lanes: BTreeMap::new(), now: Micros::MIN }
    }

    /// It trails them by so much from now on.
    pub fn trail(&mut self, lateness: Micros) {
        self.lateness = lateness;
    }

    /// An event of this time came in a lane, or all that it had at this time was seen: nothing older is on its way.
    pub fn reach(&mut self, lane: &L, at: Micros) {
        match self.lanes.get_mut(lane) {
            Some(newest) => *newest = at.max(*newest),
            None => {
                self.lanes.insert(lane.clone(), at);
            }
        }
    }

    /// The time until which all is known; it never goes back. A lane of `lanes` of which nothing is known holds it.
    pub fn now<'a>(&mut self, lanes: impl IntoIterator<Item = &'a L>) -> Micros
    where
        L: 'a,
    {
        let slowest = lanes.into_iter().map(|lane| self.lanes.get(lane).copied()).collect::<Option<Vec<_>>>();
        if let Some(slowest) = slowest.and_then(|lanes| lanes.into_iter().min()) {
            self.now = self.now.max(slowest.saturating_sub(self.lateness));
        }
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_lane_is_the_time_and_it_never_goes_back() {
        let mut clock = Clock::new(2);
        assert_eq!(clock.now(&["a"]), Micros::MIN);
        clock.reach(&"a", 100);
        assert_eq!(clock.now(&["a", "b"]), Micros::MIN, "nothing is known of b");
        assert_eq!(clock.now(&["a"]), 98);
        clock.reach(&"b", 50);
        assert_eq!(clock.now(&["a", "b"]), 98, "b came later");
        clock.reach(&"a", 70);
        clock.reach(&"b", 120);
        assert_eq!(clock.now(&["a", "b"]), 98);
        clock.reach(&"a", 110);
        assert_eq!(clock.now(&["a", "b"]), 108);
        assert_eq!(clock.now(&[]), 108);
    }

    #[test]
    fn what_claims_to_be_of_the_future_is_of_the_time_of_its_record() {
        let year = 365 * 86_400_000_000;
        assert_eq!(believed(year, Some(1_000)), 1_000);
        assert_eq!(believed(1_000 + FUTURE, Some(1_000)), 1_000 + FUTURE);
        assert_eq!(believed(500, Some(1_000)), 500);
        assert_eq!(believed(year, None), year);
    }
}
