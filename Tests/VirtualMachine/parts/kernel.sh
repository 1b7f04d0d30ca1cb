# SPDX-License-Identifier: Apache-2.0
# Sourced by rxe-vm: which kernel, where it comes from, what of it is kept.
#
# A kernel in the cache is a folder kernels/RELEASE with
#   vmlinux         the uncompressed image; QEMU enters it directly (PVH), which spares five seconds of decompression in the guest
#   modules/*.ko    the modules that the guest needs, without debug sections and signature (checking it costs seconds under TCG)
#   modules/order   their names in the order of loading

# What the guest loads; their dependencies are added. crc32_generic must be there before rdma_rxe.
kernel_modules=(virtio_pci virtio_console virtio_net 9pnet_virtio 9p overlay qemu_fw_cfg crc32_generic rdma_rxe ib_uverbs rdma_ucm veth)

kernel_list_cached() {
    [ -d "$cache/kernels" ] || return 0
    find "$cache/kernels" -mindepth 2 -maxdepth 2 -name vmlinux -printf '%h\n' | sed 's|.*/||' | sort -V
}

# kernel_matching SERIES: of the releases on standard input those that belong to the series (or are it), oldest first.
kernel_matching() {
    awk -v series="$1" '$0 == series || index($0, series ".") == 1 || series == ""' | sort -V
}

# kernel_release SERIES: the release to boot. What the cache has comes first, so that a run asks apt for nothing.
kernel_release() {
    local wanted=$1 found
    if [ -z "$wanted" ]; then
        found=$(kernel_list_cached | kernel_matching 6.1 | tail -n 1)
        [ -n "$found" ] || found=$(kernel_offered | kernel_matching 6.1 | tail -n 1)
        [ -z "$found" ] || wanted=6.1
    fi
    found=$(kernel_list_cached | kernel_matching "$wanted" | tail -n 1)
    [ -n "$found" ] || found=$(kernel_fetch_newest "$wanted")
    echo "$found"
}

# The releases for which apt has an image with all drivers (not the cloud, rt, dbg or unsigned ones).
kernel_offered() {
    apt-cache search --names-only '^linux-image-[0-9]' 2>/dev/null |
        sed -nE 's/^linux-image-([0-9]+\.[0-9]+\.[0-9]+([-+~][0-9a-z]+)?-amd64) .*/\1/p' | sort -uV
}

# kernel_fetch_newest SERIES: makes sure that the newest kernel of the series is in the cache and prints its release.
# A mirror may have dropped the package that its index still names, hence the second and third attempt with older ones.
kernel_fetch_newest() {
    local wanted=$1 candidate
    [ "$(uname -m)" = x86_64 ] || die "the guest needs an x86-64 machine; this one is $(uname -m)"
    if [ -n "${RXE_VM_DEB:-}" ]; then
        candidate=$(dpkg-deb -f "$RXE_VM_DEB" Package | sed 's/^linux-image-//')
        kernel_prepare "$candidate" "$(readlink -f "$RXE_VM_DEB")" && echo "$candidate" && return
        die "could not prepare the kernel of $RXE_VM_DEB"
    fi
    command -v apt-get >/dev/null ||
        die "no kernel in $cache and no apt-get to fetch one; set RXE_VM_DEB to a Debian linux-image package"
    for candidate in $(kernel_offered | kernel_matching "$wanted" | tail -n 3 | sort -rV); do
        if [ -s "$cache/kernels/$candidate/vmlinux" ] || kernel_prepare "$candidate" ''; then
            echo "$candidate"
            return
        fi
        echo "rxe-vm: kernel $candidate could not be fetched, trying the one before it" >&2
    done
    candidate=$(kernel_list_cached | kernel_matching "$wanted" | tail -n 1)
    [ -n "$candidate" ] || die "apt offers no kernel ${wanted:-for amd64} that could be fetched (apt-get update may help;" \
        "6.12 is in bookworm-security or bookworm-backports); or set RXE_VM_DEB to a Debian linux-image package"
    echo "$candidate"
}

# kernel_prepare RELEASE [PACKAGE-FILE]: downloads the package if no file is given, and keeps what the guest needs.
kernel_prepare() (
    release=$1 package=$2
    mkdir -p "$cache/kernels"
    exec 8>"$cache/kernels/lock"
    flock 8
    [ ! -s "$cache/kernels/$release/vmlinux" ] || exit 0
    echo "rxe-vm: preparing kernel $release" >&2
    work=$(mktemp -d "$cache/kernels/.new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    if [ -z "$package" ]; then
        # In a folder of root's own apt says that it cannot drop privileges; that is no error.
        apt-get download "linux-image-$release" >apt.log 2>&1 || { cat apt.log >&2 && exit 1; }
        package=$(echo ./*.deb)
    fi
    dpkg-deb -x "$package" tree || exit 1
    [ -d tree/lib/modules ] || ln -s usr/lib tree/lib
    mkdir -p new/modules
    kernel_uncompress "tree/boot/vmlinuz-$release" >new/vmlinux || exit 1
    kernel_collect_modules tree "$release" new/modules || exit 1
    mv new "$cache/kernels/$release"
)

# kernel_uncompress BZIMAGE: the ELF image inside. The boot protocol has the count of set-up sectors at 0x1f1 and the payload's
# offset and length at 0x248; the payload's last four bytes are its uncompressed size.
kernel_uncompress() {
    local image=$1 sectors offset length start
    sectors=$(od -An -tu1 -j $((0x1f1)) -N 1 "$image")
    read -r offset length < <(od -An -tu4 -j $((0x248)) -N 8 "$image")
    start=$(((sectors + 1) * 512 + offset))
    payload() { head -c $((start + length - 4)) "$image" | tail -c $((length - 4)); }
    case $(od -An -tx1 -j "$start" -N 4 "$image" | tr -d ' ') in
    fd377a58) payload | xz -dc ;;
    28b52ffd) payload | zstd -dcq ;;
    1f8b*) payload | gzip -dc ;;
    *) echo "rxe-vm: $image is compressed in a way that is not known here" >&2 && return 1 ;;
    esac
}

# kernel_collect_modules TREE RELEASE TARGET: the modules and their order, plain and stripped.
kernel_collect_modules() {
    local tree=$1 release=$2 target=$3 module file name
    depmod -b "$tree" "$release" || return 1
    for module in "${kernel_modules[@]}"; do
        modprobe -d "$tree" -S "$release" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' | while read -r file; do
        name=$(basename "$file" .xz)
        case $file in
        *.xz) xz -dc "$file" >"$target/$name" ;;
        *) cp "$file" "$target/$name" ;;
        esac
        objcopy --strip-debug "$target/$name"
        echo "$name" >>"$target/order"
    done
    grep -q rdma_rxe "$target/order" || { echo "rxe-vm: kernel $release has no rdma_rxe" >&2 && return 1; }
}
