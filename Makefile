# relayd: run it, test it, check it.  `make` alone prints the targets.
#
#   make run PYTHON=/usr/bin/python3.12     another Python (3.11 or newer)
#   make run RELAYD_BASE_PORT=5000          other ports: 5465, 5587, 5525

PYTHON ?= python3
VENV ?= .venv
VAR ?= var
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export RELAYD_BASE_PORT
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore

.PHONY: help run test test-clients test-peers bench bench-regress docs lint format venv clients clean

help:
	@echo "make run     start relayd with a quickstart configuration under $(VAR)/"
	@echo "make test    all tests, and what they need"
	@echo "make test-clients  the recipes of docs/clients.md with the real mail libraries, from Debian (root) and npm"
	@echo "make test-peers  the tests against Postfix, Exim and OpenSMTPD, fetched from Debian but not installed (root)"
	@echo "make bench   relayd beside Postfix, row by row (as root); ARGS=--short in under 3 minutes"
	@echo "make bench-regress REV=...   CPU a message of a revision against HEAD"
	@echo "make docs    write those pages of docs/ that are made from what they tell of"
	@echo "make lint    ruff, and mypy --strict"
	@echo "make format  let ruff rewrite what lint would complain of"
	@echo "make venv    only the virtual environment, $(VENV)"
	@echo "make clean   remove what was built (not $(VENV), not $(VAR))"

run: $(READY)
	@$(BIN)/python -m relayd.quickstart $(VAR)
	@exec $(BIN)/twistd -n --pidfile= relayd --config $(VAR)/relayd.toml

# Tests of whole processes mostly wait: they run beside the others.  What hundreds of processes import is compiled once.
# The others write in memory where it has 2 GB to spare: none of them cuts the power, and each waits for a disk to sync.
test: export PYTHONDONTWRITEBYTECODE =
test: $(READY) clients
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	@mkdir -p build; $(BIN)/python -m pytest tests/e2e > build/e2e.log 2>&1 & whole=$$!; \
	spare=$$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1); \
	if [ "$${spare:-0}" -gt 2000000 ]; then export TMPDIR=/dev/shm; fi; \
	$(BIN)/python -m pytest --ignore=tests/e2e; parts=$$?; \
	wait $$whole; processes=$$?; cat build/e2e.log; \
	exit $$((parts + processes))
endif

# Not part of "make test": it installs more.
test-clients: $(READY)
	@.ci/clients build/clients
	$(BIN)/python -m pytest tests/clients -rs $(ARGS)

# Not part of "make test": they need root, for namespaces that the mail servers run in, and Debian's packages.
test-peers: $(READY)
	$(BIN)/python -m pytest tests/peers -rs $(ARGS)

bench: $(READY)
	@$(BIN)/python -m bench $(ARGS)

bench-regress: $(READY)
	@$(BIN)/python -m bench.regress $(REV) $(ARGS)

docs: $(READY)
	$(BIN)/python -m relayd.catalogue > docs/replies.md
	$(BIN)/python -m relayd.metrics.page > docs/metrics.md
	$(BIN)/python -m relayd.schema > docs/events.md
	$(BIN)/python -m relayd.reference > docs/verbs.md
	$(BIN)/python -m relayd_console.page > docs/keys.md

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy relayd console/relayd_console

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

venv: $(READY)

# The tests speak to relayd as CRMs and operators do; those of a client that cannot be had are skipped and say so.
clients:
	@.ci/debian curl libnet-ssleay-perl openssh-client redis-tools swaks

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find relayd console tests twisted -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

$(READY): pyproject.toml .ci/venv
	@PYTHON="$(PYTHON)" .ci/venv $(VENV)
	@$(BIN)/python -m pip install --quiet --use-pep517 --editable '.[dev]'
	@touch $@
