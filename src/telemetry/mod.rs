//! Logs: lower-case constant text, values as fields, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged when nothing else is asked for: Millpond in full, libraries when they warn. Delta's log what they
/// return as an error, too, and an error is logged where it is handled.
const DEFAULT_FILTER: &str = "warn,millpond=info,deltalake=off,buoyant=off";
/// The same for commands whose output is for a person's eyes.
const QUIET_FILTER: &str = "error,millpond=warn,deltalake=off,buoyant=off";

/// Starts logging. `filter` is in the syntax of `RUST_LOG` (`MILLPOND_LOG` sets it); `quiet` shows warnings only.
pub fn init(filter: Option<&str>, quiet: bool) {
    let default = if quiet { QUIET_FILTER } else { DEFAULT_FILTER };
    let (filter, wrong) = match EnvFilter::try_new(filter.unwrap_or(default)) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(default), Some(error)),
    };
    // A second call (tests) changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Told by `eprintln!`, which panics when standard error is what is closed.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    if let Some(error) = wrong {
        tracing::warn!(%error, "MILLPOND_LOG is no filter, the usual one is in force");
    }
}
