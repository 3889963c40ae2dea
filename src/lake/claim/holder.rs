//! Who writes: a process, told apart from every other by host, boot, pid namespace, pid and start time.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// A writer, as its claim object names it. What this system does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Random; tells our own claim from a rival's when the answer to a PUT was lost.
    pub id: String,
    /// The host's name.
    pub host: String,
    /// Linux's id of this boot of the kernel.
    pub boot_id: Option<String>,
    /// The pid namespace: two containers of one host may both be pid 1.
    pub pid_namespace: Option<String>,
    /// The process id within its namespace.
    pub pid: u32,
    /// When the process started, in clock ticks since boot: a pid is used again, both together are not.
    pub start_ticks: Option<u64>,
    /// Where it serves, for the person who looks for it.
    pub address: Option<String>,
    /// When it took the claim, by its wall clock; shown, never compared.
    pub started_at: DateTime<Utc>,
}

/// What can be said about a holder's process from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It runs on this host.
    Alive,
    /// It ran on this host and is gone.
    Dead,
    /// It cannot be seen from here: another host, another container, another boot.
    Elsewhere,
}

impl Holder {
    /// This process, serving at `address`.
    pub fn here(address: Option<String>, now: DateTime<Utc>) -> Self {
        let read = |path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let pid = std::process::id();
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            host: read("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".to_owned()),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            pid_namespace: std::fs::read_link("/proc/self/ns/pid").ok().map(|link| link.to_string_lossy().into_owned()),
            pid,
            start_ticks: running_since(pid),
            address,
            started_at: now,
        }
    }

    /// Whether the two run where each other's pids can be seen.
    fn sees(&self, other: &Self) -> bool {
        self.host == other.host
            && self.boot_id.is_some()
            && self.boot_id == other.boot_id
            && self.pid_namespace.is_some()
            && self.pid_namespace == other.pid_namespace
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} on host `{}`", self.pid, self.host)?;
        if let Some(address) = &self.address {
            write!(f, ", serving at {address}")?;
        }
        write!(f, ", since {}", self.started_at.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

/// Looks at this host's processes.
pub(super) fn liveness(holder: &Holder) -> Liveness {
    let here = Holder::here(None, holder.started_at);
    if !here.sees(holder) || holder.start_ticks.is_none() {
        return Liveness::Elsewhere;
    }
    match running_since(holder.pid) {
        None if running_since(1).is_none() => Liveness::Elsewhere, // processes of other users are hidden
        since if since == holder.start_ticks => Liveness::Alive,
        _ => Liveness::Dead,
    }
}

/// Start time of a process in clock ticks since boot; `None` if it is gone, or a zombie.
fn running_since(pid: u32) -> Option<u64> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 3 (state) and 22 (start time) of proc_pid_stat(5); field 2 is a name that may hold anything.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let since = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_around_any_name() {
        let line = |name: &str, state: &str| {
            format!(
                "42 ({name}) {state} 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 10 18446744073709551615"
            )
        };
        assert_eq!(parse_stat(&line("millpond", "S")), Some(987_654));
        assert_eq!(parse_stat(&line("a) Z (b", "R")), Some(987_654));
        assert_eq!(parse_stat(&line("millpond", "Z")), None);
        assert_eq!(parse_stat("42 (x) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_process_is_seen_alive_then_dead() {
        let me = Holder::here(None, Utc::now());
        assert_eq!(liveness(&me), Liveness::Alive);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = Holder { pid: child.id(), start_ticks: running_since(child.id()), ..me.clone() };
        assert_eq!(liveness(&other), Liveness::Alive);
        child.kill().unwrap();
        // Killed and not yet waited for: a zombie, which writes no more.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while liveness(&other) != Liveness::Dead && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(liveness(&other), Liveness::Dead);
        child.wait().unwrap();
        assert_eq!(liveness(&other), Liveness::Dead);
    }

    #[test]
    fn the_same_pid_is_not_the_same_process() {
        let me = Holder::here(None, Utc::now());
        for (other, expected) in [
            (Holder { start_ticks: Some(1), ..me.clone() }, Liveness::Dead),
            (Holder { start_ticks: None, ..me.clone() }, Liveness::Elsewhere),
            (Holder { host: "other".into(), ..me.clone() }, Liveness::Elsewhere),
            (Holder { boot_id: Some("other".into()), ..me.clone() }, Liveness::Elsewhere),
            (Holder { boot_id: None, ..me.clone() }, Liveness::Elsewhere),
            (Holder { pid_namespace: Some("pid:[1]".into()), ..me.clone() }, Liveness::Elsewhere),
        ] {
            assert_eq!(liveness(&other), expected, "{other:?}");
        }
    }
}
