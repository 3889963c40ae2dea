//! The PostgreSQL wire: protocol 3, for every tool that knows PostgreSQL.
//!
//! ```text
//! accept ─ TLS ─ who? ─ Connection: requests (frames) → parse · bind · execute (query::Session) → messages (answers)
//! ```
//!
//! Values go out as text or binary (`cells`), parameters come in as both (`parameters`); COPY, cursors, settings and
//! transactions are the door's own, because they are about the connection. What PostgreSQL's catalogs say is SQL like any
//! other and belongs to `query`.
//!
//! The protocol is our own and not a crate's: a frame's length is checked before it is kept, nothing that comes before a
//! client is known is longer than a password, and a portal gives out rows one page at a time.

mod answers;
mod cells;
mod connection;
mod decimal;
mod frames;
mod lines;
mod login;
mod options;
mod parameters;
mod rows;
mod statements;
mod trouble;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use self::answers::{Answers, Trouble};
use self::connection::Connection;
use self::frames::{Broken, Frames, Startup};
use self::lines::Lines;
use self::login::Refusal;
use super::accounts::{Accounts, Principal};
use super::address;
use super::tls::{self, Tls, Wire};
use crate::error::{Error, Kind};
use crate::query::{CATALOG, Service};
use crate::task::{self, Shutdown};

/// Open connections.
const MOST_CONNECTIONS: usize = 1_000;
/// The protocol's name to TLS.
const PROTOCOL: &str = "postgresql";
/// First byte of a handshake of TLS.
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a client may take to say who it is.
const STARTUP: Duration = Duration::from_secs(10);
/// How long running statements may go on after shutdown began.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a session goes on whose account has changed: as long as it takes to say so.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// Of a connection that says nothing for so long it is asked whether it is still there.
const IDLE: Duration = Duration::from_secs(60);
/// Databases that tools connect to before they ask which there are.
const ALSO_DATABASES: [&str; 1] = ["postgres"];

/// A bound door.
pub struct Postgres {
    listener: TcpListener,
    address: SocketAddr,
}

impl Postgres {
    /// Binds `[serve] postgres`. Who can be reached from elsewhere must be `closed`: with accounts and TLS.
    pub async fn bind(address: SocketAddr, closed: bool) -> crate::error::Result<Self> {
        let listener = address::bind(address, "postgres", closed).await?;
        let address = listener.local_addr().map_err(broken)?;
        Ok(Self { listener, address })
    }

    /// The same door for whoever serves after this one.
    pub fn again(&self) -> crate::error::Result<Self> {
        Ok(Self { listener: address::again(&self.listener).map_err(broken)?, address: self.address })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop; statements that run then have ten seconds to end.
    pub async fn run(
        self,
        queries: Service,
        accounts: Arc<Accounts>,
        tls: Option<Arc<Tls>>,
        shutdown: Shutdown,
    ) -> crate::error::Result<()> {
        let door = Arc::new(Door { queries, accounts, tls, lines: Arc::default(), shutdown: shutdown.clone() });
        let (room, connections) = (Arc::new(Semaphore::new(MOST_CONNECTIONS)), TaskTracker::new());
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let place = Arc::clone(&room).try_acquire_owned();
            let door = Arc::clone(&door);
            let work = connections.track_future(async move {
                let has_room = place.is_ok();
                // A panic would be a bug; it takes this connection down and no other.
                if let Err(error) = door.serve(stream, has_room).await {
                    debug!(%error, "a connection ended");
                }
                drop(place);
            });
            task::spawn("postgres-connection", work);
        }
        drop(self.listener);
        connections.close();
        let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
        Ok(())
    }
}

fn broken(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Internal, "the PostgreSQL server stopped").because(cause)
}

/// What connections share.
struct Door {
    queries: Service,
    accounts: Arc<Accounts>,
    tls: Option<Arc<Tls>>,
    lines: Arc<Lines>,
    shutdown: Shutdown,
}

/// A client that wants a session.
struct Wish {
    user: String,
    options: Vec<(String, String)>,
}

impl Door {
    async fn serve(&self, stream: TcpStream, has_room: bool) -> Result<(), Broken> {
        stream.set_nodelay(true)?;
        keep_alive(&stream)?;
        let begun = tokio::time::timeout(STARTUP, self.begin(stream, has_room)).await;
        let Ok(Some((wish, principal, frames, answers))) = begun.unwrap_or(Ok(None)) else { return Ok(()) };
        let open = self.lines.open();
        let mut session =
            self.queries.session().of(&principal.user, "postgres").speaking_postgres(open.line().process());
        if let Some(role) = principal.role.clone() {
            session = session.in_role(role);
        }
        let connection = Connection::new(frames, answers, session, Arc::clone(open.line()));
        // Who is told that the account has changed leaves; a statement that runs is cut off.
        let cut_off = async {
            self.accounts.gone(&principal).await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            () = connection.run(wish.options, self.ending(&principal)) => {}
            () = cut_off => {}
        }
        Ok(())
    }

