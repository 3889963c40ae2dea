//! A session's life: requests in, answers out, one after another.
//!
//! Simple queries and portals go through the same three steps (parse, bind, execute), so both know the same statements.
//! An error skips what the client sent before it could know, up to the next Sync.

mod settings;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::answers::{Answers, Column, Standing, Trouble};
use super::frames::{Broken, Frames, Request};
use super::lines::Line;
use super::options::Options;
use super::parameters::Parameter;
use super::rows::{Copy, data_rows};
use super::statements::{Bound, Cursor, Parsed, Portal, Prepared, columns, is_binary};
use super::trouble;
use crate::error::Error;
use crate::query::postgres::{self, ColumnType, Command, CopyForm};
use crate::query::{Session, split};
use crate::task::Shutdown;

/// Statements and portals of one connection.
const MOST_NAMED: usize = 1_000;
/// Statements of one simple query.
const MOST_AT_ONCE: usize = 1_000;
/// Bytes of the texts of one connection's prepared statements.
const MOST_TEXT_BYTES: usize = 64 << 20;
/// Rows that are made messages at a time.
const ROWS_AT_A_TIME: usize = 512;
/// Options that the session has itself.
const OF_SESSION: [&str; 4] = ["timezone", "statement_timeout", "wait_for", "result_cache"];

/// Why a statement did not come to its end.
#[derive(Debug)]
enum Stop {
    Trouble(Trouble),
    /// The client is gone.
    Gone,
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<arrow::error::ArrowError> for Stop {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Trouble(Trouble::new("22003", error.to_string().lines().next().unwrap_or_default()))
    }
}

type Done<T = ()> = Result<T, Stop>;

/// An option that was changed in a transaction, and what it was before.
struct Change {
    name: String,
    before: Option<String>,
    is_local: bool,
}

/// A connection of somebody who is known.
pub(super) struct Connection<R, W> {
    frames: Frames<R>,
    answers: Answers<W>,
    session: Session,
    options: Options,
    statements: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Portal>,
    standing: Standing,
    changes: Vec<Change>,
    line: Arc<Line>,
    /// Of the request under way.
    cancelled: Shutdown,
    /// What the client asked for on connecting.
    wished: Vec<(String, String)>,
    /// Bytes of the texts of prepared statements.
    texts: usize,
}

impl<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send> Connection<R, W> {
    pub(super) fn new(frames: Frames<R>, answers: Answers<W>, session: Session, line: Arc<Line>) -> Self {
        Self {
            frames,
            answers,
            session,
            options: Options::default(),
            statements: HashMap::new(),
            portals: HashMap::new(),
            standing: Standing::Idle,
            changes: Vec::new(),
            line,
            cancelled: Shutdown::new(),
            wished: Vec::new(),
            texts: 0,
        }
    }

    /// Sets what the client asked for on connecting, tells it how things are, and answers until it leaves or `ending`
    /// says why not.
    pub(super) async fn run(mut self, wished: Vec<(String, String)>, ending: impl Future<Output = &'static str>) {
        for (name, value) in &wished {
            if let Err(trouble) = self.change(name, Some(value)) {
                self.answers.fatal(&trouble);
                let _ = self.answers.send().await;
                return;
            }
        }
        self.wished = wished;
        for (name, value) in self.options.told() {
            self.answers.parameter(name, value);
        }
        self.tell_session();
        self.answers.parameter("TimeZone", &self.zone());
        self.answers.parameter("session_authorization", self.session.user());
        self.answers.key(self.line.process(), self.line.secret());
        self.answers.ready(Standing::Idle);
        let _ = self.answers.send().await;
        let told = match self.requests(ending).await {
            Ok(told) => told,
            // The client is gone.
            Err(_) => return,
        };
        if let Some(trouble) = told {
            self.answers.fatal(&trouble);
            let _ = self.answers.send().await;
        }
    }

