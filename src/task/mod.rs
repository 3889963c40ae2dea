//! Background work: shutdown signal and byte budgets. Every task has a name and stops when told.

mod budget;

pub use budget::{Budget, Charge};
pub use tokio_util::sync::CancellationToken as Shutdown;
