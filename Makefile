# `make help` lists what there is.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Folder for the model files that tests use, shared by all checkouts.
export REPRISE_TEST_MODELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/reprise/models

.DEFAULT_GOAL := help
.PHONY: help run build test check lint bench doc buf check-cuda redis test-models

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-12s %s\n", $$1, $$2 }'

run: build ## Build, fetch the default models once, and serve on loopback (ARGS="--set …")
	$(TARGET)/release/reprise models pull
	exec $(TARGET)/release/reprise serve $(ARGS)

build: ## Build the release binary
	$(CARGO) build --release

test: redis test-models ## Run the whole test suite
	$(CARGO) test

check: lint test doc buf ## Everything a change has to pass

lint: ## Formatting, and clippy with warnings as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

bench: test-models ## Run the benchmarks
	$(CARGO) bench

doc: ## Build the API documentation, with warnings as errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items

buf: ## Check the protocol files with buf, if npm is there
	@if command -v npx >/dev/null; then npx --yes @bufbuild/buf lint; else echo "npm is not there: buf lint was left out"; fi

check-cuda: ## Check the feature cuda, without a GPU; fetches nvcc from PyPI where there is none
	CARGO="$(CARGO)" scripts/check-cuda.sh

redis:
	@command -v redis-server >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing redis-server, which the tests start"; \
	    apt-get update -qq || true; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server; \
	  else \
	    echo "the tests need redis-server; install it, for example with: sudo apt-get install redis-server" >&2; exit 1; \
	  fi; }

# Tests that need a model say so and pass where it cannot be had.
test-models:
	@$(CARGO) run --quiet -- models pull --set models.dir=$(REPRISE_TEST_MODELS) \
	  || echo "not all models could be fetched: the tests that need them will be left out"
