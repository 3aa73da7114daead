SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The Python to make .venv with: PYTHON=... chooses, else the first of these that works.
PYTHON ?=
PYTHONS := python3.11 python3.10 python3.12 python3
CROSS_PACKAGES := g++ gcc-arm-none-eabi libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib qemu-system-arm
CROSS_TOOLS := g++ arm-none-eabi-g++ qemu-system-arm
BIN := .venv/bin
# A worker per core; a file's tests share fixtures, so they stay together.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile
BUILD ?= build

# What the demo's sketch is built with: PlatformIO, with SCons from .venv so that it needs no network.
OFFLINE := eval "$$($(BIN)/python -m redsc.toolchain)";
PROJECT = $(MAKE) --no-print-directory -C $(BUILD) PIO=$(abspath $(BIN)/pio)

.PHONY: help install tools demo test test-fast verify-all lint format bench benchmarks bench-kernels bench-models emulator native flash monitor clean distclean

help:  ## list what make can do
	@sed -n 's/^\([a-z -]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 17

install: tools .venv/.installed  ## make .venv with redsc in it; install the cross compiler and the emulator where allowed

demo: install  ## train, compile, build, emulate and measure the handwritten-digits example
	$(BIN)/python examples/digits/train.py
	$(BIN)/redsc compile examples/digits/digits.h5 --data examples/digits/digits.npz -o $(BUILD)
	$(BIN)/redsc bench $(BUILD) --emulator

test: install  ## run all tests
	$(PYTEST) -m "not full"

test-fast: install  ## run the tests that take seconds
	$(PYTEST) -m "not slow and not full"

verify-all: install  ## prove full-size networks of every family bit for bit
	$(PYTEST) --dist load -m full

lint: install  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## format the Python code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## measure every level of the last compile on the emulator
	$(BIN)/redsc bench $(BUILD) --emulator

benchmarks: install  ## print how search and compile time grow
	for script in compile search; do $(BIN)/python benchmarks/$$script.py; done

bench-kernels: install  ## print each kernel's cycles at many widths, on the emulator
	$(BIN)/python benchmarks/kernels.py

bench-models: install  ## print the MLPerf Tiny networks beside TFLite Micro (MODELS="ds_cnn=FILE …": trained ones)
	$(BIN)/python benchmarks/models.py --ops --steps $(MODELS)

emulator native: install  ## run the last compile's sketch on the emulator, or on this computer
	$(OFFLINE) $(PROJECT) $@

flash: install  ## flash the last compile's sketch to a Nano 33 BLE (PORT=... when there are several)
	@$(BIN)/redsc flash $(BUILD) $(if $(PORT),--port "$(PORT)")

monitor: install  ## show what the flashed board prints
	@$(PROJECT) $@

clean:  ## delete what compiling and testing made
	rm -rf $(BUILD) dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean  ## delete .venv and the trained example too
	rm -rf .venv examples/digits/digits.h5 examples/digits/digits.npz

# Tools that pip cannot bring. Without them everything but the ladder's device side still works,
# so a machine that may not install them is told the line to type and goes on.
tools:
	@missing=""
	for tool in $(CROSS_TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done
	if [ -z "$$missing" ]; then exit 0; fi
	line="apt-get install -y --no-install-recommends $(CROSS_PACKAGES)"
	if ! command -v apt-get >/dev/null; then
	  echo "missing:$$missing; install what your system calls: $(CROSS_PACKAGES)" >&2; exit 0
	fi
	if [ "$$(id -u)" = 0 ]; then as_root=""
	elif sudo -n true 2>/dev/null; then as_root="sudo"
	else echo "missing:$$missing; type: sudo $$line" >&2; exit 0; fi
	echo "installing:$$missing"
	export DEBIAN_FRONTEND=noninteractive
	{ $$as_root apt-get update -q && $$as_root env DEBIAN_FRONTEND=noninteractive $$line; } >.apt.log 2>&1 \
	  || { tail -n 5 .apt.log >&2; echo "could not install$$missing; type: sudo $$line" >&2; }
	rm -f .apt.log

.venv/.installed: setup.cfg pyproject.toml
	@python="$(PYTHON)"
	for candidate in $(PYTHONS); do
	  [ -z "$$python" ] || break
	  if $$candidate -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
	  then python=$$candidate; fi
	done
	if [ -z "$$python" ]; then
	  echo "no Python 3.10, 3.11 or 3.12 found (TensorFlow has wheels for these); install one, or say PYTHON=..." >&2
	  exit 1
	fi
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then
	  echo "making .venv with $$($$python --version)"
	  rm -rf .venv
	  if ! $$python -c 'import ensurepip' 2>/dev/null; then
	    venv="python$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
	    if [ "$$(id -u)" = 0 ]; then as_root=""; else as_root="sudo -n"; fi
	    $$as_root apt-get update -q >/dev/null 2>&1 || true
	    $$as_root apt-get install -y -q $$venv >/dev/null 2>&1 \
	      || { echo "this Python has no venv; type: sudo apt-get install $$venv" >&2; exit 1; }
	  fi
	  $$python -m venv .venv
	fi
	echo "installing redsc and its packages into .venv (TensorFlow is large: minutes at first)"
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev,examples,verify]'
	touch $@

.ONESHELL:
