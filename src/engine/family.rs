//! The tables that the records of one contract become rows of: its own, and those of its `child` arrays. Each has
//! schema versions of its own; one decoder fills them all in one pass.
//!
//! Here versions are made and taken over; nothing is committed.

use std::sync::Arc;

use tracing::{info, warn};

use super::facts;
use super::versions::Versions;
use crate::decode::{Decoded, Decoder, Records};
use crate::lake::{self, CommitError, LiveView, Table};
use crate::news::News;
use crate::schema::{Cause, Change, ChangeKind, Contract, Found, Place, SchemaVersion, family_finds};
use crate::task::Shutdown;

/// A batch is decoded again for so many new schema versions; what is left over is rescued, and news to the next one.
const MOST_VERSIONS: usize = 3;

/// The tables of one contract, parents before their children; the first is the contract's own.
pub struct Family {
    members: Vec<Member>,
    /// `None` until the first records have decided the types.
    decoder: Option<Decoder>,
    versions: Arc<Versions>,
    news: News,
    abort: Shutdown,
}

struct Member {
    contract: Arc<Contract>,
    live: Arc<LiveView>,
    version: Option<Arc<SchemaVersion>>,
    /// Made since the process started.
    rows: u64,
}

impl Member {
    fn name(&self) -> &str {
        &self.contract.table
    }
}

impl Family {
    /// The tables of `contract`; `lives` are their Views, in the order of [`Contract::family`].
    pub fn new(
        contract: &Contract,
        lives: impl IntoIterator<Item = Arc<LiveView>>,
        versions: Arc<Versions>,
        news: News,
        abort: Shutdown,
    ) -> Self {
        let member = |(contract, live)| Member { contract: Arc::new(contract), live, version: None, rows: 0 };
        let members = contract.family().into_iter().zip(lives).map(member).collect();
        Self { members, decoder: None, versions, news, abort }
    }

    /// The contract.
    pub fn contract(&self) -> &Arc<Contract> {
        &self.members[0].contract
    }

    /// True once rows can be made.
    pub fn is_decided(&self) -> bool {
        self.decoder.is_some()
    }

    /// The versions that rows get, if that is decided.
    pub fn schema_versions(&self) -> Vec<Arc<SchemaVersion>> {
        self.members.iter().filter_map(|member| member.version.clone()).collect()
    }

    /// Goes on with the newest recorded versions, applied to `tables` if they lag behind, and with what the contract
    /// declares by now. A recorded version is never inferred again.
    pub async fn resume(&mut self, tables: &mut [&mut Table]) -> Result<(), CommitError> {
        let file = self.file();
        let main = tables[0].positions_of(self.members[0].name());
        for (at, (member, table)) in self.members.iter_mut().zip(tables).enumerate() {
            let name = member.contract.table.clone();
            let there = table.schema_version();
            if there > self.versions.newest(&name).map_or(0, |newest| newest.number()) {
                let schema = table.arrow_schema()?;
                let version = SchemaVersion::from_arrow(&schema, there, member.contract.key.len())
                    .map_err(|error| lake::TableError::Schema { table: name.clone(), reason: error.to_string() })?;
                self.versions.add(&name, &Arc::new(version), &[], Cause::Adopted);
            }
            let version = match self.versions.newest(&name) {
                Some(newest) => newest.version.evolve(&member.contract, &[]).map(Arc::new).map_or_else(
                    || Arc::clone(&newest.version),
                    |next| {
                        self.versions.add(&name, &next, &[], file.clone());
                        next
                    },
                ),
                None if at == 0 => return Ok(()),
                // An array that was something else before.
                None => {
                    let first = Arc::new(SchemaVersion::first(&member.contract, &[]));
                    self.versions.add(&name, &first, &[], file.clone());
                    first
                }
            };
            // Descriptions are no change of a table: they follow the contract.
            let version = Arc::new(SchemaVersion::clone(&version).described(&member.contract));
            let schema = version.arrow_schema();
            member.live.evolve(Arc::clone(&schema), version.number);
            self.versions.record(&name, version.number, &self.abort).await?;
            lake::evolve(table, &schema, version.number, &self.abort).await?;
            member.live.committed_beside(table, &main)?;
            member.version = Some(version);
        }
        self.renew_decoder();
        Ok(())
    }

    /// Decides the first schema versions from the records that waited for it.
    pub fn decide(&mut self, records: &[&Records]) {
        let first = records.iter().min_by_key(|records| records.start);
        let cause = first.map_or_else(|| self.file(), |first| Cause::Record(place(first)));
        for (at, found) in family_finds(self.contract(), records).into_iter().enumerate() {
            let member = &self.members[at];
            // A child whose array came later than its table may have one.
            if member.version.is_none() {
                let version = SchemaVersion::first(&member.contract, &found);
                info!(table = member.name(), columns = version.columns.len(), "first schema version");
                self.adopt(at, version, &found, cause.clone());
            }
        }
        self.renew_decoder();
    }

