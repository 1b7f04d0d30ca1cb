# SPDX-License-Identifier: Apache-2.0
# Sourced by what runs a server and a client against each other, on this machine or in the guest; needs scripts/common.sh.
# shellcheck shell=bash

passed=0 failed=0 skipped=0
pair_port=18515
pair_seconds=${PAIR_SECONDS:-90}

# note STATUS NAME: counts and prints one result.
note() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok      $2"
    else
        failed=$((failed + 1))
        echo "FAILED  $2"
    fi
}

# note_skip NAME REASON
note_skip() {
    skipped=$((skipped + 1))
    echo "skipped $1: $2"
    echo "skip $1: $2" >>"${RESULTS:-/dev/null}"
}

# report: the counts, for the stage that started us; fails if anything failed.
report() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
}

# run_pair SERVER CLIENT ADDRESS TEST OPTIONS...: runs both ends of a test and fails if one of them does, showing what they said.
# SERVER and CLIENT are functions that replace the shell (exec) by the end's program, given TEST OPTIONS... and for the client ADDRESS.
# That way the process that this shell knows is the program, in its own network namespace.
run_pair() {
    local server_end=$1 client_end=$2 address=$3 status=0 output server
    shift 3
    pair_port=$((pair_port + 1)) # the port of the pair before may be in TIME_WAIT
    output=$(mktemp -d)
    "$server_end" "$@" -p "$pair_port" >"$output/server" 2>&1 </dev/null &
    server=$!
    if wait_listening "$pair_port" "$server" 60 >>"$output/client" 2>&1; then
        ("$client_end" "$@" -p "$pair_port" "$address" >>"$output/client" 2>&1 </dev/null) || status=$?
    else
        status=125
    fi
    if [ "$status" -ne 0 ]; then kill "$server" 2>/dev/null || true; fi
    wait "$server" || status=$((status + 1000 * $?))
    if [ "$status" -ne 0 ]; then
        echo "-- status $status (1000 times the server's, plus the client's); the server, then the client:"
        tail -n 25 "$output/server"
        echo "--"
        tail -n 25 "$output/client"
        echo "--"
    fi
    last_client=$(cat "$output/client")
    rm -rf "$output"
    [ "$status" -eq 0 ]
}

# check_pair SERVER CLIENT ADDRESS TEST OPTIONS...: one counted result.
check_pair() {
    local status=0
    run_pair "$@" || status=1
    note "$status" "server $1, client $2: ${*:4}"
}
