//! Background work: shutdown signal, byte budgets and fail points. Every task has a name and stops when told.

mod budget;
pub mod failpoint;
mod spawn;

pub use budget::{Budget, Charge};
pub use spawn::{spawn, spawn_thread};
pub use tokio_util::sync::CancellationToken as Shutdown;
