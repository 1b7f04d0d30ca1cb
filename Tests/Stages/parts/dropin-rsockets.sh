# SPDX-License-Identifier: Apache-2.0
# Sourced by the stage dropin: sockets over RDMA. Each server is waited for by the name under which our connection manager listens,
# which a listener of TCP has not; those that might be one are asked as well.
# shellcheck shell=bash

rsocket_preload=$(find /usr/lib -name librspreload.so -path '*/rsocket/*' 2>/dev/null | head -n 1)

# preloaded PROGRAM ARGUMENTS...: becomes a program of TCP whose sockets are rsockets of our library.
preloaded() { LD_PRELOAD=$rsocket_preload replaced "$@"; }

# rsocket_server NAME COMMAND...: starts it, as $rsocket_server_pid, and waits until it listens at $pair_port, over no TCP.
rsocket_server() {
    local name=$1
    shift
    "$@" >"$work/$name" 2>&1 </dev/null &
    rsocket_server_pid=$!
    wait_server dropin "$rsocket_server_pid" "$work/$name" cm_rsocket && ! is_listening "$pair_port"
}

# rsocket_transfer NAME SERVER CLIENT: one counted result. SERVER and CLIENT are functions that become the programs; with a third
# function, CHECK, that must be true afterwards.
rsocket_transfer() {
    local name=$1 server=$2 client=$3 check=${4:-true} status=0
    pair_port=$((pair_port + 1))
    rm -f "$work/rsocket-copy"
    if rsocket_server rsocket-server "$server"; then
        ("$client") >"$work/rsocket-client" 2>&1 </dev/null || status=1
    else
        status=1
    fi
    if [ "$status" -ne 0 ] || [ "$server" = rcopy_server ]; then kill "$rsocket_server_pid" 2>/dev/null || true; fi
    wait "$rsocket_server_pid" || [ "$server" = rcopy_server ] || status=1
    "$check" || status=1
    if [ "$status" -ne 0 ]; then tail -n 15 "$work/rsocket-server" "$work/rsocket-client"; fi
    note "$status" "$name"
    table_line "$status" dropin dropin 127.0.0.1 "${name%%:*}" "${name#*: }" >>"$pair_table"
}

is_copied() { cmp "$work/rsocket-source" "$work/rsocket-copy"; }

ipv6_server() { replaced rstream -b ::1 -S 4096 -I 10 -T v -p "$pair_port"; }
ipv6_client() { replaced rstream -s ::1 -S 4096 -I 10 -T v -p "$pair_port"; }

rcopy_server() { replaced rcopy -p "$pair_port"; }
rcopy_client() { replaced rcopy "$work/rsocket-source" "127.0.0.1:$work/rsocket-copy" -p "$pair_port"; }

# The socket first: librspreload looks up the functions that it replaces when it makes the first.
socat_server() { preloaded socat -u "TCP-LISTEN:$pair_port,reuseaddr" "OPEN:$work/rsocket-copy,creat,trunc"; }
socat_client() { preloaded socat -U "TCP:127.0.0.1:$pair_port" "OPEN:$work/rsocket-source,rdonly"; }

iperf3_server() { preloaded iperf3 -s -1 -p "$pair_port"; }
iperf3_client() { preloaded iperf3 -c 127.0.0.1 -p "$pair_port" -n 256M; }
iperf3_reader() { preloaded iperf3 -c 127.0.0.1 -p "$pair_port" -n 256M -R; }

# udpong_pair ADDRESS OPTIONS...: datagrams, by udpong as $udpong_command starts it. The server ends when it is told to, and is there when it has the port of UDP. Few transfers:
# who waits a millisecond in vain sends again, and the answers that come late put off all others.
udpong_pair() {
    local address=$1 status=0 tenths=100 server
    shift
    pair_port=$((pair_port + 1))
    "${udpong_command[@]}" -b "$address" -p "$pair_port" >"$work/udpong-server" 2>&1 </dev/null &
    server=$!
    until grep -qi "$(printf ':%04x ' "$pair_port")" /proc/net/udp /proc/net/udp6 ${udpong_port_table:+"$udpong_port_table"} 2>/dev/null || ((--tenths == 0)); do sleep 0.1; done
    ("${udpong_command[@]}" -s "$address" -p "$pair_port" -C 1000 "$@") >"$work/udpong-client" 2>&1 </dev/null || status=1
    grep -q '^custom ' "$work/udpong-client" || status=1
    kill "$server" 2>/dev/null || status=1
    wait "$server" 2>/dev/null || true
    if [ "$status" -ne 0 ]; then tail -n 15 "$work/udpong-server" "$work/udpong-client"; fi
    note "$status" "udpong $address $*"
    table_line "$status" dropin dropin "$address" udpong "$*" >>"$pair_table"
}

udpong_command=(replaced udpong)