    /// Answers requests; what to tell the client at the end, if it did not end the session itself.
    async fn requests(&mut self, ending: impl Future<Output = &'static str>) -> io::Result<Option<Trouble>> {
        let mut skipping = false;
        let mut ending = std::pin::pin!(ending);
        loop {
            let request = tokio::select! {
                biased;
                why = &mut ending => return Ok(Some(Trouble::new("57P01", why))),
                request = self.frames.next() => request,
            };
            let request = match request {
                Ok(Some(Request::Terminate) | None) => return Ok(None),
                Ok(Some(request)) => request,
                Err(Broken::Io(error)) => return Err(error),
                Err(Broken::Protocol(message)) => return Ok(Some(Trouble::new("08P01", message))),
            };
            self.cancelled = self.line.begin();
            match request {
                Request::Sync => {
                    skipping = false;
                    self.end_of_requests();
                    self.answers.ready(self.standing);
                    self.answers.send().await?;
                }
                Request::Flush => self.answers.send().await?,
                Request::Query(text) => {
                    if let Err(stop) = self.simple(&text).await {
                        self.tell(stop)?;
                    }
                    skipping = false;
                    self.end_of_requests();
                    self.answers.ready(self.standing);
                    self.answers.send().await?;
                }
                // The end of a COPY that was refused.
                Request::Copy => {}
                Request::Secret(_) => return Ok(Some(Trouble::new("08P01", "nobody asked for a password"))),
                _ if skipping => {}
                request => {
                    if let Err(stop) = self.extended(request).await {
                        self.tell(stop)?;
                        skipping = true;
                    }
                    self.answers.send_pieces().await?;
                }
            }
        }
    }

    /// Tells an error, which breaks a transaction.
    fn tell(&mut self, stop: Stop) -> io::Result<()> {
        match stop {
            Stop::Gone => return Err(io::ErrorKind::ConnectionAborted.into()),
            Stop::Trouble(trouble) => self.answers.error(&trouble),
        }
        if self.standing == Standing::InTransaction {
            self.standing = Standing::Failed;
        }
        Ok(())
    }

    /// Outside a transaction, what is between two Syncs is one.
    fn end_of_requests(&mut self) {
        if self.standing == Standing::Idle {
            self.portals.retain(|_, portal| portal.holds);
        }
    }

