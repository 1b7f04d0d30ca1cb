#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# kernel-traffic.sh FILE   captures what the kernel sends out of an interface that nobody answers on: UDP whole and in fragments, TCP, ICMP,
# multicast listener reports, and the same inside of a VXLAN. Runs in a network namespace of its own, which goes with it.
set -euo pipefail
if [ "${2-}" != inside ]; then
    how=-Urn
    if [ "$(id -u)" = 0 ]; then how=-n; fi
    exec unshare "$how" -- "$0" "$1" inside
fi
out=$1
ip link add out0 type veth peer name end0
ip link add vx0 type vxlan id 5000 remote 10.9.0.2 dstport 4789 dev out0
ip link set out0 up
tcpdump -i out0 -w "$out" -U --immediate-mode -Z root 2>/dev/null &
capture=$!
for _ in $(seq 100); do [ -s "$out" ] && break; sleep 0.1; done
for device in end0 vx0; do ip link set "$device" up; done
ip addr add 10.9.0.1/24 dev out0
ip addr add fd09::1/64 dev out0 nodad
ip addr add 10.8.0.1/24 dev vx0
ip addr add fd08::1/64 dev vx0 nodad
for address in 10.9.0.2 fd09::2; do ip neigh replace "$address" lladdr 02:00:00:00:00:02 dev out0; done
for address in 10.8.0.2 fd08::2; do ip neigh replace "$address" lladdr 02:00:00:00:08:02 dev vx0; done
sleep 1
for address in 10.9.0.2 fd09::2 10.8.0.2 fd08::2; do
    for port in 7000 53 4791; do echo data >"/dev/udp/$address/$port" || true; done
    head -c 4000 /dev/zero >"/dev/udp/$address/7001" || true
    timeout -s KILL 0.2 bash -c "echo data >/dev/tcp/$address/80" 2>/dev/null || true
    if command -v ping >/dev/null; then timeout -s KILL 0.2 ping -c 1 -s 3000 "$address" >/dev/null 2>&1 || true; fi
done
sleep 1
kill -KILL "$capture" # a test may have blocked other signals; each packet is written at once
wait "$capture" 2>/dev/null || true
