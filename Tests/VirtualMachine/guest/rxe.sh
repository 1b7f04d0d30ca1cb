# SPDX-License-Identifier: Apache-2.0
# Sourced by the programs that run in the guest: rxe's counters, and captures.
# shellcheck shell=bash

# rxe_counter DEVICE NAME
rxe_counter() {
    local value
    read -r value <"/sys/class/infiniband/$1/ports/1/hw_counters/$2"
    echo "$value"
}

# start_capture INTERFACE FILE [COMMAND PREFIX...]: tcpdump of UDP port 4791, and waits until it captures. What it says stays in the
# guest: in the shared folder a file that is read while it is written may show zeros where the text is.
start_capture() {
    local interface=$1 file=$2
    shift 2
    rm -f "$file"
    capture_log=$(mktemp)
    "$@" tcpdump --immediate-mode -U -B 16384 -s 0 -Z root -i "$interface" -w "$file" 'udp port 4791' 2>"$capture_log" &
    capture=$!
    while ! grep -q 'listening on' "$capture_log" && kill -0 "$capture" 2>/dev/null; do sleep 0.1; done
}

# stop_capture: ends tcpdump; fails if it lost packets.
stop_capture() {
    sleep 0.5
    kill -INT "$capture"
    wait "$capture" || true
    grep -q '^0 packets dropped by kernel' "$capture_log"
}

# perftest TEST OPTIONS...: replaces this shell by rdma-core's perftest on $perftest_device. The CPU frequency is meaningless here (-F),
# and stalls of a loaded host must not look like loss (-u 18: one second).
perftest() {
    exec timeout -k 5 "$pair_seconds" "ib_${1//-/_}" -d "$perftest_device" -x "${perftest_gid:-1}" -F -u 18 "${@:2}"
}
