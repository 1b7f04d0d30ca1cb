# SPDX-License-Identifier: Apache-2.0
# Sourced by the stage dropin: UCX, libfabric, qperf and Open MPI.
# shellcheck shell=bash

# missing NAME PROGRAM: says that a program is not there, and is true then.
missing() {
    if command -v "$2" >/dev/null; then return 1; fi
    note_skip "$1" "$2 is not installed (make setup)"
}

# run_ucp TRANSPORT TEST OPTIONS...: UCX's protocols over one transport of UCX. That it is on our device is in its log.
run_ucp() {
    local transport=$1 test=$2
    shift 2
    UCX_TLS=$transport,self UCX_NET_DEVICES=soft_lo:1 UCX_LOG_LEVEL=info noded ucx_perftest -t "$test" -w 100 -f "$@"
}

# run_uct TRANSPORT TEST OPTIONS...: one transport of UCX by itself.
run_uct() {
    local transport=$1 test=$2
    shift 2
    noded ucx_perftest -d soft_lo:1 -x "$transport" -t "$test" -w 100 -f "$@"
}

ucx_pairs() {
    local transport size status=0
    if missing UCX ucx_perftest; then return; fi
    (noded ucx_info -d) >"$work/ucx_info" || status=1
    for transport in rc_verbs ud_verbs; do
        grep -A1 "Transport: $transport" "$work/ucx_info" | grep -q 'Device: soft_lo:1' || status=1
    done
    note "$status" "ucx_info -d lists rc_verbs and ud_verbs of soft_lo"

    for transport in rc ud; do
        for size in 8 4096 65536 1048576; do
            pair_evidence="ep_cfg.*${transport}_verbs/soft_lo:1" pair ucp "$transport" tag_lat -s "$size" -n 500
            pair_evidence="ep_cfg.*${transport}_verbs/soft_lo:1" pair ucp "$transport" tag_bw -s "$size" -n 500
        done
        pair_evidence="ep_cfg.*${transport}_verbs/soft_lo:1" pair ucp "$transport" ucp_am_bw -s 65536 -n 500
        pair_evidence="ep_cfg.*${transport}_verbs/soft_lo:1" pair ucp "$transport" stream_bw -s 8192 -n 500
    done
    for test in ucp_put_lat ucp_put_bw ucp_get; do
        pair_evidence="ep_cfg.*rc_verbs/soft_lo:1" pair ucp rc "$test" -s 65536 -n 500
    done
    for test in ucp_fadd ucp_cswap; do
        pair_evidence="ep_cfg.*rc_verbs/soft_lo:1" pair ucp rc "$test" -s 8 -n 500
    done

    # Of each line of figures the first is the number of messages.
    for test in am_lat am_bw put_lat put_bw; do
        pair_evidence="^ +500 " pair uct rc_verbs "$test" -s 8 -D short -n 500
        pair_evidence="^ +500 " pair uct rc_verbs "$test" -s 4096 -D bcopy -n 500
        pair_evidence="^ +500 " pair uct rc_verbs "$test" -s 8000 -D zcopy -n 500
    done
    pair_evidence="^ +100 " pair uct rc_verbs put_bw -s 1048576 -D zcopy -n 100
    pair_evidence="^ +500 " pair uct rc_verbs get -s 8 -D bcopy -n 500
    pair_evidence="^ +100 " pair uct rc_verbs get -s 1048576 -D zcopy -n 100
    for test in fadd cswap add_mr; do pair_evidence="^ +500 " pair uct rc_verbs "$test" -s 8 -n 500; done
    for test in am_lat am_bw; do
        pair_evidence="^ +500 " pair uct ud_verbs "$test" -s 8 -D short -n 500
        pair_evidence="^ +500 " pair uct ud_verbs "$test" -s 4000 -D zcopy -n 500
    done
}

