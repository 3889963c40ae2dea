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
        Words { keys: &["project", "lake", "kafka", "limits", "serve", "sinks", "notify"], later: &[] };
    pub const PROJECT: Words = Words { keys: &["timezone"], later: &[] };
    pub const LAKE: Words = Words { keys: &["url", "commit_interval", "history", "compression", "s3"], later: &[] };
    pub const S3: Words = Words { keys: &["endpoint", "region"], later: &[] };
    pub const KAFKA: Words = Words { keys: &["brokers", "auth", "properties", "schema_registry"], later: &[] };
    pub const SCHEMA_REGISTRY: Words = Words { keys: &["url", "username", "password", "ca"], later: &[] };
    pub const LIMITS: Words = Words { keys: &["memory", "queries", "query_memory"], later: &[] };
    pub const SERVE: Words = Words { keys: &["flight_sql", "postgres", "http", "tls"], later: &[] };
    pub const TLS: Words = Words { keys: &["cert", "key", "client_ca"], later: &[] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[
        ("", &ROOT),
        ("project", &PROJECT),
        ("lake", &LAKE),
        ("lake.s3", &S3),
        ("kafka", &KAFKA),
        ("kafka.schema_registry", &SCHEMA_REGISTRY),
        ("limits", &LIMITS),
        ("serve", &SERVE),
        ("serve.tls", &TLS),
        ("sinks.<name>", &super::sink::KAFKA),
        ("sinks.<name>", &super::sink::WEBHOOK),
        ("sinks.<name>", &super::sink::EMAIL),
        ("notify", &super::notify::RULE),
    ];
}

/// `access.toml`.
pub(super) mod access {
    use super::Words;

    pub const FILE: Words = Words { keys: &["roles", "users"], later: &[] };
    pub const ROLE: Words = Words {
        keys: &[
            "rights",
            "tables",
            "filter",
            "mask",
            "statement_timeout",
            "queries",
            "memory",
            "spill",
            "result_rows",
            "result_size",
        ],
        later: &[],
    };
    pub const USER: Words = Words { keys: &["role", "verifier", "login", "md5"], later: &[] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("roles.<name>", &ROLE), ("users.<name>", &USER)];
}

/// `[sinks.NAME]` of `millpond.toml`, by `type`.
pub(super) mod sink {
    use super::Words;

    pub const KAFKA: Words = Words { keys: &["type", "topic", "send_resolved"], later: &[] };
    pub const WEBHOOK: Words =
        Words { keys: &["type", "url", "headers", "body", "secret", "send_resolved"], later: &[] };
    pub const EMAIL: Words = Words {
        keys: &["type", "smtp", "user", "password", "tls", "from", "recipients", "subject", "body", "send_resolved"],
        later: &[],
    };
}

/// `[[notify]]` of `millpond.toml`.
pub(super) mod notify {
    use super::Words;

    pub const RULE: Words = Words { keys: &["on", "tables", "to"], later: &[] };
    /// Words of `on` that come later.
    pub const EVENTS_LATER: &[&str] = &["query_error"];
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
            "infer_timestamps",
            "commit_interval",
            "retention",
            "raw",
            "match",
            "columns",
            "arrays",
        ],
        later: &["topic_pattern", "description"],
    };
    pub const TIME: Words = Words { keys: &["path", "format", "allowed_lateness"], later: &[] };
    pub const COLUMN: Words =
        Words { keys: &["path", "type", "format", "zone", "default", "not_null", "description", "drop"], later: &[] };
    pub const ARRAY: Words = Words { keys: &["as", "by", "value"], later: &[] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] =
        &[("", &ROOT), ("time", &TIME), ("columns.<name>", &COLUMN), ("arrays.<path>", &ARRAY)];
}

/// `schemas/<table>.toml` of `kind = "mirror"`.
pub(super) mod mirror {
    use super::Words;

    pub const ROOT: Words = Words {
        keys: &[
            "kind",
            "topic",
            "topics",
            "format",
            "start",
            "key",
            "on_new_field",
            "on_type_conflict",
            "commit_interval",
            "raw",
            "match",
            "load",
            "columns",
        ],
        later: &["topic_pattern", "history", "retention", "description"],
    };
    pub const COLUMN: Words = Words {
        keys: &["path", "type", "format", "zone", "scale", "default", "not_null", "description", "drop"],
        later: &[],
    };

    pub const LOAD: Words = Words { keys: &["url", "format", "poll"], later: &[] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("", &ROOT), ("load", &LOAD), ("columns.<name>", &COLUMN)];
}

/// `schemas/<table>.toml` of `kind = "latest"`.
pub(super) mod latest {
    use super::Words;

    pub const ROOT: Words =
        Words { keys: &["kind", "key", "sources", "columns"], later: &["commit_interval", "retention", "description"] };
    pub const SOURCE: Words =
        Words { keys: &["key", "prefix", "columns", "merge", "on_delete", "cardinality"], later: &[] };
    pub const COLUMN: Words = Words { keys: &["sql"], later: &["description"] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("", &ROOT), ("sources.<table>", &SOURCE), ("columns.<name>", &COLUMN)];
}

/// `schemas/<table>.toml` of `kind = "reference"`.
pub(super) mod reference {
    use super::Words;

    pub const ROOT: Words =
        Words { keys: &["kind", "url", "format", "key", "mode", "poll"], later: &["columns", "description"] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("", &ROOT)];
}

/// The `--!` lines of `queries/<name>.sql` of `kind = "view"`.
pub(super) mod view {
    use super::Words;

    pub const ROOT: Words = Words { keys: &["kind", "columns"], later: &["description"] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("", &ROOT)];
}

/// The `--!` lines of `queries/<name>.sql` of `kind = "alert"`.
pub(super) mod alert {
    use super::Words;

    pub const ROOT: Words = Words {
        keys: &[
            "kind",
            "key",
            "for",
            "resolve_when",
            "cooldown",
            "repeat",
            "absent_for",
            "expect",
            "once",
            "storm_limit",
            "every",
            "schedule",
            "severity",
            "message",
            "to",
        ],
        later: &["description"],
    };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("", &ROOT)];
}

/// The `--!` lines of `queries/<name>.sql` of `kind = "stream"`.
pub(super) mod stream {
    use super::Words;

    pub const ROOT: Words = Words { keys: &["kind", "key", "mode", "table", "to"], later: &["description"] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("", &ROOT)];
}

/// The `--!` lines of `queries/<name>.sql` of `kind = "table"`.
pub(super) mod table {
    use super::Words;

    pub const ROOT: Words =
        Words { keys: &["kind", "schedule", "every", "partition_by", "lookback"], later: &["description"] };

    /// Every table of the file by its name, for the test of the reference.
    #[cfg(test)]
    pub const ALL: &[(&str, &Words)] = &[("", &ROOT)];
}