    async fn simple(&mut self, text: &str) -> Done {
        let script = split(text).map_err(|error| trouble::of(&error, text, 0))?;
        let mut statements = script.complete;
        if !script.rest.is_empty() {
            statements.push(script.rest);
        }
        if statements.is_empty() {
            self.answers.bare(b'I');
            return Ok(());
        }
        if statements.len() > MOST_AT_ONCE {
            return Err(Trouble::new("54000", format!("more than {MOST_AT_ONCE} statements at once")).into());
        }
        let (mut from, mut before) = (0, 0);
        for sql in statements {
            let start = text[from..].find(&sql).map_or(from, |at| from + at);
            before += text[from..start].chars().count();
            let mut portal = self.plan(&sql, before).await?;
            if !portal.columns.is_empty() && !matches!(portal.what, Bound::Command(Command::Copy { .. })) {
                self.answers.rows_of(&portal.columns);
            }
            self.execute(&mut portal, None).await?;
            self.answers.send_pieces().await?;
            from = start;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// A statement without parameters, ready to be executed: what is about rows is planned once only.
    async fn plan(&mut self, sql: &str, before: usize) -> Done<Portal> {
        let told = |error: &Error| trouble::of(error, sql, before);
        if let Some(command) = postgres::command(sql).map_err(|error| told(&error))? {
            let parsed = Parsed::Command(command);
            let prepared = Prepared { sql: sql.into(), what: parsed, parameters: Vec::new() };
            return self.bind(&prepared, &[], &[], &[]).await;
        }
        self.may_read()?;
        let session = self.session.clone();
        let query = self.unless_cancelled(session.query(sql)).await?.map_err(|error| told(&error))?;
        let (told, columns) = (query.schema(), columns(&query.schema(), &[])?);
        Ok(Portal { sql: sql.into(), what: Bound::Query(Box::new(query)), told, columns, holds: false, is_kept: false })
    }

    async fn extended(&mut self, request: Request) -> Done {
        match request {
            Request::Parse { name, sql, types } => {
                if !name.is_empty() && self.statements.contains_key(&name) {
                    return Err(Trouble::new("42P05", format!("prepared statement \"{name}\" already exists")).into());
                }
                self.limit(self.statements.len(), "prepared statements")?;
                let prepared = self.parse(&sql, &types, 0).await?;
                self.forget(&name);
                self.texts += prepared.sql.len();
                if self.texts > MOST_TEXT_BYTES {
                    self.texts -= prepared.sql.len();
                    let text = format!("this connection has {} MiB of prepared statements", MOST_TEXT_BYTES >> 20);
                    return Err(Trouble::new("54000", text).hint("close some").into());
                }
                self.statements.insert(name, Arc::new(prepared));
                self.answers.bare(b'1');
            }
            Request::Bind { portal, statement, formats, values, results } => {
                let prepared = self.statement(&statement)?;
                if !portal.is_empty() && self.portals.contains_key(&portal) {
                    return Err(Trouble::new("42P03", format!("cursor \"{portal}\" already exists")).into());
                }
                self.limit(self.portals.len(), "cursors")?;
                let bound = self.bind(&prepared, &formats, &values, &results).await?;
                self.portals.insert(portal, bound);
                self.answers.bare(b'2');
            }
            Request::DescribeStatement(name) => {
                let prepared = self.statement(&name)?;
                let types: Vec<u32> = prepared.parameters.iter().map(|known| known.column_type().oid()).collect();
                let columns = self.columns_of(&prepared.what, &[])?;
                self.answers.parameters_of(&types);
                self.describe(&columns);
            }
            Request::DescribePortal(name) => {
                let portal = self.portals.get(&name).ok_or_else(|| no_portal(&name))?;
                let columns = Arc::clone(&portal.columns);
                self.describe(&columns);
            }
            Request::Execute { portal: name, most } => {
                let mut portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
                let done = self.execute(&mut portal, (most > 0).then_some(u64::from(most))).await;
                // A statement about cursors may have made one of this name, or closed all.
                if !matches!(portal.what, Bound::Command(_)) {
                    self.portals.insert(name, portal);
                }
                done?;
            }
            Request::CloseStatement(name) => {
                self.forget(&name);
                self.answers.bare(b'3');
            }
            Request::ClosePortal(name) => {
                self.portals.remove(&name);
                self.answers.bare(b'3');
            }
            _ => {}
        }
        Ok(())
    }

    fn forget(&mut self, name: &str) {
        if let Some(known) = self.statements.remove(name) {
            self.texts -= known.sql.len();
        }
    }

    fn statement(&self, name: &str) -> Result<Arc<Prepared>, Trouble> {
        let text = || match name {
            "" => "unnamed prepared statement does not exist".to_owned(),
            name => format!("prepared statement \"{name}\" does not exist"),
        };
        self.statements.get(name).cloned().ok_or_else(|| Trouble::new("26000", text()))
    }

    fn limit(&self, have: usize, what: &str) -> Result<(), Trouble> {
        if have < MOST_NAMED {
            return Ok(());
        }
        Err(Trouble::new("54000", format!("this connection has {MOST_NAMED} {what}")).hint("close some"))
    }

    fn describe(&mut self, columns: &[Column]) {
        if columns.is_empty() { self.answers.bare(b'n') } else { self.answers.rows_of(columns) }
    }

    /// Whether a statement may run, if the transaction failed.
    fn may(&self, parsed: &Parsed) -> Result<(), Trouble> {
        match parsed {
            Parsed::Command(Command::Commit | Command::Rollback | Command::Savepoint("ROLLBACK")) | Parsed::Empty => {
                Ok(())
            }
            _ => self.may_read(),
        }
    }

    fn may_read(&self) -> Result<(), Trouble> {
        if self.standing == Standing::Failed {
            let text = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Trouble::new("25P02", text));
        }
        Ok(())
    }

    async fn parse(&mut self, sql: &str, types: &[u32], before: usize) -> Done<Prepared> {
        let told = |error: &Error| trouble::of(error, sql, before);
        let shared: Arc<str> = sql.into();
        let prepared = |what, parameters| Prepared { sql: Arc::clone(&shared), what, parameters };
        let script = split(sql).map_err(|error| told(&error))?;
        if script.complete.is_empty() && script.rest.is_empty() {
            return Ok(prepared(Parsed::Empty, Vec::new()));
        }
        if let Some(command) = postgres::command(sql).map_err(|error| told(&error))? {
            let parsed = Parsed::Command(command);
            self.may(&parsed)?;
            return Ok(prepared(parsed, Vec::new()));
        }
        self.may_read()?;
        let declared: Vec<Option<ColumnType>> =
            types.iter().map(|oid| ColumnType::of_oid(*oid).filter(|known| known.item.name != "unknown")).collect();
        let arrow: Vec<Option<DataType>> = declared.iter().map(|known| known.and_then(|known| known.arrow())).collect();
        let session = self.session.clone();
        let statement =
            self.unless_cancelled(session.prepare_typed(sql, arrow)).await?.map_err(|error| told(&error))?;
        let parameters = statement.parameters().iter().enumerate().map(|(at, wanted)| Parameter {
            declared: declared
                .get(at)
                .copied()
                .flatten()
                .or_else(|| statement.cast_of(at).filter(|cast| is_like(*cast, wanted))),
            wanted: wanted.clone(),
        });
        let parameters = parameters.collect();
        Ok(prepared(Parsed::Statement(statement), parameters))
    }

    /// What rows of a statement look like; none if it has no rows.
    fn columns_of(&self, parsed: &Parsed, formats: &[i16]) -> Result<Arc<[Column]>, Trouble> {
        match parsed {
            Parsed::Empty => Ok(Arc::default()),
            Parsed::Statement(statement) => columns(&statement.schema(), formats),
            Parsed::Command(Command::Show(Some(name))) => {
                let name = self.show(name).map_or_else(|| name.clone(), |(name, _)| name);
                columns(&texts(&[&name]), formats)
            }
            Parsed::Command(Command::Show(None)) => columns(&texts(&["name", "setting"]), formats),
            Parsed::Command(Command::Fetch { name, skip: false, .. }) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                let column = |(at, column): (usize, &Column)| {
                    Ok(Column { is_binary: is_binary(formats, at)?, ..column.clone() })
                };
                portal.columns.iter().enumerate().map(column).collect()
            }
            Parsed::Command(_) => Ok(Arc::default()),
        }
    }

