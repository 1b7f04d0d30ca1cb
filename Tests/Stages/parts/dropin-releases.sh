# SPDX-License-Identifier: Apache-2.0
# Sourced by the stage dropin: a system whose libibverbs is of a release with a private version that does not exist yet.
# shellcheck shell=bash disable=SC2154

# later_devices PROGRAM: what it lists where the system has that library and the kernel a device.
later_devices() {
    # shellcheck disable=SC2016 # expanded by the shell in the namespace
    LD_LIBRARY_PATH=$work/lib SYSFS_PATH=$work/later/sys LATER_PROVIDER=$work/later/later.so VERBS_PROVIDER= VERBS_EXPLAIN=1 \
        timeout -k 5 "$pair_seconds" unshare "${unshare_options[@]}" sh -c \
        'mount --bind "$1" "$2" && exec "$3"' sh "$work/later/libibverbs.so.1" "$genuine" "$1"
}

later_release() {
    local genuine listed line status=0 flags unshare_options=(-m)
    [ "$(id -u)" -eq 0 ] || unshare_options=(-rm)
    genuine=$(ldconfig -p | awk '$1 == "libibverbs.so.1" && !found++ { print $NF }')
    genuine=$(readlink -f "$genuine")
    if ! unshare "${unshare_options[@]}" mount --bind "$genuine" "$genuine" 2>/dev/null; then
        note_skip "a later release of libibverbs" "mount namespaces are not allowed here"
        return
    fi
    mkdir -p "$work/later/sys/class/infiniband/later0"
    cat >"$work/later/map" <<'MAP'
IBVERBS_1.14 { global: ibv_*; _ibv_*; mult_to_ibv_rate; mbps_to_ibv_rate; };
IBVERBS_PRIVATE_177 {
    global: execute_ioctl; ibv_cmd_query_port_speed; ibv_cmd_of_177; ibv_query_gid_type; verbs_allow_disassociate_destroy;
            verbs_register_driver_177;
    local: *;
};
MAP
    flags=(-O2 -Wall -Wextra -Werror -Wl,-z,now)
    (
        cd "$work/later"
        source=$OLDPWD/Tests/Programs/later-release.c
        "${CC:-clang}" "${flags[@]}" -shared -fPIC -DLIBRARY -Wl,-soname=libibverbs.so.1 -Wl,--version-script=map -o libibverbs.so.1 "$source"
        "${CC:-clang}" "${flags[@]}" -shared -fPIC -DPROVIDER -o later.so "$source" ./libibverbs.so.1
        "${CC:-clang}" "${flags[@]}" -shared -fPIC -DPROVIDER -DLINKED -o linked.so "$source" ./libibverbs.so.1
        "${CC:-clang}" "${flags[@]}" -o list "$source" -libverbs
        "${CC:-clang}" "${flags[@]}" -o list-linked "$source" -libverbs -Wl,--no-as-needed,--allow-shlib-undefined "$PWD/linked.so"
    )
    listed=$(later_devices "$work/later/list" 2>&1) || status=1
    grep -qx later0 <<<"$listed" && grep -qx soft_lo <<<"$listed" || status=1
    [ "$status" -eq 0 ] || echo "$listed"
    note "$status" "devices of a system's libibverbs with another private version are listed, by a provider that it loads"
    status=0
    for line in 'speed 7778' freed 'no memory'; do grep -qx "$line" <<<"$listed" || status=1; done
    [ "$status" -eq 0 ] || echo "$listed"
    note "$status" "and what that library has got since release 44 is called for them"
    status=0
    listed=$(later_devices "$work/later/list-linked" 2>&1) || status=1
    grep -qx later0 <<<"$listed" && grep -qx linked0 <<<"$listed" || status=1
    [ "$status" -eq 0 ] || echo "$listed"
    note "$status" "and by one that the program is linked with"
}
