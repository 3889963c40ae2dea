//! Which slots have changed lately, for those who keep something of all rows and need not put it together anew.

use std::collections::{BTreeSet, VecDeque};

/// So many changes are known one by one.
const MOST: usize = 16_384;

/// The newest changes.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// When each was made, and of which slot; the oldest first.
    changes: VecDeque<(u64, u32)>,
    /// When those are made that come now.
    now: u64,
    /// What changed until then is not known one by one.
    known_from: u64,
}

impl Log {
    /// Changes are made at `now` from now on.
    pub fn at(&mut self, now: u64) {
        self.now = now;
    }

    /// When changes are made now.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// A slot has changed.
    pub fn note(&mut self, slot: u32) {
        if self.changes.len() == MOST
            && let Some((at, _)) = self.changes.pop_front()
        {
            self.known_from = at;
        }
        self.changes.push_back((self.now, slot));
    }

    /// Nobody knows what changed until `now`.
    pub fn forget(&mut self, now: u64) {
        self.changes.clear();
        (self.now, self.known_from) = (now, now);
    }

    /// The slots that have changed since `then`; `None` if that is not known, or if they are more than `most`.
    pub fn since(&self, then: u64, most: usize) -> Option<BTreeSet<u32>> {
        if then < self.known_from {
            return None;
        }
        let newer = self.changes.iter().rev().take_while(|(at, _)| *at > then);
        let slots: BTreeSet<u32> = newer.map(|(_, slot)| *slot).collect();
        (slots.len() <= most).then_some(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_ago_or_too_much_is_not_known() {
        let mut log = Log::default();
        let slots = |log: &Log, then| log.since(then, 3).map(Vec::from_iter);
        for (now, slot) in [(1, 5), (2, 6), (2, 5), (4, 7)] {
            log.at(now);
            log.note(slot);
        }
        assert_eq!(slots(&log, 4), Some(vec![]));
        assert_eq!(slots(&log, 2), Some(vec![7]));
        assert_eq!(slots(&log, 0), Some(vec![5, 6, 7]));
        log.note(8);
        assert_eq!(slots(&log, 0), None, "more than three");
        assert_eq!(slots(&log, 3), Some(vec![7, 8]));
        log.forget(9);
        assert_eq!((slots(&log, 8), slots(&log, 9)), (None, Some(vec![])));
        log.at(10);
        (0..=MOST as u32).for_each(|slot| log.note(slot));
        assert_eq!((log.since(9, usize::MAX), log.since(10, 0).map(Vec::from_iter)), (None, Some(vec![])));
    }
}
