# SPDX-License-Identifier: Apache-2.0
# Sourced by the stage dropin: what `make install` puts somewhere works there, by the recipes of Documentation/DropIn.md.
# shellcheck shell=bash disable=SC2154

# run_installed PREFIX COMMAND...: with the installed command first in PATH and nothing else of ours, as nobody if we are root.
run_installed() {
    local prefix=$1 user=()
    shift
    [ "$(id -u)" -ne 0 ] || user=(setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs)
    (cd / && timeout -k 5 "$pair_seconds" "${user[@]}" env -i "PATH=$prefix/bin:/usr/bin:/bin" "$@")
}

# recipes FILE FOLDER: writes each block marked `sh tested` into a file of its own.
recipes() {
    awk -v folder="$2" '/^```sh tested$/ { file = folder "/" ++count ".sh"; next } /^```/ { file = "" } file { print >file }' "$1"
}

installed_recipes() {
    local tree prefix recipe status count=0
    tree=$(mktemp -d) # below the checkout nobody may have no access
    chmod 755 "$tree"
    prefix=$tree/opt/verbs
    mkdir "$tree/recipes"
    status=0
    SCRATCH=$scratch make --no-print-directory install DESTDIR="$tree" PREFIX=/opt/verbs >"$work/install.log" 2>&1 || status=1
    [ "$status" -eq 0 ] || cat "$work/install.log"
    note "$status" "make install"
    recipes Documentation/DropIn.md "$tree/recipes"
    for recipe in "$tree/recipes"/*.sh; do
        count=$((count + 1))
        status=0
        run_installed "$prefix" bash -eu "$recipe" >"$work/recipe.log" 2>&1 || status=1
        [ "$status" -eq 0 ] || cat "$work/recipe.log"
        note "$status" "recipe $count of DropIn.md: $(head -n 1 "$recipe")"
    done
    status=0
    make --no-print-directory uninstall DESTDIR="$tree" PREFIX=/opt/verbs >/dev/null || status=1
    [ -z "$(find "$prefix" ! -type d)" ] || status=1
    note "$status" "make uninstall leaves no file"
    rm -rf "$tree"
}