    /// Why a session is ended from here, once it is.
    async fn ending(&self, principal: &Principal) -> &'static str {
        tokio::select! {
            () = self.shutdown.cancelled() => "the server is shutting down",
            () = self.accounts.gone(principal) => "the account has changed: connect again",
        }
    }

    /// From the first byte to a known client; `None` if there is no session to be had.
    async fn begin(&self, mut stream: TcpStream, has_room: bool) -> Result<Option<Begun>, Broken> {
        // Clients that ask for TLS without asking whether there is any.
        let mut first = [0];
        if let Some(tls) = &self.tls
            && stream.peek(&mut first).await? == 1
            && first[0] == TLS_HANDSHAKE
        {
            return self.welcome(tls::secure(stream, tls, PROTOCOL).await?, has_room).await;
        }
        loop {
            let mut frames = Frames::new(stream);
            let asked = frames.startup().await;
            let (back, rest) = frames.into_inner();
            stream = back;
            match (asked, &self.tls) {
                // What follows would be read as if it had come through TLS.
                (Ok(Some(Startup::Tls | Startup::Gss)), _) if !rest.is_empty() => return Ok(None),
                (Ok(Some(Startup::Tls)), Some(tls)) => {
                    stream.write_all(b"S").await?;
                    return self.welcome(tls::secure(stream, tls, PROTOCOL).await?, has_room).await;
                }
                (Ok(Some(Startup::Tls | Startup::Gss)), _) => stream.write_all(b"N").await?,
                (Ok(Some(asked)), _) => return self.admit(asked, Wire::plain(stream), rest, has_room).await,
                (Ok(None), _) => return Ok(None),
                (Err(Broken::Protocol(message)), _) => return refuse(stream, &Trouble::new("08P01", message)).await,
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// The startup message of a client that speaks TLS.
    async fn welcome(&self, wire: Wire, has_room: bool) -> Result<Option<Begun>, Broken> {
        let mut frames = Frames::new(wire);
        let asked = frames.startup().await;
        let (wire, rest) = frames.into_inner();
        match asked {
            Ok(Some(asked)) => self.admit(asked, wire, rest, has_room).await,
            Ok(None) => Ok(None),
            Err(Broken::Protocol(message)) => refuse(wire, &Trouble::new("08P01", message)).await,
            Err(error) => Err(error),
        }
    }

    async fn admit(&self, asked: Startup, wire: Wire, rest: BytesMut, has_room: bool) -> Result<Option<Begun>, Broken> {
        let (minor, options) = match asked {
            Startup::Cancel { process, secret } => {
                self.lines.cancel(process, secret);
                return Ok(None);
            }
            Startup::Session { major: 3, minor, options } => (minor, options),
            Startup::Session { major, minor, .. } => {
                let text = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0");
                return refuse(wire, &Trouble::new("0A000", text)).await;
            }
            Startup::Tls | Startup::Gss => return Ok(None),
        };
        // Whoever has a certificate wants nobody to read along.
        if self.tls.is_some() && !wire.is_secured() {
            let trouble = Trouble::new("28000", "this server speaks TLS only").hint("connect with sslmode=require");
            return refuse(wire, &trouble).await;
        }
        if !has_room {
            let text = format!("sorry, too many clients already: {MOST_CONNECTIONS}");
            return refuse(wire, &Trouble::new("53300", text)).await;
        }
        let (wish, unknown) = match wish(options) {
            Ok(wish) => wish,
            Err(trouble) => return refuse(wire, &trouble).await,
        };
        let is_secured = wire.is_secured();
        let (from, to) = tokio::io::split(wire);
        let (mut frames, mut answers) = (Frames::behind(rest, from), Answers::new(to));
        if minor > 0 || !unknown.is_empty() {
            answers.negotiate(&unknown.iter().map(String::as_str).collect::<Vec<_>>());
        }
        match login::log_in(&wish.user, is_secured, &self.accounts, &mut frames, &mut answers).await {
            Ok(principal) => {
                frames.trust();
                info!(target: "millpond::audit", user = principal.user, door = "postgres", "came in");
                Ok(Some((wish, principal, frames, answers)))
            }
            Err(Refusal::Broken(broken)) => Err(broken),
            Err(Refusal::Trouble(trouble)) => {
                warn!(target: "millpond::audit", user = wish.user, door = "postgres", reason = trouble.message, "refused");
                answers.fatal(&trouble);
                answers.send().await?;
                Ok(None)
            }
        }
    }
}

type Begun = (Wish, Principal, Frames<ReadHalf<Wire>>, Answers<WriteHalf<Wire>>);

async fn refuse<T>(to: impl AsyncWrite + Unpin, trouble: &Trouble) -> Result<Option<T>, Broken> {
    let mut answers = Answers::new(to);
    answers.fatal(trouble);
    answers.send().await?;
    Ok(None)
}

/// Asks a silent client whether it is still there; one that is not loses its connection.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    let asks = TcpKeepalive::new().with_time(IDLE).with_interval(IDLE / 4);
    SockRef::from(stream).set_tcp_keepalive(&asks)
}

/// What a client wants, and which of its protocol options are not known.
fn wish(options: Vec<(String, String)>) -> Result<(Wish, Vec<String>), Trouble> {
    let (mut user, mut database, mut wished, mut unknown) = (String::new(), None, Vec::new(), Vec::new());
    for (name, value) in options {
        match name.as_str() {
            "user" => user = value,
            "database" => database = Some(value),
            "replication" if matches!(value.as_str(), "false" | "off" | "no" | "0") => {}
            "replication" => return Err(Trouble::new("0A000", "replication is not offered")),
            "options" => wished.extend(switches(&value)?),
            name if name.starts_with("_pq_.") => unknown.push(name.to_owned()),
            _ => wished.push((name, value)),
        }
    }
    if user.is_empty() {
        return Err(Trouble::new("28000", "no PostgreSQL user name specified in startup packet"));
    }
    // Without one, clients name the database as the user.
    let is_ours = |name: &str| name == CATALOG || name == user || ALSO_DATABASES.contains(&name);
    if let Some(other) = database.filter(|name| !name.is_empty() && !is_ours(name)) {
        let text = format!("database \"{other}\" does not exist");
        return Err(Trouble::new("3D000", text).hint(format!("the database is \"{CATALOG}\"")));
    }
    Ok((Wish { user, options: wished }, unknown))
}

/// `-c name=value` and `--name=value`, divided by blanks; a backslash takes the next character as it is.
fn switches(text: &str) -> Result<Vec<(String, String)>, Trouble> {
    let mut words = vec![String::new()];
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => words.last_mut().into_iter().for_each(|word| word.extend(chars.next())),
            char if char.is_whitespace() => words.push(String::new()),
            char => words.last_mut().into_iter().for_each(|word| word.push(char)),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => setting.to_owned(),
            (None, Some("")) => words.next().unwrap_or_default(),
            (None, Some(setting)) => setting.to_owned(),
            (None, None) => return Err(Trouble::new("42601", format!("invalid command-line argument: {word}"))),
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(Trouble::new("42601", format!("{setting} requires a value")));
        };
        found.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_connection_are_read() {
        let read = switches("-c statement_timeout=5s --search-path=public -cTimeZone=Asia/Seoul -c a=b\\ c").unwrap();
        let wanted = [("statement_timeout", "5s"), ("search_path", "public"), ("TimeZone", "Asia/Seoul"), ("a", "b c")];
        assert_eq!(read, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(switches("-x").is_err() && switches("-c a").is_err());
    }

    #[test]
    fn a_client_says_who_it_is_and_which_database_it_means() {
        let ask =
            |pairs: &[(&str, &str)]| wish(pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect());
        for database in ["millpond", "ann", "postgres", ""] {
            assert!(ask(&[("user", "ann"), ("database", database)]).is_ok(), "{database}");
        }
        let code = |pairs: &[(&str, &str)]| ask(pairs).err().map(|trouble| trouble.code);
        assert_eq!(code(&[("user", "ann"), ("database", "shop")]), Some("3D000"));
        assert_eq!(code(&[("database", "millpond")]), Some("28000"));
        assert_eq!(code(&[("user", "ann"), ("replication", "true")]), Some("0A000"));
        let (wish, unknown) = ask(&[("user", "ann"), ("_pq_.x", "1"), ("DateStyle", "ISO")]).unwrap();
        assert_eq!(
            (wish.options, unknown),
            (vec![("DateStyle".to_owned(), "ISO".to_owned())], vec!["_pq_.x".to_owned()])
        );
    }
}
