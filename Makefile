# Everything a person or CI does with this project; `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: help setup setup-machine demo check test test-spread tempest clientfunctional fuzz lint types imports clean guest-image bench chaos
SHELL := /bin/sh
BIN := .venv/bin
SPREAD := CUMULET_TEST_SPREAD=1 $(BIN)/pytest -n 2 tests/contract

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

setup:  ## install the Python packages
	@tools/setup.sh check

setup-machine:  ## and what real guests need (Debian packages, as root)
	@tools/setup.sh machine

guest-image: build/guest.qcow2  ## build the tiny guest image

build/guest.qcow2: $(shell find images -type f)
	@mkdir -p build
	@images/build.sh $@

demo:  ## from nothing to a real server that one logs in to
	@tools/demo.sh

lint:
	@$(BIN)/ruff check src tests tools bench
	@$(BIN)/ruff format --check -q src tests tools bench

types:
	@$(BIN)/mypy

imports:
	@$(BIN)/lint-imports --no-cache

check: setup lint types imports  ## lint, types, import rules, unit and contract tests (minutes)
	@$(BIN)/pytest -q -n 2 -m "not machine and not postgres and not rabbit and not ldap and not ceph" \
		--ignore tests/spread --ignore tests/rbac

test: setup-machine guest-image lint types imports  ## every check, real guests too (CUMULET_TEST_GUESTS=0 leaves those out)
	@$(BIN)/pytest -n 2 -m "not machine"
	@$(SPREAD)
	@$(BIN)/python tools/tempest.py --pinned identity image
	@$(BIN)/python tools/clientfunctional.py --pinned
	@$(BIN)/python tools/fuzz.py --examples 2
	@$(BIN)/pytest -m machine

test-spread: setup-machine  ## the contract tests with the roles of each cloud apart
	@$(SPREAD)

tempest: setup  ## OpenStack's own test suite: make tempest ARGS='identity image' (ARGS=--help says more)
	@$(BIN)/python tools/tempest.py $(ARGS)

clientfunctional: setup  ## the openstack client's own functional tests: make clientfunctional ARGS='identity image'
	@$(BIN)/python tools/clientfunctional.py $(ARGS)

fuzz: setup  ## requests made from the OpenAPI documents: make fuzz ARGS='identity --examples 60'
	@$(BIN)/python tools/fuzz.py $(ARGS)

chaos: setup  ## kill a cloud of its own and judge it: make chaos ARGS='--kills 200 --seed 1' (--spread, --every-point)
	@$(BIN)/cumulet chaos $(ARGS)

bench: setup  ## how soon a cloud answers, on this machine
	@$(BIN)/python bench/startup.py

clean:  ## remove everything that the demo and the tests made
	@if [ -x $(BIN)/cumulet ]; then $(BIN)/cumulet down --purge; fi
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache
