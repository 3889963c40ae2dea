# `make help` lists the commands. CARGO_TARGET_DIR is respected; without it builds go to ./target.
.PHONY: help demo test test-all up down check bench release
.DEFAULT_GOAL := help
SHELL := /bin/bash

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1   \2/p' $(MAKEFILE_LIST)

demo: ## watch a fleet flow into a local lake and query it; ARGS="--for 30s" ends by itself
	@scripts/setup.sh build
	@cargo run --bin millpond -- demo $(ARGS)

test: ## everything the tests need is set up once, then all of them run; ARGS= goes to cargo test
	@scripts/setup.sh
	@scripts/timed.sh "unit tests" cargo test --lib $(ARGS)
	@scripts/timed.sh "integration tests" cargo test --test it $(ARGS)

test-all: check test ## check and test, and the long ones: 20 kills, 200 lost answers, Spark, benchmarks
	@scripts/setup.sh all
	@scripts/timed.sh "long unit tests" cargo test --lib $(ARGS) -- --ignored
	@scripts/timed.sh "long tests" cargo test --test it $(ARGS) -- --ignored

up: ## real Kafka and MinIO, the fleet simulator and `millpond serve` in the background
	@scripts/stack.sh up

down: ## stop what `make up` started
	@scripts/stack.sh down

check: ## formatting, lints, module boundaries
	@scripts/setup.sh build
	@cargo fmt --check
	@cargo clippy --all-targets -- -D warnings
	@cargo test --test it tidy

bench: ## the numbers of docs/benchmarks.md
	@scripts/setup.sh all
	@scripts/timed.sh "benchmarks" cargo test --test it $(ARGS) -- --ignored --nocapture bench
	@scripts/timed.sh "days of commits" cargo test --lib $(ARGS) -- --ignored --nocapture days_of_commits

release: ## the optimised binary (about 35 minutes on 2 cores)
	@scripts/setup.sh build
	@cargo build --release --bin millpond
