//! Open connections by number, so that another connection can cancel what one is doing.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::task::Shutdown;

/// All open connections.
#[derive(Debug, Default)]
pub(super) struct Lines {
    open: Mutex<HashMap<u32, Arc<Line>>>,
}

/// What can be cancelled on a connection.
#[derive(Debug)]
pub(super) struct Line {
    process: u32,
    secret: u32,
    running: Mutex<Shutdown>,
}

/// Takes a connection off the list when it ends.
pub(super) struct Open {
    lines: Arc<Lines>,
    line: Arc<Line>,
}

impl Lines {
    /// Another connection.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        let mut open = self.open.lock();
        let process = loop {
            // A process number is positive.
            let process = rand::random::<u32>() >> 1;
            if process > 0 && !open.contains_key(&process) {
                break process;
            }
        };
        let line = Arc::new(Line { process, secret: rand::random(), running: Mutex::new(Shutdown::new()) });
        open.insert(process, Arc::clone(&line));
        Open { lines: Arc::clone(self), line }
    }

    /// Cancels what runs on the connection `process`, if the secret is its own. Who asks is not told.
    pub(super) fn cancel(&self, process: u32, secret: u32) {
        let line = self.open.lock().get(&process).cloned();
        if let Some(line) = line.filter(|line| line.secret == secret) {
            line.running.lock().cancel();
        }
    }
}

impl Line {
    pub(super) fn process(&self) -> u32 {
        self.process
    }

    pub(super) fn secret(&self) -> u32 {
        self.secret
    }

    /// A step begins: what is cancelled from here on is this one.
    pub(super) fn begin(&self) -> Shutdown {
        let begun = Shutdown::new();
        *self.running.lock() = begun.clone();
        begun
    }
}

impl Open {
    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.lines.open.lock().remove(&self.line.process);
    }
}
