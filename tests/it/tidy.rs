//! The boundaries of STYLE.md's table of rooms, held by reading the source: it compiles nothing and takes no time.
//!
//! `ONLY_IN` says where a library or a call may appear, `NEVER_IN` which room must not know which other; a new room
//! that needs an exception adds its line here, with the reason in its commit. Comments and
//! what is for tests are not read: the boundaries are the product's.

use std::path::Path;

/// Longer files are split.
const MOST_LINES: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "types", "traits", "helpers", "misc"];

/// What may appear in nothing but these rooms or files.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("rdkafka", &["source", "deliver/kafka", "demo", "cli", "config/kafka"]),
    ("lettre", &["deliver"]),
    ("reqwest", &["deliver/webhook", "source/registry"]),
    ("deltalake_core", &["lake", "query"]),
    ("SessionContext", &["query"]),
    ("SessionStateBuilder", &["query"]),
    ("CommitBuilder", &["lake/commit"]),
    ("arrow_flight", &["serve", "cli"]),
    ("prost_reflect", &["decode/writer"]),
    ("protox", &["decode/writer"]),
    ("tonic", &["serve", "cli"]),
    ("axum", &["serve"]),
    ("anyhow", &["main", "cli"]),
    ("clap", &["main", "cli"]),
    ("std::env::var", &["config", "cli", "task", "telemetry"]),
    ("tokio::spawn", &["task"]),
    ("unbounded_channel", &[]),
    ("process::exit", &["main", "cli", "engine", "task"]),
    ("println!", &["cli"]),
    ("eprintln!", &["cli", "main"]),
];

/// What a room must not know, beyond `ONLY_IN`.
const NEVER_IN: &[(&str, &[&str])] = &[
    ("source", &["datafusion", "object_store", "parquet", "crate::lake", "crate::query", "crate::serve"]),
    (
        "decode",
        &[
            "datafusion",
            "object_store",
            "tokio",
            "std::fs",
            "std::net",
            "SystemTime::now",
            "Instant::now",
            "Utc::now",
            "crate::source",
            "crate::lake",
            "crate::query",
        ],
    ),
    ("schema", &["datafusion", "object_store", "crate::source", "crate::lake", "crate::query", "crate::serve"]),
    ("lake", &["datafusion::sql", "crate::source", "crate::query", "crate::serve", "crate::engine"]),
    (
        "latest",
        &[
            "datafusion",
            "object_store",
            "tokio",
            "crate::source",
            "crate::lake",
            "crate::query",
            "crate::serve",
            "crate::engine",
        ],
    ),
    ("query", &["crate::source", "crate::serve", "crate::engine", "crate::cli"]),
    (
        "stream",
        &[
            "rdkafka",
            "object_store",
            "SystemTime::now",
            "Instant::now",
            "Utc::now",
            "crate::lake",
            "crate::serve",
            "crate::engine",
        ],
    ),
    ("news", &["crate::lake", "crate::source", "crate::query", "crate::serve", "crate::engine", "object_store"]),
    (
        "deliver",
        &["datafusion", "arrow", "crate::lake", "crate::news", "crate::source", "crate::query", "crate::engine"],
    ),
    ("serve", &["datafusion::execution::context", "object_store", "crate::source", "crate::engine", "crate::cli"]),
    ("demo", &["datafusion", "object_store", "crate::lake", "crate::query"]),
    ("task", &["datafusion", "object_store", "arrow", "crate::lake", "crate::source", "crate::query"]),
    ("error", &["crate::"]),
];

/// A breach: `file:line: what`.
fn breaches_of(file: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let inside = file.strip_suffix(".rs").unwrap_or(file);
    let room = inside.split('/').next().unwrap_or_default();
    if let Some(name) = inside.split('/').find(|name| EMPTY_NAMES.contains(name)) {
        breaches.push(format!("{file}: a name like `{name}` says nothing of what is inside"));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        breaches.push(format!("{file}: {lines} lines; {MOST_LINES} at most"));
    }
    let heads_room = inside.ends_with("/mod") || (!inside.contains('/') && inside != "main");
    if heads_room && !text.starts_with("//!") {
        breaches.push(format!("{file}: a room begins with what it is (`//!`)"));
    }
    for (number, code) in product_code(text) {
        let mut breach = |what: String| breaches.push(format!("{file}:{number}: {what}"));
        for (word, places) in ONLY_IN {
            if mentions(code, word) && !places.iter().any(|place| inside.starts_with(place)) {
                breach(format!(
                    "`{word}` belongs to {}",
                    if places.is_empty() { "nobody".into() } else { places.join(", ") }
                ));
            }
        }
        for (_, words) in NEVER_IN.iter().filter(|(of, _)| *of == room) {
            for word in words.iter().filter(|word| mentions(code, word)) {
                breach(format!("`{room}` must not know `{word}`"));
            }
        }
    }
    breaches
}

/// Lines with their numbers, without comments and without what is for tests: `#[cfg(test)] mod tests { … }` ends the
/// code, any other item under `#[cfg(test)]` is one line.
fn product_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut lines = text.lines().enumerate();
    std::iter::from_fn(move || {
        let (mut index, mut line) = lines.next()?;
        while line.trim() == "#[cfg(test)]" {
            let (_, item) = lines.find(|(_, item)| !item.trim_start().starts_with("#["))?;
            if item.starts_with("mod ") && item.ends_with('{') {
                return None;
            }
            (index, line) = lines.next()?;
        }
        Some((index + 1, line.split("//").next().unwrap_or_default()))
    })
}

