//! The demonstration: an embedded broker, a simulated car-sharing fleet, and the project that reads them.
//! Nothing a real project runs on.
//!
//! [`fleet`] makes messages: cars that drive, four devices in each, COVESA VSS names nested five levels
//! deep, and faults at documented rates. It is pure: the same seed and the same times give the same bytes.
//! [`Broker`] is librdkafka's mock cluster: the real Kafka protocol on a loopback port inside the process.
//! [`Simulator`] produces the fleet's messages to the broker, or to real Kafka, at a given rate.
//!
//! The mock cluster silently drops the oldest records beyond 5 MiB in a partition. So a producer to it is given
//! the slowest reader's position ([`Progress`]) and stays within [`AHEAD_BYTES`] of it.
//!
//! ```text
//! Fleet ── next_message(now) ── Simulator ── limiter (2 MiB ahead of the reader) ── Broker or Kafka
//!                                   └─ delivery reports: offsets, counters, ledger
//! ```

mod broker;
mod delivery;
pub mod fleet;
mod project;
mod simulator;
#[cfg(test)]
mod tests;
mod topics;

pub use broker::Broker;
pub use delivery::{AHEAD_BYTES, Counters, Progress};
pub use project::project_files;
pub use simulator::{SimulateOptions, Simulator, Summary, simulate};

/// The fleet's topics with their partition counts.
pub const TOPICS: [(&str, i32); 4] =
    [(fleet::TELEMETRY, 6), (fleet::TRIPS, 3), (fleet::DATABASE, 1), (fleet::RESERVATIONS, 3)];
