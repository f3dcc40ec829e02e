# `make run` starts the sidecar, `make test` proves it against a real ZooKeeper and real PHP.

# What the tests need from Debian: ZooKeeper (with a Java runtime), PHP with LMDB and Thrift's library, Thrift's compiler;
# and for the PHP package its test runner, a web server, and Composer.
PACKAGES := zookeeper php-cli php-thrift thrift-compiler php8.2-dba phpunit php-fpm nginx-light composer

.PHONY: run deps test check gen bench fuzz

run:
	cargo run --release -- serve

deps:
	@command -v apt-get > /dev/null || { echo "make deps needs Debian's apt-get; install by hand: $(PACKAGES)" >&2; exit 1; }
	@missing=""; for package in $(PACKAGES); do \
		dpkg-query --show --showformat='$${db:Status-Status}' $$package 2> /dev/null | grep -qx installed || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
		[ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $$missing; \
	fi

# Most tests wait for something most of the time, so more of them run at once than there are cores.
test: deps
	RUST_TEST_THREADS=8 cargo test
	ROSTER_BIN=$(CURDIR)/target/debug/roster php/tests/run

check:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# The PHP package carries a copy of its own, so that it can be installed alone.
gen:
	gen/regenerate
	rm -rf php/gen && cp -r gen/php/Roster/Thrift php/gen

# Five targets, a minute each; SECONDS_EACH says otherwise, and QUICK=1 only replays the corpora.
fuzz:
	@command -v c++ > /dev/null || { echo "make fuzz needs a C++ compiler: apt-get install g++" >&2; exit 1; }
	fuzz/run

# QUICK=1 for a short form.
bench: deps
	cargo bench --bench mirror
