//! A real schema registry on loopback.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::process::{Process, component};
use super::{folder, free_port};

const START: Duration = Duration::from_secs(90);

/// Apicurio and its data folder; killed on drop.
pub struct Registry {
    port: u16,
    tls: bool,
    dir: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Registry {
    /// A registry of the test's own, to stop and restart.
    pub async fn start() -> Self {
        Self::make(false).await
    }

    /// The same over TLS, with the certificate in [`Self::ca`].
    pub async fn start_with_tls() -> Self {
        Self::make(true).await
    }

    async fn make(tls: bool) -> Self {
        let registry = Self { port: free_port(), tls, dir: folder("registry"), process: Mutex::new(None) };
        registry.restart().await;
        registry
    }

    /// What `kafka.schema_registry.url` takes.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// The file of the certificate, with TLS.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    fn client(&self) -> reqwest::Client {
        let mut client = reqwest::Client::builder();
        if let Ok(pem) = std::fs::read(self.ca()) {
            client = client.add_root_certificate(reqwest::Certificate::from_pem(&pem).unwrap());
        }
        client.build().unwrap()
    }

    /// kill -9: connections are refused, the schemas stay.
    pub fn stop(&self) {
        self.process.lock().unwrap().take();
    }

    /// Starts it (again) on the same port and data, and waits until it answers.
    pub async fn restart(&self) {
        self.stop();
        let scheme = if self.tls { "https" } else { "http" };
        let command = component(&["registry", self.dir.to_str().unwrap(), &self.port.to_string(), scheme]);
        let process = Process::spawn("registry", &command, &self.dir.join("registry.log"));
        let subjects = format!("{}/subjects", self.url());
        let answers = || async {
            let answer = self.client().get(&subjects).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        process.wait_ready(START, answers).await;
        *self.process.lock().unwrap() = Some(process);
    }

    /// Registers the next version of a subject's schema; `references` are (name, subject), of their first versions.
    /// Returns the schema's id.
    pub async fn register(&self, subject: &str, kind: &str, schema: &str, references: &[(&str, &str)]) -> u32 {
        let references: Vec<Value> =
            references.iter().map(|(name, subject)| json!({"name": name, "subject": subject, "version": 1})).collect();
        let body = json!({"schemaType": kind, "schema": schema, "references": references});
        let url = format!("{}/subjects/{subject}/versions", self.url());
        let request = self.client().post(url).header("Content-Type", "application/json");
        let answer = request.body(body.to_string()).send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["id"].as_u64().unwrap_or_else(|| panic!("{subject} was not registered: {answer}")) as u32
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
        super::discard(&self.dir);
    }
}
