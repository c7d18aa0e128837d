# shellcheck shell=sh
# steps.sh - sourced by demo.sh and test.sh: a step says what it does in one line on stderr and keeps its noise in a log
# that is shown only when it fails. Wants $log, a file's path. Meant for the repository's root as working folder.

# step TEXT COMMAND...: leaves the script when the command fails.
step() {
    echo "$1" >&2
    shift
    mkdir -p "$(dirname "$log")"
    if ! "$@" >"$log" 2>&1 </dev/null; then
        grep -E -A 6 'error|FAILED|Error' "$log" | head -n 40 >&2 || true
        tail -n 10 "$log" >&2
        echo "failed: $* (whole log: $log)" >&2
        exit 1
    fi
}

configure_and_build() {
    cmake --preset "$1" && cmake --build --preset "$1" ${2:+--target "$2"}
}

# build PRESET [TARGET]: a second or two when nothing changed.
build() {
    folder=build
    [ "$1" = release ] || folder=build-$1
    log=$folder/build.log
    step "building $folder" configure_and_build "$@"
}
