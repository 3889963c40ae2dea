//! Room for statements that run at once: of the process, and of a role. Others wait in the order in which they came.
//!
//! A statement has its places while it makes rows. One whose client does not take them gives that among all back until it
//! does: a cursor that somebody left open holds nobody of another role up. It keeps that of its role, and with it whoever
//! leaves many open: what their statements hold in memory stays bounded.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A statement's place.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// That of the role first, if it has one.
    rooms: Vec<Arc<Semaphore>>,
    places: Vec<OwnedSemaphorePermit>,
    /// So many places are kept.
    kept: usize,
}

impl Turn {
    /// One that needs a place in each of these, and has none yet.
    pub(super) fn new(of_role: Option<Arc<Semaphore>>, of_all: Option<Arc<Semaphore>>) -> Self {
        let kept = usize::from(of_role.is_some());
        Self { rooms: of_role.into_iter().chain(of_all).collect(), places: Vec::new(), kept }
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

    /// Gives its place among all back.
    pub(super) fn give_back(&mut self) {
        self.places.truncate(self.kept);
    }
}