# run_fi_pingpong PROVIDER ENDPOINT OPTIONS... -p PORT [ADDRESS]: libfabric takes no interface called lo for connections, so this is
# over another one's device.
run_fi_pingpong() {
    local provider=$1 endpoint=$2
    shift 2
    if [ "${*: -1}" = 127.0.0.1 ]; then
        replaced fi_pingpong -p "$provider" -e "$endpoint" "${@:1:$#-3}" -P "$pair_port" "$libfabric_address"
    else
        replaced fi_pingpong -p "$provider" -e "$endpoint" "${@:1:$#-2}" -B "$pair_port"
    fi
}

libfabric_pairs() {
    local device
    if missing libfabric fi_pingpong; then return; fi
    device=$(awk '$1 ~ /^soft_/ && $1 != "soft_lo" { print $1; exit }' "$work/devices")
    if [ -z "$device" ]; then
        note_skip libfabric "no interface but loopback is up, and libfabric takes none called lo"
        return
    fi
    libfabric_address=$(ip -o -4 addr show dev "${device#soft_}" | awk '{ sub("/.*", "", $4); print $4; exit }')
    # -c checks the bytes.
    pair_evidence='^1m ' pair fi_pingpong verbs msg -c -I 100
    pair_evidence='^64 ' pair fi_pingpong verbs dgram -c -I 100
    pair_evidence='^1m ' pair fi_pingpong 'verbs;ofi_rxm' rdm -c -I 100
    pair_evidence='^1m ' pair fi_pingpong 'verbs;ofi_rxm' rdm -c -I 100 -m tagged
    pair_evidence='^1m ' pair fi_pingpong 'verbs;ofi_rxd' rdm -c -I 100
}

# run_qperf TEST OPTIONS... -p PORT [ADDRESS]: a server of qperf stays until it is told to go.
run_qperf() {
    local test=$1
    shift
    if [ "${*: -1}" = 127.0.0.1 ]; then
        set -- "${@:1:$#-3}"
        (replaced qperf 127.0.0.1 --listen_port "$pair_port" "$@" "$test") || return
        replaced qperf 127.0.0.1 --listen_port "$pair_port" quit
    else
        replaced qperf --listen_port "$pair_port"
    fi
}

qperf_pairs() {
    local test figures='(bw|latency|msg_rate) +='
    if missing qperf qperf; then return; fi
    for test in rc_bw rc_bi_bw rc_lat rc_rdma_write_bw rc_rdma_write_lat rc_rdma_write_poll_lat rc_rdma_read_bw rc_rdma_read_lat \
        rc_compare_swap_mr rc_fetch_add_mr ver_rc_compare_swap ver_rc_fetch_add; do
        # -cm1: by rdma_cma.h; qperf itself knows peers by LID alone, which no RoCE device has. Not -n, with which it hangs over TCP too.
        pair_evidence=$figures pair qperf "$test" -cm1 -t 1
    done
    pair_evidence=$figures pair qperf rc_bw -cm1 -t 1 -m 1M
    pair_evidence=$figures pair qperf rc_lat -cm1 -t 1 -cp1
}

open_mpi_runs() {
    local transport ranks status
    if missing "Open MPI" mpirun || missing "Open MPI" mpicc; then return; fi
    mpicc -O2 -Wall -Wextra -Werror -o "$work/mpi-messages" Tests/Programs/mpi-messages.c
    for transport in rc ud; do
        for ranks in 2 4; do
            status=0
            (
                export UCX_TLS=$transport,self UCX_NET_DEVICES=soft_lo:1 UCX_LOG_LEVEL=info
                export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
                noded mpirun --oversubscribe --bind-to none -n "$ranks" --mca pml ucx --mca btl '^openib' "$work/mpi-messages"
            ) >"$work/mpi" 2>&1 || status=1
            grep -q "^ring of $ranks: ok" "$work/mpi" && grep -q '^4194304 ' "$work/mpi" &&
                grep -q "ep_cfg.*${transport}_verbs/soft_lo:1" "$work/mpi" || status=1
            if [ "$status" -ne 0 ]; then tail -n 25 "$work/mpi"; fi
            note "$status" "Open MPI over UCX $transport, $ranks ranks: a ring and a ping-pong, all bytes right"
            table_line "$status" dropin dropin 127.0.0.1 mpirun "UCX $transport, $ranks ranks" >>"$pair_table"
        done
    done
}
