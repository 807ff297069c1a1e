# make help: what there is. Each command sets up the environment that it needs.
.DEFAULT_GOAL := help

PYTHON ?= python3
# The oldest supported versions have no wheels for every Python; 3.11 is the oldest supported one.
MINIMUM_PYTHON ?= $(shell command -v python3.11 || echo $(PYTHON))
NEWEST_PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 \
  $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[2-9]*/bin/python 2> /dev/null | sort -rV); \
  do $$python --version > /dev/null 2>&1 && echo $$python && exit; done; echo $(PYTHON))

VENV := .venv
MINIMUM_VENV := .venv-minimum
RUN := $(VENV)/bin/python
# Python compiles the modules that are used when they are imported; to compile all takes longer than the rest of
# the installation.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
# Many tests start a process, which would otherwise compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# The pip of a new environment may be older than --group.
NEW_PIP := $(PIP_INSTALL) "pip>=25.1"
# Install into the environment that is the folder of the target
INSTALL = $(@D)/bin/python $(NEW_PIP) && $(@D)/bin/python $(PIP_INSTALL)

# All environments use the library of the native engine in sklearn_conv/_engine, so it is built only once.
NATIVE := build/native.done
EDITABLE := --config-settings=wheel.cmake=false --editable
# If there is a compiler, make reports its errors; with COMPILER= it installs pure Python after them.
COMPILER := $(shell for name in $(firstword $(CXX)) c++ clang++; do command -v $$name && break; done)

# Run tests in two processes
IN_TWO := -n 2 --dist worksteal

ENGINE_TESTS := $(addprefix tests/test_,engine.py conv.py precision.py patches.py hostile_arrays.py pooling.py activation.py)

# Of the examples of make test-long; pytest prints it
SEED ?= $(shell date +%s)