    async fn bind(
        &mut self,
        prepared: &Prepared,
        formats: &[i16],
        values: &[Option<Bytes>],
        results: &[i16],
    ) -> Done<Portal> {
        let Prepared { sql, what, parameters } = prepared;
        self.may(what)?;
        if values.len() != parameters.len() {
            let text = format!(
                "bind message supplies {} parameters, but prepared statement requires {}",
                values.len(),
                parameters.len()
            );
            return Err(Trouble::new("08P01", text).into());
        }
        if formats.len() > 1 && formats.len() != values.len() {
            let text = format!("bind message has {} parameter formats but {} parameters", formats.len(), values.len());
            return Err(Trouble::new("08P01", text).into());
        }
        let portal = |what, columns| Portal {
            sql: Arc::clone(sql),
            what,
            told: Arc::new(Schema::empty()),
            columns,
            holds: false,
            is_kept: false,
        };
        let statement = match what {
            Parsed::Empty => return Ok(portal(Bound::Empty, Arc::default())),
            Parsed::Command(command) => {
                return Ok(portal(Bound::Command(command.clone()), self.columns_of(what, results)?));
            }
            Parsed::Statement(statement) => statement,
        };
        let zone = self.zone();
        let mut bound = Vec::with_capacity(values.len());
        for (at, (value, parameter)) in values.iter().zip(parameters).enumerate() {
            bound.push(parameter.value(value.as_ref(), is_binary(formats, at)?, &zone)?);
        }
        let query = self.unless_cancelled(statement.bind(bound)).await?.map_err(|error| trouble::of(&error, sql, 0))?;
        let told = statement.schema();
        if query.schema().fields().len() != told.fields().len() {
            return Err(Trouble::new("0A000", "the columns of the rows have changed").hint("prepare it again").into());
        }
        Ok(Portal { told: Arc::clone(&told), ..portal(Bound::Query(Box::new(query)), columns(&told, results)?) })
    }

