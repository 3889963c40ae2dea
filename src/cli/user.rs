//! `millpond user`: accounts in `access.toml`. A running server takes them over at once.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::{ACCESS_FILE, Access, LoadOptions, Project, Verifier, md5_of, nearest};
use crate::error::{Error, Kind, Result};

/// Shorter passwords are refused.
const SHORTEST: usize = 8;

#[derive(Subcommand, Debug)]
pub(super) enum UserCommand {
    /// Make an account, or give it another password or role
    #[command(after_help = "Examples:\n  millpond user add ann --role reader\n  \
        printf '%s\\n' \"$PASSWORD\" | millpond user add grafana --role dashboards")]
    Add(AddArgs),
    /// The accounts and their roles
    List(Folder),
    /// Take an account away; its sessions end
    Remove(RemoveArgs),
}

#[derive(Args, Debug)]
pub(super) struct Folder {
    /// The project's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct AddArgs {
    /// The account's name
    name: String,
    /// A role of access.toml, or reader, writer, admin
    #[arg(long, default_value = "reader")]
    role: String,
    /// How the password is shown over the PostgreSQL wire
    #[arg(long, value_enum, default_value_t = How::Scram)]
    login: How,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Args, Debug)]
pub(super) struct RemoveArgs {
    /// The account's name
    name: String,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    /// SCRAM-SHA-256
    Scram,
    /// As it is, inside TLS only: for clients without SCRAM
    Password,
    /// PostgreSQL's md5: for old clients without TLS of their own
    Md5,
}

pub(super) fn run(command: UserCommand) -> Result<ExitCode> {
    match command {
        UserCommand::Add(args) => add(&args),
        UserCommand::List(folder) => list(&folder.project),
        UserCommand::Remove(args) => remove(&args),
    }
}

fn add(args: &AddArgs) -> Result<ExitCode> {
    let name = &args.name;
    if name.is_empty() || name.chars().any(|char| char.is_control() || matches!(char, ':' | ',' | '=')) {
        return Err(Error::new(Kind::Usage, format!("`{name}` cannot be the name of an account"))
            .hint("letters, digits and signs other than : , ="));
    }
    let before = access(&args.folder.project)?;
    if !before.roles.contains_key(&args.role) {
        let known: Vec<&str> = before.roles.keys().map(String::as_str).collect();
        let hint = match nearest(&args.role, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}; write [roles.{}] into {ACCESS_FILE}", known.join(", "), args.role),
        };
        return Err(Error::new(Kind::Usage, format!("there is no role `{}`", args.role)).hint(hint));
    }
    let password = password(name)?;
    let mut text = read(&args.folder.project)?;
    let known = before.users.contains_key(name);
    if known {
        text = without(&text, name);
    }
    if !text.is_empty() && !text.ends_with("\n\n") {
        text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
    }
    text.push_str(&format!(
        "[users.{}]\nrole = {}\nverifier = \"{}\"\n",
        key(name),
        quoted(&args.role),
        Verifier::of(&password)
    ));
    match args.login {
        How::Scram => {}
        How::Password => text.push_str("login = \"password\"\n"),
        How::Md5 => text.push_str(&format!("login = \"md5\"\nmd5 = \"{}\"\n", md5_of(&password, name))),
    }
    write(&args.folder.project, &text)?;
    say!("{name}: {} with role {}", if known { "changed" } else { "added" }, args.role);
    Ok(ExitCode::SUCCESS)
}

fn list(project: &Path) -> Result<ExitCode> {
    let access = access(project)?;
    let width = access.users.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, user) in &access.users {
        say!("{name:width$}  {}", user.role.name);
    }
    if access.users.is_empty() {
        say!("no accounts: whoever reaches a door of this machine may come in");
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(args: &RemoveArgs) -> Result<ExitCode> {
    let name = &args.name;
    if !access(&args.folder.project)?.users.contains_key(name) {
        return Err(Error::new(Kind::NotFound, format!("there is no account `{name}`")).hint("millpond user list"));
    }
    write(&args.folder.project, &without(&read(&args.folder.project)?, name))?;
    say!("{name}: removed");
    Ok(ExitCode::SUCCESS)
}

/// The accounts as they are; a file that cannot be read is not written to.
fn access(project: &Path) -> Result<Access> {
    Ok(Project::load(project, &LoadOptions::from_environment())?.access.unwrap_or_default())
}

fn password(name: &str) -> Result<String> {
    let unread = |error: std::io::Error| Error::new(Kind::Usage, "the password cannot be read").because(error);
    let password = if std::io::stdin().is_terminal() {
        let first = rpassword::prompt_password(format!("password of {name}: ")).map_err(unread)?;
        let again = rpassword::prompt_password("once more: ").map_err(unread)?;
        if first != again {
            return Err(Error::new(Kind::Usage, "the two passwords differ"));
        }
        first
    } else {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(unread)?;
        line.trim_end_matches(['\n', '\r']).to_owned()
    };
    // What clients make of other characters before they hash them differs (RFC 4013).
    if password.chars().count() < SHORTEST || !password.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        let text = format!("a password has at least {SHORTEST} characters, all of them printable ASCII");
        return Err(Error::new(Kind::Usage, text));
    }
    Ok(password)
}

fn path(project: &Path) -> PathBuf {
    project.join(ACCESS_FILE)
}

fn read(project: &Path) -> Result<String> {
    match fs::read_to_string(path(project)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| Error::new(Kind::Usage, format!("{ACCESS_FILE} cannot be read")).because(error)),
    }
}

/// Puts the file in its place as a whole; nobody else may read it.
fn write(project: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path(project).with_extension("toml.new");
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let written = written.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path(project))
    });
    written.map_err(|error| Error::new(Kind::Usage, format!("{ACCESS_FILE} cannot be written")).because(error))
}

/// The file without an account's table; comments and everything else stay.
fn without(text: &str, name: &str) -> String {
    let headers = [format!("[users.{name}]"), format!("[users.{}]", quoted(name)), format!("[users.'{name}']")];
    let mut kept = String::new();
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            let header = trimmed.split('#').next().unwrap_or_default().trim();
            inside = headers.iter().any(|own| own == header);
        }
        if !inside {
            kept.push_str(line);
        }
    }
    kept
}

/// A name as a key of TOML.
fn key(name: &str) -> String {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if plain { name.to_owned() } else { quoted(name) }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_goes_and_all_else_stays() {
        let text = "# ours\n[roles.a]\ntables = [\"*\"]\n\n[users.ann] # the first\nrole = \"a\"\nverifier = \"x\"\n\n[users.\"b c\"]\nrole = \"a\"\n";
        assert_eq!(without(text, "ann"), "# ours\n[roles.a]\ntables = [\"*\"]\n\n[users.\"b c\"]\nrole = \"a\"\n");
        assert!(!without(text, "b c").contains("b c"));
        assert_eq!(without(text, "nobody"), text);
        assert_eq!((key("ann"), key("a.b")), ("ann".to_owned(), "\"a.b\"".to_owned()));
    }
}
