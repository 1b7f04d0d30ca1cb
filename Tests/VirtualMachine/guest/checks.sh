# SPDX-License-Identifier: Apache-2.0
# Sourced by the programs that run in the guest.
# shellcheck shell=bash

passed=0 failed=0

# note STATUS NAME: counts and prints one result.
note() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok     $2"
    else
        failed=$((failed + 1))
        echo "FAILED $2"
    fi
}

# report: the counts, for the stage that started us; fails if anything failed.
report() {
    echo "$passed passed, $failed failed, 0 skipped"
    [ "$failed" -eq 0 ]
}

# rxe_counter DEVICE NAME
rxe_counter() {
    local value
    read -r value <"/sys/class/infiniband/$1/ports/1/hw_counters/$2"
    echo "$value"
}

# start_capture INTERFACE FILE [COMMAND PREFIX...]: tcpdump of UDP port 4791, and waits until it captures.
start_capture() {
    local interface=$1 file=$2
    shift 2
    rm -f "$file"
    "$@" tcpdump --immediate-mode -U -B 16384 -s 0 -Z root -i "$interface" -w "$file" 'udp port 4791' 2>"$file.log" &
    capture=$!
    while ! grep -q 'listening on' "$file.log" && kill -0 "$capture" 2>/dev/null; do sleep 0.1; done
}

# stop_capture FILE: ends tcpdump; fails if it lost packets.
stop_capture() {
    sleep 0.5
    kill -INT "$capture"
    wait "$capture" || true
    grep -q '^0 packets dropped by kernel' "$1.log"
}
