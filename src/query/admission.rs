//! Room for statements that run at once: of the process, and of a role. Others wait in the order in which they came.
//!
//! A statement has its place while it makes rows. One whose client does not take them gives it back until it does: a cursor
//! that somebody left open holds nobody up.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A statement's place.
#[derive(Debug, Default)]
pub(super) struct Turn {
    rooms: Vec<Arc<Semaphore>>,
    places: Vec<OwnedSemaphorePermit>,
}

impl Turn {
    /// One that needs a place in each of `rooms`, and has none yet.
    pub(super) fn new(rooms: Vec<Arc<Semaphore>>) -> Self {
        Self { rooms, places: Vec::new() }
    }

    /// Waits for its places; at once if it has them. They are taken in the same order by all, so nobody waits in a circle.
    pub(super) async fn take(&mut self) {
        for room in &self.rooms[self.places.len()..] {
            // No room is ever closed.
            if let Ok(place) = Arc::clone(room).acquire_owned().await {
                self.places.push(place);
            }
        }
    }

    /// Gives its places back.
    pub(super) fn give_back(&mut self) {
        self.places.clear();
    }
}
