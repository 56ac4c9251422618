# Two commands do everything on a fresh machine: `make demo` and `make test`. Both need only Python >= 3.11 with venv and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: screenshots demo test model simulate check format coverage bench clean help

help:           ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $(READY)

demo: $(READY)  ## publish 200 orders, kill the worker and the server half way, lose nothing
	@$(BIN)/idioteque demo

test: $(READY)  ## every test, with real servers and processes
	@sh tests/install_services.sh
	@$(BIN)/python -m pytest

model: $(READY) ## the protocol as a model: every schedule with two faults, every mutant
	@$(BIN)/python -m tests.model

simulate: $(READY) ## worlds full of faults, for SECONDS=60 from a SEED, on WORKERS=; EXHAUSTIVE=1 for every fault at every call
	@$(BIN)/python -m tests.simulation --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) \
		$(if $(EXHAUSTIVE),--exhaustive) $(if $(PROGRAMS),--programs $(PROGRAMS)) $(if $(WORKERS),--workers $(WORKERS)) \
		$(if $(WORLD),--world "$(WORLD)")

check: $(READY) ## lint, types, floors
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy
	@$(BIN)/pyright

screenshots: $(READY) ## pictures of the console's screens, into docs/screenshots
	@$(BIN)/python -m tests.console.screenshots

format: $(READY) ## rewrite the code in the house style
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

coverage: $(READY) ## tests with a coverage report
	@$(BIN)/coverage run -m pytest && $(BIN)/coverage report --skip-covered

bench: $(READY) ## us and the peers at the same work, also with PEERS=restate WORK=W1,W2 REPEATS=3 QUICK=1 PROFILE=1
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@sh tests/install_services.sh
	@$(BIN)/python -m bench $(if $(PEERS),--peers $(PEERS)) $(if $(WORK),--work $(WORK)) \
		$(if $(REPEATS),--repeats $(REPEATS)) $(if $(QUICK),--quick) $(if $(PROFILE),--profile) $(if $(DOCS),--docs)

clean:          ## remove what the commands made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
