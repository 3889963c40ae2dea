//! What a store's error means to a person: one message, the way out, and the kind.
//!
//! object_store keeps its HTTP error private, and wraps listing errors whatever their status; so the S3 error code
//! and status are taken from the error's text (which holds the answer's XML), transport and disk errors from its
//! chain of sources.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

use super::Location;
use super::credentials::NoCredentials;
use crate::error::{Error, Kind};

/// What went wrong, as far as it changes what a person does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NoBucket,
    UnknownKey,
    WrongSecret,
    ExpiredToken,
    NoCredentials,
    Denied,
    ClockSkew,
    WrongRegion,
    BadBucketName,
    NoConditionalPut,
    Unreachable,
    Silent,
    Failing,
    NotWritable,
    IsFile,
    DiskFull,
    Missing,
    Other,
}

/// Words `error`, met while trying to `doing`.
pub(super) fn explain(location: &Location, endpoint: Option<&str>, doing: &str, error: object_store::Error) -> Error {
    let words = match classify(&error) {
        Fault::Other | Fault::Missing => None,
        fault => Some(word(fault, location, endpoint, doing)),
    };
    match words {
        Some(words) => words.because(cause(&error)),
        None => {
            let kind = match &error {
                object_store::Error::NotFound { .. } => Kind::NotFound,
                object_store::Error::Generic { .. } => Kind::Unavailable,
                _ => Kind::Internal,
            };
            Error::new(kind, format!("could not {doing} at {location}")).because(cause(&error))
        }
    }
}

/// The store did not answer within `after`.
pub(super) fn silent(location: &Location, endpoint: Option<&str>, doing: &str, after: Duration) -> Error {
    word(Fault::Silent, location, endpoint, doing).because(format!("no answer within {} s", after.as_secs()))
}

fn word(fault: Fault, location: &Location, endpoint: Option<&str>, doing: &str) -> Error {
    let store = match (location, endpoint) {
        (Location::Folder(_), _) => format!("the folder {location}"),
        (_, Some(endpoint)) => format!("the object store at {endpoint}"),
        (_, None) => "AWS S3".to_owned(),
    };
    let bucket = match location {
        Location::Bucket { bucket, .. } => bucket.as_str(),
        Location::Folder(_) => "",
    };
    let (kind, message, hint) = match fault {
        Fault::NoBucket => (
            Kind::Usage,
            format!("bucket `{bucket}` does not exist in {store}"),
            "create the bucket, or correct `[lake] url` or `[lake.s3] endpoint`",
        ),
        Fault::UnknownKey => (
            Kind::Usage,
            format!("{store} does not know the access key"),
            "check AWS_ACCESS_KEY_ID, or the AWS profile in use",
        ),
        Fault::WrongSecret => (
            Kind::Usage,
            format!("the secret key does not fit the access key at {store}"),
            "check AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if the keys are temporary)",
        ),
        Fault::ExpiredToken => (
            Kind::Usage,
            format!("the session token is not accepted by {store}"),
            "get new temporary keys, or remove AWS_SESSION_TOKEN if the keys are permanent",
        ),
        Fault::NoCredentials => (
            Kind::Usage,
            "no AWS credentials were found".to_owned(),
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role is attached",
        ),
        Fault::Denied => (
            Kind::Usage,
            format!("access to bucket `{bucket}` is denied: could not {doing}"),
            "allow these keys to list the bucket and to get, put and delete its objects",
        ),
        Fault::ClockSkew => (
            Kind::Usage,
            format!("the clock of this host differs too much from that of {store}"),
            "set this host's clock (NTP)",
        ),
        Fault::WrongRegion => {
            (Kind::Usage, format!("bucket `{bucket}` is in another region"), "correct `[lake.s3] region`")
        }
        Fault::BadBucketName => {
            (Kind::Usage, format!("{store} does not accept the bucket name `{bucket}`"), "correct `[lake] url`")
        }
        Fault::NoConditionalPut => (
            Kind::Refused,
            format!("{store} has no conditional PUT, so two writers could overwrite each other's commits"),
            "use a store that honours `If-None-Match: *` (AWS S3, MinIO, R2, …)",
        ),
        Fault::Unreachable => (
            Kind::Unavailable,
            format!("{store} cannot be reached"),
            "check that it runs, `[lake.s3] endpoint`, and the network",
        ),
        Fault::Silent => (
            Kind::Unavailable,
            format!("{store} does not answer: could not {doing}"),
            "check that it runs, `[lake.s3] endpoint`, and the network",
        ),
        Fault::Failing => (
            Kind::Unavailable,
            format!("{store} answers with errors: could not {doing}"),
            "see its log; Millpond goes on by itself when it recovers",
        ),
        Fault::NotWritable => {
            (Kind::Usage, format!("{store} is not writable"), "change its owner or mode, or correct `[lake] url`")
        }
        Fault::IsFile => (
            Kind::Usage,
            format!("the lake cannot be kept at {location}: it is a file, or a part of its path is a file"),
            "correct `[lake] url`, or move the file away",
        ),
        Fault::DiskFull => (
            Kind::Unavailable,
            format!("the disk of {store} is full: could not {doing}"),
            "free some space; nothing committed is lost",
        ),
        Fault::Missing | Fault::Other => (Kind::Internal, format!("could not {doing} at {location}"), "see the log"),
    };
    Error::new(kind, message).hint(hint)
}

