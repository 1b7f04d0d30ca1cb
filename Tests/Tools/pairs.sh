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
    if wait_server "$server_end" "$server" "$output/server" "$@" >>"$output/client" 2>&1; then
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

# wait_server SERVER PID OUTPUT TEST OPTIONS...: waits until the server of a pair can be connected to. With -R it listens on no TCP port:
# ours says when it listens, and for one of perftest, which does not say it in time, our client waits itself.
wait_server() {
    local tenths=600
    if [[ " ${*:4} " != *" -R "* ]]; then
        wait_listening "$pair_port" "$2" 60
        return
    fi
    case $1 in perftest*) return 0 ;; esac
    while ((tenths-- > 0)); do
        if grep -q "Waiting for client" "$3"; then return 0; fi
        if ! kill -0 "$2" 2>/dev/null; then
            echo "the server ended before it listened"
            return 1
        fi
        sleep 0.1
    done
    echo "the server did not listen in time"
    return 1
}

# check_pair SERVER CLIENT ADDRESS TEST OPTIONS...: one counted result, and a line of $pair_table if that is a file's name. With a
# regular expression in $INTEROP_ONLY the pairs whose name does not match are left out. With one in $pair_evidence the client must have
# printed a line that matches it.
check_pair() {
    local status=0
    if ! [[ "server $1, client $2: ${*:4}" =~ ${INTEROP_ONLY:-} ]]; then return; fi
    run_pair "$@" || status=1
    # UC and UD repeat nothing: one packet lost on a busy machine, and both ends wait for ever. Lost twice is another matter.
    case "$status ${*:4} " in
    *" -c UC "* | *" -c UD "* | "1 uc "* | "1 ud "*) [ "$status" -eq 0 ] || { status=0 && run_pair "$@"; } || status=1 ;;
    esac
    if [ "$status" -eq 0 ] && ! grep -qE "${pair_evidence:-}" <<<"$last_client"; then
        printf -- '-- no line of the client matches %s:\n%s\n--\n' "$pair_evidence" "$last_client"
        status=1
    fi
    note "$status" "server $1, client $2: ${*:4}"
    if [ -n "${pair_table:-}" ]; then table_line "$status" "$@" >>"$pair_table"; fi
}

# table_line STATUS SERVER CLIENT ADDRESS TEST OPTIONS...: the pair as a line for interop-table.
table_line() {
    local status=$1 server=$2 client=$3 test=$5 role=server peer=$3 program transport=RC managed=no family=IPv4 size=default queues=1
    case $client in soft*) role=client peer=$server ;; esac
    case $server$client in *soft*) ;; *) role=both ;; esac
    case $server$client in *ipv6*) family=IPv6 ;; esac
    shift 5
    case $peer in
    perftest*) program=ib_${test//-/_} ;;
    *pingpong)
        program=ibv_${test}_pingpong transport=${test^^}
        if [ "$test" = srq ]; then transport=RC queues=16; fi
        ;;
    *) program="verbs perf $test, kernel device" ;;
    esac
    while [ "$#" -gt 0 ]; do
        case $1 in
        -R) managed=yes ;;
        -c) if [ "${2-}" ] && [[ $2 != -* ]]; then transport=$2; fi ;;
        -s) size=$2 ;;
        -q) queues=$2 ;;
        esac
        shift
    done
    if [ "$status" -eq 0 ]; then status=ok; else status=FAILED; fi
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$program" "$role" "$transport" "$managed" "$family" "$size" "$queues" \
        "$(uname -r)" "$status"
}
