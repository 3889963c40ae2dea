//! `access.toml`: who may come in, and what they may read. Without that file there are no accounts, and only this machine is
//! served.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::problem::{Complaint, Problems};
use super::section::Section;
use super::settings;
use super::tree::Table;
use super::units::{ByteSize, Interval};
use super::verifier::Verifier;
use super::words;

/// The file's name.
pub const FILE: &str = "access.toml";

/// Accounts and roles.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    /// By name.
    pub users: BTreeMap<String, User>,
    /// By name, those that are there without the file too.
    pub roles: BTreeMap<String, Arc<Role>>,
}

/// Nobody has an account.
impl Default for Access {
    fn default() -> Self {
        let own = RIGHTS.iter().map(|(name, rights)| ((*name).to_owned(), Arc::new(Role::whole(name, *rights))));
        Self { users: BTreeMap::new(), roles: own.collect() }
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// What it may do.
    pub role: Arc<Role>,
    /// Of its password.
    pub verifier: Verifier,
    /// PostgreSQL's `md5` verifier, if it was asked for.
    pub md5: Option<String>,
    /// How it shows that it has the password over the PostgreSQL wire.
    pub login: Login,
}

/// How a password is shown over the PostgreSQL wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// SCRAM-SHA-256.
    Scram,
    /// As it is, inside TLS only.
    Password,
    /// `md5`, for clients that know nothing newer.
    Md5,
}

/// What somebody may do.
#[derive(Debug, Clone, PartialEq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Beyond reading.
    pub rights: Rights,
    /// Patterns of the tables and views that may be read: `telemetry`, `car_*`, `system.*`.
    pub tables: Vec<String>,
    /// Rows of a table that may be read, as a condition in SQL.
    pub filter: BTreeMap<String, String>,
    /// Columns of a table that are NULL.
    pub mask: BTreeMap<String, Vec<String>>,
    /// Limit of one statement.
    pub statement_timeout: Option<Duration>,
    /// Statements at once.
    pub queries: Option<usize>,
    /// Memory of one statement.
    pub memory: Option<ByteSize>,
    /// What one statement may write to the disk.
    pub spill: Option<ByteSize>,
    /// Rows of one statement's result.
    pub result_rows: Option<u64>,
    /// Bytes of one statement's result.
    pub result_size: Option<ByteSize>,
}

/// What may be done beyond reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// Nothing.
    Reader,
    /// Rows can be sent to tables that are imported into. (Files that are imported can be any that the process can read.)
    Writer,
    /// All actions of `millpond table`, `ingest`, `query` and the like.
    Admin,
}

impl Role {
    /// A role over all tables.
    fn whole(name: &str, rights: Rights) -> Self {
        Self {
            name: name.to_owned(),
            rights,
            tables: vec!["*".to_owned(), "system.*".to_owned()],
            filter: BTreeMap::new(),
            mask: BTreeMap::new(),
            statement_timeout: None,
            queries: None,
            memory: None,
            spill: None,
            result_rows: None,
            result_size: None,
        }
    }
}

const RIGHTS: [(&str, Rights); 3] = [("reader", Rights::Reader), ("writer", Rights::Writer), ("admin", Rights::Admin)];
const LOGINS: [(&str, Login); 3] = [("scram", Login::Scram), ("password", Login::Password), ("md5", Login::Md5)];

/// Reads the file's tree.
pub(super) fn read(tree: &Table, file: &str, problems: &RefCell<Problems>) -> Access {
    let root = Section::root(tree, file, &words::access::FILE, problems);
    let mut access = Access::default();
    if let Some(section) = root.table("roles") {
        for name in root.names("roles") {
            if let Some(role) = section.section(name, &words::access::ROLE).and_then(|section| role(name, &section)) {
                access.roles.insert(name.to_owned(), Arc::new(role));
            }
        }
    }
    if let Some(section) = root.table("users") {
        for name in root.names("users") {
            let Some(of) = section.section(name, &words::access::USER) else { continue };
            if let Some(user) = user(&of, &access.roles) {
                access.users.insert(name.to_owned(), user);
            }
        }
    }
    access
}

fn role(name: &str, section: &Section<'_>) -> Option<Role> {
    let whole = Role::whole(name, Rights::Reader);
    let rights = section.choice("rights", &RIGHTS, &[]).unwrap_or(whole.rights);
    section.require(
        "tables",
        "patterns of tables and views such as [\"telemetry\", \"car_*\"]; \"system.*\" too, if need be",
    );
    let tables = section.list("tables")?.iter().map(|item| item.text.to_owned()).collect();
    let mut role = Role { rights, tables, ..whole };
    if let Some(filter) = section.table("filter") {
        for table in section.names("filter") {
            let condition = filter.read(table, |text| Ok::<_, Complaint>(text.to_owned()))?;
            role.filter.insert(table.to_owned(), condition);
        }
    }
    if let Some(mask) = section.table("mask") {
        for table in section.names("mask") {
            let columns = mask.list_or_one(table)?;
            role.mask.insert(table.to_owned(), columns.iter().map(|item| item.text.to_owned()).collect());
        }
    }
    if section.has("statement_timeout") {
        role.statement_timeout = Some(section.read("statement_timeout", str::parse::<Interval>)?.duration());
    }
    if section.has("queries") {
        role.queries = Some(section.read_scalar("queries", settings::queries)?);
    }
    if section.has("memory") {
        role.memory = Some(section.read("memory", settings::query_memory)?);
    }
    if section.has("spill") {
        role.spill = Some(section.read("spill", str::parse::<ByteSize>)?);
    }
    if section.has("result_rows") {
        role.result_rows = Some(section.read_scalar("result_rows", |text| {
            let rows = text.parse().ok().filter(|rows| *rows > 0);
            rows.ok_or_else(|| Complaint::new(format!("`{text}` is not a number of rows")).hint("1 or more"))
        })?);
    }
    if section.has("result_size") {
        role.result_size = Some(section.read("result_size", str::parse::<ByteSize>)?);
    }
    Some(role)
}

fn user(section: &Section<'_>, roles: &BTreeMap<String, Arc<Role>>) -> Option<User> {
    section.require("role", "a role of [roles], or reader, writer, admin");
    section.require("verifier", "millpond user add writes it");
    let role = section.read("role", |name| {
        roles.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = roles.keys().map(String::as_str).collect();
            Complaint::new(format!("`{name}` is not a role")).hint(format!("there are: {}", known.join(", ")))
        })
    });
    let verifier = section.read("verifier", |text| {
        let hint = "millpond user add writes one; passwords themselves are not kept";
        text.parse::<Verifier>().map_err(|wrong| Complaint::new(wrong).hint(hint))
    });
    let md5 = section.read("md5", |text| {
        let digits = text.strip_prefix("md5").filter(|digits| digits.len() == 32);
        match digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            true => Ok(text.to_owned()),
            false => Err(Complaint::new("is no md5 verifier")),
        }
    });
    let login = if section.has("login") { section.choice("login", &LOGINS, &[])? } else { Login::Scram };
    if login == Login::Md5 && md5.is_none() {
        section.complain(
            "login",
            Complaint::new("there is no md5 verifier").hint("millpond user add --login md5 writes it"),
        );
        return None;
    }
    Some(User { role: role?, verifier: verifier?, md5, login })
}
