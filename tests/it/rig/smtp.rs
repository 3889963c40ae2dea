//! A real mail server (aiosmtpd), and certificates for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::process::{Process, component};
use super::{folder, free_port};

/// A server on loopback; killed on drop.
pub struct Smtp {
    port: u16,
    process: Process,
}

impl Smtp {
    /// Starts it with `options` of `tests/clients/smtp_server.py`, and waits until it listens.
    pub async fn start(options: &[&str]) -> Self {
        let port = free_port();
        let script = format!("{}/tests/clients/smtp_server.py", env!("CARGO_MANIFEST_DIR"));
        let mut command = component(&["python", &script, &port.to_string()]);
        command.args(options).env("PYTHONDONTWRITEBYTECODE", "1");
        let process = Process::spawn("smtp", &command, &folder("smtp").join("smtp.log"));
        let listens = || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() };
        process.wait_ready(Duration::from_secs(30), listens).await;
        Self { port, process }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The mails it has taken.
    pub fn mails(&self) -> Vec<Value> {
        self.process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// A certificate for 127.0.0.1 that is its own authority, and its key.
pub fn certificate() -> (PathBuf, PathBuf) {
    let dir = folder("certificate");
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    let shown = |path: &Path| path.to_str().unwrap().to_owned();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-out", &shown(&certificate), "-keyout", &shown(&key)])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}
