//! `millpond simulate`: the demo fleet on a real cluster, for the local stack and for tests.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::serve::stop_signal;
use crate::demo::{SimulateOptions, fleet::FleetOptions, simulate};
use crate::error::{Error, Kind, Result};
use crate::task::Shutdown;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  millpond simulate --brokers 127.0.0.1:9092 --rate 2000 --count 100000")]
pub(super) struct SimulateArgs {
    /// Addresses of the cluster
    #[arg(long, value_name = "HOST:PORT")]
    brokers: String,
    /// Messages per second; 0 = as many as possible
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Stop after so many messages
    #[arg(long)]
    count: Option<u64>,
    /// Cars in the fleet
    #[arg(long)]
    cars: Option<usize>,
    /// The same seed gives the same fleet
    #[arg(long)]
    seed: Option<u64>,
    /// Write every delivered message's identity to this CSV file
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) async fn run(args: SimulateArgs) -> Result<ExitCode> {
    let mut fleet = FleetOptions { database: true, ..FleetOptions::default() };
    fleet.cars = args.cars.unwrap_or(fleet.cars);
    fleet.seed = args.seed.unwrap_or(fleet.seed);
    let options = SimulateOptions {
        fleet,
        rate: args.rate,
        count: args.count,
        ledger: args.ledger,
        ..SimulateOptions::new(args.brokers)
    };
    let stop = Shutdown::new();
    let (asked, stopped) = (stop_signal()?, stop.clone());
    crate::task::spawn("stop-signal", async move {
        asked.await;
        stopped.cancel();
    });
    let work = tokio::task::spawn_blocking(move || simulate(&options, &stop));
    let summary = work.await.map_err(|error| Error::new(Kind::Internal, "the simulator failed").because(error))??;
    say!("{summary}");
    Ok(ExitCode::SUCCESS)
}
