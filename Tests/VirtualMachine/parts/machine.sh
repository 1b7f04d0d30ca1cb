# SPDX-License-Identifier: Apache-2.0
# Sourced by rxe-vm: the virtual machine itself and the snapshot of it.

machine_require_programs() {
    local missing=() program
    for program in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static ip:iproute2 rdma:iproute2 modprobe:kmod depmod:kmod cpio:cpio \
        objcopy:binutils zstd:zstd xz:xz-utils flock:util-linux setpriv:util-linux timeout:coreutils; do
        command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
    done
    [ ${#missing[@]} -eq 0 ] ||
        die "missing packages: $(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')(make setup installs them)"
    if ldd "$(command -v busybox)" >/dev/null 2>&1; then die "busybox must be the static one: apt-get install busybox-static"; fi
}

# machine_start GO RELEASE BOOT JOB ARGUMENTS...: replaces this shell by QEMU. The devices must be the same when the snapshot is taken
# and when it is used, hence one place for them.
#
# TCG only: /dev/kvm is often absent or unusable where this runs, and the guest is quick enough without.
# GO tells the guest to go on: 0 while the snapshot is taken, 1 later. It is read from the firmware configuration device, which is
# not part of the migrated state, so a restored guest sees the new value and no race is possible.
# setpriv: QEMU ends when this script is killed, whatever the signal.
#
# A guest whose processors run in threads of their own may die while it boots: the kernel patches its text (static keys), and under
# TCG another processor may meet the breakpoint when its patch is over ("Oops: int3"). Seen once on a loaded machine. So the snapshot
# is taken with one thread, and a guest that dies before it gets to its job is started again.
machine_start() {
    local go=$1 release=$2 boot=$3 job=$4
    shift 4
    exec setpriv --pdeathsig TERM timeout --kill-after 5 "$time_limit" \
        qemu-system-x86_64 -accel "tcg,thread=${threads:-multi}" -cpu max -smp "$cpus" -m "$memory" -nodefaults -display none -no-reboot \
        -kernel "$cache/kernels/$release/vmlinux" -initrd "$boot/initramfs" \
        -append "console=ttyS0 quiet loglevel=4 mitigations=off nokaslr audit=0 nowatchdog panic=-1" -serial "file:$job/console" \
        -fw_cfg "name=opt/rxe/go,string=$go" -fw_cfg "name=opt/rxe/address,string=${address:--}" \
        -virtfs "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap" \
        -virtfs "local,path=$job,mount_tag=job,security_model=none" \
        -virtfs "local,path=$folder,mount_tag=work,security_model=none,multidevs=remap" \
        -device virtio-serial \
        -chardev "file,id=output,path=$job/output" -device virtserialport,chardev=output,name=output \
        -chardev "file,id=error,path=$job/error" -device virtserialport,chardev=error,name=error "$@"
}

# machine_is_booted CONSOLE: whether the guest got to where it looks at its job.
machine_is_booted() { grep -qs READY "$1"; }

# machine_has_died CONSOLE: whether its kernel gave up.
machine_has_died() { grep -qs 'Kernel panic' "$1"; }

# machine_snapshot RELEASE BOOT: prints the file with the machine's state right before it looks at its job; takes it if there is none.
# Restoring takes about a second, booting about eight.
machine_snapshot() {
    local release=$1 boot=$2 state=$2/state.$cpus.$memory log
    log=$boot/snapshot.log
    (
        exec 8>"$boot/lock"
        flock 8
        [ ! -s "$state" ] || exit 0
        echo "rxe-vm: booting kernel $release once for a snapshot" >&2
        job=$(mktemp -d "$boot/.job.XXXXXX")
        trap 'rm -rf "$job"' EXIT
        for attempt in 1 2 3; do
            rm -f "$job/console"
            machine_boot_for_snapshot "$release" "$boot" "$job" "$state.new" >"$log" 2>&1 || true
            if [ -s "$state.new" ]; then
                mv "$state.new" "$state"
                exit 0
            fi
            # The monitor's echo of our own command is hundreds of lines of cursor movements.
            { grep -v '^(qemu)' "$log" || true; tail -n 30 "$job/console"; } >&2
            echo "rxe-vm: attempt $attempt of 3 to boot it failed" >&2
        done
        exit 1
    ) || die "kernel $release did not boot; the last lines of its console are above"
    echo "$state"
}

# machine_boot_for_snapshot RELEASE BOOT JOB FILE: boots, and writes the state to FILE when the guest is ready.
machine_boot_for_snapshot() {
    local release=$1 boot=$2 job=$3 file=$4 i
    {
        for ((i = 0; i < 3000; i++)); do
            if machine_is_booted "$job/console"; then
                echo "migrate \"exec:cat >$file\""
                break
            fi
            if machine_has_died "$job/console"; then break; fi
            sleep 0.1
        done
        echo quit # the monitor carries it out after the migration
        sleep 5
    } | (
        time_limit=300 address='' folder=/ threads=single
        machine_start 0 "$release" "$boot" "$job" -monitor stdio 8>&-
    )
}
