#!/usr/bin/env python3
"""Every rule of tidy.py finds its breach in a tree made for it, and is silent on the right tree beside it."""
import os
import tempfile
import unittest

import tidy

HEAD = "/* a.c - a file. */\n"


def breaches(check, files):
    with tempfile.TemporaryDirectory() as root:
        for name, text in files.items():
            os.makedirs(os.path.join(root, os.path.dirname(name)), exist_ok=True)
            with open(os.path.join(root, name), "w", encoding="utf-8") as file:
                file.write(text)
        return list(check(tidy.Tree(root)))


class Tidy(unittest.TestCase):
    def rule(self, check, wrong, right):
        for files in wrong:
            self.assertEqual(len(breaches(check, files)), 1, files)
        for files in right:
            self.assertEqual(breaches(check, files), [], files)

    def test_rooms(self):
        def includes(room, target):
            return {f"src/{room}/a.c": HEAD + f'#include "{target}"\n', f"src/{room}/a.h": HEAD}
        self.rule(tidy.check_rooms,
                  [includes("kv", "model/model.h"), includes("kv", "base/base_internal.h"), includes("kv", "nowhere/x.h"),
                   includes("cli", "kv/kv.h"), includes("server", "eval/eval.h"), includes("model", "kvasir.h"),
                   includes("kv", "kv/missing.h"), {"src/attic/a.c": HEAD}],
                  [includes("kv", "kernel/kernel.h"), includes("kv", "a.h"), includes("kv", "kv/a.h"),
                   includes("cli", "eval/eval.h"), includes("cli", "kvasir.h"), includes("engine", "kv/kv.h")])

    def test_architecture(self):
        code = HEAD + "int engine_step(void)\n{\n    return other();\n}\n"
        steps = "`src/engine/a.c:engine_step` " * 10

        def page(text):
            return {"ARCHITECTURE.md": text, "src/engine/a.c": code}
        right = f"`src/engine`\n\n## A token's journey\n{steps}\n"
        self.rule(tidy.check_architecture,
                  [page(right.replace("`src/engine`", "", 1)), page(right + "`src/engine/a.c:other`\n"),
                   page(right + "`src/engine/b.c:engine_step`\n"), page("`src/engine`\n"), {"src/engine/a.c": code}],
                  [page(right)])

    def test_links(self):
        self.rule(tidy.check_links,
                  [{"README.md": "see `src/kv/gone.c`"}, {"README.md": "[x](docs/gone.md)"}],
                  [{"README.md": "`src/kv/a.c` `src/kv/` [x](docs/a.md#part) [y](https://github.com/x)",
                    "src/kv/a.c": HEAD, "docs/a.md": "x"}])

    def test_readme(self):
        code = HEAD + 'const char *names[] = {"max-tokens", "KVASIR_HOME"};\n'
        def page(text):
            return {"README.md": text, "src/cli/a.c": code}
        self.rule(tidy.check_readme,
                  [page("## Commands\n`--no-such`\n## X\n`KVASIR_HOME`"), page("nothing"), page("`KVASIR_HOME` `KVASIR_GONE`")],
                  [page("## Commands\n`--max-tokens`\n## X\n`KVASIR_HOME` `--preset`")])

    def test_functions(self):
        def call(name, function):
            return {name: HEAD + f"static void f(void)\n{{\n    {function}(x);\n}}\n"}
        self.rule(tidy.check_functions,
                  [call("src/kv/a.c", f) for f in ("malloc", "free", "strcpy", "getenv", "exit", "fopen", "abort", "atoi")]
                  + [call("src/cli/a.c", "exit"), call("src/base/a.c", "getenv"), call("src/base/a.c", "sprintf")],
                  [call("src/base/a.c", "malloc"), call("src/cli/a.c", "getenv"), call("src/cli/main.c", "exit"),
                   call("src/kv/a.c", "mem_free"), call("src/kv/a.c", "snprintf"), call("src/kv/a.c", "vtable->free"),
                   {"src/kv/a.c": HEAD + '/* free(x) */\nconst char *s = "malloc(1)";\n'}])

    def test_style(self):
        self.rule(tidy.check_style,
                  [{"src/kv/a.c": "int a;\n"}, {"src/kv/a.c": HEAD + "\n" * 1001}, {"src/kv/a.c": HEAD + "int a; \n"},
                   {"src/kv/a.c": HEAD + "typedef struct a a;\n"}, {"src/kv/a.c": HEAD + "/* TO" + "DO */\n"}],
                  [{"src/kv/a.c": HEAD + "/* typedef struct */\nint a;\n"}])

    def test_words(self):
        self.rule(tidy.check_words,
                  [{"README.md": "in /ro" + "ot/x"}, {"README.md": "in /wo" + "rk/x"}, {"README.md": "http:/" + "/packages.internal/x"}],
                  [{"README.md": "https://github.com/x /usr/share a/work/b ./work/x"}])


if __name__ == "__main__":
    unittest.main()
