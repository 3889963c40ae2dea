//! The doors: Arrow Flight SQL and HTTP. They translate between a protocol and `query::Session`, and do nothing
//! else: no planning, no Delta, no Kafka.
//!
//! There are no accounts in this version, so both doors open on loopback addresses only.

mod address;
pub mod flight;
pub mod http;
mod keys;

pub use flight::{Admin, Flight};
pub use http::Http;
pub use keys::Lookup;
