# The two commands of the README are `make demo` and `make test`; each sets up what it needs.
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-slow mutants check policy-lab packs conformance clients bench bench-policy drift-bench soak \
	screenshots docs format clean

help:                ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

$(READY): uv.lock pyproject.toml tools/setup.sh
	@sh tools/setup.sh
	@touch $@

demo: $(READY)       ## watch a privileged call being paused, proven, forwarded once and explained (KEEP=1 leaves it running)
	@sh tools/system-packages.sh softhsm2 git
	@$(BIN)/python examples/git/run.py $(if $(KEEP),--keep)

test: $(READY)       ## the default suite: unit, integration, real processes, SoftHSM, a real browser
	@sh tools/system-packages.sh softhsm2 git chromium
	@$(BIN)/python -m pytest -n 3 --dist worksteal -m "not slow"

test-slow: $(READY)  ## long property and crash runs; the properties of the default suite with other examples every time
	@sh tools/system-packages.sh softhsm2 git chromium
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -m "slow or hypothesis" --timeout 1800

mutants: $(READY)    ## mutation score of guard/stepup/ and guard/factors/ (NAMES="guard.stepup.intent*" for a part)
	@tools/uv sync --quiet --frozen --extra hsm --extra notify --group mutants
	@$(BIN)/python tools/mutants.py $(NAMES)

check: $(READY)      ## lint, format, types, layers, lengths, generated documents
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/lengths.py
	@$(BIN)/python tools/reference.py --check

policy-lab: $(READY) ## check, test, explain and replay the shipped tag packs against a recorded ledger
	@$(BIN)/python tools/policy_lab.py

packs: $(READY)      ## start the real servers the tag packs are for, and look for untagged tools (network: PyPI, npm)
	@$(BIN)/python tools/packs.py live
	@$(BIN)/python tools/packs.py labels

conformance: $(READY) ## the official protocol suites, direct and through the guard (RECORD=1 writes the table into the docs)
	@$(BIN)/python tools/conformance.py $(if $(RECORD),--record)

clients: $(READY)    ## six real agent frameworks and SDKs in front of a guarded server
	@sh tools/clients.sh $(NAMES)

bench: $(READY)      ## latency, throughput and CPU as ratios to nginx and to a direct call, in the same run
	@sh tools/system-packages.sh wrk nginx-light
	@$(BIN)/python tools/bench.py
	@$(BIN)/python tools/bench_consent.py

bench-policy: $(READY) ## what classifying a call and reloading policies cost
	@$(BIN)/python tools/bench_policy.py

soak: $(READY)       ## fifteen minutes of mixed load with crashes, and judges of what must hold (MINUTES=n)
	@$(BIN)/python tools/soak --minutes $(or $(MINUTES),15)

drift-bench: $(READY) ## how well unusual calls are found in recorded agent runs (RECORD=1 writes the table into the docs)
	@$(BIN)/python tools/drift_bench.py $(if $(RECORD),--record)

screenshots: $(READY) ## take the console's pictures in docs/images anew, as the browser tests see it
	@sh tools/system-packages.sh softhsm2 chromium
	@GUARD_SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/browser/test_screenshots.py

docs: $(READY)       ## build the documentation into site/
	@$(BIN)/python tools/reference.py
	@tools/uv sync --quiet --frozen --extra hsm --extra notify --group docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(READY)     ## let the formatter have its way
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:               ## remove everything that was made here
	rm -rf $(VENV) .uv mutants build dist site .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
