#!/bin/sh
# format.sh ROOT: the sources are as clang-format leaves them (.clang-format). Skipped (77) without clang-format 14: other
# versions lay some lines out differently.
set -eu
cd "$1"
formatter=
for candidate in clang-format-14 clang-format; do
    case $("$candidate" --version 2>/dev/null) in
        *'version 14.'*) formatter=$candidate; break ;;
    esac
done
[ -n "$formatter" ] || { echo "skipped: clang-format 14 is not installed"; exit 77; }
find src include tests -name '*.[ch]' -not -path 'tests/data/*' -exec "$formatter" --dry-run -Werror {} + 2>&1 |
    grep -E 'error:' | cut -d : -f 1 | sort | uniq -c >"${TMPDIR:-/tmp}/kvasir-format.$$" || true
count=$(wc -l <"${TMPDIR:-/tmp}/kvasir-format.$$")
cat "${TMPDIR:-/tmp}/kvasir-format.$$"
rm -f "${TMPDIR:-/tmp}/kvasir-format.$$"
echo "format: $count files are not as $formatter -i leaves them"
[ "$count" -eq 0 ]
