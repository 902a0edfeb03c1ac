# The two commands of the README, and the steps that they are made of.

# Flags of quickstart (--exit stops the cluster at the end), or of the benchmarks (--quick, --only NAME, --soak MINUTES).
ARGS ?=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python's build output is of no interest while it succeeds.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Holds for what builds the packages, too.
export PIP_CONSTRAINT := $(abspath constraints.txt)

.PHONY: quickstart test check-rust check-python test-rust test-python earlier-data bench lock clean nginx

quickstart: $(VENV)
	@echo "==> Building Clipper (some minutes the first time)"
	cargo build --release --locked --package clipper-cli
	@echo "==> Installing it into $(VENV)"
	$(PIP) install ./clipper_admin scikit-learn
	@$(BIN)/python examples/quickstart.py $(ARGS)

# Everything: formatting, lints, every test, and the quickstart itself.
test: check-rust check-python test-rust test-python
	$(MAKE) quickstart ARGS=--exit

check-rust:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items --locked

# The containers of the cluster's tests are built before the tests that start them.
test-rust: $(VENV)/tests | nginx
	cargo build --workspace --bins --examples --locked
	CLIPPER_TEST_PYTHON=$(abspath $(BIN)/python) cargo test --workspace --locked

check-python: $(VENV)/tests
	$(BIN)/ruff check clipper_admin containers/python examples
	$(BIN)/ruff format --check clipper_admin containers/python examples
	cd containers/python && $(abspath $(BIN))/mypy
	cd clipper_admin && $(abspath $(BIN))/mypy

test-python: $(VENV)/tests
	cargo build --package clipper-cli --locked
	cd containers/python && $(abspath $(BIN))/python -m pytest
	cd clipper_admin && CLIPPER_BINARY=$(abspath target/debug/clipper) $(abspath $(BIN))/python -m pytest

# Keeps a data directory of today's version for the tests of later ones: NAME is what they call it.
earlier-data: $(VENV)/tests
	cargo build --workspace --bins --examples --locked
	NAME=$(NAME) CLIPPER_TEST_PYTHON=$(abspath $(BIN)/python) \
	    cargo test --package clipper-integration-tests --test earlier_data --locked -- --ignored

# Measures everything on this machine, in some 45 minutes, and writes benchmarks/results/REPORT.md.
bench: $(VENV)/tests
	cargo build --release --locked --package clipper-cli --package clipper-benchmarks --bins
	cargo build --release --locked --package clipper-container --examples
	CLIPPER_TEST_PYTHON=$${CLIPPER_TEST_PYTHON:-$(abspath $(BIN)/python)} \
	    cargo run --release --locked --package clipper-benchmarks --bin suite -- $(ARGS)

# A virtual environment, for which Debian wants a package of its own.
$(VENV):
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
	    echo "==> Installing python3-venv"; \
	    $$(test "$$(id -u)" = 0 || echo sudo) sh -c 'apt-get update -q && apt-get install -qy python3-venv' && \
	    $(PYTHON) -m venv $(VENV); }

# A proxy that the cluster's tests put in front of frontends. They start one of their own, and need no root.
nginx:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; command -v nginx >/dev/null || { \
	    echo "==> Installing nginx"; \
	    $$(test "$$(id -u)" = 0 || echo sudo) sh -c 'apt-get update -q && apt-get install -qy nginx'; }

# What the tests of the Python packages need; the packages themselves are used from their folders.
$(VENV)/tests: constraints.txt containers/python/pyproject.toml clipper_admin/pyproject.toml | $(VENV)
	@echo "==> Installing what the Python tests need"
	$(PIP) install --editable 'containers/python[test]' psutil requests scikit-learn types-psutil types-requests
	touch $@

# Pins anew what pip installs.
lock: $(VENV)/tests
	PIP_CONSTRAINT= $(PIP) install --upgrade --upgrade-strategy eager --editable 'containers/python[test]' \
	    psutil requests types-psutil types-requests scikit-learn maturin hatchling
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf target $(VENV) .quickstart
