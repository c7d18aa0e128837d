#!/bin/sh
# install-deps.sh PURPOSE...: installs the Debian packages that scripts/dependencies.txt lists for these purposes
# (build, models, test). Where all are there it does nothing and needs neither network nor root.
# It does not touch anything but apt's packages, and it knows no other package manager: elsewhere it says what is wanted.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
list=$here/dependencies.txt
purposes=$(awk '!/^#/ && NF == 2 && !seen[$1]++ { printf "%s%s", separator, $1; separator = " " }' "$list")

usage() {
    echo "usage: scripts/install-deps.sh PURPOSE...   with PURPOSE one of: $purposes"
}
fail() {
    echo "install-deps: $*" >&2
    exit 1
}

[ $# -gt 0 ] || { usage >&2; exit 2; }
wanted=
for purpose; do
    case $purpose in
        -h | --help) usage; exit 0 ;;
    esac
    packages=$(awk -v purpose="$purpose" '$1 == purpose { print $2 }' "$list")
    [ -n "$packages" ] || fail "no purpose '$purpose'; there are: $purposes"
    wanted="$wanted $packages"
done

wanted=$(echo "$wanted" | xargs)
if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    fail "this is no Debian system; install what these packages hold: $wanted"
fi

missing=
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=
    case " $missing " in *" $package "*) continue ;; esac
    [ "$state" = installed ] || missing="${missing:+$missing }$package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "not root and no sudo; as root: apt-get install --no-install-recommends $missing"
    as_root=sudo
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "install-deps: installing $missing" >&2
# shellcheck disable=SC2086 # $missing is a list
# `env`: sudo drops the environment, and a question from a package would wait for ever.
if ! $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >"$log" 2>&1 ||
    ! $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "apt-get could not install: $missing"
fi
