//! Continuous queries: rules over what comes, and the alerts that they raise.
//!
//! ```text
//! new rows ─ batch ─┬──────────────── evaluation ─ life ─ transitions ─ message ─▶ deliver
//!                   └ order (clock) ─▶ of rules that wait
//! ```
//! * A rule's SELECT is planned once ([`crate::query::Continuous`]) and runs over every batch of new rows of its stream. What it
//!   says of a key is true, false, or unknown, which changes nothing.
//! * The life of an alert is a pure machine over event times (`life`). An alert has the same id whenever it is computed again.
//! * Time is that of the events (`clock`): it follows the wall only while all that Kafka has was seen.
//!
//! Never here: tables' commits, sinks' protocols, the wall clock.

mod batch;
mod clock;
mod evaluation;
mod judge;
mod life;
mod message;
mod order;
mod record;
mod rule;
mod selection;
mod storm;
mod table_query;

pub use self::batch::{Batch, Begin, keys, rows_as_json};
pub use self::clock::{Clock, Lane};
pub use self::evaluation::{Evaluation, Plan, Row, SCHEDULE};
pub use self::judge::{Counters, Recalled, close, recall, remember};
pub use self::life::{Alert, Became, Cause, Instance, Key, Life, Micros, Phase, Transition};
pub use self::message::{FIELDS, Proof, message};
pub use self::order::Order;
pub use self::record::{
    Heard, KeptState, KeyPart, PositionState, QueryState, RecordError, Rows, RuleState, Silence, State, StreamState,
    Told,
};
pub use self::rule::{Rule, Severity};
pub use self::selection::{RESULT_ID, Selected, Selection, StreamQuery, columns_of};
pub use self::storm::{Storm, StormLimit};
pub use self::table_query::TableQuery;
