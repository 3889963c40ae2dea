//! `millpond schema`: what the columns of tables are, or would be.

use std::process::ExitCode;

use clap::Subcommand;

use super::preview;
use crate::error::Result;

#[derive(Subcommand, Debug)]
pub(super) enum SchemaCommand {
    /// What a file would become: columns, rescued values, dead letters; or a schema file to begin with
    Preview(preview::PreviewArgs),
}

pub(super) async fn run(command: SchemaCommand) -> Result<ExitCode> {
    match command {
        SchemaCommand::Preview(args) => preview::run(&args),
    }
}
