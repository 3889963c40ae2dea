//! Background work: shutdown signal, byte budgets, schedules and fail points. Every task has a name and stops when told.

mod behind;
mod budget;
mod disk;
pub mod failpoint;
mod schedule;
mod spawn;
mod wall;

pub use behind::spawn_behind;
pub use budget::{Budget, Charge};
pub use disk::on_disk;
pub use schedule::Schedule;
pub use spawn::{spawn, spawn_thread};
pub use tokio_util::sync::CancellationToken as Shutdown;
pub use wall::Wall;

/// A thread for blocking work that has been idle for so long ends: it keeps the memory that it has worked in.
pub const IDLE_THREAD: std::time::Duration = std::time::Duration::from_millis(500);

/// Gives those who watch another value, if it is one.
pub fn replace<T: PartialEq>(watched: &tokio::sync::watch::Sender<T>, value: T) {
    watched.send_if_modified(|now| {
        let is_other = *now != value;
        *now = value;
        is_other
    });
}
