//! A rule whose query runs now and then, over all that there is.

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use chrono::{DateTime, Utc};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::engine::rows::broken;
use crate::error::{Error, Kind, Result};
use crate::query::Service;
use crate::stream::{Micros, Rule};
use crate::task::{self, Schedule};

/// Rows that a query may find: each is a key whose alert is kept and told.
const MOST_ROWS: usize = 100_000;

/// When a rule runs, and what becomes of it.
pub(super) struct Scheduled {
    schedule: Schedule,
    /// When it was due last, or when it came.
    ran_at: DateTime<Utc>,
    /// It ran before the start, or before an edit.
    is_restored: bool,
    running: Option<(DateTime<Utc>, oneshot::Receiver<Found>)>,
    /// It has found out at least once.
    is_known: bool,
    /// Why it could not find out the last time.
    pub error: Option<String>,
}

/// What a query has found, and how long that took.
type Found = (Result<RecordBatch>, Duration);

impl Scheduled {
    /// It comes now.
    pub fn new(schedule: Schedule) -> Self {
        Self { schedule, ran_at: Utc::now(), is_restored: false, running: None, is_known: false, error: None }
    }

    /// When it was due last, or when it came. What runs now counts only once it has found out.
    pub fn ran_at(&self) -> DateTime<Utc> {
        self.ran_at
    }

    /// It ran before, and was due at `at` then or later.
    pub fn ran(&mut self, at: Micros) {
        let before = self.is_restored.then_some(self.ran_at);
        self.ran_at = DateTime::from_timestamp_micros(at).max(before).unwrap_or(self.ran_at);
        self.is_restored = true;
    }

    /// Runs the query if that is due, one run at a time: of several that were missed the last.
    pub fn run(&mut self, rule: &Rule, now: DateTime<Utc>, service: &Service) {
        if self.running.is_some() {
            return;
        }
        let Some(at) = self.schedule.due(self.ran_at, now) else { return };
        let (tell, told) = oneshot::channel();
        let (sql, session) = (rule.sql.clone(), service.session());
        task::spawn("scheduled-rule", async move {
            let began = Instant::now();
            let run = async {
                let rows = session.query(&sql).await?.run().await?;
                let schema = rows.schema();
                let rows = concat_batches(&schema, &rows.collect().await?).map_err(broken)?;
                match rows.num_rows() {
                    rows if rows > MOST_ROWS => {
                        let message = format!("the query finds {rows} rows: a rule looks at {MOST_ROWS} at most");
                        Err(Error::new(Kind::Exhausted, message).hint("select what somebody should be told of"))
                    }
                    _ => Ok(rows),
                }
            };
            let _ = tell.send((run.await, began.elapsed()));
        });
        self.running = Some((at, told));
    }

    /// What was found, once it is: when that was due, and how long it took.
    pub fn found(&mut self) -> Option<(DateTime<Utc>, Result<RecordBatch>, Duration)> {
        let (at, told) = self.running.as_mut()?;
        let (found, took) = match told.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return None,
            Err(oneshot::error::TryRecvError::Closed) => {
                (Err(Error::new(Kind::Internal, "the query stopped before its end")), Duration::ZERO)
            }
            Ok(found) => found,
        };
        let at = *at;
        (self.running, self.ran_at) = (None, at);
        Some((at, found, took))
    }

    /// What was found is heard, or why it could not be: then all stays as it was.
    pub fn heard(&mut self, rule: &str, error: Option<Error>) {
        let reason = error.as_ref().map(|error| error.headline().to_owned());
        match (&reason, &error) {
            (Some(reason), Some(error)) if self.error.as_ref() != Some(reason) => {
                warn!(rule, reason, hint = error.hint_text(), "the rule's query failed");
            }
            (None, _) if self.error.is_some() || !self.is_known => info!(rule, class = "scheduled", "the rule runs"),
            _ => {}
        }
        self.is_known |= reason.is_none();
        self.error = reason;
    }
}
