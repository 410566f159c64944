# Every target works from a fresh clone on Debian 12 with root and make, and is quick when nothing is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
SANITIZE := build/sanitize-tree

# Debian packages: the compiler and headers, the venv module, valgrind (instruction counts), ip (benchmarks).
APT_PACKAGES := python3 python3-dev python3-venv gcc libc6-dev libssl-dev valgrind iproute2 ca-certificates
SOURCES := $(shell find stoq -name '*.pyx' -o -name '*.pxd' 2>/dev/null) setup.py

.PHONY: demo test check bench annotate sanitize clean dev venv system
.DEFAULT_GOAL := dev

# ---- install ---------------------------------------------------------------------------------------------------

# dpkg-query rather than a stamp: a package may be removed behind our back, and the question takes 10 ms.
system:
	@missing=$$(for p in $(APT_PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'install ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	    command -v apt-get >/dev/null || { echo "no apt-get here: install what corresponds to:" $$missing >&2; exit 1; }; \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo=$$(command -v sudo) || \
	        { echo "not root: ask for these packages first:" $$missing >&2; exit 1; }; \
	    $$sudo apt-get -o DPkg::Lock::Timeout=200 update -q && \
	    $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=200 install -y -q \
	        --no-install-recommends $$missing; \
	fi

venv: $(STAMPS)/venv

# The stamp stands in for the venv: it is remade when the dependencies or the interpreter's path change.
$(STAMPS)/venv: pyproject.toml | system
	@mkdir -p $(STAMPS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stoq needs Python 3.11 or newer")'
	@[ -x $(BIN)/python ] && $(BIN)/python -c pass 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	    > build/build-requires.txt
	$(BIN)/python -m pip install -q -r build/build-requires.txt
	STOQ_EXT=none $(BIN)/python -m pip install -q --no-build-isolation -e '.[test,cli,bench]'
	@touch $@

# A venv that was removed by hand is made again.
ifeq ($(wildcard $(BIN)/stoq),)
.PHONY: $(STAMPS)/venv
endif

# Build in place. Always asked: setup.py compares times itself, and another variant may lie in place.
dev: $(STAMPS)/venv $(SOURCES)
	@$(BIN)/python setup.py -q build_ext --inplace

# ---- use -------------------------------------------------------------------------------------------------------

demo: dev
	$(BIN)/python -m perf.demo

bench: dev
	$(BIN)/python -m perf.e2e

annotate: $(STAMPS)/venv
	$(BIN)/python setup.py -q annotate
	@echo "open build/annotate/stoq/*/*.html"

# ---- prove -----------------------------------------------------------------------------------------------------

test: dev check
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(STAMPS)/venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint stoq

# The suite under AddressSanitizer and UBSan, in a copy of the tree, so that the modules in place stay the release
# ones. PYTHONMALLOC=malloc: with pymalloc a read past a bytes object reports nothing. LeakSanitizer sees nothing in
# Python processes; leaks are the business of the slope tests. Left out: tests that need the plain build
# (timing, instruction counts, annotation), marked `plain_build`.
sanitize: $(STAMPS)/venv
	@mkdir -p $(SANITIZE)
	@cd $(SANITIZE) && rm -rf stoq tests examples perf docs setup.py pyproject.toml README.md LICENSE Makefile
	@cp -a $(wildcard stoq tests examples perf docs setup.py pyproject.toml README.md LICENSE Makefile) $(SANITIZE)/
	@find $(SANITIZE)/stoq -name '*.so' -delete
	cd $(SANITIZE) && STOQ_SANITIZE=1 $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd $(SANITIZE) && \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 \
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	PYTHONMALLOC=malloc PYTHONPATH="$(CURDIR)/$(SANITIZE)" STOQ_SANITIZE=1 \
	$(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider -m "not plain_build" -o faulthandler_timeout=600 --timeout 600 $(PYTEST_ARGS)

clean:
	rm -rf build dist stoq.egg-info demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find stoq -name '*.so' -delete
	find stoq tests perf examples -name __pycache__ -type d -prune -exec rm -rf {} +
