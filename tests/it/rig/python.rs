//! The outside readers: scripts of `tests/clients/` in the pinned Python environment.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::process::component;
use super::wait_until;

/// What a command that has ended left.
#[derive(Debug, Clone)]
pub struct Output {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    /// As text.
    pub stdout: String,
    /// As text.
    pub stderr: String,
}

impl Output {
    /// Runs `command` to its end without blocking the runtime; it is killed if the caller gives up.
    pub async fn of(command: Command) -> Self {
        let mut command = tokio::process::Command::from(command);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a script of `tests/clients/` with `arguments` and `env`.
pub async fn run(script: &str, arguments: &[&str], env: &[(&str, String)]) -> Output {
    run_in("python", script, arguments, env).await
}

async fn run_in(python: &str, script: &str, arguments: &[&str], env: &[(&str, String)]) -> Output {
    let script = format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = component(&[python, &script]);
    command.args(arguments).env("PYTHONDONTWRITEBYTECODE", "1").envs(env.iter().map(|(key, value)| (key, value)));
    Output::of(command).await
}

/// Rows of a query over ADBC (Flight SQL); `Err` holds the driver's message.
pub async fn adbc(uri: &str, sql: &str) -> Result<Vec<Value>, String> {
    rows(run("adbc_query.py", &[uri, sql], &[]).await)
}

/// Rows of a query in DuckDB, where the Delta table at `url` is called `t`.
pub async fn duckdb(url: &str, sql: &str, env: &[(&str, String)]) -> Result<Vec<Value>, String> {
    rows(run("delta_scan.py", &[url, sql], env).await)
}

/// Rows of a query over the Delta table at `url` as deltalake for Python reads it, called `t`.
pub async fn deltalake(url: &str, sql: &str) -> Result<Vec<Value>, String> {
    rows(run("delta_rs_scan.py", &[url, sql], &[]).await)
}

/// Rows of queries in Spark, which begins slowly: urls of Delta tables, each with SQL where that is called `t`.
pub async fn spark(asked: &[&str]) -> Result<Vec<Value>, String> {
    rows(run_in("spark", "spark_scan.py", asked, &[]).await)
}

/// Waits until DuckDB sees these rows of the Delta table at `url`, which is called `t`.
pub async fn until_duckdb(url: &str, sql: &str, expected: &[Value]) {
    wait_until(&format!("the lake has all rows of {url}"), Duration::from_secs(60), async || {
        let found = duckdb(url, sql, &[]).await.ok()?;
        (found == expected).then_some(())
    })
    .await;
}

fn rows(output: Output) -> Result<Vec<Value>, String> {
    if output.code != Some(0) {
        return Err(output.stderr);
    }
    Ok(output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}
