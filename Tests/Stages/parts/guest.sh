# SPDX-License-Identifier: Apache-2.0
# Sourced by the stages that use the virtual machine.
# shellcheck shell=bash

rxe_vm=$PWD/Tests/VirtualMachine/rxe-vm
scratch=${SCRATCH:-$PWD/.build}
results=${RESULTS:-/dev/null}
work=$scratch/guest # what the guest writes; in the folder that it shares
mkdir -p "$work"
read -r -a kernels <<<"${KERNELS:-6.1 6.12}"
failures=0

# require_guest: ends the stage as "cannot run here" where there is no virtual machine.
require_guest() {
    if [ "$(uname -m)" != x86_64 ]; then
        echo "the virtual machine needs an x86-64 machine"
        exit 77
    fi
    if ! command -v qemu-system-x86_64 >/dev/null; then
        echo "there is no qemu-system-x86_64 (make setup installs it)"
        exit 77
    fi
}

# in_guest RXE-VM-ARGUMENTS...: one run; its "N passed, ..." lines count for the stage.
in_guest() {
    local output status=0
    output=$(mktemp)
    echo "-- rxe-vm $*"
    "$rxe_vm" "$@" 2>&1 | tee "$output" || status=$?
    grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$output" >>"$results" ||
        { [ "$status" -eq 0 ] || echo "0 passed, 1 failed, 0 skipped" >>"$results"; }
    rm -f "$output"
    [ "$status" -eq 0 ] || failures=$((failures + 1))
    return 0
}

# judge_capture FILE AT-LEAST: every ICRC right, nothing malformed by tshark.
judge_capture() {
    if Tests/Tools/check-capture --at-least "$2" "$1"; then
        echo "1 passed, 0 failed, 0 skipped" >>"$results"
    else
        echo "0 passed, 1 failed, 0 skipped" >>"$results"
        echo "FAILED the capture $1"
        failures=$((failures + 1))
    fi
}

finish() {
    exit $((failures > 0))
}
