# SPDX-License-Identifier: Apache-2.0
# Sourced by stages: runs the package's test bundle, here or in the guest, and counts.
# shellcheck shell=bash

scratch=${SCRATCH:-$PWD/.build}
results=${RESULTS:-/dev/null}

# run_bundle SECONDS [WRAPPER... --] ARGUMENTS...: runs the bundle with a time limit, behind WRAPPER (rxe-vm with its options) if there
# is one. The bundle itself and not `swift test`: that starts in three seconds in the guest instead of thirty.
run_bundle() {
    local seconds=$1 wrapper=() status=0 xunit
    shift
    while [ "$1" != -- ]; do
        wrapper+=("$1")
        shift
    done
    shift
    xunit=$scratch/xunit.$$.xml # in the folder that the guest shares
    rm -f "$xunit"
    NO_COLOR=1 SWIFT_BACKTRACE=${SWIFT_BACKTRACE:-enable=yes,color=no} timeout --kill-after 10 "$seconds" "${wrapper[@]}" \
        "$scratch/debug/swift-verbsPackageTests.xctest" --testing-library swift-testing --xunit-output "$xunit" "$@" || status=$?
    if [ "$status" -eq 124 ]; then echo "the time limit of $seconds s passed"; fi
    count_xunit "$xunit" || status=1
    rm -f "$xunit"
    return "$status"
}

# count_xunit FILE: appends the counts of tests to the results. (The report's own total of failures counts issues, many to a test.) No
# test at all is a failure: a filter that matches nothing tests nothing.
count_xunit() {
    local counts
    if [ ! -s "$1" ]; then
        echo "the test run left no report"
        return 1
    fi
    counts=$(awk '
        /<testcase / { tests++; failing = 0 }
        /<failure/ && !failing { failing = 1; failures++ }
        /<skipped/ { skips++ }
        END { printf "%d passed, %d failed, %d skipped", tests - failures - skips, failures, skips }' "$1")
    echo "$counts" | tee -a "$results"
    if [ "$counts" = "0 passed, 0 failed, 0 skipped" ]; then
        echo "no test ran"
        return 1
    fi
}
