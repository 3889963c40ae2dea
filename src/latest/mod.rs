//! One row per key, the newest, in memory.
//!
//! ```text
//! rows of a table of changes ─ Reader (key, order, what a row tells) ─ Keyed { key → Slot } ─ scan, get
//!                                                       Slot ─ where in Store's batches the values stand
//! ```
//! * **Order.** Each change has a place among all changes of its table ([`order::Order`]). The newest one that tells a column
//!   decides it; a delete hides all that is older. So a state is the greatest of all that was seen, whatever came first,
//!   came late or came twice: applying a change again changes nothing, and no reader need begin exactly where it ended.
//! * **Values** are not copied: a slot knows the batch and the row they came in. Batches of which little is left are
//!   given up when a chunk of slots is put together anew, for a scan or because too much is dead. A scan notes where all
//!   stands and copies it while others go on.
//!
//! Never here: Kafka, Delta, plans. Who follows a table is the engine's business, how SQL reads one the query room's.

mod index;
mod key;
mod keyed;
mod merged;
mod order;
mod reader;
mod reference;
mod shape;
mod store;
mod table;
#[cfg(test)]
pub(crate) mod tests;

pub use key::Buckets;
pub use keyed::{Sidecars, Stats};
pub use merged::{Merged, Part, Relation};
pub use order::Order;
pub use reader::LatestError;
pub use reference::ReferenceRows;
pub use shape::{Shape, Wanted};
pub use table::{LatestTable, Rows, Since, Unavailable};
