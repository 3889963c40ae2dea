//! Who may come in: the accounts of `access.toml`, taken over as they are edited. Every door asks here.
//!
//! Whether a name has an account is told neither by an answer nor by the time that it takes: a name without one is checked
//! against a verifier that no password fits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};
use tracing::info;

use crate::config::{Access, Login, Rights, User, Verifier};
use crate::error::{Error, Kind, Result};
use crate::query::{CATALOG, Role, RoleOptions};

/// Passwords that are checked at once: each takes a processor for a while.
const AT_ONCE: usize = 2;
/// How long a password that was right need not be checked again.
const KNOWN: Duration = Duration::from_secs(60);
/// Passwords that are remembered so.
const MOST_KNOWN: usize = 1_000;

/// Somebody who came in.
#[derive(Clone)]
pub struct Principal {
    /// The account's name.
    pub user: String,
    /// What may be read; all without accounts.
    pub role: Option<Arc<Role>>,
    /// What may be done beyond reading.
    pub rights: Rights,
    /// Tells one password from another.
    key: Option<[u8; 32]>,
}

/// All accounts.
pub struct Accounts {
    now: ArcSwap<Option<Loaded>>,
    /// Hashes of what was right, and since when.
    known: Mutex<HashMap<[u8; 32], Instant>>,
    secret: [u8; 32],
    turns: Semaphore,
    changes: watch::Sender<u64>,
}

struct Loaded {
    access: Access,
    roles: BTreeMap<String, Arc<Role>>,
}

impl Accounts {
    /// Accounts of the project; without a file there are none, and whoever reaches a door may come in.
    pub fn new(access: Option<&Access>) -> Result<Arc<Self>> {
        let accounts = Self {
            now: ArcSwap::from_pointee(None),
            known: Mutex::default(),
            secret: rand::random(),
            turns: Semaphore::new(AT_ONCE),
            changes: watch::Sender::new(0),
        };
        accounts.now.store(Arc::new(access.map(|access| load(access, None)).transpose()?));
        Ok(Arc::new(accounts))
    }

    /// Takes edits over. Whoever came in by an account that is gone or changed must come in again.
    pub fn take_over(&self, access: Option<&Access>) -> Result<()> {
        let before = self.now.load();
        if before.as_ref().as_ref().map(|loaded| &loaded.access) == access {
            return Ok(());
        }
        if access.is_none() {
            let text = "access.toml is gone: the accounts that were there stay";
            return Err(Error::new(Kind::Refused, text)
                .hint("without accounts everybody may do everything: that takes a restart"));
        }
        self.now.store(Arc::new(access.map(|access| load(access, before.as_ref().as_ref())).transpose()?));
        self.known.lock().clear();
        self.changes.send_modify(|change| *change += 1);
        info!(users = access.map_or(0, |access| access.users.len()), "accounts taken over");
        Ok(())
    }

    /// Whether an account is needed to come in.
    pub fn are_needed(&self) -> bool {
        self.now.load().is_some()
    }

    /// Who comes in where no account is needed.
    pub fn anybody(&self, name: &str) -> Option<Principal> {
        let user = if name.is_empty() { CATALOG } else { name };
        let anybody = || Principal { user: user.to_owned(), role: None, rights: Rights::Admin, key: None };
        (!self.are_needed()).then(anybody)
    }

    /// The account of a name, for who has shown to have its password.
    pub fn principal(&self, name: &str) -> Option<Principal> {
        let now = self.now.load();
        let loaded = now.as_ref().as_ref()?;
        let user = loaded.access.users.get(name)?;
        let role = loaded.roles.get(&user.role.name).cloned();
        Some(Principal { user: name.to_owned(), role, rights: user.role.rights, key: Some(user.verifier.stored_key) })
    }

