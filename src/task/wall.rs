//! The time on the wall, for whoever waits by it.

use std::time::{Duration, Instant};

use chrono::Utc;

/// A clock that follows the machine's, but goes on when that is set back.
#[derive(Debug)]
pub struct Wall {
    began: Instant,
    /// What it said last, in microseconds since 1970, and when that was.
    last: Option<(i64, Duration)>,
}

impl Wall {
    /// One that begins with the machine's.
    pub fn new() -> Self {
        Self { began: Instant::now(), last: None }
    }

    /// Microseconds since 1970.
    pub fn now_us(&mut self) -> i64 {
        self.follow(Utc::now().timestamp_micros(), self.began.elapsed())
    }

    fn follow(&mut self, machine_us: i64, elapsed: Duration) -> i64 {
        let steady = self.last.map_or(i64::MIN, |(at, then)| {
            at.saturating_add(i64::try_from((elapsed - then).as_micros()).unwrap_or(i64::MAX))
        });
        let now = steady.max(machine_us);
        self.last = Some((now, elapsed));
        now
    }
}

impl Default for Wall {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_does_not_hold_time_up() {
        let mut wall = Wall::new();
        let second = 1_000_000;
        let mut at =
            |machine_s: i64, elapsed_s: u64| wall.follow(machine_s * second, Duration::from_secs(elapsed_s)) / second;
        assert_eq!(at(10_000, 0), 10_000);
        assert_eq!(at(10_005, 5), 10_005);
        // An hour back: it goes on.
        assert_eq!(at(6_410, 10), 10_010);
        assert_eq!(at(6_420, 20), 10_020);
        // Set right again, and a machine that slept: it follows.
        assert_eq!(at(10_025, 25), 10_025);
        assert_eq!(at(20_000, 26), 20_000);
    }
}
