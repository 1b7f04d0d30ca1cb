# SPDX-License-Identifier: Apache-2.0
# Sourced by the stage dropin: perftest.
# shellcheck shell=bash

# measured TEST OPTIONS...: a pair of perftest, whose client has to print a line of figures; of the largest size, if it runs all.
measured() {
    local size='[0-9]+'
    case " $* " in
    *" -c UD "*) ;;
    *" -a "*) size=8388608 ;;
    esac
    pair_evidence="^ *$size +[0-9]+ +[0-9.]+" pair "$@"
}

# Each test with each of its transports, in all sizes or in some; then each option, where the test takes it.
perftest_pairs() {
    if [ "${DROPIN_MATRIX:-}" = full ]; then
        perftest_matrix
        return
    fi
    local test
    for test in send write read; do
        measured "${test}_bw" -a -n 20
        measured "${test}_lat" -a -n 10
        measured "${test}_bw" -n 500 -b
        measured "${test}_bw" -R -n 500
        measured "${test}_lat" -R -n 500
    done
    for test in send write; do
        # What does not fit between the two is lost on UC, and perftest waits for it: no large messages, where others use the machine.
        measured "${test}_bw" -c UC -n 500 -s 4096
        measured "${test}_lat" -c UC -n 500 -s 4096
        measured "${test}_bw" -n 500 -I 64 -s 64
        measured "${test}_bw" -n 512 -l 8
        measured "${test}_bw" -n 500 -q 4
    done
    measured send_bw -n 500 -q 4 -e
    measured read_bw -n 500 -q 4 -e
    measured send_bw -c UD -a -n 100
    measured send_lat -c UD -a -n 100
    measured send_bw -R -c UD -n 500
    measured send_lat -R -c UD -n 500
    measured send_bw -n 500 --use-srq -q 4
    measured send_lat -n 500 -e
    for test in send write read; do
        measured "${test}_bw" -c XRC -a -n 20
        measured "${test}_lat" -c XRC -n 500
    done
    measured send_bw -c XRC -n 500 -q 4 -e
    measured send_bw -c XRC -n 500 --use-srq -b
    measured atomic_bw -c XRC -n 500 -A FETCH_AND_ADD
    measured atomic_bw -n 500 -A FETCH_AND_ADD
    measured atomic_bw -n 500 -A CMP_AND_SWAP -b
    measured atomic_lat -n 500
    measured atomic_bw -R -n 500
}

# Every combination that perftest 4.5 takes.
perftest_matrix() {
    local test kind transport
    for test in send write read atomic; do
        for kind in bw lat; do
            for transport in RC XRC UC UD; do
                case $test-$transport in read-U? | atomic-U? | write-UD) continue ;; esac
                matrix_of "$test" "$kind" "$transport"
            done
        done
    done
}

# matrix_of TEST KIND TRANSPORT
matrix_of() {
    local test=$1 kind=$2 transport=$3 options base
    local variants=("")
    # perftest: "Events feature not available on WRITE verb".
    if [ "$test" != write ]; then variants+=("-e"); fi
    if [ "$test" != atomic ] && [ "$transport-$kind" != UC-lat ]; then variants+=("-a -n 10"); fi
    # The connection manager has no UC; perftest: "XRC does not support RDMA_CM".
    case $transport in RC | UD) variants+=("-R") ;; esac
    if [ "$transport-$test" = RC-send ]; then variants+=("-R -e"); fi
    if [ "$kind" = bw ]; then variants+=("-b" "-q 4" "-q 4 -b" "-n 512 -l 8" "-n 512 -l 8 -q 2" "-t 16 -Q 4"); fi
    if [ "$kind" = bw ] && [ "$test" != write ]; then variants+=("-q 4 -e"); fi
    case $test in send | write) variants+=("-s 64 -I 64") ;; esac
    if [ "$test-$kind" = write-lat ]; then variants=("" "-s 64 -I 64"); fi
    if [ "$test-$kind-$transport" = write-lat-RC ]; then variants+=("-a -n 10" "-R"); fi
    if [ "$test" = send ] && [ "$transport" != UC ]; then variants+=("--use-srq"); fi
    if [ "$test-$kind" = send-bw ] && [ "$transport" != UC ]; then variants+=("--use-srq -q 4" "--use-srq -q 4 -b"); fi
    for options in "${variants[@]}"; do
        base="-n 500"
        case $options in *"-n "*) base="" ;; esac
        # Datagrams that do not fit between the two are lost, and perftest waits for each: few at a time.
        case "$transport $options" in "UD "*"-q "*) base="-n 100 -s 1024" ;; esac
        if [ "$transport" != RC ]; then base="-c $transport $base"; fi
        # shellcheck disable=SC2086 # words
        measured "${test}_$kind" $base $options
    done
}
