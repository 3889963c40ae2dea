//! Named points at which the process can be made to die, as if by `kill -9`: for crash tests only.
//!
//! `MILLPOND_FAILPOINT=name` dies at the first hit of `name`, `name:3` at the third. `config` reads the variable and
//! calls [`arm`]; unarmed, a hit is one atomic load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Kind, Result};

static ARMED: OnceLock<Armed> = OnceLock::new();

#[derive(Debug)]
struct Armed {
    name: String,
    left: AtomicU64,
}

/// Arms the one fail point of `spec` (`name` or `name:n`) for this process's life. Later calls change nothing.
pub fn arm(spec: &str) -> Result<()> {
    let armed = Armed::parse(spec)?;
    tracing::warn!(name = armed.name, "fail point armed");
    let _ = ARMED.set(armed);
    Ok(())
}

/// Dies here if `name` is armed and this is its n-th hit.
pub fn hit(name: &str) {
    if let Some(armed) = ARMED.get()
        && armed.is_due(name)
    {
        // No destructor, no flush: what is not in the store or on disk is lost.
        std::process::abort();
    }
}

impl Armed {
    fn parse(spec: &str) -> Result<Self> {
        let (name, n) = spec.split_once(':').unwrap_or((spec, "1"));
        match n.parse() {
            Ok(n) if n > 0 && !name.is_empty() => Ok(Self { name: name.to_owned(), left: AtomicU64::new(n) }),
            _ => Err(Error::new(Kind::Usage, format!("MILLPOND_FAILPOINT=`{spec}` is no fail point"))
                .hint("write `name`, or `name:3` for its third hit")),
        }
    }

    fn is_due(&self, name: &str) -> bool {
        self.name == name && self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_hit_of_the_name_is_due_and_only_that() {
        let armed = Armed::parse("after_stage:3").unwrap();
        let due: Vec<bool> = ["after_stage", "other", "after_stage", "after_stage", "after_stage"]
            .into_iter()
            .map(|name| armed.is_due(name))
            .collect();
        assert_eq!(due, [false, false, false, true, false]);
        assert!(Armed::parse("x").unwrap().is_due("x"));
        for bad in ["", ":1", "x:0", "x:y", "x:-1"] {
            assert_eq!(Armed::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }

    /// Runs this very test again as a child process that arms a point and hits it.
    #[test]
    fn a_hit_kills_the_process_at_once() {
        const NAME: &str = "task::failpoint::tests::a_hit_kills_the_process_at_once";
        if std::env::var_os("MILLPOND_TEST_DIES").is_some() {
            arm("here:2").unwrap();
            hit("elsewhere");
            hit("here");
            eprintln!("still here");
            hit("here");
            eprintln!("never here");
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env("MILLPOND_TEST_DIES", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(!child.status.success() && child.status.code().is_none(), "{:?}", child.status);
        assert!(said.contains("still here") && !said.contains("never here"), "{said}");
    }
}