    /// `work`, unless the statement is cancelled or the client leaves.
    async fn unless_cancelled<T>(&mut self, work: impl Future<Output = T>) -> Done<T> {
        let cancelled = self.cancelled.clone();
        tokio::select! {
            biased;
            () = cancelled.cancelled() => Err(Trouble::new("57014", "canceling statement due to user request").into()),
            done = work => Ok(done),
            () = self.frames.left() => Err(Stop::Gone),
        }
    }

    /// Executes a portal: rows, and the word that it is complete or suspended.
    async fn execute(&mut self, portal: &mut Portal, most: Option<u64>) -> Done {
        match &mut portal.what {
            Bound::Empty => self.answers.bare(b'I'),
            Bound::Done => self.answers.complete("SELECT 0"),
            Bound::Command(command) => {
                let command = command.clone();
                let columns = Arc::clone(&portal.columns);
                Box::pin(self.carry_out(command, &columns)).await?;
            }
            Bound::Query(_) | Bound::Rows(_) => {
                let Some((sent, ended)) = self.rows_of(portal, most, false, None).await? else {
                    self.answers.complete("SET");
                    return Ok(());
                };
                if ended { self.answers.complete(&format!("SELECT {sent}")) } else { self.answers.bare(b's') }
            }
        }
        Ok(())
    }

    /// Sends rows of a portal, at most `most`: their number, and whether these were the last. `None` if it has no rows.
    /// `told` is how a FETCH wants them.
    async fn rows_of(
        &mut self,
        portal: &mut Portal,
        most: Option<u64>,
        skip: bool,
        told: Option<&[Column]>,
    ) -> Done<Option<(u64, bool)>> {
        let sql = Arc::clone(&portal.sql);
        if let Bound::Query(query) = &portal.what {
            let rows = self.unless_cancelled(query.run()).await?.map_err(|error| trouble::of(&error, &sql, 0))?;
            if query.is_setting() {
                portal.what = Bound::Done;
                return Ok(None);
            }
            portal.what = Bound::Rows(Cursor::new(rows, Arc::clone(&portal.told), query.is_live()));
        }
        let own = Arc::clone(&portal.columns);
        let columns = told.unwrap_or(&own);
        let Bound::Rows(cursor) = &mut portal.what else { return Ok(Some((0, true))) };
        let zone = tz(&self.zone())?;
        let mut sent = 0;
        loop {
            let left = most.map_or(u64::MAX, |most| most - sent);
            if left == 0 {
                return Ok(Some((sent, false)));
            }
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(ROWS_AT_A_TIME);
            if cursor.is_live {
                // What came is sent before more is waited for.
                self.answers.send().await?;
            }
            let next =
                self.unless_cancelled(cursor.next(wanted)).await?.map_err(|error| trouble::of(&error, &sql, 0))?;
            let Some(batch) = next else {
                portal.what = Bound::Done;
                return Ok(Some((sent, true)));
            };
            sent += batch.num_rows() as u64;
            if !skip {
                data_rows(&cursor.as_told(&batch)?, columns, zone, &mut self.answers)?;
                self.answers.send_pieces().await?;
            }
        }
    }

