//! What librdkafka says about itself: its log lines and errors, routed to `tracing`, never to stderr.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{debug, error, trace, warn};

use crate::iam::Iam;

/// The same kind of librdkafka line is repeated at most this often.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

thread_local! {
    // librdkafka's own words arrive by callback, on the polling thread, just before `poll` returns the bare code.
    static LAST_REASON: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Callbacks of one client.
#[derive(Default)]
pub(super) struct Context {
    iam: Option<Iam>,
    last_error: Mutex<Option<String>>,
    said: Mutex<BTreeMap<String, Instant>>,
}

impl Context {
    /// Of a client that shows tokens of `iam`, if that is asked for.
    pub(super) fn new(iam: Option<Iam>) -> Self {
        Self { iam, ..Self::default() }
    }

    /// What librdkafka complained about last, if anything; taken away by the call.
    pub(super) fn take_last_error(&self) -> Option<String> {
        self.last_error.lock().take()
    }

    /// librdkafka's explanation of the error that the last `poll` on this thread returned.
    pub(super) fn take_reason() -> Option<String> {
        LAST_REASON.take()
    }

    fn may_say(&self, facility: &str) -> bool {
        let mut said = self.said.lock();
        let now = Instant::now();
        match said.get(facility) {
            Some(last) if now.duration_since(*last) < REPEAT_AFTER => false,
            _ => {
                said.insert(facility.to_owned(), now);
                true
            }
        }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let token = self.iam.as_ref().ok_or("only auth = \"msk-iam\" gives tokens")?.token();
        let token = token.inspect_err(|error| *self.last_error.lock() = Some(error.to_string()))?;
        let (token, lifetime_ms) = (token.text, token.ends_at_ms);
        Ok(OAuthToken { token, principal_name: "millpond".to_owned(), lifetime_ms })
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
        match level {
            Emerg | Alert | Critical if self.may_say(facility) => {
                error!(target: "kafka", facility, text, "kafka client failed");
            }
            // Failed connections and requests are said once, in our own words, by whoever waits for them.
            Error | Warning if !matches!(facility, "FAIL" | "ERROR" | "REQTMOUT") && self.may_say(facility) => {
                warn!(target: "kafka", facility, text, "kafka client warns");
            }
            Emerg | Alert | Critical | Error | Warning | Notice | Info => {
                debug!(target: "kafka", facility, text, "kafka client says");
            }
            Debug => trace!(target: "kafka", facility, text, "kafka client says"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is reported as an error, after every batch.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        debug!(target: "kafka", code = ?error.rdkafka_error_code(), reason, "kafka client reports an error");
        LAST_REASON.set(Some(reason.to_owned()));
        // "All brokers are down" follows the cause and would hide it.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            // "(after 0ms in state CONNECT, 3 identical error(s) suppressed)" tells a person nothing.
            let reason = reason.split(" (after ").next().unwrap_or(reason);
            *self.last_error.lock() = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Context {}
