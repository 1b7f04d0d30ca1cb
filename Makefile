# SPDX-License-Identifier: Apache-2.0
#
# The entry points for people and for CI. The work is done by the scripts in scripts/ and Tests/Stages/.

.DEFAULT_GOAL := help
.PHONY: help demo install uninstall deb test quick nightly guest setup format lint clean

PREFIX ?= /usr/local
export PREFIX DESTDIR

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Install what is missing, build, and measure RDMA between two processes on this machine
	@scripts/demo

install: ## Install the command and the drop-in libraries below DESTDIR/PREFIX (PREFIX=/usr/local)
	@scripts/install

uninstall: ## Remove what install put there
	rm -f "$(DESTDIR)$(PREFIX)/bin/verbs"
	rm -rf "$(DESTDIR)$(PREFIX)/lib/swift-verbs" "$(DESTDIR)$(PREFIX)/share/doc/swift-verbs"

deb: ## Make a Debian package of what install installs, in .build-deb
	@scripts/package-deb

test: ## Everything that CI runs (STAGES="lint unit" runs some of it, KEEP_GOING=1 does not stop at a failure)
	@scripts/setup test
	@scripts/test $(STAGES)

quick: ## The tests that need no privilege and no virtual machine
	@scripts/setup library
	@swift test

nightly: ## The same tests with 10,000 seeds of the simulation, others each day
	@scripts/setup library
	@VERBS_SIMULATION_SEEDS=10000 VERBS_SIMULATION_FIRST=$$(($$(date +%s) / 86400 * 10000)) scripts/test build unit

guest: ## The tests that run in the virtual machine with soft-RoCE
	@scripts/setup test
	@scripts/test build guest-harness guest-api guest-interop guest-wire

setup: ## Install packages (apt, as root or with sudo) and prepare the kernels of the virtual machine
	@scripts/setup test kernels

format: ## Format all Swift files in place
	@swift format --in-place --recursive Package.swift Sources Tests Dropin/Package.swift Dropin/Sources

lint: ## Check formatting and scripts
	@Tests/Stages/lint

clean: ## Remove what builds leave in this folder (the kernels stay in ~/.cache/swift-verbs)
	rm -rf .build .build-ci .build-dropin .build-install .build-deb