ACCURACY_VENV := .venv-bench-accuracy
DIST_VENV := .venv-dist
WHEEL := build/wheel
NO_COMPILER := build/no-compiler
SANITIZED := build/sanitize
# $(SCHEMA)NAME FILES
SCHEMA := $(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.
# Folder with fashion_mnist.npz and eurosat_small.npz, each with X_train, y_train, X_test and y_test, and tiles
SKLEARN_CONV_DATA ?= data

.PHONY: help native demo test test-long test-minimum test-no-compiler test-sanitize lint docs docs-check dist test-wheel bench bench-scale bench-onnx bench-accuracy bench-recipes bench-ablations bench-search bench-many-features bench-probabilities bench-pixels bench-maps clean

help:
	@echo "make native        build the library of the native engine; the other commands do so when it has changed"
	@echo "make demo          grid search over stride and kernel size on the digits, with a picture"
	@echo "make test          all tests: units, doctests, the README's code (about 4 minutes)"
	@echo "make test-long     all tests, with 3,000 and more new examples for each property (SEED=...)"
	@echo "make test-minimum  the tests on the oldest supported versions"
	@echo "make test-no-compiler  some tests of an installation without a compiler (1 minute)"
	@echo "make test-sanitize     tests of the engines under AddressSanitizer and UndefinedBehaviorSanitizer (2 minutes)"
	@echo "make lint          ruff, mypy, and checks of the files that describe the project"
	@echo "make docs          build the documentation site, docs/_build/html/index.html"
	@echo "make docs-check    open all its pages in headless Chromium or Chrome"
	@echo "make dist          build sdist and manylinux wheel, and test them on the oldest and the newest Python (10 minutes)"
	@echo "make bench         time against PyTorch; writes docs/performance.md (9 minutes)"
	@echo "make bench-scale   memory and time of a million images, Dask and grid searches; writes docs/scale.md (15 minutes)"
	@echo "make bench-onnx    time per image against onnxruntime; writes docs/onnx.md (1 minute)"
	@echo "make bench-accuracy  accuracy against HOG, scattering and a CNN; writes docs/accuracy.md (two hours; only some ROWS=...)"
	@echo "make bench-recipes   accuracy of the recipes and baselines; writes docs/recipes.md (20 minutes)"
	@echo "make bench-ablations  what single changes of recipes do; writes docs/ablations.md (30 minutes)"
	@echo "make bench-search    searches with and without shared features; writes docs/guide/searching.md (10 minutes)"
	@echo "make bench-many-features  ridge regression on many features; writes docs/guide/many-features.md (20 minutes, 13 GB)"
	@echo "make bench-probabilities  probabilities, intervals and novelty; writes docs/guide/probabilities.md (10 minutes)"
	@echo "make bench-pixels  classes of pixels against scikit-image; writes docs/guide/pixels.md (2 minutes)"
	@echo "make bench-maps   time of a map against tiles; writes docs/guide/scenes.md (4 minutes)"
	@echo "                     The last four need SKLEARN_CONV_DATA=folder with the images; see the pages."
	@echo "make clean         remove the environments and caches"

native: $(NATIVE)

demo: $(VENV)/demo
	MPLBACKEND=agg $(RUN) examples/plot_digits_grid_search.py --output output/digits_grid_search.png

# With the native engine if there is a compiler; then the tests of the engine with NumPy
test: $(VENV)/test
	$(RUN) -m pytest $(IN_TWO)
	SCIPY_ARRAY_API=1 $(RUN) -m pytest $(IN_TWO) tests/test_array_api.py tests/test_pairs.py
	SKLEARN_CONV_ENGINE=numpy $(RUN) -m pytest $(IN_TWO) $(ENGINE_TESTS)

test-long: $(VENV)/test
	HYPOTHESIS_PROFILE=long $(RUN) -m pytest $(IN_TWO) --hypothesis-seed=$(SEED)
	HYPOTHESIS_PROFILE=long SCIPY_ARRAY_API=1 $(RUN) -m pytest $(IN_TWO) --hypothesis-seed=$(SEED) tests/test_array_api.py tests/test_pairs.py

test-minimum: $(MINIMUM_VENV)/test
	$(MINIMUM_VENV)/bin/python -m pytest $(IN_TWO)

# Install SOURCE with a PATH that has no compiler, and test that
SOURCE ?= .
test-no-compiler:
	rm -rf $(NO_COMPILER)
	$(PYTHON) -m venv $(NO_COMPILER)/venv
	$(NO_COMPILER)/venv/bin/python $(NEW_PIP)
	$(NO_COMPILER)/venv/bin/python $(PIP_INSTALL) --group test-core
	unset CC CXX SKLEARN_CONV_BUILD && PATH="$(CURDIR)/$(NO_COMPILER)/venv/bin" \
	  $(NO_COMPILER)/venv/bin/python $(PIP_INSTALL) --config-settings=build-dir=$(NO_COMPILER)/native $(SOURCE)
	@! find $(NO_COMPILER)/venv -name '*sklearn_conv_core*' | grep . || { echo "a compiler was found"; exit 1; }
	cd $(NO_COMPILER) && venv/bin/python -c "import sklearn_conv; sklearn_conv.show_versions()"
	cd $(NO_COMPILER) && venv/bin/python -m pytest -p no:cacheprovider ../../tests/test_engine_interface.py ../../tests/test_search.py

# Python is not compiled with the sanitizers, so it loads their library before any other. Without
# handle_segv=0, AddressSanitizer catches the signal that a test of guard pages expects.
test-sanitize: $(VENV)/test
	@{ command -v cmake && command -v g++; } > /dev/null || { echo "make test-sanitize needs CMake and GCC"; exit 1; }
	cmake -S . -B $(SANITIZED) -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_COMPILER=g++ -DSKLEARN_CONV_SANITIZE=ON > /dev/null
	cmake --build $(SANITIZED) > /dev/null
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:handle_segv=0 SKLEARN_CONV_LIBRARY=$(CURDIR)/$(SANITIZED)/libsklearn_conv_core.so \
	  $(RUN) -m pytest $(addprefix tests/test_,hostile_arrays.py engine_interface.py native_engine.py symmetry.py missing.py unequal.py pairs.py fuzz.py)

lint: $(VENV)/lint
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(VENV)/bin/repo-review --show err .
	$(SCHEMA)citation-file-format CITATION.cff
	$(SCHEMA)readthedocs .readthedocs.yaml
	$(SCHEMA)dependabot .github/dependabot.yml
	$(SCHEMA)github-workflows $(wildcard .github/workflows/*)
	$(SCHEMA)github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA)github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*))

docs: $(VENV)/docs
	$(RUN) -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "built docs/_build/html/index.html"

# If there is neither a driver nor Chrome, for which Selenium fetches its driver, root installs both from Debian.
docs-check: docs
	@command -v chromedriver > /dev/null || command -v google-chrome > /dev/null || \
	  test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium chromium-driver > /dev/null; }
	$(RUN) docs/check.py

dist: $(DIST_VENV)/dist
	rm -rf dist build/dist
	SKLEARN_CONV_BUILD=native $(DIST_VENV)/bin/python -m build --outdir build/dist > /dev/null
	PATH="$(CURDIR)/$(DIST_VENV)/bin:$$PATH" auditwheel repair --wheel-dir dist build/dist/*.whl
	mv build/dist/*.tar.gz dist
	ls -l dist
	$(DIST_VENV)/bin/python -m twine check --strict dist/*
	@$(MAKE) --no-print-directory test-no-compiler SOURCE="$$(echo dist/*.tar.gz)"
	@$(MAKE) --no-print-directory test-wheel WHEEL_PYTHON=$(MINIMUM_PYTHON)
	@$(MAKE) --no-print-directory test-wheel WHEEL_PYTHON=$(NEWEST_PYTHON)

# The tests in the sdist, against the wheel: alone, then with its extras and the sdist's group of the tests
test-wheel:
	$(WHEEL_PYTHON) --version
	rm -rf $(WHEEL)
	mkdir -p $(WHEEL)
	tar -xzf dist/sklearn_conv-*.tar.gz -C $(WHEEL) --strip-components 1
	rm -r $(WHEEL)/sklearn_conv
	$(WHEEL_PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/python $(PIP_INSTALL) dist/*.whl
	cd $(WHEEL) && venv/bin/python -c "import sklearn_conv; sklearn_conv.show_versions()"
	$(WHEEL)/venv/bin/python $(NEW_PIP)
	$(WHEEL)/venv/bin/python $(PIP_INSTALL) --group $(WHEEL)/pyproject.toml:test "$$(echo dist/*.whl)[all]"
	cd $(WHEEL) && MPLBACKEND=agg venv/bin/python -m pytest $(IN_TWO) tests --pyargs sklearn_conv

bench: $(VENV)/bench
	MPLBACKEND=agg $(RUN) benchmarks/speed.py --page docs/performance.md

bench-scale: $(VENV)/bench-scale
	$(RUN) benchmarks/scale.py --page docs/scale.md

bench-onnx: $(VENV)/test
	OMP_NUM_THREADS=1 $(RUN) benchmarks/onnx_speed.py --page docs/onnx.md

bench-accuracy: $(ACCURACY_VENV)/bench
	MPLBACKEND=agg $(ACCURACY_VENV)/bin/python benchmarks/accuracy.py --data "$(SKLEARN_CONV_DATA)" --page docs/accuracy.md $(if $(ROWS),--rows $(ROWS))

bench-recipes: $(ACCURACY_VENV)/bench
	MPLBACKEND=agg $(ACCURACY_VENV)/bin/python benchmarks/recipes.py --data "$(SKLEARN_CONV_DATA)" --page docs/recipes.md

bench-ablations: $(VENV)/test
	$(RUN) benchmarks/ablations.py --data "$(SKLEARN_CONV_DATA)" --page docs/ablations.md

bench-search: $(VENV)/test
	$(RUN) benchmarks/search.py --data "$(SKLEARN_CONV_DATA)" --page docs/guide/searching.md

bench-many-features: $(VENV)/demo
	$(RUN) benchmarks/many_features.py --data "$(SKLEARN_CONV_DATA)" --page docs/guide/many-features.md

bench-probabilities: $(VENV)/bench-probabilities
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=agg $(RUN) benchmarks/probabilities.py --data "$(SKLEARN_CONV_DATA)" --page docs/guide/probabilities.md

bench-pixels: $(ACCURACY_VENV)/bench
	$(ACCURACY_VENV)/bin/python benchmarks/pixels.py --data "$(SKLEARN_CONV_DATA)" --page docs/guide/pixels.md

bench-maps: $(VENV)/test
	$(RUN) benchmarks/maps.py --length 4096 --page docs/guide/scenes.md

clean:
	rm -rf $(VENV) $(MINIMUM_VENV) $(ACCURACY_VENV) $(DIST_VENV) build dist docs/_build docs/gallery docs/api/generated sklearn_conv/_engine/*sklearn_conv_core.* .hypothesis .mypy_cache .pytest_cache .ruff_cache output
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sklearn_conv needs Python 3.11 or later; try make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(NATIVE): CMakeLists.txt $(wildcard native/*) pyproject.toml | $(VENV)/bin/python
	$(if $(COMPILER),SKLEARN_CONV_BUILD=native) $(RUN) $(PIP_INSTALL) --no-deps --editable .
	touch $@

$(VENV)/demo: pyproject.toml | $(NATIVE)
	$(INSTALL) $(EDITABLE) ".[plot]"
	touch $@

$(VENV)/test: pyproject.toml | $(NATIVE)
	$(INSTALL) --group test $(EDITABLE) ".[all]"
	touch $@

$(VENV)/docs: pyproject.toml | $(NATIVE)
	$(INSTALL) --group docs $(EDITABLE) ".[plot,dask,images,commands,array-api]"
	touch $@

$(VENV)/lint: pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --group lint $(EDITABLE) .
	touch $@

$(VENV)/bench: pyproject.toml | $(NATIVE)
	$(INSTALL) --group bench $(EDITABLE) ".[plot]"
	touch $@

$(VENV)/bench-scale: pyproject.toml | $(NATIVE)
	$(INSTALL) --group bench-scale $(EDITABLE) ".[dask]"
	touch $@

$(VENV)/bench-probabilities: pyproject.toml | $(NATIVE)
	$(INSTALL) --group bench-probabilities $(EDITABLE) ".[plot]"
	touch $@

$(MINIMUM_VENV)/test: pyproject.toml tests/minimum.txt | $(NATIVE)
	$(MINIMUM_PYTHON) -m venv $(MINIMUM_VENV)
	$(INSTALL) --constraint tests/minimum.txt --group test $(EDITABLE) ".[all]"
	touch $@

$(ACCURACY_VENV)/bench: pyproject.toml | $(NATIVE)
	$(PYTHON) -m venv $(ACCURACY_VENV)
	$(INSTALL) --group bench-accuracy $(EDITABLE) ".[plot]"
	touch $@

$(DIST_VENV)/dist: pyproject.toml
	$(PYTHON) -m venv $(DIST_VENV)
	$(INSTALL) --group dist
	touch $@