    async fn carry_out(&mut self, command: Command, columns: &[Column]) -> Done {
        let tag = match command {
            Command::Begin => {
                if self.standing == Standing::Idle {
                    self.standing = Standing::InTransaction;
                } else {
                    self.answers.notice(&Trouble::new("25001", "there is already a transaction in progress"));
                }
                "BEGIN".to_owned()
            }
            Command::Commit | Command::Rollback => {
                let commits = command == Command::Commit && self.standing != Standing::Failed;
                if self.standing == Standing::Idle {
                    self.answers.notice(&Trouble::new("25P01", "there is no transaction in progress"));
                }
                self.end_transaction(commits)?;
                if commits { "COMMIT" } else { "ROLLBACK" }.to_owned()
            }
            Command::Savepoint(tag) => {
                if self.standing == Standing::Idle {
                    let text = format!("{tag} can only be used in transaction blocks");
                    return Err(Trouble::new("25P01", text).into());
                }
                self.standing = Standing::InTransaction;
                tag.to_owned()
            }
            Command::Set { name, value, local } => {
                self.set(&name, value.as_deref(), local)?;
                if value.is_some() { "SET" } else { "RESET" }.to_owned()
            }
            Command::SetTransaction => "SET".to_owned(),
            Command::ResetAll => {
                self.reset()?;
                "RESET".to_owned()
            }
            Command::Show(name) => {
                let rows: Vec<Vec<String>> = match name {
                    Some(name) => match self.show(&name) {
                        Some((_, value)) => vec![vec![value]],
                        None => {
                            let text = format!("unrecognized configuration parameter \"{name}\"");
                            return Err(Trouble::new("42704", text)
                                .hint("SHOW ALL lists the options of a session")
                                .into());
                        }
                    },
                    None => self.show_all(),
                };
                for row in rows {
                    self.answers.message(b'D', |out| {
                        out.extend((row.len() as u16).to_be_bytes());
                        for value in row {
                            out.extend((value.len() as u32).to_be_bytes());
                            out.extend(value.as_bytes());
                        }
                    });
                }
                "SHOW".to_owned()
            }
            Command::Discard { all } => {
                if all {
                    if self.standing != Standing::Idle {
                        let text = "DISCARD ALL cannot run inside a transaction block";
                        return Err(Trouble::new("25001", text).into());
                    }
                    self.reset()?;
                    self.portals.clear();
                    self.statements.clear();
                    self.texts = 0;
                }
                if all { "DISCARD ALL" } else { "DISCARD" }.to_owned()
            }
            Command::Deallocate(Some(name)) => {
                self.statement(&name)?;
                self.forget(&name);
                "DEALLOCATE".to_owned()
            }
            Command::Deallocate(None) => {
                self.statements.clear();
                self.texts = 0;
                "DEALLOCATE ALL".to_owned()
            }
            Command::Declare { name, hold, query } => {
                if self.standing == Standing::Idle && !hold {
                    let text = "DECLARE CURSOR can only be used in transaction blocks";
                    return Err(Trouble::new("25P01", text).hint("BEGIN first, or DECLARE … CURSOR WITH HOLD").into());
                }
                if self.portals.contains_key(&name) {
                    return Err(Trouble::new("42P03", format!("cursor \"{name}\" already exists")).into());
                }
                self.limit(self.portals.len(), "cursors")?;
                let portal = self.query(&query).await?;
                let is_kept = hold && self.standing == Standing::Idle;
                self.portals.insert(name, Portal { holds: hold, is_kept, ..portal });
                "DECLARE CURSOR".to_owned()
            }
            Command::Fetch { name, count, skip } => {
                let mut portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
                if !skip && portal.columns.len() != columns.len() {
                    self.portals.insert(name, portal);
                    return Err(Trouble::new("0A000", "the cursor is another than when it was bound").into());
                }
                let done = self.rows_of(&mut portal, count, skip, Some(columns)).await;
                self.portals.insert(name, portal);
                let (sent, _) = done?.unwrap_or_default();
                format!("{} {sent}", if skip { "MOVE" } else { "FETCH" })
            }
            Command::Close(Some(name)) => {
                self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
                "CLOSE CURSOR".to_owned()
            }
            Command::Close(None) => {
                self.portals.clear();
                "CLOSE CURSOR ALL".to_owned()
            }
            Command::Unlisten => "UNLISTEN".to_owned(),
            Command::Copy { query, form } => format!("COPY {}", self.copy(&query, form).await?),
        };
        self.answers.complete(&tag);
        Ok(())
    }

