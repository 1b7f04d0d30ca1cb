# SPDX-License-Identifier: Apache-2.0
# Sourced by rxe-vm: one run. The guest sees a job folder with
#   command    a bash script: this shell's environment, the folder to be in, the command
#   settings   what guest/init reads: NOW (seconds since 1970), SHARE, FOLDER
#   seed       64 random bytes for the guest's random pool: every run starts from the same snapshot
#   input      standard input, with -i
#   status     written by the guest: the exit status
# and writes to two serial ports that lead to the FIFOs output and error.

job='' machine=''

job_clean_up() {
    [ -z "$machine" ] || kill "$machine" 2>/dev/null || true
    wait || true
    [ -z "$job" ] || rm -rf "$job"
}

# Folders of runs that were killed by SIGKILL: nobody holds the lock in them any more.
job_sweep() {
    local stale
    for stale in $(find "$1" -maxdepth 1 -name 'rxe-vm.*' -user "$(id -u)" -mmin +1 2>/dev/null); do
        if flock -n "$stale/lock" true 2>/dev/null; then rm -rf "$stale"; fi
    done
}

job_write() {
    mkfifo "$job/output" "$job/error"
    head -c 64 /dev/urandom >"$job/seed"
    printf 'NOW=%s SHARE=%s FOLDER=%q\n' "$(date +%s)" "$share" "$folder" >"$job/settings"
    local input_file=/dev/null
    if [ "$input" = yes ]; then
        cat >"$job/input"
        input_file=/run/job/input
    fi
    {
        export -p
        printf 'cd %q\n' "$folder"
        printf 'exec'
        printf ' %q' "$@"
        printf ' <%s\n' "$input_file"
    } >"$job/command"
}

# job_run RELEASE BOOT STATE COMMAND...
job_run() {
    local release=$1 boot=$2 state=$3 arguments=() outcome attempt temporary=${TMPDIR:-/tmp}
    shift 3
    job_sweep "$temporary"
    job=$(mktemp -d "$temporary/rxe-vm.XXXXXX")
    exec 9>"$job/lock"
    flock 9
    trap job_clean_up EXIT
    trap 'exit 130' INT TERM HUP
    job_write "$@"

    [ -z "$state" ] || arguments+=(-incoming "exec:cat $state")
    if [ -n "$netdev" ]; then
        # A card address that follows from the IP address: two guests on one wire must differ.
        local mac
        mac=02:00:$(awk -F '[./]' '{ printf "%02x:%02x:%02x:%02x", $1, $2, $3, $4 }' <<<"${address:-0.0.0.0}")
        arguments+=(-netdev "$netdev,id=n0" -device "virtio-net-pci,netdev=n0,romfile=,mac=$mac")
        [ -z "$capture" ] || arguments+=(-object "filter-dump,id=f0,netdev=n0,file=$capture")
    fi

    for attempt in 1 2 3; do
        outcome=0
        job_start "$release" "$boot" "${arguments[@]}" || outcome=$?
        # A job that was begun is not begun again; what is restored from a snapshot has begun it.
        if [ -n "$state" ] || machine_is_booted "$job/console" || ! machine_has_died "$job/console"; then break; fi
        echo "rxe-vm: attempt $attempt of 3 to boot kernel $release failed: $(grep -m 1 -E 'Oops|BUG|panic' "$job/console")" >&2
    done
    job_status "$outcome" "$state"
}

# job_start RELEASE BOOT ARGUMENTS...: one machine from start to end, its output passed on; the status is QEMU's.
job_start() {
    local release=$1 boot=$2 outcome=0 reader_output reader_error
    shift 2
    rm -f "$job/console"
    cat "$job/output" 9>&- &
    reader_output=$!
    cat "$job/error" >&2 9>&- &
    reader_error=$!
    machine_start 1 "$release" "$boot" "$job" -monitor none "$@" </dev/null >"$job/qemu" 2>&1 &
    machine=$!
    wait "$machine" || outcome=$?
    machine=''
    # If QEMU never opened the FIFOs their readers still wait for a writer: be one, and close.
    exec 6<>"$job/output" 7<>"$job/error" 6>&- 7>&-
    wait "$reader_output" "$reader_error" || true
    return "$outcome"
}

# job_status OUTCOME STATE: ends the script with the status that the guest left, or explains why there is none.
job_status() {
    local outcome=$1 state=$2
    [ ! -s "$job/status" ] || exit "$(cat "$job/status")"
    if [ "$outcome" = 124 ]; then
        echo "rxe-vm: the time limit of $time_limit s passed; the end of the guest's console:" >&2
    else
        echo "rxe-vm: no exit status from the guest (QEMU: $outcome); QEMU's words and the end of the guest's console:" >&2
    fi
    { cat "$job/qemu" && tail -n 30 "$job/console"; } >&2 || true
    if [ -n "$state" ] && grep -q "load of migration failed" "$job/qemu"; then
        rm -f "$state"
        echo "rxe-vm: the snapshot did not fit and was removed; the next run takes a new one" >&2
    fi
    [ "$outcome" = 124 ] && exit 124
    exit 125
}
