//! A failure in one short line, for messages that come again and again while a store is away: what was asked and
//! what came of it, as in `PUT http://127.0.0.1:9000/fleet/lake/x.json: connection refused`.
//!
//! Libraries wrap a store's error several times and add their settings; what a person needs is inside. Where it is
//! not typed it is taken from the text, as in `fault`.

use std::error::Error as StdError;
use std::io;

use object_store::client::{HttpError, HttpErrorKind};

use super::fault::{between, causes};

/// Precedes method, address and time in object_store's texts.
const ASKED: &str = "Error performing ";

/// Why `error` came about, in one line. It is a store's own, or a library's that holds one.
pub fn reason(error: &(dyn StdError + 'static)) -> String {
    let error: &(dyn StdError + 'static) = match store_error(error) {
        Some(found) => found,
        None => error,
    };
    let text = error.to_string();
    let Some((asked, took)) = request(&text) else { return local(error, &text) };
    format!("{asked}: {}", answer(error, &text, took))
}

/// The object store's error inside `error`, if that is what it holds.
pub fn store_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a object_store::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Method and address without the query, and the time it took.
fn request(text: &str) -> Option<(&str, &str)> {
    let (asked, rest) = text.split_once(ASKED)?.1.split_once(" in ")?;
    Some((asked.split('?').next().unwrap_or(asked), rest.split([' ', ',']).next().unwrap_or(rest)))
}

fn answer(error: &(dyn StdError + 'static), text: &str, took: &str) -> String {
    if let Some(status) = between(text, "status code: ", ":") {
        return refusal(status, text);
    }
    for cause in causes(error) {
        if cause.downcast_ref::<HttpError>().is_some_and(|http| http.kind() == HttpErrorKind::Timeout) {
            return silence(took);
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return spoken(io);
        }
    }
    // Delta's kernel hides the causes of a store's error from everything but its debug form.
    let debug = format!("{error:?}");
    if debug.contains("kind: Timeout") {
        return silence(took);
    }
    match between(&debug, "message: \"", "\"") {
        Some(message) => message.to_lowercase(),
        None => causes(error).last().map_or_else(String::new, |cause| first_line(&cause.to_string())),
    }
}

/// `404 Not Found`, with the store's own word where it gives one.
fn refusal(status: &str, text: &str) -> String {
    let (number, word) = status.split_once(' ').unwrap_or((status, ""));
    match between(text, "<Code>", "</Code>") {
        Some("NoSuchBucket") => format!("{number} no such bucket"),
        Some("AccessDenied") => format!("{number} access denied"),
        Some(code) if !code.is_empty() => format!("{number} {code}"),
        _ => format!("{number} {}", word.to_lowercase()),
    }
}

fn silence(took: &str) -> String {
    let unit = took.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    match took.trim_end_matches(unit).parse::<f64>() {
        Ok(number) => format!("no answer in {number:.0} {unit}"),
        Err(_) => "no answer in time".to_owned(),
    }
}

/// The kind's words are shorter than the system's, where there is a kind.
fn spoken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => error.kind().to_string(),
        _ => first_line(&error.to_string()),
    }
}

/// An error of a folder, or of no store at all.
fn local(error: &(dyn StdError + 'static), text: &str) -> String {
    match error.downcast_ref() {
        Some(object_store::Error::Generic { source, .. }) => first_line(&source.to_string()),
        _ => first_line(text),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use deltalake_core::{DeltaTable, DeltaTableError};
    use object_store::aws::AmazonS3Builder;
    use object_store::path::Path;
    use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};

    use super::super::testing::{answering, s3};
    use super::*;
    use crate::lake::{DurableLocal, Lake, TableError};

    async fn free_address() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    async fn put(store: &dyn ObjectStore) -> object_store::Error {
        store.put(&Path::from("a/b.json"), "x".into()).await.unwrap_err()
    }

    #[tokio::test]
    async fn what_a_store_answers_is_said_with_what_was_asked() {
        for (status, code, expected) in [
            ("404 Not Found", "NoSuchBucket", "404 no such bucket"),
            ("403 Forbidden", "AccessDenied", "403 access denied"),
            ("403 Forbidden", "InvalidAccessKeyId", "403 InvalidAccessKeyId"),
            ("403 Forbidden", "", "403 forbidden"),
            ("503 Service Unavailable", "SlowDown", "503 SlowDown"),
            ("500 Internal Server Error", "", "500 internal server error"),
        ] {
            let endpoint = answering(status, &format!("<Error><Code>{code}</Code></Error>")).await;
            let error = put(s3(&endpoint).await.commit().as_ref()).await;
            assert_eq!(reason(&error), format!("PUT {endpoint}/fleet/lake/a/b.json: {expected}"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_refuses_the_connection_however_deep_the_error_lies() {
        let endpoint = free_address().await;
        let stores = s3(&endpoint).await;
        let bare = put(stores.commit().as_ref()).await;
        let expected = format!("PUT {endpoint}/fleet/lake/a/b.json: connection refused");
        assert_eq!(reason(&bare), expected, "{bare}");
        let wrapped = TableError::from(DeltaTableError::from(bare));
        assert_eq!(wrapped.to_string(), expected);

        let (log, _) = Lake::new(stores).table_stores("public", "t").unwrap();
        let kernel = TableError::from(DeltaTable::new(log).load().await.unwrap_err());
        let text = kernel.to_string();
        assert!(text.starts_with("GET http://") && text.ends_with(": connection refused"), "{text}\n{kernel:?}");
    }

    #[tokio::test]
    async fn a_silent_store_is_told_with_the_time_it_was_given() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let store = AmazonS3Builder::new()
            .with_bucket_name("fleet")
            .with_endpoint(&endpoint)
            .with_access_key_id("id")
            .with_secret_access_key("secret")
            .with_client_options(ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_millis(300)))
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .build()
            .unwrap();
        let error = put(&store).await;
        let text = reason(&error);
        assert!(text.starts_with(&format!("PUT {endpoint}/fleet/a/b.json: no answer in 3")), "{text}");
        assert!(text.ends_with(" ms"), "{text}");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_says_which_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(DurableLocal::open_or_create(dir.path()).unwrap());
        std::fs::write(dir.path().join("a"), "in the way").unwrap();
        let error = put(store.as_ref()).await;
        let text = reason(&error);
        assert!(text.starts_with("could not create /") && text.contains("/a/b.json#"), "{text}");
        assert!(text.ends_with(": Not a directory (os error 20)"), "{text}");
    }

    #[test]
    fn what_is_no_store_s_fault_keeps_its_first_line() {
        let error = TableError::from(DeltaTableError::generic("no schema.\nbacktrace"));
        assert_eq!(error.to_string(), "Generic DeltaTable error: no schema");
    }
}
