#!/bin/sh
# fetch-client.sh: puts the openai package, a client for tests/e2e/test_server.py, into Kvasir's cache folder.
#   folder: $KVASIR_HOME/python, else $XDG_CACHE_HOME/kvasir/python, else ~/.cache/kvasir/python
# Invariants: the folder appears by one rename, whole, or not at all; nothing outside the cache folder is changed.
set -eu
version=3.54.0
cache=${KVASIR_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/kvasir}
[ -d "$cache/python/openai-$version.dist-info" ] && exit 0
say() { echo "fetch-client: $*" >&2; }
for python in python3 /usr/bin/python3; do
    "$python" -m pip --version >/dev/null 2>&1 && break
done
mkdir -p "$cache"
half=$(mktemp -d "$cache/.fetch-client-XXXXXX")
trap 'rm -rf "$half"' EXIT
if ! output=$("$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --only-binary=:all: \
    --target "$half/python" "openai==$version" 2>&1); then
    say "openai $version: $(echo "$output" | grep -v '^ *$' | tail -n 1)"
    exit 1
fi
rm -rf "$cache/python"
mv "$half/python" "$cache/python"
