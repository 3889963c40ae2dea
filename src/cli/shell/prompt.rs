//! The prompt: lines until a `;`, backslash commands, completion, history, a pager.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use futures::TryStreamExt;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use super::complete::{self, Words};
use super::target::Target;
use super::{Format, execute};
use crate::query;

const HELP: &str = "\\d              tables and views
\\d TABLE        columns of a table
\\dt, \\dv        tables only, views only
\\format NAME    how rows are shown: table, csv, json, ndjson
\\i FILE         run the statements of a file
\\o FILE         write rows to a file; without a name to the terminal again
\\timing on|off  say how long each statement took
\\watch [SECONDS]  run the last statement again and again (every 2 s), until Ctrl-C
\\q              quit (or Ctrl-D)
\\?              this list
Statements end with `;`. Tab completes names. Ctrl-C clears the line, or cancels a running statement.";

const TABLES: &str = "SELECT table_schema, table_name, table_type FROM information_schema.tables
WHERE table_schema <> 'information_schema'";
/// What can be completed, beside words of SQL.
const NAMES: &str = "SELECT table_name AS name FROM information_schema.tables
UNION SELECT column_name FROM information_schema.columns WHERE table_schema <> 'information_schema'
UNION SELECT routine_name FROM information_schema.routines";
/// Pause of `\watch` if none is given.
const WATCH: Duration = Duration::from_secs(2);

type Prompt = Editor<Words, FileHistory>;

/// How statements are run.
struct Manner {
    format: Format,
    timing: bool,
    to: Option<File>,
    last: Option<String>,
}

