//! The start-up probe: can this lake be written, and does its store keep PUT-if-absent?
//!
//! Every commit and the writer claim rest on PUT-if-absent, and some stores accept the condition without keeping
//! it. So a fresh key is put twice; the second PUT must be refused and must not have changed the object. The same
//! requests show wrong keys, a missing bucket, an endpoint that is not there, or a folder that cannot be written.

use std::time::Duration;

use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt, PutMode, PutOptions};

use super::Stores;
use crate::error::{Error, Kind, Result};

/// The whole probe; a host that swallows packets costs one connect time-out and a retry.
const TIMEOUT: Duration = Duration::from_secs(10);
const DOING: &str = "write a probe object";

/// Writes, reads and deletes one object under `_millpond/probe/`. Fails within 10 s.
pub async fn probe(stores: &Stores) -> Result<()> {
    within(stores, TIMEOUT).await
}

async fn within(stores: &Stores, limit: Duration) -> Result<()> {
    tokio::time::timeout(limit, run(stores)).await.map_err(|_| stores.silent(DOING, limit))?
}

async fn run(stores: &Stores) -> Result<()> {
    let key = Path::from(format!("_millpond/probe/{}", uuid::Uuid::new_v4()));
    let store = stores.commit();
    let put = |text: &'static str| {
        store.put_opts(&key, text.into(), PutOptions { mode: PutMode::Create, ..PutOptions::default() })
    };
    match put("first").await {
        // The key is fresh, so an object that exists is our own, from a try whose answer was lost.
        Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
        Err(error) => {
            let explained = stores.explain(DOING, error);
            // An S3 store names the missing bucket; a bare 404 comes from something else.
            return Err(match explained.kind() {
                Kind::NotFound => Error::new(Kind::Usage, format!("there is no S3 store behind {}", stores.location()))
                    .hint("correct `[lake.s3] endpoint` or `[lake] url`")
                    .because("a PUT was answered with 404"),
                _ => explained,
            });
        }
    }
    let kept = match put("second").await {
        Ok(_) => false,
        Err(StoreError::AlreadyExists { .. }) => {
            let read = async { store.get(&key).await?.bytes().await };
            read.await.map_err(|error| stores.explain("read a probe object", error))?.as_ref() == b"first"
        }
        Err(error) => return Err(stores.explain(DOING, error)),
    };
    if let Err(error) = store.delete(&key).await {
        let error = stores.explain("delete a probe object", error);
        tracing::warn!(%error, %key, "cannot delete from the lake; old files will pile up");
    }
    if kept {
        return Ok(());
    }
    let message = format!(
        "the object store of {} ignores PUT-if-absent, so two writers could overwrite each other's commits",
        stores.location()
    );
    Err(Error::new(Kind::Refused, message).hint("use a store that honours `If-None-Match: *` (AWS S3, MinIO, R2, …)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::store::testing::{Careless, Mute, answering, s3, stores};
    use crate::lake::{Location, S3Options};
    use futures::TryStreamExt;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_good_store_passes_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Location::folder(dir.path()).unwrap();
        for stores in
            [stores(Arc::new(InMemory::new())), Stores::open_or_create(&folder, &S3Options::default()).await.unwrap()]
        {
            probe(&stores).await.unwrap();
            assert!(stores.data().list(None).try_collect::<Vec<_>>().await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn a_store_without_put_if_absent_is_refused() {
        for (lies, name) in [(false, "accepts both"), (true, "says no and overwrites")] {
            let error = probe(&stores(Arc::new(Careless::new(lies)))).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{name}");
            assert!(error.message().contains("ignores PUT-if-absent"), "{name}: {error}");
        }
    }

    /// Every S3 error a person can cause gives one message of its own, at once.
    #[tokio::test]
    async fn s3_errors_are_told_apart() {
        for (status, code, kind, words) in [
            (
                "404 Not Found",
                "NoSuchBucket",
                Kind::Usage,
                "bucket `fleet` does not exist in the object store at http://127.0.0.1:",
            ),
            ("404 Not Found", "", Kind::Usage, "there is no S3 store behind s3://fleet/lake"),
            ("403 Forbidden", "InvalidAccessKeyId", Kind::Usage, "does not know the access key"),
            ("403 Forbidden", "SignatureDoesNotMatch", Kind::Usage, "the secret key does not fit"),
            ("403 Forbidden", "AccessDenied", Kind::Usage, "access to bucket `fleet` is denied"),
            ("403 Forbidden", "RequestTimeTooSkewed", Kind::Usage, "the clock of this host"),
            ("400 Bad Request", "ExpiredToken", Kind::Usage, "the session token is not accepted"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", Kind::Usage, "is in another region"),
            ("301 Moved Permanently", "PermanentRedirect", Kind::Usage, "is in another region"),
            ("400 Bad Request", "InvalidBucketName", Kind::Usage, "does not accept the bucket name"),
            ("501 Not Implemented", "NotImplemented", Kind::Refused, "has no conditional PUT"),
            ("503 Service Unavailable", "SlowDown", Kind::Unavailable, "answers with errors"),
        ] {
            let body = format!("<Error><Code>{code}</Code><Message>As it is.</Message></Error>");
            let endpoint = answering(status, &body).await;
            let started = std::time::Instant::now();
            let error = probe(&s3(&endpoint).await).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{code}: {error}");
            assert!(error.message().contains(words), "{code}: {error}");
            assert!(error.hint_text().is_some(), "{code}");
            assert!(!error.to_string().contains("<Error>"), "{code}: {error}");
            assert!(started.elapsed() < Duration::from_secs(8), "{code} took {:?}", started.elapsed());
        }
    }

    #[tokio::test]
    async fn nobody_at_the_endpoint_is_unavailable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = probe(&s3(&endpoint).await).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.message().contains("cannot be reached"), "{error}");
    }

    #[tokio::test]
    async fn a_store_that_never_answers_fails_in_time() {
        let error = within(&stores(Arc::new(Mute)), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.to_string().contains("does not answer"), "{error}");
    }
}
