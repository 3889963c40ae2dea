//! The actions that change something, as the doors hand them in: by name, with a JSON body.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::warn;

use super::care;
use super::catalog::EngineCatalog;
use super::dead_letters::{self, Desk};
use super::import::{self, Importer};
use super::latest::Keeper;
use super::positions::{self, Mover};
use super::replay::{self, Replayer};
use super::streams::{self, Act};
use super::table_queries;
use crate::error::{Error, Kind, Result};
use crate::query::Service;
use crate::serve::Admin;

/// What an action tells that takes its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told<P, R> {
    /// How far it is.
    Progress(P),
    /// All is done.
    Done(R),
}

/// Who carries actions out.
#[derive(Clone)]
pub struct Actions {
    /// What SQL sees.
    pub catalog: Arc<EngineCatalog>,
    /// Reads.
    pub service: Service,
    /// Dead letters.
    pub desk: Desk,
    /// Tables with one row per key.
    pub keeper: Keeper,
    /// The tables' files.
    pub care: care::Asks,
    /// Files that become rows.
    pub importer: Importer,
    /// Where tables read on.
    pub mover: Mover,
    /// Tables put together anew.
    pub replayer: Replayer,
}

impl Actions {
    /// As the doors see it.
    pub fn admin(self) -> Admin {
        Arc::new(move |action, body, tell| {
            let actions = self.clone();
            async move { actions.carry_out(&action, &body, &tell).await }.boxed()
        })
    }

    async fn carry_out(&self, action: &str, body: &[u8], tell: &mpsc::Sender<Bytes>) -> Result<Bytes> {
        let catalog = &self.catalog;
        match action {
            dead_letters::ACTION => answer(&self.desk.run(&request(body)?).await?),
            streams::Request::ACTION => {
                let request: streams::Request = request(body)?;
                match request.act {
                    Act::Explain => answer(&streams::explain(catalog, &self.service, &request).await?),
                    Act::Silence { seconds } => answer(&streams::silence(&catalog.streams, &request, seconds)?),
                }
            }
            care::ACTION => self.care(request(body)?).await,
            positions::ACTION => answer(&self.mover.run(request(body)?).await?),
            table_queries::ACTION => answer(&catalog.table_queries.ask(request(body)?).await?),
            import::ACTION => {
                let mut progress = |progress| say(tell, &Told::<_, ()>::Progress(progress));
                answer(&Told::<(), _>::Done(self.importer.run(&request(body)?, &mut progress).await?))
            }
            replay::ACTION => {
                let mut progress = |progress| say(tell, &Told::<_, ()>::Progress(progress));
                answer(&Told::<(), _>::Done(self.replayer.run(&request(body)?, &mut progress).await?))
            }
            _ => Err(Error::new(Kind::NotFound, format!("there is no action `{action}`"))),
        }
    }

    async fn care(&self, request: care::Request) -> Result<Bytes> {
        // A file that is read meanwhile counts its rows by numbers that a restore takes back.
        let _turn = match (&request.what, &request.table) {
            (care::What::Restore { .. }, Some(table)) => Some(self.importer.turn(table).await),
            _ => None,
        };
        let mut done = care::ask(&self.care, request.clone()).await?;
        for done in done.iter_mut().filter(|done| done.restored_to.is_some() && !request.dry_run) {
            // What they took from it before may not be in it any more, or comes again.
            for table in std::mem::take(&mut done.to_be_made_anew) {
                match self.keeper.replay(&table).await {
                    Ok(_) => done.made_anew.push(table),
                    Err(error) => {
                        warn!(table, error = %error, "not put together anew");
                        done.to_be_made_anew.push(table);
                    }
                }
            }
        }
        answer(&done)
    }
}

fn request<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|error| Error::new(Kind::Query, "the action's body cannot be read").because(error))
}

/// Tells who asks, as fast as it listens.
fn say(tell: &mpsc::Sender<Bytes>, told: &impl Serialize) {
    if let Ok(told) = answer(told) {
        let _ = tell.try_send(told);
    }
}

fn answer(done: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(done)
        .map(Bytes::from)
        .map_err(|error| Error::new(Kind::Internal, "the answer cannot be written").because(error))
}
