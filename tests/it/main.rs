//! The integration tests: one binary that starts the real executable, a real Kafka and a real MinIO on free ports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod alerts;
mod alerts_bad_days;
mod alerts_bench;
mod alerts_scheduled;
mod alerts_windows;
mod back_test;
mod bad_days;
mod beside;
mod chain;
mod come_and_go;
mod dead_letters;
mod deliver;
mod exactly_once;
mod latest;
mod latest_bench;
mod memory;
mod mirror;
mod nexmark;
mod nexmark_bench;
mod pipe;
mod project_folder;
mod public_json;
mod readers;
mod reference;
mod registry;
mod rig;
mod rig_test;
mod schema;
mod secure;
mod shapes;
mod sql;
mod stream_queries;
mod stream_windows;
mod tidy;
mod topics;
