#!/bin/sh
# demo.sh: makes demo.svg, the README's picture, from a real run of `make demo` on a terminal.
set -eu

cd "$(dirname -- "$0")/../.."
session=$(mktemp)
trap 'rm -f "$session"' EXIT

guest='guest:/# '
src/figures/term2svg record --size 96x30 \
    --type '$ ' 'make demo\n' \
    --type "$guest" 'uname -srm; nproc\n' \
    --type "$guest" 'dmesg | grep -i hypervisor\n' \
    --type "$guest" 'poweroff -f\n' \
    --type 'off again' '\x04' \
    "$session" -- env PS1="$ " sh -i >&2
src/figures/term2svg draw --size 96x30 --head 8 --tail 20 --title 'make demo' \
    --note '⋮   {} lines of the kernel   ⋮' "$session" >src/figures/demo.svg
