# `make run` starts the sidecar, `make test` proves it against a real ZooKeeper and real PHP.

# What the tests need from Debian: ZooKeeper (with a Java runtime), PHP with LMDB and Thrift's library, Thrift's compiler,
# a clock that jumps, networks of their own; for the PHP package its test runner, a web server, and Composer; and what
# registers services in ZooKeeper (Curator, which a JDK runs, Patroni and kazoo); Redis.
PACKAGES := zookeeper php-cli php-thrift thrift-compiler php-dba phpunit php-fpm nginx-light composer faketime \
	iproute2 iptables prometheus default-jdk-headless libcurator-discovery-java python3-kazoo patroni \
	redis-server

# What builds the feature `gssapi`, and what tests it: headers and what makes Rust of them; a KDC.
GSSAPI_PACKAGES := libkrb5-dev libclang-dev pkg-config
KERBEROS_PACKAGES := $(GSSAPI_PACKAGES) krb5-kdc krb5-admin-server krb5-user

# What `make bench` compares with, beside those.
BENCH_PACKAGES := supervisor apache2-utils beanstalkd php-sqlite3
NODE := benches/node/node_modules/.package-lock.json benches/node/gen-nodejs/zkDataService.js

# ZooKeepers of other releases than Debian's, for the tests.
ZOOKEEPERS := 3.4.14 3.6.2 3.9.3

# As others build them: without the features that the sidecar wants of them and of what they use.
CRATES := -p roster-client -p roster-master -p roster-net -p roster-tunnel

.PHONY: run deps deps-gssapi deps-pyres deps-zookeepers test test-gssapi test-zookeepers test-fresh deb check gen explore fuzz bench bench-deps endurance endurance-mutants

run:
	cargo run --release -- serve

deps:
	@tests/install-packages $(PACKAGES)

# What `cargo build --features gssapi` needs.
deps-gssapi:
	@tests/install-packages $(GSSAPI_PACKAGES)

# Kept outside of this folder (tests/zookeepers/fetch says where): of each, a few megabytes of an archive of some hundred.
deps-zookeepers:
	tests/zookeepers/fetch $(ZOOKEEPERS)

# The same of a Resque in Python, beside which queues in Redis are tested where it was fetched.
deps-pyres:
	@python3 -m pip --version > /dev/null 2>&1 || tests/install-packages python3-pip
	tests/pyres/fetch

# Most tests wait for something most of the time, so more of them run at once than there are cores. Where ZooKeeper 3.4 was
# fetched, the mirror is tested with it too.
test: deps
	RUST_TEST_THREADS=8 cargo test
	QUICK=1 tests/zookeepers/run 3.4.14
	ROSTER_BIN=$(CURDIR)/target/debug/roster php/tests/run

# The mirror's tests and an endurance minute with each of these ZooKeepers; ZOOKEEPERS=3.6.2 for one.
test-zookeepers: deps deps-zookeepers
	tests/zookeepers/run $(ZOOKEEPERS)

# Kerberos: lints of what only that feature has, and its tests with a KDC of MIT's.
test-gssapi: deps
	$(MAKE) deps PACKAGES="$(KERBEROS_PACKAGES)"
	cargo clippy --features gssapi --lib --bins --test gssapi -- -D warnings
	RUST_TEST_THREADS=4 cargo test --features gssapi --test gssapi

# On bare Debian 12 and 13, in roots of their own; only for root. tests/fresh/run says what can be chosen.
test-fresh:
	tests/fresh/run

# The package for Debian, in target/debian.
deb: target/tools/bin/cargo-deb
	contrib/debian/build

target/tools/bin/cargo-deb:
	cargo install cargo-deb --locked --version 3.8.0 --root target/tools

check: deps
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --test endurance -- -D warnings
	cargo clippy $(CRATES) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

gen:
	gen/regenerate

# Thousands of orders in which the store is written and watched, and in which calls are made, answered and cut off.
explore:
	cargo test --features shuttle --lib exploration

# Six targets, a minute each; SECONDS_EACH says otherwise. QUICK=1 only replays the corpora, as `make test` does, and
# bounds the memory that each input takes.
fuzz:
	@command -v c++ > /dev/null || $(MAKE) deps PACKAGES=g++
	fuzz/run

# QUICK=1 for a short form, FULL=1 for every case; BENCH=endpoint for one part (endpoint, php, mirror, masters, watchers,
# start, growth, herd, workers, queue).
bench: bench-deps
	cargo bench --bench side-by-side

bench-deps: $(NODE)
	$(MAKE) deps PACKAGES="$(PACKAGES) $(BENCH_PACKAGES)"

# Debian's npm draws in several hundred packages; who has one already keeps it.
benches/node/node_modules/.package-lock.json: benches/node/package-lock.json
	@command -v npm > /dev/null || $(MAKE) deps PACKAGES="nodejs npm"
	npm ci --prefix benches/node --no-audit --no-fund
	@touch $@

benches/node/gen-nodejs/zkDataService.js: idl/zk_data.thrift
	@command -v thrift > /dev/null || $(MAKE) deps
	thrift --gen js:node -o benches/node idl/zk_data.thrift

# Breaks everything around two sidecars for a quarter of an hour, and checks every answer. QUICK=1 for a minute;
# SEED=… for the same faults again; FAULTS=Cut,Wipe for these alone; KILLS=200 for the queues in Redis alone, beside which
# Redis, the sidecar and workers are killed so often; VERBOSE=1 tells of each.
endurance: deps
	cargo test --test endurance

# Whether that finds what it should: sidecars that are wrong on purpose.
endurance-mutants: deps
	tests/endurance/mutants
