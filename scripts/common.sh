# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts of this folder, by Tests/Stages and by what runs in the guest.
# shellcheck shell=bash

# build_quietly ARGUMENTS...: swift build that shows its output only if it fails.
build_quietly() {
    local log status=0
    log=$(mktemp)
    swift build "$@" >"$log" 2>&1 || status=$?
    [ "$status" -eq 0 ] || cat "$log" >&2
    rm -f "$log"
    return "$status"
}

# is_listening PORT [PID]: whether a TCP socket listens there, in the network namespace of that process (or of this one). A connection
# attempt would be taken for the client.
is_listening() {
    local hexadecimal tables=/proc/${2:-self}/net
    hexadecimal=$(printf '%04X' "$1")
    awk -v port=":$hexadecimal\$" '$2 ~ port && $4 == "0A" { found = 1 } END { exit !found }' "$tables/tcp" "$tables/tcp6" 2>/dev/null
}

# wait_listening PORT PID [SECONDS]: waits until the server is there; fails if it ended or the time passed.
wait_listening() {
    local port=$1 server=$2 tenths=$((${3:-30} * 10))
    while ((tenths-- > 0)); do
        if is_listening "$port" "$server"; then return 0; fi
        if ! kill -0 "$server" 2>/dev/null; then
            echo "the server for port $port ended before it listened" >&2
            return 1
        fi
        sleep 0.1
    done
    echo "the server for port $port did not listen in time" >&2
    return 1
}

# A TCP port on which nobody listens right now.
free_port() {
    local port
    while true; do
        port=$((20000 + RANDOM % 10000))
        if ! is_listening "$port"; then
            echo "$port"
            return
        fi
    done
}

# Ends the background jobs of this shell, and only those.
end_children() {
    local child
    for child in $(jobs -p); do kill "$child" 2>/dev/null || true; done
    wait 2>/dev/null || true
}
