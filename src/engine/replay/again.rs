//! Records that are decoded once more, by the task that feeds their table: it knows the newest columns, and makes newer
//! ones. It only decodes them; what becomes of the rows is up to who asked.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tokio::sync::oneshot;

use crate::decode::{Decoded, Records, dead_letters_batch};
use crate::error::{Error, Kind, Result};
use crate::lake::CommitError;
use crate::schema::{Contract, SchemaVersion};

/// Records to be decoded, and who waits for it.
pub struct Again {
    /// The records.
    pub records: Records,
    reply: oneshot::Sender<Result<Decided>>,
}

/// What records are by now.
pub struct Decided {
    /// By which contract.
    pub contract: Arc<Contract>,
    /// The schema versions of its tables, the contract's own first.
    pub versions: Vec<Arc<SchemaVersion>>,
    /// The rows of each.
    pub rows: Vec<RecordBatch>,
    /// Offsets of the records that can be no rows …
    pub dead: Vec<i64>,
    /// … and what is to be kept of each; `None` if there are none.
    pub letters: Option<RecordBatch>,
}

impl Again {
    /// Asks for `records`, with where the answer comes from.
    pub fn new(records: Records) -> (Self, oneshot::Receiver<Result<Decided>>) {
        let (reply, answer) = oneshot::channel();
        (Self { records, reply }, answer)
    }

    /// Answers with what was decoded; `None` if the table has no columns yet.
    pub fn answer(
        self,
        contract: &Arc<Contract>,
        versions: Vec<Arc<SchemaVersion>>,
        decoded: Option<Decoded>,
    ) -> Result<(), CommitError> {
        let decided = match decoded {
            Some(decoded) => Ok(Decided::new(contract, versions, &decoded)?),
            None => Err(Error::new(Kind::NotFound, format!("table {} has no columns yet", contract.table))),
        };
        // Who asked may be gone.
        let _ = self.reply.send(decided);
        Ok(())
    }
}

impl Decided {
    fn new(
        contract: &Arc<Contract>,
        versions: Vec<Arc<SchemaVersion>>,
        decoded: &Decoded,
    ) -> Result<Self, CommitError> {
        let children = decoded.descendants().into_iter().map(|child| child.rows.clone());
        let letters = (!decoded.dead.is_empty()).then(|| dead_letters_batch(&contract.table, &decoded.dead));
        Ok(Self {
            contract: Arc::clone(contract),
            versions,
            rows: std::iter::once(decoded.rows.clone()).chain(children).collect(),
            dead: decoded.dead.iter().map(|letter| letter.offset).collect(),
            letters: letters.transpose()?,
        })
    }
}