    /// Decodes `records`, with newer schema versions if they bring what the newest do not hold; `None` before the
    /// first.
    pub fn decode(&mut self, records: &Records) -> Result<Option<Decoded>, CommitError> {
        let Some(decoder) = &mut self.decoder else { return Ok(None) };
        let mut decoded = decoder.decode(records)?;
        for _ in 0..MOST_VERSIONS {
            if !self.evolve(&decoded) {
                break;
            }
            if let Some(decoder) = &mut self.decoder {
                decoded = decoder.decode(records)?;
            }
        }
        let rows = std::iter::once(&decoded.rows).chain(decoded.descendants().into_iter().map(|child| &child.rows));
        self.members.iter_mut().zip(rows).for_each(|(member, rows)| member.rows += rows.num_rows() as u64);
        Ok(Some(decoded))
    }

    /// Makes the versions that `decoded` asks for; true if there is one.
    fn evolve(&mut self, decoded: &Decoded) -> bool {
        let children = decoded.descendants().into_iter().map(|child| (&child.found, &child.misfits));
        let found: Vec<_> = std::iter::once((&decoded.found, &decoded.misfits)).chain(children).collect();
        let mut grown = false;
        for (at, (found, misfits)) in found.into_iter().enumerate() {
            let member = &self.members[at];
            let all = [&found[..], &misfits[..]].concat();
            let Some(first) = all.iter().min_by_key(|find| find.offset) else { continue };
            let next = member.version.as_ref().and_then(|version| version.evolve(&member.contract, &all));
            if let Some(next) = next {
                announce(member.name(), &next, found);
                self.adopt(at, next, &all, first.into());
                grown = true;
            }
        }
        if grown {
            self.renew_decoder();
        }
        grown
    }

    /// Takes over an edited contract that needs no more than that ([`Contract::change_to`]), or says why the old one goes on.
    pub fn edit(&mut self, next: &Contract) {
        let table = next.table.clone();
        let known = self.members[0].version.as_deref();
        // The columns may be others than those that the edit was judged by.
        if let Err(refusal) = known.map_or(Ok(()), |version| next.suits(version)) {
            let (reason, hint) = (refusal.reason, refusal.hint);
            warn!(table, reason, hint, "contract not taken over, the one before goes on");
            return;
        }
        info!(table, "contract taken over");
        let cause = self.file();
        for (at, contract) in next.family().into_iter().enumerate().take(self.members.len()) {
            let member = &mut self.members[at];
            member.contract = Arc::new(contract);
            let Some(version) = member.version.clone() else {
                let declared = SchemaVersion::declared(&member.contract);
                member.live.evolve(declared.arrow_schema(), declared.number);
                continue;
            };
            if let Some(next) = version.evolve(&member.contract, &[]) {
                let next = next.described(&member.contract);
                self.adopt(at, next, &[], cause.clone());
            } else {
                let version = Arc::new(SchemaVersion::clone(&version).described(&member.contract));
                member.live.evolve(version.arrow_schema(), version.number);
                member.version = Some(version);
            }
        }
        self.renew_decoder();
    }

    /// Rows of a member get `version` from now on. It is recorded in the background; the next commit waits for that.
    fn adopt(&mut self, at: usize, version: SchemaVersion, found: &[Found], cause: Cause) {
        let member = &mut self.members[at];
        let (version, table) = (Arc::new(version), member.contract.table.clone());
        let record = self.versions.add(&table, &version, found, cause);
        record.changes.iter().for_each(|change| tell(&table, version.number, change));
        if let Some(before) = &member.version
            && let Some(event) = facts::schema_change(&table, before, &version, found, member.rows)
        {
            self.news.tell(event);
        }
        member.live.evolve(version.arrow_schema(), version.number);
        let (versions, number, abort) = (Arc::clone(&self.versions), version.number, self.abort.clone());
        member.version = Some(version);
        crate::task::spawn("record-version", async move {
            if let Err(error) = versions.record(&table, number, &abort).await {
                warn!(table, error = %error, "schema version not recorded, trying again with the next commit");
            }
        });
    }

    fn renew_decoder(&mut self) {
        let versions: Option<Vec<_>> = self.members.iter().map(|member| member.version.clone()).collect();
        let contract = Arc::clone(self.contract());
        self.decoder = versions.and_then(|versions| Decoder::of_family(contract, &mut versions.into_iter()));
    }

    fn file(&self) -> Cause {
        Cause::Edit(format!("schemas/{}.toml", self.contract().file))
    }
}

fn announce(table: &str, version: &SchemaVersion, found: &[Found]) {
    for find in found {
        info!(
            table,
            schema_version = version.number,
            path = %find.path,
            partition = find.partition,
            offset = find.offset,
            sample = find.sample,
            "new field"
        );
    }
}

fn place(records: &Records) -> Place {
    Place { topic: records.topic.to_string(), partition: records.partition, offset: records.start }
}

/// Says what else is new in a schema version: new fields are announced with what was found.
fn tell(table: &str, schema_version: u32, change: &Change) {
    let place = change.place.as_ref();
    let (partition, offset) = (place.map(|place| place.partition), place.map(|place| place.offset));
    let (column, kind, sample) = (&*change.column, &*change.kind, change.sample.as_deref());
    match change.change {
        ChangeKind::Widen | ChangeKind::Conflict => {
            let was = change.was.as_deref();
            info!(table, schema_version, column, was, r#type = kind, partition, offset, sample, "column widened");
        }
        ChangeKind::Contract => info!(table, schema_version, column, r#type = kind, "column declared"),
        ChangeKind::Add | ChangeKind::Bind | ChangeKind::Range => {}
    }
}
