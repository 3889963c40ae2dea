//! The doors: Arrow Flight SQL, the PostgreSQL wire and HTTP. They translate between a protocol and `query::Session`, and do nothing
//! else: no planning, no Delta, no Kafka.

mod accounts;
mod address;
pub mod flight;
pub mod http;
mod keys;
pub mod postgres;
mod tls;

pub use accounts::{Accounts, Principal};
pub use flight::{Admin, Flight, Ingest, Sent, Takes, There};
pub use http::Http;
pub use keys::Lookup;
pub use postgres::Postgres;
pub use tls::Tls;
