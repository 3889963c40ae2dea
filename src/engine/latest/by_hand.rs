//! Tables with one row per key whose rows are put together by whoever has those of the tables that they come from: as
//! they were in the past.

use arrow::array::RecordBatch;

use super::follower::Follower;
use super::{Followed, Keeper, Kept, broken};
use crate::error::{Error, Kind, Result};
use crate::schema::quoted_name;

/// A table with one row per key, with no rows yet.
pub struct ByHand {
    /// The table.
    pub kept: Kept,
    parts: Vec<(Followed, Follower)>,
}

impl Keeper {
    /// The tables whose rows are called so; those of files have theirs, as they are now. All can be read from now on.
    pub async fn by_hand(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<ByHand>> {
        self.read_references(|_| true).await;
        let (fed, session) = (self.catalog.fed(), self.service.session());
        session.set("statement_timeout", "0")?;
        let mut all = Vec::new();
        for kept in self.catalog.kept.load().values() {
            let mut parts = Vec::new();
            for (state, followed) in kept.states.iter().zip(kept.followed()) {
                let mut follower = Follower::new(state, self, None);
                if let Some(live) = fed.tables.get(&state.source)
                    && follower.shape(&live.pin().schema)?
                    && is_wanted(kept.rows.name())
                {
                    follower.meet(&session, &format!("public.{}", quoted_name(&state.source))).await?;
                }
                state.table.loaded();
                parts.push((followed, follower));
            }
            if is_wanted(kept.rows.name()) {
                all.push(ByHand { kept: kept.clone(), parts });
            }
        }
        Ok(all)
    }
}

impl ByHand {
    /// The tables that its rows come from, each with the columns that it needs of them.
    pub fn sources(&self) -> impl Iterator<Item = (&Followed, Vec<&str>)> {
        self.parts.iter().map(|(followed, follower)| (followed, follower.needed().collect()))
    }

    /// Takes in rows of a table that its rows come from, with the columns that it needs, among others.
    pub fn take_in(&self, source: &str, rows: &RecordBatch) -> Result<()> {
        for (_, follower) in self.parts.iter().filter(|(followed, _)| followed.source == source) {
            let columns: Vec<usize> =
                follower.needed().filter_map(|name| rows.schema_ref().index_of(name).ok()).collect();
            if columns.is_empty() {
                continue;
            }
            follower.apply(&rows.project(&columns).map_err(|error| broken(error.into()))?)?;
            follower.sweep_all();
        }
        match self.kept.rows.stopped() {
            Some(reason) => Err(Error::new(Kind::Exhausted, reason)),
            None => Ok(()),
        }
    }
}
