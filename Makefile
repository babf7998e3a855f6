# make demo   improve a small language model with SELM, from nothing
# make test   build everything and run the tests
#
# Both set up what is missing: a virtual environment in .venv, the Python packages, the C++/CUDA build.
# To use an environment that already has torch, name it: make test ENV=/path/to/environment

ENV ?= .venv
PYTHON3 ?= python3
JOBS ?= $(shell nproc)
QUICK ?=

PYTHON := $(ENV)/bin/python
BUILD_DIR := build/python
export PATH := $(abspath $(ENV))/bin:$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

REQUIREMENTS := $(filter-out requirements/docs.txt,$(wildcard requirements/*.txt))
NATIVE_SOURCES := CMakeLists.txt pyproject.toml $(shell find cmake include src bindings -type f)

.DEFAULT_GOAL := help
.PHONY: help setup build catch2 test test-all test-cpp test-python sanitize demo bench docs doxygen lint format clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(PYTHON):
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"selm_core needs Python 3.11 or later; {sys.executable} is {sys.version.split()[0]}. Name another one: make PYTHON3=python3.12")'
	@echo "== Creating the virtual environment $(ENV)"
	@$(PYTHON3) -m venv $(ENV)

$(ENV)/.selm-requirements: $(REQUIREMENTS) | $(PYTHON)
	@echo "== Installing Python packages (the first time, torch alone is a download of gigabytes)"
	@$(PYTHON) -m pip install -q --disable-pip-version-check -r requirements/build.txt -r requirements/run.txt -r requirements/dev.txt
	@$(PYTHON) -m pip install -q --disable-pip-version-check --no-deps -r requirements/no-deps.txt
	@touch $@

setup: $(ENV)/.selm-requirements ## Create the environment and install the Python packages

$(ENV)/.selm-build: $(ENV)/.selm-requirements $(NATIVE_SOURCES)
	@echo "== Building the C++ library and the Python modules"
	@$(PYTHON) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e . \
	  -C build-dir=$(BUILD_DIR) -C cmake.define.SELM_BUILD_TESTS=OFF
	@touch $@

build: $(ENV)/.selm-build ## Build; Python sources are used in place, C++ is rebuilt when it changed

# Catch2 has no PyPI package; CMake says what to do where it cannot be installed here.
catch2:
	@if [ ! -e /usr/include/catch2 ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "== Installing Catch2"; apt-get update -qq && apt-get install -y -qq catch2 > /dev/null || true; fi

test-cpp: build catch2
	@echo "== C++ tests"
	@cmake -S . -B $(BUILD_DIR) -DSELM_BUILD_TESTS=ON > /dev/null
	@cmake --build $(BUILD_DIR)
	@ctest --test-dir $(BUILD_DIR) --output-on-failure --no-tests=error -j $(JOBS)

test-python: build
	@echo "== Python tests"
	@$(PYTHON) -m pytest -m "not slow" tests/python

test: test-cpp test-python ## Run the tests

test-all: test-cpp ## Run the tests, the slow ones included
	@$(PYTHON) -m pytest tests/python

# Without a GPU the tests of the kernels are skipped, and nothing would be checked.
sanitize: ## compute-sanitizer on the tests of the CUDA kernels; needs a GPU
	@command -v compute-sanitizer > /dev/null || { echo "make sanitize needs compute-sanitizer, of the CUDA toolkit, on the PATH"; exit 1; }
	@nvidia-smi -L || { echo "make sanitize needs a GPU"; exit 1; }
	@$(MAKE) test-cpp
	@for tool in memcheck racecheck initcheck synccheck; do \
	  echo "== $$tool"; \
	  compute-sanitizer --tool $$tool --error-exitcode 1 $(BUILD_DIR)/tests/cpp/selm_cuda_tests || exit 1; done

demo: build ## Improve SmolLM2-135M-Instruct with SELM; takes a few minutes on two cores
	@$(PYTHON) -m selm_core demo

bench: build ## Benchmarks beside the peers; --quick with QUICK=1, else docs/performance.md is written
	@for script in linear_logps logps step; do \
	  $(PYTHON) benchmarks/bench_$$script.py $(if $(QUICK),--quick,--write) || exit 1; done

$(ENV)/.selm-docs-requirements: requirements/docs.txt | $(ENV)/.selm-requirements
	@echo "== Installing what builds the documentation"
	@$(PYTHON) -m pip install -q --disable-pip-version-check -r requirements/docs.txt
	@touch $@

# Doxygen has no PyPI package.
doxygen:
	@if ! command -v doxygen > /dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "== Installing Doxygen"; apt-get update -qq && apt-get install -y -qq doxygen > /dev/null || true; fi
	@command -v doxygen > /dev/null || { echo "make docs needs doxygen: install it"; exit 1; }

docs: build doxygen $(ENV)/.selm-docs-requirements ## Build the documentation site, build/docs/html
	@echo "== Documentation"
	@mkdir -p build/docs
	@doxygen docs/Doxyfile
	@$(PYTHON) -m sphinx -E -W --keep-going -q -d build/docs/doctrees docs build/docs/html
	@echo "open build/docs/html/index.html"

# clang-tidy cannot read g++'s precompiled headers: it gets a configuration without, which is never built. The
# test files left out hold hundreds of Catch2 macros and take minutes each.
lint: build ## Check format and static analysis of C++ and Python
	@clang-format --dry-run -Werror $(shell git ls-files '*.hpp' '*.cpp' '*.cuh' '*.cu')
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@cmake -S . -B build/lint -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON -DSELM_BUILD_PYTHON=ON \
	  -DSELM_BUILD_TESTS=ON -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DPython_ROOT_DIR=$(abspath $(ENV)) > /dev/null
	@git ls-files 'src/*.cpp' 'bindings/*.cpp' 'tests/cpp/test_torch_*.cpp' 'tests/cpp/test_math.cpp' \
	  'tests/cpp/test_rewards.cpp' | xargs -P $(JOBS) -n 1 clang-tidy --quiet -p build/lint

format: setup ## Format C++ and Python
	@clang-format -i $(shell git ls-files '*.hpp' '*.cpp' '*.cuh' '*.cu')
	@$(PYTHON) -m ruff format .

clean: ## Remove what the build made; the environment stays
	rm -rf build $(ENV)/.selm-build
