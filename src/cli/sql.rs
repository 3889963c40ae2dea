//! `millpond sql`: against a server, or straight on a lake.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::Overrides;
use super::shell::{self, Local, Remote, SqlArgs, Target};
use crate::engine;
use crate::error::{Error, Kind, Result};

#[derive(Args, Debug)]
pub(super) struct SqlCommand {
    #[command(flatten)]
    sql: SqlArgs,
    #[command(flatten)]
    overrides: Overrides,
}

pub(super) async fn run(args: SqlCommand) -> Result<ExitCode> {
    // Before a server is asked: a wrong name is told even when there is none.
    if let Some(file) = &args.sql.file
        && let Err(error) = std::fs::metadata(file)
    {
        return Err(Error::new(Kind::Usage, format!("{} cannot be read", file.display())).because(error));
    }
    let target = target(args.sql.url.as_deref(), args.sql.project.as_deref(), &args.overrides).await?;
    shell::run(args.sql, target).await.map_err(|error| Error::new(Kind::Query, format!("{error:#}")))
}

/// Who is asked: the server at `url`, or the lake of the project in a folder, or the server that the project here names.
pub(super) async fn target(
    url: Option<&str>,
    project: Option<&Path>,
    overrides: &Overrides,
) -> Result<Box<dyn Target>> {
    Ok(match (url, project) {
        (Some(url), _) => Box::new(Remote::connect(url).await?),
        (None, Some(dir)) => {
            let (project, options) = overrides.load(dir)?;
            let service = engine::read_only(&project, &options.vars).await?;
            eprintln!(
                "reading the lake at {}: committed rows only, hot rows are with the server",
                project.config.lake.url
            );
            Box::new(Local::new(service.session()))
        }
        (None, None) => Box::new(Remote::connect(&server(overrides)?).await?),
    })
}

/// The server that the project here names; without a project the usual address.
pub(super) fn server(overrides: &Overrides) -> Result<String> {
    let here = Path::new(".");
    if !here.join("millpond.toml").exists() && overrides.sets.is_empty() {
        return Ok("grpc://127.0.0.1:32010".to_owned());
    }
    let (project, _) = overrides.load(here)?;
    let address = project.config.serve.flight_sql.ok_or_else(|| {
        Error::new(Kind::Usage, "the project serves no Flight SQL")
            .hint("give the server with --url, or read the lake with --project")
    })?;
    Ok(super::place::own(&project.config.serve, address))
}