/// Reads and runs statements until the user leaves.
pub(super) async fn run(target: &mut dyn Target, format: Format) -> anyhow::Result<()> {
    let config = Config::builder().max_history_size(10_000).context("history")?.auto_add_history(false).build();
    let mut editor = Prompt::with_config(config).context("the terminal cannot be read")?;
    let history = history_file();
    if let Some(file) = &history {
        // The first time there is none.
        let _ = editor.load_history(file);
    }
    editor.set_helper(Some(Words::new(names(target).await)));
    eprintln!("Millpond {}. \\? for help.", env!("CARGO_PKG_VERSION"));
    let mut manner = Manner { format, timing: true, to: None, last: None };
    loop {
        // Reading blocks, so it has a thread of its own; the editor goes there and comes back.
        let (back, line) = tokio::task::spawn_blocking(move || {
            let line = editor.readline("millpond> ");
            (editor, line)
        })
        .await
        .context("the terminal cannot be read")?;
        editor = back;
        let line = match line {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("the terminal cannot be read"),
        };
        // A line that cannot be kept is no reason to stop.
        let _ = editor.add_history_entry(line.trim());
        if let Some(file) = &history {
            save(&mut editor, file);
        }
        match command(line.trim()) {
            Some(Command::Quit) => break,
            Some(command) => manner.carry_out(target, command).await?,
            None => {
                for sql in take(&line) {
                    if !manner.one(target, &sql).await? {
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

impl Manner {
    async fn carry_out(&mut self, target: &mut dyn Target, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Quit => {}
            Command::Say(text) => eprintln!("{text}"),
            Command::Run(sql) => drop(self.one(target, &sql).await?),
            Command::Format(format) => self.format = format,
            Command::Timing(on) => {
                self.timing = on.unwrap_or(!self.timing);
                eprintln!("timing is {}", if self.timing { "on" } else { "off" });
            }
            Command::Output(None) => self.to = None,
            Command::Output(Some(path)) => match File::create(&path) {
                Ok(file) => self.to = Some(file),
                Err(error) => eprintln!("error: {}: {error}", path.display()),
            },
            Command::Include(path) => match std::fs::read_to_string(&path) {
                Ok(script) => match super::cut(&script) {
                    Ok(statements) => {
                        for sql in statements {
                            if !self.one(target, &sql).await? {
                                break;
                            }
                        }
                    }
                    Err(error) => eprintln!("error: {error}"),
                },
                Err(error) => eprintln!("error: {}: {error}", path.display()),
            },
            Command::Watch(pause) => {
                let Some(sql) = self.last.clone() else {
                    eprintln!("there is no statement to run again");
                    return Ok(());
                };
                while self.one(target, &sql).await? {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        _ = tokio::signal::ctrl_c() => break,
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs one statement; false if it failed or was cancelled.
    async fn one(&mut self, target: &mut dyn Target, sql: &str) -> anyhow::Result<bool> {
        self.last = Some(sql.to_owned());
        let mut pager = None;
        let mut out: Box<dyn Write + Send> = match &self.to {
            Some(file) => Box::new(file.try_clone().context("the file cannot be written")?),
            None if self.format == Format::Table && !query::is_subscription(sql) => match start_pager() {
                Some((child, input)) => {
                    pager = Some(child);
                    input
                }
                None => Box::new(io::stdout()),
            },
            None => Box::new(io::stdout()),
        };
        let done = tokio::select! {
            result = execute(target, sql, self.format, &mut out) => Some(result?),
            _ = tokio::signal::ctrl_c() => None,
        };
        drop(out);
        if let Some(mut pager) = pager {
            // It ends when its reader does.
            let _ = tokio::task::spawn_blocking(move || pager.wait()).await;
        }
        match done {
            Some(Ok(done)) => {
                done.say(self.timing);
                return Ok(true);
            }
            Some(Err(error)) => eprintln!("error: {error}"),
            None => eprintln!("cancelled"),
        }
        Ok(false)
    }
}

/// A pager that shows what is longer than the screen, and leaves what is not alone: `PAGER`, or `less` if it is there.
fn start_pager() -> Option<(Child, Box<dyn Write + Send>)> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let named = std::env::var("PAGER").ok().filter(|pager| !pager.trim().is_empty());
    let line = named.unwrap_or_else(|| "less".to_owned());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("exec {line}")]).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRSX");
    }
    if !is_program(line.split(' ').next()?) {
        return None;
    }
    let mut child = command.spawn().ok()?;
    let input = child.stdin.take()?;
    Some((child, Box::new(input)))
}

fn is_program(name: &str) -> bool {
    let mut look = std::process::Command::new("sh");
    look.args(["-c", "command -v \"$0\"", name]).stdout(Stdio::null()).stderr(Stdio::null());
    look.status().is_ok_and(|status| status.success())
}

/// Names of tables, columns and functions; none if they cannot be had.
async fn names(target: &mut dyn Target) -> Vec<String> {
    let Ok((_, batches)) = target.query(NAMES).await else { return Vec::new() };
    let batches: Vec<_> = batches.try_collect().await.unwrap_or_default();
    batches.iter().flat_map(complete::texts).collect()
}

/// The statements of what was typed: a last one needs no `;` here.
fn take(text: &str) -> Vec<String> {
    match query::split(text) {
        Ok(query::Script { mut complete, rest }) => {
            complete.extend((!rest.is_empty()).then_some(rest));
            complete
        }
        // Whoever plans it says what is wrong.
        Err(_) => vec![text.to_owned()],
    }
}

#[derive(Debug, PartialEq)]
enum Command {
    Quit,
    Say(&'static str),
    Run(String),
    Format(Format),
    Timing(Option<bool>),
    Output(Option<PathBuf>),
    Include(PathBuf),
    Watch(Duration),
}

/// Whether a line is a command rather than SQL: then nothing more is waited for.
pub(super) fn is_command(line: &str) -> bool {
    command(line.trim()).is_some()
}

/// What is no SQL: a backslash command, or the words everybody tries first.
fn command(line: &str) -> Option<Command> {
    match line.trim_end_matches(';') {
        "quit" | "exit" => Some(Command::Quit),
        "help" => Some(Command::Say(HELP)),
        other => other.starts_with('\\').then(|| backslash(line)),
    }
}

fn backslash(line: &str) -> Command {
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let of = |kind: &str| Command::Run(format!("{TABLES}{kind} ORDER BY table_schema, table_name"));
    match (command, rest.trim().trim_end_matches(';')) {
        ("\\q", _) => Command::Quit,
        ("\\d", "") => of(""),
        ("\\d", table) => Command::Run(format!("DESCRIBE {table}")),
        ("\\dt", _) => of(" AND table_type = 'BASE TABLE'"),
        ("\\dv", _) => of(" AND table_type = 'VIEW' AND table_schema <> 'system'"),
        ("\\timing", "on") => Command::Timing(Some(true)),
        ("\\timing", "off") => Command::Timing(Some(false)),
        ("\\timing", "") => Command::Timing(None),
        ("\\format", name) => match Format::from_str(name, true) {
            Ok(format) => Command::Format(format),
            Err(_) => Command::Say("a format is table, csv, json or ndjson"),
        },
        ("\\o", "") => Command::Output(None),
        ("\\o", path) => Command::Output(Some(path.into())),
        ("\\i", path) if !path.is_empty() => Command::Include(path.into()),
        ("\\watch", "") => Command::Watch(WATCH),
        ("\\watch", seconds) => {
            match seconds.parse::<f64>().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds)) {
                Some(seconds) => Command::Watch(Duration::from_secs_f64(seconds)),
                None => Command::Say("\\watch takes seconds, at least 0.1"),
            }
        }
        ("\\?", _) => Command::Say(HELP),
        _ => Command::Say("there is no such command; \\? lists them"),
    }
}

fn save(editor: &mut Prompt, file: &Path) {
    if let Some(folder) = file.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    let _ = editor.save_history(file);
}

fn history_file() -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(".local/share/millpond/sql_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_everybody_tries() {
        assert_eq!(command("exit;"), Some(Command::Quit));
        assert_eq!(command("help"), Some(Command::Say(HELP)));
        assert!(matches!(command("\\d"), Some(Command::Run(_))));
        assert!(command("SELECT 1").is_none() && command("").is_none());
    }

    #[test]
    fn backslash_commands() {
        assert_eq!(backslash("\\q"), Command::Quit);
        assert_eq!(backslash("\\d system.ingest;"), Command::Run("DESCRIBE system.ingest".into()));
        assert!(matches!(backslash("\\d"), Command::Run(sql) if sql.starts_with(TABLES)));
        assert!(matches!(backslash("\\dv"), Command::Run(sql) if sql.contains("'VIEW'")));
        assert_eq!(backslash("\\?"), Command::Say(HELP));
        assert_eq!(backslash("\\timing off"), Command::Timing(Some(false)));
        assert_eq!(backslash("\\o out.csv"), Command::Output(Some("out.csv".into())));
        assert_eq!(backslash("\\o"), Command::Output(None));
        assert_eq!(backslash("\\i a b.sql"), Command::Include("a b.sql".into()));
        assert_eq!(backslash("\\format CSV"), Command::Format(Format::Csv));
        assert_eq!(backslash("\\watch 0.5"), Command::Watch(Duration::from_millis(500)));
        for wrong in ["\\x", "\\watch soon", "\\format xml", "\\i"] {
            assert!(matches!(backslash(wrong), Command::Say(_)), "{wrong}");
        }
    }

    #[test]
    fn what_was_typed_is_cut_into_statements() {
        assert_eq!(take("SELECT 'a;b'; SELECT 2"), ["SELECT 'a;b'", "SELECT 2"]);
        assert_eq!(take(" -- nothing\n"), Vec::<String>::new());
        assert_eq!(take("SELECT 'open"), ["SELECT 'open"]);
    }
}
