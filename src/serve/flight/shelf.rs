//! Things kept for clients under random handles: bounded in number and in time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

/// Values by handle. The oldest goes when the shelf is full.
pub(super) struct Shelf<T> {
    items: Mutex<HashMap<Bytes, Item<T>>>,
    limit: usize,
    keep: Keep,
}

/// How long a value stays.
pub(super) enum Keep {
    /// From when it was put.
    FromStart(Duration),
    /// From when it was last used.
    FromUse(Duration),
}

struct Item<T> {
    value: T,
    since: Instant,
}

impl<T: Clone> Shelf<T> {
    pub(super) fn new(limit: usize, keep: Keep) -> Self {
        Self { items: Mutex::new(HashMap::new()), limit, keep }
    }

    /// Keeps a value under a new handle that cannot be guessed.
    pub(super) fn put(&self, value: T) -> Bytes {
        let handle = Bytes::from(format!("{:032x}", rand::random::<u128>()));
        self.put_at(handle.clone(), value);
        handle
    }

    /// Keeps a value under a name.
    pub(super) fn put_at(&self, name: Bytes, value: T) {
        let mut items = self.items.lock();
        if items.len() >= self.limit
            && let Some(oldest) = items.iter().min_by_key(|(_, item)| item.since).map(|(name, _)| name.clone())
        {
            items.remove(&oldest);
        }
        items.insert(name, Item { value, since: Instant::now() });
    }

    /// The value, unless its time is over.
    pub(super) fn get(&self, handle: &[u8]) -> Option<T> {
        let mut items = self.items.lock();
        let item = items.get_mut(handle)?;
        let (Keep::FromStart(limit) | Keep::FromUse(limit)) = self.keep;
        if item.since.elapsed() >= limit {
            return None;
        }
        if matches!(self.keep, Keep::FromUse(_)) {
            item.since = Instant::now();
        }
        Some(item.value.clone())
    }

    pub(super) fn remove(&self, handle: &[u8]) -> Option<T> {
        self.items.lock().remove(handle).map(|item| item.value)
    }

    /// Drops what is too old.
    pub(super) fn sweep(&self) {
        let (Keep::FromStart(limit) | Keep::FromUse(limit)) = self.keep;
        self.items.lock().retain(|_, item| item.since.elapsed() < limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_is_bounded_in_number_and_time() {
        let shelf = Shelf::new(2, Keep::FromUse(Duration::from_secs(60)));
        let first = shelf.put(1);
        let second = shelf.put(2);
        assert_eq!(shelf.get(&first), Some(1));
        let third = shelf.put(3);
        assert_eq!((shelf.get(&first), shelf.get(&second), shelf.get(&third)), (Some(1), None, Some(3)));
        assert_eq!((shelf.remove(&first), shelf.remove(&first)), (Some(1), None));

        let brief = Shelf::new(9, Keep::FromStart(Duration::ZERO));
        let gone = brief.put("x");
        assert_eq!(brief.get(&gone), None);
        brief.sweep();
        assert_eq!(brief.remove(&gone), None);
    }
}
