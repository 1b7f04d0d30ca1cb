# SPDX-License-Identifier: Apache-2.0
# Sourced by both ends of the guest-wire stage: the tests, and the ports of their servers.
# shellcheck shell=bash disable=SC2034

wire_cases=(
    "send-bw -c RC -s 5000 -n 100 --validate"
    "write-bw -c RC -s 65536 -n 50 --validate"
    "read-bw -c RC -s 65536 -n 50 --validate"
    "atomic-bw -c RC -n 50"
    "send-lat -c RC -s 64 -n 30"
    "send-bw -c UC -s 5000 -n 50 --validate"
    "send-bw -c UD -s 1000 -n 50 --validate"
)
wire_guest=10.9.1.1
wire_host=10.9.1.254
wire_guest_port=18600 # of the first case's server in the guest
wire_host_port=18700  # on the host

# start_servers END PORT: one server for each case, all at once; their numbers are in servers[].
start_servers() {
    local index
    servers=()
    for index in "${!wire_cases[@]}"; do
        # shellcheck disable=SC2086 # a case is several words
        "$1" ${wire_cases[index]} -p $(($2 + index)) >"$logs/server.$index" 2>&1 </dev/null &
        servers+=($!)
    done
    for index in "${!wire_cases[@]}"; do wait_listening $(($2 + index)) "${servers[index]}" 60; done
}

# run_clients END PORT ADDRESS: the clients one after the other.
run_clients() {
    local index status
    for index in "${!wire_cases[@]}"; do
        status=0
        # shellcheck disable=SC2086
        ("$1" ${wire_cases[index]} -p $(($2 + index)) "$3") >"$logs/client.$index" 2>&1 </dev/null || status=$?
        [ "$status" -eq 0 ] || tail -n 25 "$logs/client.$index"
        note "$status" "client $1: ${wire_cases[index]}"
    done
}

# await_servers END: their exit statuses.
await_servers() {
    local index status
    for index in "${!wire_cases[@]}"; do
        status=0
        wait "${servers[index]}" || status=$?
        [ "$status" -eq 0 ] || tail -n 25 "$logs/server.$index"
        note "$status" "server $1: ${wire_cases[index]}"
    done
}
