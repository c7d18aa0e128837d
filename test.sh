#!/bin/sh
# test.sh [full]: installs what is missing, builds, fetches the test models and runs every test with one ctest.
#   release build: all tests;  asan: unit tests under address and undefined-behaviour sanitizers;  tsan: what uses
#   threads, under the thread sanitizer;  fuzz: every libFuzzer target for a minute.
# full: the same tests with their large counts. The last line is "N passed, N failed, N skipped"; the exit status is 0
# when none failed. A model that cannot be fetched skips its tests, and that is said.
set -eu
cd "$(dirname "$0")"
. scripts/steps.sh

case ${1:-} in
    '') count=quick ;;
    full) count=full ;;
    *) echo 'usage: ./test.sh [full]' >&2; exit 2 ;;
esac
export KVASIR_TEST_COUNT="$count"

scripts/install-deps.sh build models test
for preset in release asan tsan fuzz; do
    build "$preset"
done
for model in smollm2 qwen2 gemma3; do
    scripts/fetch-model.sh "$model" || echo "without $model: its tests are skipped" >&2
done
scripts/fetch-client.sh || echo "without the openai client: its tests are skipped" >&2

# One ctest over the four trees: a folder whose test file names theirs.
mkdir -p build/all
printf 'subdirs("%s")\n' "$PWD/build/tests" "$PWD/build-asan/tests" "$PWD/build-tsan/tests" "$PWD/build-fuzz/tests" \
    >build/all/CTestTestfile.cmake
status=0
ctest --test-dir build/all --parallel "$(nproc)" --output-on-failure --no-tests=error --no-label-summary \
    --output-junit "$PWD/build/all/results.xml" </dev/null || status=$?

# attribute NAME: of the whole run, from ctest's report
attribute() { grep -oE "\<$1=\"[0-9]+\"" build/all/results.xml | head -n 1 | tr -cd 0-9; }
failed=$(attribute failures)
skipped=$(($(attribute skipped) + $(attribute disabled)))
echo "$(($(attribute tests) - failed - skipped)) passed, $failed failed, $skipped skipped"
exit "$status"