/// Files that are `#[cfg(test)] mod name;` in their parent, and what is below them.
fn for_tests(files: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in files {
        let folder = file.strip_suffix("mod.rs").map(str::to_owned).unwrap_or_else(|| file.replace(".rs", "/"));
        for (line, next) in text.lines().zip(text.lines().skip(1)) {
            let name = next.trim_start_matches("pub ").trim_start_matches("pub(crate) ").strip_prefix("mod ");
            if let Some(name) = name.and_then(|name| name.strip_suffix(';')).filter(|_| line == "#[cfg(test)]") {
                found.push(format!("{folder}{name}"));
            }
        }
    }
    found
}

/// Whether `file` is one of those modules or lies below it.
fn is_for_tests(modules: &[String], file: &str) -> bool {
    modules.iter().any(|module| file.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with(['.', '/'])))
}

/// Whether `word` stands in `code` as whole names.
fn mentions(code: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part_of_name) && (word.ends_with([':', '!']) || !after.is_some_and(part_of_name))
    })
}

/// The Rust files below `folder` with their paths relative to it.
fn rust_files(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn rooms_keep_to_themselves() {
    let files = rust_files(&repository().join("src"));
    assert!(files.len() > 10, "the source was not found");
    let for_tests = for_tests(&files);
    let product = files.iter().filter(|(file, _)| !is_for_tests(&for_tests, file));
    let breaches: Vec<_> = product.flat_map(|(file, text)| breaches_of(file, text)).collect();
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

/// Crates that take rooms in by path must name the libraries that these use; `make test` does not build them.
#[test]
fn crates_that_borrow_rooms_have_their_libraries() {
    let read = |path: &str| std::fs::read_to_string(repository().join(path)).unwrap();
    let own = read("Cargo.toml");
    let own = own.split("[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let libraries: Vec<&str> = own.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    assert!(libraries.contains(&"arrow"));
    let files = rust_files(&repository().join("src"));
    let for_tests = for_tests(&files);
    let rooms = ["decode/", "schema/"];
    let borrowed = files.iter().filter(|(file, _)| rooms.iter().any(|room| file.starts_with(room)));
    let borrowed: Vec<_> = borrowed.filter(|(file, _)| !is_for_tests(&for_tests, file)).collect();
    for crate_of in ["benches/decode", "fuzz"] {
        let manifest = read(&format!("{crate_of}/Cargo.toml"));
        for library in &libraries {
            let word = format!("{}::", library.replace('-', "_"));
            let used = borrowed.iter().find(|(_, text)| product_code(text).any(|(_, code)| mentions(code, &word)));
            let named = manifest.lines().any(|line| line.starts_with(&format!("{library} = ")));
            assert!(used.is_none() || named, "{crate_of} has no `{library}`, but src/{} uses it", used.unwrap().0);
        }
    }
}

#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    for (file, text) in rust_files(&repository().join("tests")) {
        // The rig's `wait_until` is the one place that sleeps, its proxy's delay another; this file names the word.
        if file.starts_with("it/rig/") || file == "it/tidy.rs" {
            continue;
        }
        assert!(text.lines().count() <= MOST_LINES, "{file} is too long");
        for (number, line) in text.lines().enumerate() {
            assert!(!line.contains("sleep("), "{file}:{}: wait for a condition with rig::wait_until", number + 1);
        }
    }
}

#[test]
fn the_table_names_rooms_that_exist() {
    let rooms = std::fs::read_to_string(repository().join("src/lib.rs")).unwrap();
    for room in NEVER_IN.iter().map(|(room, _)| room) {
        assert!(rooms.contains(&format!("pub mod {room};")), "lib.rs has no room `{room}`");
    }
}

#[test]
fn a_breach_is_found() {
    let found = |file: &str, text: &str| breaches_of(file, text);
    for (file, text) in [
        ("query/mod.rs", "//! q\nuse rdkafka::Message;"),
        ("decode/json.rs", "use datafusion::prelude::*;"),
        ("decode/json.rs", "let now = std::time::Instant::now();"),
        ("serve/flight.rs", "let context = SessionContext::new();"),
        ("lake/append.rs", "CommitBuilder::default()"),
        ("query/run.rs", "tokio::spawn(async {});"),
        ("lake/mod.rs", "use std::io;"),
        ("lake/utils.rs", "//! things"),
        ("schema/types/mod.rs", "//! things"),
        ("error.rs", "//! e\nuse crate::lake::Table;"),
        ("query/mod.rs", "//! q\n#[cfg(test)]\nmod tests;\nuse rdkafka::Message;"),
        ("query/long.rs", &"\n".repeat(MOST_LINES + 1)),
    ] {
        assert_eq!(found(file, text).len(), 1, "{file}: {text:.60}: {:?}", found(file, text));
    }
    let module = |name: &str| (name.to_owned(), "#[cfg(test)]\nmod tests;\nmod product;".to_owned());
    assert_eq!(for_tests(&[module("lake/mod.rs"), module("lake/store.rs")]), ["lake/tests", "lake/store/tests"]);
    for (file, text) in [
        ("lake/commit/mod.rs", "//! c\nuse deltalake_core::kernel::transaction::CommitBuilder;"),
        ("lake/commit.rs", "//! c\nCommitBuilder::default()"),
        ("query/context.rs", "SessionContext::new() // not rdkafka"),
        ("query/context.rs", "let my_rdkafka = 1;"),
        ("decode/json.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use datafusion::prelude::*; }"),
        ("main.rs", "fn main() -> anyhow::Result<()> { Ok(()) }"),
    ] {
        assert_eq!(found(file, text), Vec::<String>::new(), "{file}");
    }
}
