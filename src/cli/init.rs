//! `millpond init`: a starter project, commented, that runs at once on the embedded broker.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::error::{Error, Kind, Result};

/// Path within the project and text of every file; `starter/` is a project itself.
const FILES: [(&str, &str); 6] = [
    ("README.md", include_str!("../../starter/README.md")),
    ("millpond.toml", include_str!("../../starter/millpond.toml")),
    ("schemas/readings.toml", include_str!("../../starter/schemas/readings.toml")),
    ("queries/coldest.sql", include_str!("../../starter/queries/coldest.sql")),
    ("sample.ndjson", include_str!("../../starter/sample.ndjson")),
    (".gitignore", include_str!("../../starter/gitignore")),
];
/// Entries in the way that are named.
const NAMED: usize = 5;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  millpond init fleet && cd fleet && millpond serve")]
pub(super) struct InitArgs {
    /// The folder; it is made, or must be empty
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(args: &InitArgs) -> Result<ExitCode> {
    let dir = &args.dir;
    vacant(dir)?;
    for (path, text) in FILES {
        write(&dir.join(path), text)
            .map_err(|error| Error::new(Kind::Usage, format!("{path} cannot be written")).because(error))?;
    }
    say!("a project in {}:", dir.display());
    for (path, _) in FILES {
        say!("  {path}");
    }
    let change = if dir == Path::new(".") { String::new() } else { format!("cd {} && ", dir.display()) };
    say!(
        "\nnext:  {change}millpond serve\nthen, in another terminal:  {change}millpond produce readings sample.ndjson --key sensor"
    );
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
}

/// Nothing is there, or an empty folder.
fn vacant(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let message = format!("{} cannot be a project's folder", dir.display());
            return Err(Error::new(Kind::Usage, message).because(error).hint("name a new or an empty folder"));
        }
    };
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    if names.is_empty() {
        return Ok(());
    }
    names.sort();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Error::new(Kind::Usage, format!("{} is not empty: there is {}{more}", dir.display(), names.join(", ")))
        .hint("name a new or an empty folder"))
}
