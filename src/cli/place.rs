//! Where a command finds tables: at the project's server or, if none answers, in its lake. What only looks is SQL, asked of
//! either. What changes something goes to the server; without one this process becomes the lake's writer for as long as it
//! takes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Overrides;
use super::shell::{self, Format, Local, Remote, SqlArgs, Target};
use super::sql::server;
use crate::config::{Project, Serve};
use crate::engine::{self, Told, Variables};
use crate::error::{Error, Kind, Result};
use crate::lake::S3Options;
use crate::task::failpoint;

/// Which project, or which server.
#[derive(Args, Debug)]
pub(super) struct Where {
    /// The server to ask [default: the project's, or its lake if no server answers]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The project's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

/// Who has the tables.
pub(super) enum Place {
    Server(Box<Remote>),
    Lake(Box<Project>, Variables),
}

impl Where {
    /// The server if one answers, else the lake.
    pub(super) async fn find(&self) -> Result<Place> {
        let connect = async |url: &str| Remote::connect(url).await.map(|remote| Place::Server(Box::new(remote)));
        if let Some(url) = &self.url {
            return connect(url).await;
        }
        if !self.project.join("millpond.toml").exists() && self.overrides.sets.is_empty() {
            return connect(&server(&self.overrides)?).await;
        }
        let (project, options) = self.overrides.load(&self.project)?;
        if let Some(address) = project.config.serve.flight_sql {
            match connect(&own(&project.config.serve, address)).await {
                Err(error) if error.kind() == Kind::Unavailable => {}
                found => return found,
            }
        }
        if let Some(spec) = options.vars.get("MILLPOND_FAILPOINT") {
            failpoint::arm(spec)?;
        }
        Ok(Place::Lake(Box::new(project), options.vars))
    }

    /// How buckets beside the lake are reached.
    pub(super) fn s3(&self) -> Result<S3Options> {
        let has_project = self.project.join("millpond.toml").exists() || !self.overrides.sets.is_empty();
        if !has_project {
            return Ok(S3Options::default());
        }
        let (project, options) = self.overrides.load(&self.project)?;
        Ok(engine::s3_options(&project.config, &options.vars))
    }

    /// Writes the rows of statements, as `millpond sql` does.
    pub(super) async fn print(&self, statements: Vec<String>, format: Format) -> Result<ExitCode> {
        let sql = SqlArgs { command: statements, format, ..SqlArgs::default() };
        let done = shell::run(sql, self.target().await?).await;
        done.map_err(|error| Error::new(Kind::Query, format!("{error:#}")))
    }

    /// The same, for SQL.
    pub(super) async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(match self.find().await? {
            Place::Server(remote) => remote,
            Place::Lake(project, variables) => {
                Box::new(Local::new(engine::read_only(&project, &variables).await?.session()))
            }
        })
    }
}

/// The address of a project's own server.
pub(super) fn own(serve: &Serve, address: SocketAddr) -> String {
    format!("{}://{address}", if serve.tls.is_some() { "grpcs" } else { "grpc" })
}

/// Has the server carry out an admin action that takes its time; `show` hears how far it is.
pub(super) async fn ask_telling<P: DeserializeOwned, R: DeserializeOwned>(
    server: &mut Remote,
    action: &str,
    request: &impl Serialize,
    mut show: impl FnMut(P) + Send,
) -> Result<R> {
    let unreadable = |error| Error::new(Kind::Internal, "the server's answer cannot be read").because(error);
    let body = serde_json::to_vec(request).map_err(unreadable)?;
    let told = |told: &bytes::Bytes| {
        if let Ok(Told::<P, R>::Progress(progress)) = serde_json::from_slice(told) {
            show(progress);
        }
    };
    match serde_json::from_slice(&server.act_telling(action, body.into(), told).await?).map_err(unreadable)? {
        Told::<P, R>::Done(report) => Ok(report),
        Told::Progress(_) => Err(Error::new(Kind::Unavailable, "the server stopped before it was done")),
    }
}

/// A bar that shows how far something is, on a terminal.
pub(super) fn progress_bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Has the server carry out an admin action.
pub(super) async fn ask<T: DeserializeOwned>(server: &mut Remote, action: &str, request: &impl Serialize) -> Result<T> {
    let unreadable = |error| Error::new(Kind::Internal, "the server's answer cannot be read").because(error);
    let body = serde_json::to_vec(request).map_err(unreadable)?;
    serde_json::from_slice(&server.act(action, body.into()).await?).map_err(unreadable)
}
