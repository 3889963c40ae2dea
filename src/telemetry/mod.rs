//! Logs: lower-case constant text, values as fields, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged when nothing else is asked for: Millpond in full, libraries when they warn.
const DEFAULT_FILTER: &str = "warn,millpond=info,kafka=warn,deltalake_core=error,buoyant_kernel=error";

/// Starts logging. `filter` is in the syntax of `RUST_LOG` (`MILLPOND_LOG` sets it); `quiet` shows warnings only.
pub fn init(filter: Option<&str>, quiet: bool) {
    let default = if quiet { "error,millpond=warn" } else { DEFAULT_FILTER };
    let filter = EnvFilter::try_new(filter.unwrap_or(default)).unwrap_or_else(|_| EnvFilter::new(default));
    // A second call (tests) changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}
