#!/bin/sh
# demo.sh ["question"]: from an empty Debian 12 machine to a model's answer. Installs what is missing, builds, fetches
# the default model, asks. What is done already is skipped: the second run answers in seconds.
# The answer alone goes to stdout. Without a question: a chat on a terminal, else a question of our own.
set -eu
cd "$(dirname "$0")"
. scripts/steps.sh

case ${1:-} in
    -h | --help)
        echo 'usage: ./demo.sh ["question"]'
        exit 0
        ;;
esac
[ $# -le 1 ] || { echo 'usage: ./demo.sh ["question"]   (one question, in quotes)' >&2; exit 2; }

scripts/install-deps.sh build models
build release kvasir
scripts/fetch-model.sh smollm2
if [ $# -eq 1 ]; then
    exec build/kvasir run smollm2 "$1"
elif [ -t 0 ] && [ -t 1 ]; then
    exec build/kvasir run smollm2
fi
exec build/kvasir run smollm2 "Why is the sky blue?" </dev/null
