//! The prompt: lines until a `;`, a few backslash commands, history.

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use super::target::Target;
use super::{Format, execute};
use crate::query;

const HELP: &str = "\\d         tables and views
\\d TABLE   columns of a table
\\q         quit (or Ctrl-D)
\\?         this list
Statements end with `;`. Ctrl-C clears the line, or cancels a running statement.";

const TABLES: &str = "SELECT table_schema, table_name, table_type FROM information_schema.tables
WHERE table_schema <> 'information_schema' ORDER BY table_schema, table_name";

/// Reads and runs statements until the user leaves.
pub(super) async fn run(target: &mut dyn Target, format: Format) -> anyhow::Result<()> {
    let config = Config::builder().max_history_size(10_000).context("history")?.auto_add_history(false).build();
    let mut editor = DefaultEditor::with_config(config).context("the terminal cannot be read")?;
    let history = history_file();
    if let Some(file) = &history {
        // The first time there is none.
        let _ = editor.load_history(file);
    }
    eprintln!("Millpond {}. \\? for help.", env!("CARGO_PKG_VERSION"));
    let mut pending = String::new();
    loop {
        let mark = if pending.is_empty() { "millpond> " } else { "       -> " };
        // Reading blocks, so it has a thread of its own; the editor goes there and comes back.
        let (back, line) = tokio::task::spawn_blocking(move || {
            let line = editor.readline(mark);
            (editor, line)
        })
        .await
        .context("the terminal cannot be read")?;
        editor = back;
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("the terminal cannot be read"),
        };
        let statements = if let Some(command) = pending.is_empty().then(|| command(line.trim())).flatten() {
            remember(&mut editor, line.trim());
            match command {
                Command::Quit => break,
                Command::Say(text) => {
                    eprintln!("{text}");
                    continue;
                }
                Command::Run(sql) => vec![sql],
            }
        } else {
            pending.push_str(&line);
            pending.push('\n');
            let Some(statements) = take_complete(&mut pending) else { continue };
            for sql in &statements {
                remember(&mut editor, &format!("{sql};"));
            }
            statements
        };
        if let Some(file) = &history {
            save(&mut editor, file);
        }
        for sql in statements {
            if !one(target, &sql, format).await? {
                break;
            }
        }
    }
    Ok(())
}

/// Runs one statement; false if it failed or was cancelled.
async fn one(target: &mut dyn Target, sql: &str, format: Format) -> anyhow::Result<bool> {
    let mut out = io::stdout();
    let done = tokio::select! {
        result = execute(target, sql, format, &mut out) => Some(result?),
        _ = tokio::signal::ctrl_c() => None,
    };
    match done {
        Some(Ok(())) => return Ok(true),
        Some(Err(error)) => eprintln!("error: {error}"),
        None => eprintln!("cancelled"),
    }
    Ok(false)
}

/// Takes the statements that ended in `;`. Nothing if there is none yet, or a string is still open.
fn take_complete(pending: &mut String) -> Option<Vec<String>> {
    let query::Script { complete, rest } = query::split(pending).ok()?;
    if rest.is_empty() {
        pending.clear();
    } else if !complete.is_empty() {
        *pending = rest + "\n";
    }
    (!complete.is_empty()).then_some(complete)
}

enum Command {
    Quit,
    Say(&'static str),
    Run(String),
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
    match (command, rest.trim().trim_end_matches(';')) {
        ("\\q", _) => Command::Quit,
        ("\\d", "") => Command::Run(TABLES.to_owned()),
        ("\\d", table) => Command::Run(format!("DESCRIBE {table}")),
        ("\\?", _) => Command::Say(HELP),
        _ => Command::Say("there is no such command; \\? lists them"),
    }
}

fn remember(editor: &mut DefaultEditor, text: &str) {
    // A line that cannot be kept is no reason to stop.
    let _ = editor.add_history_entry(text);
}

fn save(editor: &mut DefaultEditor, file: &PathBuf) {
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
    fn statements_wait_for_their_semicolon() {
        let mut pending = "SELECT 'a;\n".to_owned();
        assert_eq!(take_complete(&mut pending), None);
        pending.push_str("b'\n");
        assert_eq!(take_complete(&mut pending), None);
        pending.push_str("; SELECT 2; SELECT\n");
        assert_eq!(take_complete(&mut pending).unwrap(), ["SELECT 'a;\nb'", "SELECT 2"]);
        assert_eq!(pending, "SELECT\n");
        pending = "  -- nothing\n".to_owned();
        assert_eq!(take_complete(&mut pending), None);
        assert_eq!(pending, "");
    }

    #[test]
    fn words_everybody_tries() {
        assert!(matches!(command("exit;"), Some(Command::Quit)));
        assert!(matches!(command("help"), Some(Command::Say(HELP))));
        assert!(matches!(command("\\d"), Some(Command::Run(_))));
        assert!(command("SELECT 1").is_none() && command("").is_none());
    }

    #[test]
    fn backslash_commands() {
        assert!(matches!(backslash("\\q"), Command::Quit));
        assert!(matches!(backslash("\\d system.ingest;"), Command::Run(sql) if sql == "DESCRIBE system.ingest"));
        assert!(matches!(backslash("\\d"), Command::Run(sql) if sql == TABLES));
        assert!(matches!(backslash("\\?"), Command::Say(HELP)));
        assert!(matches!(backslash("\\x"), Command::Say(_)));
    }
}
