//! Millpond: a local-first lakehouse in one process.
//!
//! The rooms, in the order data flows (ARCHITECTURE.md draws the map):
//!
//! ```text
//! Kafka ─ source ─ decode ─ schema ─┬─ lake ── Delta on object store   (durable, exactly once)
//!                                   ├─ hot rows ───┐
//!                                   └─ latest ─────┴─ query ─ serve    (visible to SQL at once)
//! ```

pub mod config; // the project folder, typed; every problem at once
pub mod iam; // who we are to Amazon's Kafka: signed tokens
pub mod source; // Kafka: partitions, positions, batches of payloads
pub mod decode; // bytes to Arrow batches and dead letters; pure
pub mod schema; // contracts of tables, schema versions, inference
pub mod lake; // object store, writer claim, Delta tables, the only commit, hot rows
pub mod latest; // one row per key, merged by order, in memory
pub mod query; // the only SessionContext: catalog, read-only verification
pub mod stream; // continuous queries over what comes, the life of alerts
pub mod news; // what the platform tells people about itself: grouping, routing
pub mod deliver; // sinks, templates, retry, backlog: Kafka, webhook, e-mail
pub mod serve; // Flight SQL and HTTP: translation only
pub mod engine; // the running project: rooms put together, start and shutdown order
pub mod demo; // embedded broker and fleet simulator
pub mod cli; // arguments, terminal output, hints
pub mod task; // task kinds, shutdown, byte budgets
pub mod telemetry; // logs
pub mod error; // the few public kinds of error

/// The executable's: what tests measure of memory is then what a server takes.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