    /// A statement about rows inside another.
    async fn query(&mut self, sql: &str) -> Done<Portal> {
        let portal = match self.plan(sql, 0).await {
            // Its places are not those of what the client sent.
            Err(Stop::Trouble(trouble)) => return Err(Trouble { position: None, ..trouble }.into()),
            other => other?,
        };
        if !matches!(portal.what, Bound::Query(_)) {
            return Err(Trouble::new("42601", "syntax error: expected a SELECT").into());
        }
        Ok(portal)
    }

    /// Sends the rows of a query as COPY does; their number.
    async fn copy(&mut self, sql: &str, form: CopyForm) -> Done<u64> {
        let portal = self.query(sql).await?;
        let Bound::Query(query) = &portal.what else { return Err(Trouble::new("42601", "nothing to copy").into()) };
        let rows = self.unless_cancelled(query.run()).await?.map_err(|error| trouble::of(&error, "", 0))?;
        let mut cursor = Cursor::new(rows, Arc::clone(&portal.told), query.is_live());
        let zone = tz(&self.zone())?;
        let mut copy = Copy::new(form, &portal.columns);
        self.answers.copy_begins(copy.is_binary(), portal.columns.len());
        copy.begin(&mut self.answers);
        let mut count = 0;
        loop {
            if cursor.is_live {
                self.answers.send().await?;
            }
            let next = self.unless_cancelled(cursor.next(ROWS_AT_A_TIME)).await?;
            let Some(batch) = next.map_err(|error| trouble::of(&error, "", 0))? else { break };
            count += batch.num_rows() as u64;
            copy.lines(&cursor.as_told(&batch)?, zone, &mut self.answers)?;
            self.answers.send_pieces().await?;
        }
        copy.end(&mut self.answers);
        self.answers.bare(b'c');
        Ok(count)
    }

    fn end_transaction(&mut self, commits: bool) -> Result<(), Trouble> {
        self.standing = Standing::Idle;
        self.portals.retain(|_, portal| portal.is_kept || portal.holds && commits);
        self.portals.values_mut().for_each(|portal| portal.is_kept = true);
        for change in std::mem::take(&mut self.changes).into_iter().rev() {
            if !commits || change.is_local {
                self.change(&change.name, change.before.as_deref())?;
            }
        }
        Ok(())
    }
}

/// Whether a parameter that is cast to a type is read as such: the statement may say more than the cast.
fn is_like(cast: ColumnType, wanted: &DataType) -> bool {
    cast.arrow().as_ref() == Some(wanted)
}

fn no_portal(name: &str) -> Trouble {
    Trouble::new("34000", format!("cursor \"{name}\" does not exist"))
}

fn texts(names: &[&str]) -> SchemaRef {
    Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>()))
}

/// The zone that times are shown in.
fn tz(zone: &str) -> Result<Tz, Trouble> {
    zone.parse().map_err(|_| Trouble::new("22023", format!("`{zone}` is not a time zone")))
}
