#!/bin/sh
# fetch-client.sh: puts what tests/e2e asks the server with into Kvasir's cache folder: clients of OpenAI's API, and schemathesis.
#   folder: $KVASIR_HOME/python, else $XDG_CACHE_HOME/kvasir/python, else ~/.cache/kvasir/python
# Invariants: the folder appears by one rename, whole, or not at all; nothing outside the cache folder is changed.
set -eu
packages='openai==3.54.0 langchain-openai==1.7.3 litellm==1.83.0 llm==0.36 schemathesis==4.32.5'
cache=${KVASIR_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/kvasir}
say() { echo "fetch-client: $*" >&2; }
missing=
for package in $packages; do
    name=$(echo "${package%%==*}" | tr - _)
    [ -d "$cache/python/$name-${package##*==}.dist-info" ] || missing=yes
done
[ "$missing" ] || exit 0
for python in python3 /usr/bin/python3; do
    "$python" -m pip --version >/dev/null 2>&1 && break
done
mkdir -p "$cache"
half=$(mktemp -d "$cache/.fetch-client-XXXXXX")
trap 'rm -rf "$half"' EXIT
# $packages is a list.
# shellcheck disable=SC2086
if ! output=$("$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --only-binary=:all: \
    --target "$half/python" $packages 2>&1); then
    say "$(echo "$output" | grep -v '^ *$' | tail -n 1)"
    exit 1
fi
rm -rf "$cache/python"
mv "$half/python" "$cache/python"
