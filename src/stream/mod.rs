//! Continuous queries: rules over what comes, and the alerts that they raise. So far its pure parts: nothing runs them yet.
//!
//! * The life of an alert (`life`) is a machine over event times; what it is told of a key is true, false, or unknown, which
//!   changes nothing. An alert has the same id whenever it is computed again.
//! * Time is that of the events (`clock`): it follows the wall only while all that Kafka has was seen.
//!
//! What a rule's SELECT says of new rows is [`crate::query::Continuous`]'s business.
//!
//! Never here: tables' commits, sinks' protocols, the wall clock.

mod clock;
mod life;

pub use self::clock::Clock;
pub use self::life::{Alert, Became, Cause, Instance, Key, Life, Micros, Phase, Said, Terms, Transition};