    /// Ends when somebody who came in may not stay.
    pub async fn gone(&self, principal: &Principal) {
        let mut changes = self.changes.subscribe();
        while self.may_stay(principal) {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Whether somebody who came in may stay: the account is there, its role and password are as they were.
    pub fn may_stay(&self, principal: &Principal) -> bool {
        let now = self.principal(&principal.user).or_else(|| self.anybody(&principal.user));
        let same = |a: &Option<Arc<Role>>, b: &Option<Arc<Role>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        now.is_some_and(|now| {
            same(&now.role, &principal.role) && now.rights == principal.rights && now.key == principal.key
        })
    }

    /// What is known of the password of a name, whether there is an account or not.
    pub fn verifier(&self, name: &str) -> (Verifier, Login, Option<String>) {
        let now = self.now.load();
        match now.as_ref().as_ref().and_then(|loaded| loaded.access.users.get(name)) {
            Some(User { verifier, login, md5, .. }) => (verifier.clone(), *login, md5.clone()),
            None => (Verifier::of_nobody(name, &self.secret), Login::Scram, None),
        }
    }

    /// Whoever has this name and password.
    pub async fn check(self: &Arc<Self>, name: &str, password: &str) -> Result<Principal> {
        if let Some(anybody) = self.anybody(name) {
            return Ok(anybody);
        }
        let hash: [u8; 32] = Sha256::new()
            .chain_update(self.secret)
            .chain_update(name.len().to_be_bytes())
            .chain_update(name)
            .chain_update(password)
            .finalize()
            .into();
        let is_known = self.known.lock().get(&hash).is_some_and(|since| since.elapsed() < KNOWN);
        if !is_known {
            let verifier = self.verifier(name).0;
            let password = password.to_owned();
            // They wait for their turn: guessing takes no more of the process than this.
            let _turn = self.turns.acquire().await;
            let is_right = tokio::task::spawn_blocking(move || verifier.is_of(&password)).await.unwrap_or(false);
            if !is_right {
                return Err(refused());
            }
            let mut known = self.known.lock();
            if known.len() >= MOST_KNOWN {
                known.retain(|_, since| since.elapsed() < KNOWN);
            }
            if known.len() < MOST_KNOWN {
                known.insert(hash, Instant::now());
            }
        }
        self.principal(name).ok_or_else(refused)
    }

    /// Whoever an `Authorization: Basic …` header is of.
    pub async fn basic(self: &Arc<Self>, header: &str) -> Result<Principal> {
        let text = header.strip_prefix("Basic ").or_else(|| header.strip_prefix("basic "));
        let text = text
            .and_then(|text| STANDARD_NO_PAD.decode(text.trim().trim_end_matches('=')).ok())
            .and_then(|text| String::from_utf8(text).ok());
        let Some((name, password)) = text.as_deref().and_then(|text| text.split_once(':')) else {
            return Err(refused());
        };
        self.check(name, password).await
    }
}

/// What everybody is told who does not come in.
pub fn refused() -> Error {
    Error::new(Kind::Denied, "user name or password is wrong")
}

/// A role that is as it was `before` stays the same: sessions in it go on.
fn load(access: &Access, before: Option<&Loaded>) -> Result<Loaded> {
    let mut roles = BTreeMap::new();
    for (name, of) in &access.roles {
        let kept = before.filter(|before| before.access.roles.get(name) == Some(of));
        let role = match kept.and_then(|before| before.roles.get(name)) {
            Some(role) => Arc::clone(role),
            None => Arc::new(Role::new(RoleOptions {
                name: of.name.clone(),
                tables: of.tables.clone(),
                filter: of.filter.clone(),
                mask: of.mask.clone(),
                statement_timeout: of.statement_timeout,
                queries: of.queries,
                memory_bytes: of.memory.map(|size| size.0),
                spill_bytes: of.spill.map(|size| size.0),
                result_rows: of.result_rows,
                result_bytes: of.result_size.map(|size| size.0),
            })?),
        };
        roles.insert(name.clone(), role);
    }
    Ok(Loaded { access: access.clone(), roles })
}
