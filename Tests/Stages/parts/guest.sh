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

# in_guest RXE-VM-ARGUMENTS...: one run; its "N passed, ..." lines count for the stage. What it printed is in $last_output.
in_guest() {
    local status=0
    last_output=$work/last-output
    echo "-- rxe-vm $*"
    "$rxe_vm" "$@" 2>&1 | tee "$last_output" || status=$?
    if grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$last_output" >>"$results"; then :; elif [ "$status" -ne 0 ]; then
        count_failure "the run ended with status $status"
        return
    fi
    [ "$status" -eq 0 ] || failures=$((failures + 1))
}

count_failure() {
    echo "FAILED  $1"
    echo "0 passed, 1 failed, 0 skipped" >>"$results"
    failures=$((failures + 1))
}

count_success() {
    echo "ok      $1"
    echo "1 passed, 0 failed, 0 skipped" >>"$results"
}

# judge_capture FILE AT-LEAST [CHECK-CAPTURE-ARGUMENTS...]: every ICRC right, nothing malformed by tshark; $last_judgement has the output.
judge_capture() {
    last_judgement=$work/last-judgement
    if Tests/Tools/check-capture --at-least "$2" "${@:3}" "$1" >"$last_judgement" 2>&1; then
        count_success "the packets in ${1##*/}"
    else
        count_failure "the packets in ${1##*/}"
    fi
    cat "$last_judgement"
}

# expect_equal NAME VALUE NAME VALUE
expect_equal() {
    if [ "$2" = "$4" ]; then count_success "$1 ($2) = $3"; else count_failure "$1: $2; $3: $4"; fi
}

# expect_taken NAME SENT NAME TAKEN: nearly all were taken. Of some ten thousand frames rxe loses one or two on a busy machine, and
# they are sent again; what makes it drop frames uncounted, a wrong ICRC, is judged frame by frame in the capture.
expect_taken() {
    if [[ "$2 $4" =~ ^[0-9]+\ [0-9]+$ ]] && [ "$4" -le "$2" ] && [ $(($2 - $4)) -le 5 ]; then
        count_success "$1 ($2) = $3 ($4)"
    else
        count_failure "$1: $2; $3: $4"
    fi
}

finish() {
    exit $((failures > 0))
}
