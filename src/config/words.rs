//! Every word the project's files may hold: the keys of this version, and the keys of the design that come later.
//!
//! Unknown keys are refused against these lists, hints are taken from them, and a test holds
//! `docs/reference.md` against them.

/// The keys of one table of a file.
pub(super) struct Words {
    /// Keys of this version, tables of their own included.
    pub keys: &'static [&'static str],
    /// Keys of the design that this version refuses by name.
    pub later: &'static [&'static str],
}

/// `millpond.toml`.
pub(super) mod project {
    use super::Words;

    pub const ROOT: Words =
        Words { keys: &["project", "lake", "kafka", "limits", "serve"], later: &["sinks", "notify"] };
    pub const PROJECT: Words = Words { keys: &["timezone"], later: &[] };
    pub const LAKE: Words = Words { keys: &["url", "commit_interval", "s3"], later: &[] };
    pub const S3: Words = Words { keys: &["endpoint", "region"], later: &[] };
    pub const KAFKA: Words = Words { keys: &["brokers", "auth", "properties"], later: &["schema_registry"] };
    pub const LIMITS: Words = Words { keys: &["memory"], later: &[] };
    pub const SERVE: Words = Words { keys: &["flight_sql", "http"], later: &["postgres", "tls"] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[
        ("", &ROOT),
        ("project", &PROJECT),
        ("lake", &LAKE),
        ("lake.s3", &S3),
        ("kafka", &KAFKA),
        ("limits", &LIMITS),
        ("serve", &SERVE),
    ];
}

/// `schemas/<table>.toml` of `kind = "events"`.
pub(super) mod events {
    use super::Words;

    pub const ROOT: Words = Words {
        keys: &[
            "kind",
            "topic",
            "topics",
            "format",
            "start",
            "key",
            "time",
            "strip",
            "on_new_field",
            "on_type_conflict",
            "commit_interval",
            "columns",
        ],
        later: &["topic_pattern", "match", "raw", "retention", "arrays", "infer_timestamps", "description"],
    };
    pub const TIME: Words = Words { keys: &["path", "format"], later: &["allowed_lateness"] };
    pub const COLUMN: Words = Words { keys: &["path", "type"], later: &["description"] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("", &ROOT), ("time", &TIME), ("columns.<name>", &COLUMN)];
    /// Values of `kind` that come later.
    pub const KINDS_LATER: &[&str] = &["mirror", "latest", "reference"];
    /// Values of `format` that come later.
    pub const FORMATS_LATER: &[&str] = &["avro", "protobuf", "debezium-json", "debezium-avro", "dms-json"];
}

/// The `--!` lines of `queries/<name>.sql` of `kind = "view"`.
pub(super) mod view {
    use super::Words;

    pub const ROOT: Words = Words { keys: &["kind"], later: &["description"] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("", &ROOT)];
    /// Values of `kind` that come later.
    pub const KINDS_LATER: &[&str] = &["alert", "stream", "table"];
}
