# What there is to do here; `make` alone lists it. Needs Python 3.11 or newer and make, nothing else.

PYTHON ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?= csv
# The tests have databases of their own, and wait a quarter of their time: for servers, runs and answers.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))
PYTEST := .venv/bin/python -m pytest --numprocesses $(WORKERS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo dev test test-slow test-ui lint types lock bench bench-quick fuzz docs reference clean

# A virtual environment knows its own absolute path. The stamp's name is made from it, so that a checkout that was
# moved or copied gets a new environment instead of running the old one's code.
HERE := $(shell pwd | cksum | cut -d ' ' -f 1)
READY := .venv/.ready-$(HERE)
# What the documentation site and the browser tests need besides, installed when one of them is first asked for.
TOOLS := .venv/.tools-$(HERE)
LOCK_OPTIONS := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-strip-extras \
	--no-config --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## run the bundled sample through the whole pipeline and show the outcome
	@# The sample has dirty rows on purpose: exit code 3, "finished with rejects", is its success.
	@.venv/bin/backfill run sample || { code=$$?; [ $$code -eq 3 ] || exit $$code; }
	@.venv/bin/backfill status

dev: $(READY) ## start the Dagster UI and daemon on a free port
	@.venv/bin/backfill up

test: lint types ## lint, types, tests but for the slow ones (PYTEST_ARGS=... goes to pytest)
	@$(PYTEST) -m "not slow and not ui" $(PYTEST_ARGS)

test-slow: $(READY) ## the slow tests: more kills, more examples, more rows
	@$(PYTEST) -m slow $(PYTEST_ARGS)

test-ui: $(TOOLS) ## the Dagster UI and reports in a browser; screenshots and traces go to build/test-ui
	@if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then \
		if [ "$$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then \
			echo "No Chromium: install it first (Debian: apt-get install chromium)" >&2; exit 1; \
		fi; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null || exit 1; \
	fi
	@.venv/bin/python -m pytest -m ui --timeout 600 backfill_pipeline_tests/ui $(PYTEST_ARGS)

lint: $(READY) ## ruff: rules and format
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

types: $(READY) ## mypy, strict
	@.venv/bin/mypy

bench: $(READY) ## speed against limits and rivals on this machine; writes docs/benchmarks.md (BENCH_ARGS=...)
	@.venv/bin/python -m backfill_pipeline.bench --json docs/benchmarks.json --document docs/benchmarks.md \
		--images docs/images $(BENCH_ARGS)

bench-quick: $(READY) ## the ratios that matter, at a small size, in three minutes; writes nothing
	@.venv/bin/python -m backfill_pipeline.bench --quick $(BENCH_ARGS)

fuzz: $(READY) ## fuzz a reader, led by coverage (FUZZ_ARGS="jsonl --seconds 600"); needs atheris
	@.venv/bin/python -m backfill_pipeline_tests.fuzz $(FUZZ_ARGS)

docs: $(TOOLS) ## the documentation site, strictly, into build/site; opens without a server
	@# Not --quiet: warnings that are not shown are not counted, and strict is about them.
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build
	@echo "file://$(CURDIR)/build/site/index.html"

reference: $(READY) ## write those pages of docs/ again that are made from the code
	@.venv/bin/python -m backfill_pipeline.documentation

lock: ## renew the two lock files: names, versions and hashes, for every Python from 3.11 on
	@$(MAKE) --no-print-directory $(READY)
	@.venv/bin/uv pip compile pyproject.toml --extra dev --output-file requirements.lock --upgrade $(LOCK_OPTIONS)
	@.venv/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["tools"], sep="\n")' | \
		.venv/bin/uv pip compile - --constraint requirements.lock --output-file requirements-tools.lock --upgrade $(LOCK_OPTIONS)
	@$(MAKE) --no-print-directory $(READY)

clean: ## remove .venv and caches (not BACKFILL_HOME: `backfill db url` tells where data is)
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The same set-up for every target, made once. An interrupted install has no stamp and is resumed by the next call.
$(READY): requirements.lock pyproject.toml
	@if [ -d .venv ] && ! [ "$$(cat .venv/.checkout 2>/dev/null)" = "$$(pwd)" ]; then rm -rf .venv; fi
	@if ! .venv/bin/python -c '' 2>/dev/null; then \
		rm -rf .venv; \
		found=; for python in $(CANDIDATES); do \
			if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
			then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "None of $(CANDIDATES) is a Python 3.11 or newer with its venv module:" \
				"install one (Debian: python3 and python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		echo "Making .venv with $$("$$found" --version); this takes a minute, once." >&2; \
		"$$found" -m venv .venv || exit 1; \
		pwd > .venv/.checkout; \
	fi
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action ignore \
		--require-hashes --requirement requirements.lock
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action ignore \
		--no-deps --no-build-isolation --editable .
	@touch $(READY)

$(TOOLS): $(READY) requirements-tools.lock
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action ignore \
		--require-hashes --requirement requirements-tools.lock
	@touch $(TOOLS)
