//! The integration tests: one binary that starts the real executable, a real Kafka and a real MinIO on free ports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod bad_days;
mod dead_letters;
mod exactly_once;
mod memory;
mod readers;
mod rig;
mod rig_test;
mod sql;
mod tidy;
