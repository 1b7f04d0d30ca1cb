# SPDX-License-Identifier: Apache-2.0
# Sourced by rxe-vm: the initramfs (busybox, ip, rdma, the modules, guest/init) and the folder that holds it and the snapshots.

# boot_files RELEASE: prints the folder boot/RELEASE.CHECKSUM with a ready initramfs. The checksum covers these scripts and QEMU, so a
# change of either makes a new folder; folders that nobody used for a week go.
boot_files() {
    local release=$1 checksum target
    checksum=$({
        cat "$here"/parts/*.sh "$here/guest/init"
        stat -Lc %Y:%s "$(command -v qemu-system-x86_64)" "$(command -v busybox)" "$(command -v ip)"
    } | cksum | cut -d ' ' -f 1)
    target=$cache/boot/$release.$checksum
    mkdir -p "$target"
    touch "$target"
    find "$cache/boot" -mindepth 1 -maxdepth 1 -type d -mtime +7 -exec rm -rf {} +
    if [ ! -s "$target/initramfs" ]; then
        boot_build_initramfs "$release" "$target" || die "could not build the initramfs for kernel $release"
    fi
    echo "$target"
}

boot_build_initramfs() (
    set -e
    release=$1 target=$2
    exec 8>"$target/lock"
    flock 8
    [ ! -s "$target/initramfs" ] || exit 0
    work=$(mktemp -d "$target/.new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"/{bin,modules,lower,upper,root,proc,sys,dev,run,lib64}
    cp "$here/guest/init" "$work/init"
    chmod +x "$work/init"
    cp "$cache/kernels/$release/modules"/* "$work/modules/"
    cp -L "$(command -v busybox)" "$work/bin/busybox"
    for program in ip rdma; do
        program=$(command -v "$program")
        cp -L "$program" "$work/bin/"
        for library in $(ldd "$program" | grep -o '/[^ ]*'); do
            mkdir -p "$work${library%/*}"
            cp -L "$library" "$work$library"
        done
    done
    (cd "$work" && find . | cpio -oH newc --quiet) >"$target/initramfs.new"
    mv "$target/initramfs.new" "$target/initramfs"
)
