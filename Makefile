# Every target sets up what it needs: a Python >= 3.11, make and the package index are enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
WEB := src/fruits/service/web

SCAN := .venv/scan/bin
LOCK := $(SCAN)/uv pip compile --quiet --upgrade --generate-hashes --only-binary :all: --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --no-emit-index-url --no-header --no-annotate

# pytest-xdist, more processes than cores: tests of clusters, browsers and stand-ins mostly wait. What stays together and
# what begins is in tests/conftest.py.
WORKERS ?= 4
# Compiled modules are kept, also the tests': else every process compiles them again.
unexport PYTHONDONTWRITEBYTECODE
# Threads of BLAS and OpenMP that wait would spin, on cores that other tests need; no result depends on it.
PYTEST = OPENBLAS_THREAD_TIMEOUT=4 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS)

# What `make peers` measures beside fruits; what cannot be installed is named in its table. Pins: PySpark is that of fruits[spark].
PEERS = onnxruntime pillow numpy pandas pyarrow scikit-learn torch daft 'ray[data]' fastembed litserve bentoml 'pyspark>=4.0,<4.1'

.PHONY: demo test test-fast check docs wheel scan lock bench peers load faults messages web tools clean

demo: .venv/core ## generate photos of fruit, run the whole chain on them, write a report
	$(BIN)/fruits demo --to demo

test: .venv/dev tools ## every test, in WORKERS processes
	$(PYTEST)

# These compute all the time.
test-fast: WORKERS = 2
test-fast: .venv/dev ## tests that take less than a second and need nothing but Python: about a minute
	$(PYTEST) -m 'not slow and not spark and not browser and not aws'

check: .venv/dev .venv/scan/ready docs ## lint, format, types, import contracts, documentation, templates and Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m scan

# Not --quiet: MkDocs then hides warnings from --strict as well. The variable silences the theme's announcement of its successor.
docs: .venv/dev ## the documentation as a site in build/site, offline; a broken link or a missing docstring is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: .venv/core ## the wheel, in dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

scan: .venv/dev .venv/scan/ready ## templates and Dockerfiles under our own rules, cfn-lint, checkov and hadolint; locks against published holes; offline
	$(BIN)/python -m scan

lock: .venv/scan/ready ## resolve again what images install, with hashes
	$(LOCK) pyproject.toml --extra serve -o docker/requirements.lock
	$(LOCK) pyproject.toml --extra aws -o docker/emr.lock
	echo hatchling | $(LOCK) - -o docker/build.lock

bench: .venv/dev ## speed and memory against what a user would pick instead, as ratios of one run
	$(BIN)/python -m benchmarks

peers: .venv/dev .venv/peers/ready ## speed beside the tools people would use instead, in an environment of their own
	$(BIN)/python -m benchmarks peers serving

.venv/peers/ready:
	$(PYTHON) -m venv .venv/peers
	for peer in $(PEERS); do $(@D)/bin/python -m pip install --quiet --disable-pip-version-check "$$peer" || echo "$$peer: not installed"; done
	touch $@

load: .venv/dev ## what the service takes, as shares of what the same cores can do
	$(BIN)/python -m benchmarks load

messages: .venv/dev ## bring every message catalogue in step with the English one, src/fruits/messages/fruits.pot
	$(BIN)/pybabel -q update -D fruits -i src/fruits/messages/fruits.pot -d src/fruits/messages --no-wrap \
		--ignore-obsolete --ignore-pot-creation-date --no-fuzzy-matching

web: $(WEB)/node_modules/axe-core/axe.min.js ## the runtime of the page's on-device mode, and axe-core for the tests, by npm

# Installing the package brings the runtime alone (hatch_build.py): a file of axe-core says that all is there.
$(WEB)/node_modules/axe-core/axe.min.js: $(WEB)/package-lock.json
	cd $(WEB) && npm ci --loglevel=error && npm run --silent build
	@touch $@

faults: .venv/dev ## kill runs, fill disks, damage files, disturb the bucket; count what is lost: hours
	$(BIN)/python -m faults

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fruits needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[serve]'
	@touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,docs,spark,serve,aws]'
	@touch $@

# Scanners pin much of what they need: a place of their own.
.venv/scan/ready: scan/requirements.txt .venv/bin/python
	$(PYTHON) -m venv .venv/scan
	$(SCAN)/python -m pip install --quiet --disable-pip-version-check -r scan/requirements.txt
	@touch $@

# What tests stand on besides Python. What is missing is installed where that may be done (root and apt); else its tests skip and say so.
tools:
	@missing=""; \
	command -v java >/dev/null || [ -x "$$JAVA_HOME/bin/java" ] || missing="$$missing default-jre-headless"; \
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing="$$missing chromium"; \
	command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$$missing postgresql"; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	[ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null 2>&1 || \
	  echo "missing, and cannot be installed here:$$missing; their tests are skipped"
	@$(MAKE) --no-print-directory web || echo "npm is missing or failed: tests of the on-device mode and of axe-core are skipped"

clean:
	rm -rf .venv demo build dist benchmarks/results