# The same in a network namespace, which has an interface whose only address is link-local.
linked_udpong() { LD_LIBRARY_PATH=$work/lib exec timeout -k 5 "$pair_seconds" nsenter -t "$link_local_keeper" -n udpong "$@"; }
link_local_pair() {
    local address tenths=100
    if [ "$(id -u)" -ne 0 ]; then
        note_skip "udpong: link-local" "a network namespace is made by root"
        return
    fi
    unshare -n sh -c 'ip link add verbs0 type veth peer name verbs1 && ip link set verbs1 up && ip link set verbs0 up && ip link set lo up && exec sleep 300' &
    link_local_keeper=$!
    until address=$(nsenter -t "$link_local_keeper" -n ip -6 -o address show dev verbs0 scope link -tentative 2>/dev/null |
        sed -nE 's/.*inet6 ([^/]+).*/\1/p') && [ -n "$address" ]; do
        if ((--tenths == 0)); then break; fi
        sleep 0.1
    done
    udpong_command=(linked_udpong)
    udpong_port_table=/proc/$link_local_keeper/net/udp6
    udpong_pair "$address%verbs0" -S 1000 -T e
    udpong_command=(replaced udpong)
    udpong_port_table=
    kill "$link_local_keeper"
    wait "$link_local_keeper" 2>/dev/null || true
}

rsocket_pairs() {
    local options status=0 calls=0 killed
    if missing rsockets rstream; then return; fi

    # A peer that is killed: what the server does is looked at when all others are through.
    pair_port=$((pair_port + 1))
    if rsocket_server rsocket-killed replaced rstream -T b -S 4096 -I 100000000 -p "$pair_port"; then
        killed=$rsocket_server_pid
        (replaced rstream -T b -S 4096 -I 100000000 -p "$pair_port" -s 127.0.0.1) >/dev/null 2>&1 &
        rsocket_killed_client=$!
        sleep 1
        # The program itself, of which timeout(1) is the parent.
        pkill -KILL -P "$rsocket_killed_client" || status=1
        wait "$rsocket_killed_client" 2>/dev/null || true
    else
        status=1
    fi

    pair_port=$((pair_port + 1))
    "${CC:-clang}" -O2 -Wall -Wextra -Werror -o "$work/rsocket-calls" Tests/Programs/rsocket-calls.c -lrdmacm -lpthread
    (replaced "$work/rsocket-calls" "$pair_port") >"$work/rsocket-calls.out" 2>&1 && grep -qx '0 failures' "$work/rsocket-calls.out" ||
        calls=1
    if [ "$calls" -ne 0 ]; then tail -n 15 "$work/rsocket-calls.out"; fi
    note "$calls" "each function of rdma/rsocket.h does what it promises"

    for options in "" "-T b -S 4096 -I 10 -T v" "-T n -S 4096 -I 10 -T v" "-T a -S 4096 -I 10 -T v" "-T a -T n -S 4096 -I 10 -T v" \
        "-T r -S 64 -I 100" "-S 1 -T v" "-S 100000 -T v -I 20 -C 10 -B 65536" "-S 3000000 -T v -I 10 -C 4" "-S 65536 -i 512" \
        "-S 64 -k 1"; do
        # shellcheck disable=SC2086 # words
        pair_evidence='^(custom|1m_bw) ' pair cm_rstream $options
    done
    # Its receiver looks at memory and calls nothing: the device's thread serves it, once in a millisecond.
    for options in "-S 64 -I 100 -T v" "-S 65536 -I 50 -C 4 -T v" "-S 1000000 -I 10 -C 4 -T a -T v"; do
        # shellcheck disable=SC2086 # words
        pair_evidence='^custom ' pair cm_riostream $options
    done

    for options in "-S 64" "-S 2000" "-S 1000 -T e" "-S 64 -T b -T e" "-S 1000 -T a" "-S 1000 -T a -T e"; do
        # shellcheck disable=SC2086 # words
        udpong_pair 127.0.0.1 $options
    done

    if grep -q '^0*1 ' /proc/net/if_inet6 2>/dev/null; then
        rsocket_transfer "rstream: IPv6" ipv6_server ipv6_client
        udpong_pair ::1 -S 1000 -T e
    else
        note_skip "rstream and udpong: IPv6" "loopback has no IPv6 address"
    fi
    link_local_pair
    head -c 20000000 /dev/urandom >"$work/rsocket-source"
    rsocket_transfer "rcopy: 20 MB" rcopy_server rcopy_client is_copied
    if [ -z "$rsocket_preload" ]; then
        note_skip "librspreload" "librdmacm has no rsocket/librspreload.so"
    else
        # A program that calls rsocket itself.
        udpong_command=(preloaded udpong)
        udpong_pair 127.0.0.1 -S 1000 -T e -T b
        udpong_command=(replaced udpong)
        if ! missing "socat over rsockets" socat; then
            rsocket_transfer "socat: librspreload, 20 MB" socat_server socat_client is_copied
        fi
        if ! missing "iperf3 over rsockets" iperf3; then
            rsocket_transfer "iperf3: librspreload, 256 MB" iperf3_server iperf3_client
            rsocket_transfer "iperf3: librspreload, 256 MB back" iperf3_server iperf3_reader
        fi
    fi

    if [ "$status" -eq 0 ]; then
        # It ends by itself, with an error, and not because its time is over.
        wait "$killed" || status=$?
        case $status in 0 | 124 | 137) status=1 ;; *) status=0 ;; esac
    fi
    note "$status" "rstream ends when its peer is killed"
}