fn classify(error: &object_store::Error) -> Fault {
    for cause in causes(error) {
        if cause.is::<NoCredentials>() {
            return Fault::NoCredentials;
        }
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Timeout => Fault::Silent,
                _ => Fault::Unreachable,
            };
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Fault::NotWritable,
                io::ErrorKind::NotADirectory => Fault::IsFile,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::DiskFull,
                _ if matches!(error, object_store::Error::NotFound { .. }) => Fault::Missing,
                _ => Fault::Other,
            };
        }
    }
    let text = error.to_string();
    match between(&text, "<Code>", "</Code>") {
        Some("NoSuchBucket") => return Fault::NoBucket,
        Some("InvalidAccessKeyId" | "InvalidAccessKey") => return Fault::UnknownKey,
        Some("SignatureDoesNotMatch") => return Fault::WrongSecret,
        Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => return Fault::ExpiredToken,
        Some("RequestTimeTooSkewed") => return Fault::ClockSkew,
        Some("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            return Fault::WrongRegion;
        }
        Some("InvalidBucketName") => return Fault::BadBucketName,
        Some("NotImplemented") => return Fault::NoConditionalPut,
        _ => {}
    }
    if text.contains("incorrectly configured region") {
        return Fault::WrongRegion;
    }
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Fault::Denied,
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            Fault::NoConditionalPut
        }
        object_store::Error::NotFound { .. } => Fault::Missing,
        _ => match between(&text, "status code: ", " ").and_then(|status| status.parse().ok()) {
            Some(401 | 403) => Fault::Denied,
            Some(404) => Fault::Missing,
            Some(301 | 307 | 308) => Fault::WrongRegion,
            Some(429 | 500..) => Fault::Failing,
            _ => Fault::Other,
        },
    }
}

/// The shortest text that says why: the store's own code and message, or the innermost cause.
fn cause(error: &object_store::Error) -> String {
    let text = error.to_string();
    match (between(&text, "<Code>", "</Code>"), between(&text, "<Message>", "</Message>")) {
        (Some(code), Some(message)) => format!("{code}: {}", message.trim_end_matches('.')),
        (Some(code), None) => code.to_owned(),
        (None, _) => causes(error).last().map_or(text, |cause| cause.to_string()),
    }
}

/// `error` and what caused it, outermost first.
pub(super) fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What stands between the first `start` and the next `end`.
pub(super) fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = text.split_once(start)?.1;
    rest.split_once(end).map(|(inner, _)| inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn disk(kind: io::ErrorKind) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: Box::new(io::Error::from(kind)) }
    }

    #[test]
    fn disk_errors_say_what_to_do() {
        let location = Location::Folder(PathBuf::from("/srv/lake"));
        for (kind, expected, words) in [
            (io::ErrorKind::PermissionDenied, Kind::Usage, "/srv/lake is not writable"),
            (io::ErrorKind::ReadOnlyFilesystem, Kind::Usage, "/srv/lake is not writable"),
            (io::ErrorKind::NotADirectory, Kind::Usage, "is a file"),
            (io::ErrorKind::StorageFull, Kind::Unavailable, "is full"),
            (io::ErrorKind::InvalidData, Kind::Unavailable, "could not write it"),
        ] {
            let error = explain(&location, None, "write it", disk(kind));
            assert_eq!(error.kind(), expected, "{error}");
            assert!(error.message().contains(words), "{error}");
        }
    }

    #[test]
    fn an_object_that_is_missing_is_not_found() {
        let error = object_store::Error::NotFound {
            path: "x".into(),
            source: Box::new(io::Error::from(io::ErrorKind::NotFound)),
        };
        let location = Location::Folder(PathBuf::from("/srv/lake"));
        assert_eq!(explain(&location, None, "read it", error).kind(), Kind::NotFound);
    }
}
